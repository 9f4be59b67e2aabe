"""Makes tests/golden/fields.json: what transformers computes with one field changed.

    python tests/golden/make_fields.py

Needs the `peers` extra. For one fixture of each family, every field of its config class (and those
that its code looks for in any config, and names of old) is changed or left out, one at a time. The
weights stay. Outcomes: eight entries of the output, "same" as without the change, or "error".
"""

import json
import logging
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file

FOLDER = Path(__file__).parent
DEFAULTS = json.loads((FOLDER.parents[1] / "gelu_jax/families/defaults.json").read_text())
BASES = (
    *("albert_model", "bert_model", "clip", "clip_text", "clip_vision", "deit_model", "dinov2"),
    *("distilbert", "efficientnet", "electra", "gemma", "gemma2", "gemma3", "gpt2", "gpt_neox"),
    *("gpt_oss",),
    *("llama", "llava", "mistral", "modernbert_model", "mpnet", "mt5", "nomic_bert_model"),
    *("llava_next", "phi3_longrope"),
    *("mixtral", "olmo2", "olmoe", "opt", "phi3", "qwen2", "qwen2_moe_mixed", "qwen3"),
    *("qwen3_moe", "roberta", "siglip", "siglip_text"),
    *("siglip_vision", "smollm3", "starcoder2", "t5", "vit_model", "whisper", "xlm_roberta"),
)
ABSENT = "<absent>"
ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu")
OLD = {"rope_theta": 100.0, "partial_rotary_factor": 0.5, "hidden_activation": "relu"}
OLD |= {"head_dim": 8, "attention_bias": True, "mlp_bias": True, "position_embedding_type": "x"}
ROPES = (
    {"rope_type": "default", "rope_theta": 100.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    {"rope_type": "longrope", "factor": 2.0},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0, "partial_rotary_factor": 0.5},
)


