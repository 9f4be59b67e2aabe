"""Makes gelu_jax/families/defaults.json: the defaults of transformers' config classes.

    python tests/golden/make_defaults.py

Needs the `peers` extra. Under "*" stand the fields that transformers' code looks for in any config,
whether or not its class has them. A value "=name" says that a field is another name of that one.
"""

import json
import re
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING

from gelu_jax.families.registry import FAMILIES, FEED_FORWARD_FAMILIES

FILE = Path(__file__).parents[2] / "gelu_jax" / "families" / "defaults.json"

SHARED = (
    "masking_utils",
    "modeling_utils",
    "modeling_layers",
    "cache_utils",
    "configuration_utils",
)
LOOKED_FOR = re.compile(r'getattr\((?:self\.|text_|decoder_)*config, "(\w+)", (None|True|False)\)')
WORDS = {"None": None, "True": True, "False": False}
# What those files look for without effect on any output, or only where a class has it anyway.
NOT_ANY = {"gradient_checkpointing", "classifier_dropout", "hidden_dropout", "tie_word_embeddings"}
NOT_ANY |= {"vocab_size", "sep_token_id"}


def of_any_config() -> dict[str, Any]:
    """The fields that are looked for in any config, and what their absence means."""
    folder = Path(transformers.__file__).parent
    found = {
        name: WORDS[default]
        for file in SHARED
        for name, default in LOOKED_FOR.findall((folder / f"{file}.py").read_text())
        if name not in NOT_ANY
    }
    return dict(sorted((found | {"head_dim": None}).items()))


def of_class(model_type: str) -> dict[str, Any]:
    """The fields of a config class."""
    kind = CONFIG_MAPPING[model_type]
    values = json.loads(kind().to_json_string(use_diff=False))
    values |= {name: getattr(kind, name) for name in values if getattr(kind, name, 0) is None}
    names = {name: f"={target}" for name, target in kind.attribute_map.items() if target in values}
    dropped = {"transformers_version", "model_type", "architectures"}
    fields = {k: v for k, v in values.items() if k not in dropped and k[0] != "_"}
    fields = {k: v for k, v in fields.items() if not isinstance(v, dict) or "_config" not in k}
    return dict(sorted((fields | names).items()))


if __name__ == "__main__":
    kinds = sorted((FAMILIES.keys() | FEED_FORWARD_FAMILIES.keys()) - {"palm"})
    found = {"*": of_any_config()} | {kind: of_class(kind) for kind in kinds}
    lines = [f" {json.dumps(kind)}: {json.dumps(fields)}" for kind, fields in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
