"""Makes tests/golden/sentence: sentence encoders of sentence-transformers, and their vectors.

    python tests/golden/make_sentence.py

Needs torch, transformers and sentence-transformers 6.2. Each case is a directory as
sentence-transformers writes it, but for the model and the tokenizer, which lie in `encoder` and
`decoder` once; `vectors.json` names which, and holds what encode returns.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "sentence"
FAMILIES = Path(__file__).parent / "families"
TEXTS = ["w5 w6 w7", "w9", "w5 w11 w40 w41 w42 w43 w44 w45 w46 w47 w48 w49 w50", "W8 w8 w55 w30"]
SHARED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
BASES = {"encoder": "bert_model", "decoder": "qwen3_states"}


def base(name: str) -> None:
    """A model of a fixture with a tokenizer: the word w17 is token 17, tokens 1 and 2 are ends."""
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(56)}, unk_token="w3"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pair = [("w1", 1), ("w2", 2)]
    made.post_processor = processors.TemplateProcessing("w1 $A w2", None, pair)
    tokens = {"pad_token": "w0", "cls_token": "w1", "sep_token": "w2", "unk_token": "w3"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=24, **tokens)
    shutil.copytree(FAMILIES / BASES[name], FOLDER / name, dirs_exist_ok=True)
    (FOLDER / name / "golden.safetensors").unlink()
    wrapped.save_pretrained(FOLDER / name)


def cases() -> dict[str, tuple[str, list[Any], dict[str, Any]]]:
    """Base, modules after the transformer, and options of the model."""
    torch.manual_seed(0)
    asked = {"query": "w20 w21 ", "passage": ""}
    layer_norm = LayerNorm(16)
    layer_norm.norm.weight.data.normal_(1.0, 0.3)
    layer_norm.norm.bias.data.normal_(0.0, 0.3)
    relu = Dense(16, 24, bias=False, activation_function=torch.nn.ReLU(), use_residual=True)
    return {
        "mean": ("encoder", [Pooling(16), Normalize()], {}),
        "cls": ("encoder", [Pooling(16, "cls"), Normalize()], {}),
        "max": ("encoder", [Pooling(16, "max")], {}),
        "mean_sqrt": ("encoder", [Pooling(16, "mean_sqrt_len_tokens")], {}),
        "weighted": ("encoder", [Pooling(16, "weightedmean")], {}),
        "last": ("decoder", [Pooling(16, "lasttoken"), Normalize()], {}),
        "two": ("encoder", [Pooling(16, ("cls", "mean")), Dense(32, 12)], {}),
        "dense": ("encoder", [Pooling(16, "cls"), Dense(16, 24), Normalize()], {}),
        "residual": ("encoder", [Pooling(16), relu, Dense(24, 24, use_residual=True)], {}),
        "layer_norm": ("encoder", [Pooling(16), layer_norm], {}),
        "prompts": (
            "encoder",
            [Pooling(16), Normalize()],
            {"prompts": asked, "default_prompt_name": "query"},
        ),
        "without_prompt": (
            "encoder",
            [Pooling(16, ("mean", "cls", "weightedmean"), include_prompt=False)],
            {"prompts": asked},
        ),
    }


def make(name: str, kind: str, modules: list[Any], options: dict[str, Any]) -> None:
    """Writes one case."""
    model = SentenceTransformer(
        modules=[Transformer(str(FOLDER / kind)), *modules], device="cpu", **options
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, create_model_card=False)
        loaded = SentenceTransformer(folder, device="cpu")  # its limits are those of the files
        vectors = {"": loaded.encode(TEXTS).tolist()}
        for prompt in options.get("prompts", {}):
            vectors[prompt] = loaded.encode(TEXTS, prompt_name=prompt).tolist()
        ignored = shutil.ignore_patterns(*SHARED, "special_tokens_map.json", "README.md")
        shutil.copytree(
            folder, FOLDER / name, ignore=lambda f, n: ignored(f, n) if f == folder else []
        )
    for file in (FOLDER / name).iterdir():
        if file.name in ("config.json", "model.safetensors"):
            file.unlink()
    content = {"base": kind, "texts": TEXTS, "vectors": vectors}
    (FOLDER / name / "vectors.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in BASES:
        base(name)
    for name, (kind, modules, options) in cases().items():
        make(name, kind, modules, options)