def ropes(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The stretches of rotary positions that a section is tried with."""
    yield from ROPES
    k = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    short = [1.0 + pair / 2 for pair in range(k // 2)]
    factors = {"short_factor": short, "long_factor": [2 * factor for factor in short]}
    long = {"rope_type": "longrope", "original_max_position_embeddings": 8} | factors
    yield long  # shorter than the inputs
    yield long | {"factor": 2.0, "original_max_position_embeddings": 16}
    yield long | {"factor": 2.0, "attention_factor": 1.5, "rope_theta": 50.0}
    yield {"type": "su", "factor": 2.0} | factors
    yield {"type": "yarn", "factor": 2.0} | factors
    yield long | {"short_factor": short + short}


def changes(values: dict[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    """Every field of a section, and what it is changed to."""
    known = DEFAULTS["*"] | DEFAULTS[kind]
    for name in sorted({*known, *values} - {"model_type", "transformers_version", "dtype"}):
        found = values.get(name, known.get(name))
        if isinstance(found, dict) and name not in ("rope_parameters",):
            continue
        if isinstance(found, str) and found.startswith("="):
            found = values.get(found[1:])
        yield from ((name, other) for other in others(name, found))
        if name in values:
            yield name, ABSENT
    for name, value in OLD.items():
        if name not in known and name not in values:
            yield name, value
    if "rope_parameters" in known:
        yield from (
            (name, rope) for name in ("rope_parameters", "rope_scaling") for rope in ropes(values)
        )


def others(name: str, value: Any) -> list[Any]:
    """Other values of its kind."""
    match value:
        case bool():
            return [not value]
        case int():
            return [2 * value or 1, value + 1]
        case float():
            return [10 * value or 0.5, value + 0.25]
        case str() if "act" in name or name == "feed_forward_proj":
            return [act for act in ACTIVATIONS if act != value]
        case str():
            return ["x", "relu"]
        case list():
            return [value[::-1], value[:1]]
        case None if "layer_types" in name:
            return [["sliding_attention"] * 3, ["full_attention", "sliding_attention"] * 2]
        case None:
            return [3, True, 0.5]
    return []


@cache
def tensors_of(base: Path) -> dict[str, Any]:
    """The weights of a fixture under the names of its modules, which files may spell otherwise."""
    kind = getattr(hf, json.loads((base / "config.json").read_text())["architectures"][0])
    model = kind.from_pretrained(base)
    names = {n for part in (model.named_parameters(), model.named_buffers()) for n, _ in part}
    return {n: t for n, t in model.state_dict().items() if n in names}


def outcome(base: Path, values: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """Eight entries of what a model of these fields computes with the weights of a fixture."""
    tensors = tensors_of(base)
    kind = getattr(hf, json.loads((base / "config.json").read_text())["architectures"][0])
    try:
        config = kind.config_class.from_dict(json.loads(json.dumps(values)))
        with torch.device("meta"):
            shapes = {n: p.shape for n, p in kind(config).named_parameters()}
        if not all(shapes.get(n, t.shape) == t.shape for n, t in tensors.items()):
            return "error"
        if sum(s.numel() for s in shapes.values()) > 10_000_000:
            return "error"
        model = kind(config).eval()
        tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
        has_copies = tensors.keys() & tied  # that differ: only from_pretrained keeps them apart
        if has_copies:
            model = kind.from_pretrained(base, config=config)
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        if not has_copies:
            model.tie_weights()
        if unexpected or set(missing) - tied - {n for n, _ in model.named_buffers()}:
            return "error"
        with torch.no_grad():
            out = model(**inputs, return_dict=True)
    except Exception:
        return "error"
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if name in out:
            flat = out[name].flatten()
            return [float(flat[i]) for i in torch.linspace(0, len(flat) - 1, 8).long()]
    raise ValueError(list(out))


def is_close(one: list[float], other: list[float]) -> bool:
    """Whether two outcomes are the same but for rounding."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-6


def inputs_of(base: Path) -> dict[str, Any]:
    """The inputs of the fixture, without padding."""
    golden = load_file(base / "golden.safetensors")
    found = {"input_ids": golden["tokens"].long()} if "tokens" in golden else {}
    if "pixels" in golden:
        found["pixel_values"] = golden["pixels"]
    if "features" in golden:
        found["input_features"] = golden["features"]
    if "image_sizes" in golden:
        found["image_sizes"] = golden["image_sizes"].long()
    if "targets" in golden:
        found["decoder_input_ids"] = golden["targets"].long()
    if "mask" in golden:  # one row is whole
        found["input_ids"] = found["input_ids"][:1]
        found = {k: v[:1] for k, v in found.items()}
    return found


def table(name: str) -> list[list[Any]]:
    """All changes of one fixture: section, field, value, outcome."""
    base = FOLDER / "families" / name
    values, inputs = json.loads((base / "config.json").read_text()), inputs_of(base)
    plain = outcome(base, values, inputs)
    assert plain != "error", name
    rows: list[list[Any]] = [["", "", None, plain]]
    sections = {"": values["model_type"]}
    sections |= {s: v["model_type"] for s, v in values.items() if s.endswith("_config")}
    for section, kind in sections.items():
        for field, value in changes(values[section] if section else values, kind):
            changed = json.loads(json.dumps(values))
            target = changed[section] if section else changed
            target.pop(field, None)
            if value != ABSENT:
                target[field] = value
            found = outcome(base, changed, inputs)
            if found != "error" and is_close(found, plain):
                found = "same"
            rows.append([section, field, value, found])
    return rows


if __name__ == "__main__":
    logging.disable()
    file = FOLDER / "fields.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for base in sys.argv[1:] or BASES:
        found[base] = table(base)
        print(base, len(found[base]), flush=True)
        lines = (
            f' "{n}": [\n' + ",\n".join("  " + json.dumps(r) for r in rows) + "\n ]"
            for n, rows in sorted(found.items())
        )
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
