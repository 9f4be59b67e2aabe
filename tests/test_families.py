"""Parity with transformers 5.23, from fixtures: what golden/make_families.py wrote."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from gelu_jax import families
from gelu_jax.nn.decoding import generate

FIXTURES = Path(__file__).parent / "golden" / "families"
TOLERANCE = 2e-5  # absolute, f32 on CPU; tests/test_families_live.py prints what is reached

CAUSAL = (
    "gpt2",
    "gpt2_untied_gelu",
    "llama",
    "llama_bias_multi_query",
    "llama3_tied",
    "mistral",
    "mistral_no_window",
    "gemma",
    "gemma_grouped",
)
ENCODERS = ("bert", "bert_model")
VISION = ("vit", "vit_model")
TOWERS = ("clip", "clip_open")
T5 = ("t5", "t5_v1_1")
LLAVA = ("llava", "llava_full")
ALL = (*CAUSAL, *ENCODERS, *VISION, *TOWERS, *T5, *LLAVA, "efficientnet")


@cache
def golden(name):
    """What transformers computed: inputs and outputs."""
    return load_file(FIXTURES / name / "golden.safetensors")


@cache
def loaded(name):
    return families.load(FIXTURES / name)


def inputs(name, *fields):
    """Inputs of a case by name; masks are boolean."""
    arrays = (jnp.asarray(golden(name)[field]) for field in fields)
    return [a == 1 if f == "mask" else a for f, a in zip(fields, arrays, strict=True)]


def images(name):
    """The pixels with their channels last."""
    return jnp.moveaxis(inputs(name, "pixels")[0], 1, -1)


def close(name, field, ours, mask=None):
    theirs = golden(name)[field]
    assert ours.shape == theirs.shape
    keep = np.ones(theirs.shape[:1], bool) if mask is None else np.asarray(mask)
    np.testing.assert_allclose(np.asarray(ours)[keep], theirs[keep], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models(name):
    """Hidden states, logits, and the greedy continuation of a batch padded on the left."""

    @jax.jit
    def compute(model, tokens, mask):
        hidden = model.hidden(tokens, mask=mask)
        return hidden, model.logits(hidden), generate(model, tokens, 9, mask=mask)

    tokens, mask = inputs(name, "tokens", "mask")
    hidden, logits, greedy = compute(loaded(name), tokens, mask)
    close(name, "hidden", hidden, mask)
    close(name, "logits", logits, mask)
    np.testing.assert_array_equal(greedy, golden(name)["greedy"])


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name):
    """Hidden states and every head, with token types, padded on the right."""
    heads = {"pooled": "pool", "masked_logits": "masked_logits", "pair_logits": "pair_logits"}
    heads = {field: method for field, method in heads.items() if field in golden(name)}

    @jax.jit
    def compute(model, tokens, mask, types):
        hidden = model(tokens, mask=mask, token_types=types)
        return hidden, {field: getattr(model, heads[field])(hidden) for field in heads}

    tokens, mask, types = inputs(name, "tokens", "mask", "token_types")
    hidden, tops = compute(loaded(name), tokens, mask, types)
    close(name, "hidden", hidden, mask)
    for field, value in tops.items():
        close(name, field, value, mask if field == "masked_logits" else None)


@pytest.mark.parametrize("name", VISION)
def test_vision_encoders(name):
    """Hidden states and the top, from images with the channels last."""

    @jax.jit
    def compute(model, images):
        hidden = model(images)
        return hidden, (model.pool if model.pooler else model.logits)(hidden)

    hidden, top = compute(loaded(name), images(name))
    close(name, "hidden", hidden)
    close(name, "pooled" if "pooled" in golden(name) else "logits", top)


def test_efficientnet():
    """The last feature map and the logits; one block convolves an odd size with stride 2."""

    @jax.jit
    def compute(model, images):
        features = model(images)
        return jnp.moveaxis(features, -1, 1), model.logits(features)

    features, logits = compute(loaded("efficientnet"), images("efficientnet"))
    close("efficientnet", "hidden", features)
    close("efficientnet", "logits", logits)


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers(name):
    """Each tower's hidden states and embedding, and the scores."""

    @jax.jit
    def compute(model, tokens, images):
        return {
            "text_hidden": model.text.hidden(tokens),
            "image_hidden": model.vision.hidden(images),
            "text": model.embed_texts(tokens),
            "image": model.embed_images(images),
            "logits": model(images, tokens),
        }

    (tokens,) = inputs(name, "tokens")
    for field, ours in compute(loaded(name), tokens, images(name)).items():
        close(name, field, ours)


@pytest.mark.parametrize("name", T5)
def test_encoder_decoders(name):
    """The encoder's states and the decoder's logits from a padded input; greedy output."""

    @jax.jit
    def compute(model, tokens, targets, mask):
        start = model.start(tokens, 9, mask=mask)
        greedy = generate(model, jnp.zeros((2, 1), int), 9, cache=start)
        return model.encode(tokens, mask=mask), model(tokens, targets, mask=mask), greedy

    tokens, targets, mask = inputs(name, "tokens", "targets", "mask")
    hidden, logits, greedy = compute(loaded(name), tokens, targets, mask)
    close(name, "hidden", hidden, mask)
    close(name, "logits", logits)
    np.testing.assert_array_equal(greedy, golden(name)["greedy"])


@pytest.mark.parametrize("name", LLAVA)
def test_vision_language_models(name):
    """Logits of a prompt with an image in it, and its greedy continuation."""

    @jax.jit
    def compute(model, tokens, images):
        greedy = generate(model, tokens, 9, images=images)
        return model(tokens, images=images), greedy

    (tokens,) = inputs(name, "tokens")
    logits, greedy = compute(loaded(name), tokens, images(name))
    close(name, "logits", logits)
    np.testing.assert_array_equal(greedy, golden(name)["greedy"])


@pytest.mark.parametrize("name", ALL)
def test_saved_tensors_are_byte_equal_to_the_source(name, tmp_path):
    families.save(loaded(name), tmp_path / "saved")
    source, saved = FIXTURES / name, tmp_path / "saved"
    ours, theirs = load_file(saved / "model.safetensors"), load_file(source / "model.safetensors")
    counts = {tensor for tensor in theirs if tensor.endswith(".num_batches_tracked")}
    assert ours.keys() == theirs.keys() - counts
    for tensor in ours:
        assert ours[tensor].shape == theirs[tensor].shape
        assert ours[tensor].tobytes() == theirs[tensor].tobytes(), tensor
    assert (saved / "config.json").read_bytes() == (source / "config.json").read_bytes()
    again = families.load(saved)
    assert jax.tree.structure(again) == jax.tree.structure(loaded(name))
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
