"""What is compared with transformers, for each fixture: used by the tests, and as a script.

    python tests/parity.py

prints the table of families, and the largest difference of each.
"""

import json
import sys
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from gelu_jax import families
from gelu_jax.nn.decoding import generate
from gelu_jax.nn.tiles import TiledImages

FIXTURES = Path(__file__).parent / "golden" / "families"


def causal(model, tokens, mask, **_):
    """Hidden states, logits and the greedy continuation of a batch padded on the left."""
    hidden = model.hidden(tokens, mask=mask)
    if model.classifier is not None:
        return {"hidden": hidden, "class_logits": model.class_logits(hidden, mask=mask)}
    if not model.config.has_head:
        return {"hidden": hidden}
    greedy = generate(model, tokens, 9, mask=mask)
    return {"hidden": hidden, "logits": model.logits(hidden), "greedy": greedy}


def encoder(model, tokens, mask, token_types, **_):
    """Hidden states and every head, with token types, padded on the right."""
    hidden = model(tokens, mask=mask, token_types=token_types)
    heads = {
        "pooled": model.pool if model.pooler else None,
        "replaced_logits": model.replaced_logits if model.replaced_head else None,
        "masked_logits": model.masked_logits if model.masked_head else None,
        "next_sentence_logits": model.next_sentence_logits if model.next_sentence_head else None,
        "class_logits": partial(model.class_logits, mask=mask) if model.classifier else None,
        "token_logits": model.token_logits if model.token_classifier else None,
        "span_logits": model.span_logits if model.span_head else None,
    }
    return {"hidden": hidden} | {name: head(hidden) for name, head in heads.items() if head}


def image(model, pixels, **_):
    """Hidden states, and pooled states or class logits."""
    hidden = model(_last(pixels))
    heads = {
        "pooled": model.pool if model.pooler else None,
        "logits": model.logits if model.classifier else None,
    }
    return {"hidden": hidden} | {name: head(hidden) for name, head in heads.items() if head}


def features(model, pixels, **_):
    """The last feature map and class logits."""
    hidden = model(_last(pixels))
    return {"hidden": jnp.moveaxis(hidden, -1, 1), "logits": model.logits(hidden)}


def dual_encoder(model, tokens, pixels, **_):
    """Each tower's hidden states and embedding, and the scores."""
    images = _last(pixels)
    return {
        "text_hidden": model.text.hidden(tokens),
        "image_hidden": model.vision.hidden(images),
        "text": model.embed_texts(tokens),
        "image": model.embed_images(images),
        "logits": model(images, tokens),
    }


def sigmoid_dual_encoder(model, tokens, pixels, **_):
    """Each tower's hidden states and embedding, and the scores."""
    images = _last(pixels)
    return {
        "text_hidden": model.text(tokens),
        "image_hidden": model.image(images),
        "text": model.embed_texts(tokens),
        "image": model.embed_images(images),
        "logits": model(images, tokens),
    }


def text_tower(model, tokens, **_):
    """Hidden states, and the vector of each text."""
    return {"hidden": model(tokens), "pooled": model.embed(tokens)}


def pooled_images(model, pixels, **_):
    """Hidden states, and the vector of each image."""
    images = _last(pixels)
    return {"hidden": model(images), "pooled": model.embed(images)}


def encoder_decoder(model, tokens, mask, targets=None, **_):
    """The encoder's states and the decoder's logits with a padded input; the greedy output."""
    if model.decoder is None:
        return {"hidden": model.encode(tokens, mask=mask)}
    start = model.start(tokens, 9, mask=mask)
    return {
        "hidden": model.encode(tokens, mask=mask),
        "logits": model(tokens, targets, mask=mask),
        "greedy": generate(model, jnp.zeros_like(tokens[:, :1]), 9, cache=start),
    }


def speech(model, features, targets, decoded=None, **_):
    """The encoder's states of spectrograms; the decoder's, or logits and the greedy output."""
    hidden = model.encode(features)
    if decoded is not None:
        return {"hidden": hidden, "decoded": model.hidden(features, targets)}
    start = model.start(features, targets.shape[1] + 8)
    return {
        "hidden": hidden,
        "logits": model(features, targets),
        "greedy": generate(model, targets, 9, cache=start),
    }


def image_tower(model, pixels, **_):
    """Hidden states before the final norm, and the class token's after it."""
    images = _last(pixels)
    return {"hidden": model.hidden(images), "pooled": model(images)[:, 0]}


def vision_language(model, tokens, pixels, mask=None, **_):
    """Logits of a prompt with an image in it, and its greedy continuation."""
    images = pixels if isinstance(pixels, TiledImages) else _last(pixels)
    return {
        "logits": model(tokens, images=images, mask=mask),
        "greedy": generate(model, tokens, 9, images=images, mask=mask),
    }


def tiled(pixels, sizes):
    """Images in tiles, as transformers has them."""
    return TiledImages(jnp.moveaxis(pixels, 2, -1), tuple(map(tuple, np.asarray(sizes).tolist())))


def _last(pixels):
    return jnp.moveaxis(pixels, 1, -1)


KINDS = {
    "albert": encoder,
    "bert": encoder,
    "clip": dual_encoder,
    "clip_vision_model": image_tower,
    "efficientnet": features,
    "deit": image,
    "dinov2": image,
    "distilbert": encoder,
    "electra": encoder,
    "modernbert": encoder,
    "mt5": encoder_decoder,
    "nomic_bert": encoder,
    "llava": vision_language,
    "llava_next": vision_language,
    "mpnet": encoder,
    "roberta": encoder,
    "siglip": sigmoid_dual_encoder,
    "siglip_text_model": text_tower,
    "siglip_vision_model": pooled_images,
    "xlm-roberta": encoder,
    "t5": encoder_decoder,
    "vit": image,
    "whisper": speech,
}
CASES = sorted(path.name for path in FIXTURES.iterdir())
# "sentence" is compared in families/test_embeddings.py
_INPUTS = {"tokens", "mask", "token_types", "targets", "pixels", "features", "sentence"}
_INPUTS |= {"image_sizes"}
_MASKED = {"causal": {"hidden", "logits"}, "encoder": set()}
_MASKED["encoder"] = {"hidden", "masked_logits", "token_logits", "span_logits", "replaced_logits"}
_MASKED |= {"encoder_decoder": {"hidden"}, "vision_language": {"logits"}}


def kind_of(path):
    """How a directory's model is compared."""
    values = json.loads((path / "config.json").read_text())
    return KINDS.get(values["model_type"], causal)


@cache
def loaded(path):
    """The model of a directory."""
    return families.load(path)


def compared(path, *, compiler_options=None):
    """For each output of a directory's model: ours and expected, where tokens are real."""
    kind, golden = kind_of(path), load_file(path / "golden.safetensors")
    mask = golden["mask"] == 1 if "mask" in golden else None
    inputs = {name: jnp.asarray(value) for name, value in golden.items()} | {"mask": mask}
    if (sizes := inputs.pop("image_sizes", None)) is not None:
        inputs["pixels"] = tiled(inputs["pixels"], sizes)
    computed = jax.jit(kind, compiler_options=compiler_options)(loaded(path), **inputs)
    for name in sorted(golden.keys() - _INPUTS):
        ours, expected = computed[name], golden[name]
        assert ours.shape == expected.shape, name
        keep = mask if name in _MASKED.get(kind.__name__, ()) else ...
        yield name, np.asarray(ours)[keep], expected[keep]


def main():
    print("| fixture | feed-forward | compared with transformers 5.23 | largest difference |")
    print("|---|---|---|---|")
    for case in CASES:
        found = list(compared(FIXTURES / case))
        floats = [(n, abs(a - b).max()) for n, a, b in found if a.dtype.kind == "f"]
        exact = [n for n, a, b in found if a.dtype.kind != "f" and (a == b).all()]
        what = ", ".join([n.replace("_", " ") for n, _ in floats] + [f"{n} tokens" for n in exact])
        print(
            f"| {case} | {variants(loaded(FIXTURES / case).config)} | {what} "
            f"| {max(d for _, d in floats):.1e} |"
        )


def variants(config):
    """The feed-forward variants in a model's config, in words."""
    found = dict.fromkeys(_variants(config))
    return ", ".join(v if isinstance(v, str) else " · ".join(map(named, v)) for v in found)


def named(branch):
    """A branch in words."""
    return branch if isinstance(branch, str) else type(branch).__name__


def _variants(config):
    for name, value in vars(config).items():
        if name in ("variant", "activation", "projector"):
            yield value
        for part in value if isinstance(value, tuple) else (value,):
            if hasattr(part, "__dataclass_fields__"):
                yield from _variants(part)


if __name__ == "__main__":
    sys.exit(main())
