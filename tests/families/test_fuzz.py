"""Damaged directories: each loads as the undamaged one, or is refused with a ConfigError.

The damage is of the kinds that can be told: a flipped bit of a weight cannot, since the format
has no checksums, nor a config that is another valid config of tensors of the same shapes.
"""

import json
import random
import shutil
import struct
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gelu_jax as gj
from gelu_jax import families

FIXTURES = Path(__file__).parents[1] / "golden" / "families"
NAMES = ("gpt2", "llama_bias_multi_query", "bert", "gemma", "vit", "clip", "t5", "llava")
NAMES += ("phi3_longrope", "whisper", "llava_next")
# × 11 models × 9 kinds of damage: 99 directories by default, 495 in all
SEEDS = [range(1), pytest.param(range(1, 5), marks=pytest.mark.slow)]

# Where it is missing the family's own default holds, and where it is the same the load is right.
DEFAULTED = {
    *("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "rope_parameters", "rope_theta"),
    *("activation_function", "hidden_act", "feed_forward_proj", "projector_hidden_act"),
    *("eos_token_id", "vision_feature_layer", "vision_feature_select_strategy"),
    *("scale_decoder_outputs", "relative_attention_max_distance", "image_token_index"),
    *("patch_size", "image_size", "num_channels", "num_attention_heads"),
    *("max_position_embeddings", "original_max_position_embeddings", "partial_rotary_factor"),
    "rope_type",
}
WRONG = ("x", -1, 0, 10**40, [], {}, True, 1.5, float("nan"), "gelo", [None], {"a": 1})


def truncated_weights(path, rng):
    file = path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def lengthened_weights(path, rng):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 64)))


def flipped_header(path, rng):
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncated_config(path, rng):
    file = path / "config.json"
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content) - 3)])


def garbled_config(path, rng):
    file = path / "config.json"
    content = bytearray(file.read_bytes())
    # Not within a name: a field of another name is a field that is not there.
    position = rng.choice([i for i, sign in enumerate(content) if sign in b'{}[]:,"'])
    content[position : position + 1] = rng.choice([b"\xff", b"{", b"]", b'"', b"\x00", b",,"])
    file.write_bytes(content)


def lost_field(path, rng):
    def lose(values):
        fields = sorted(values.keys() - DEFAULTED)
        values.pop(rng.choice(fields))

    edit_config(path, rng, lose)


def wrong_field(path, rng):
    def damage(values):
        field = rng.choice(sorted(values))
        values[field] = rng.choice([wrong for wrong in WRONG if wrong != values[field]])

    edit_config(path, rng, damage)


def edit_config(path, rng, edit):
    """Edits the fields of the file, or of one of its sections."""
    file = path / "config.json"
    values = json.loads(file.read_text())
    sections = [section for section in values.values() if isinstance(section, dict)]
    edit(rng.choice([values, *(s for s in sections if len(s) > 5)]))
    file.write_text(json.dumps(values))


def wrong_tensor(path, rng):
    file = path / "model.safetensors"
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    value = tensors.pop(name)
    replacements = [
        {},
        {name + "x": value},
        {name: value[None]},
        {name: value.astype(np.int32)},
        {name: value[..., :-1] if value.ndim else np.zeros(2, np.float32)},
        {name: value, name.replace(".", "_"): value},
    ]
    save_file(tensors | rng.choice(replacements), file)


def wrong_shards(path, rng):
    """Cuts the file into two, then damages the index or loses a shard."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({n: tensors[n] for n in names if weight_map[n] == file}, path / file)
    damage = rng.randrange(5)
    victim = rng.choice(names)
    if damage == 0:
        del weight_map[victim]
    elif damage == 1:
        weight_map[victim] = {"part-0.safetensors": "part-1.safetensors"}.get(
            weight_map[victim], "part-0.safetensors"
        )
    elif damage == 2:
        weight_map[victim] = rng.choice([None, 1, "../model.safetensors", "", "/etc/passwd", []])
    elif damage == 3:
        (path / "part-1.safetensors").unlink()
    else:
        weight_map = rng.choice([[], "x", None, {}])
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


DAMAGE = (
    truncated_weights,
    lengthened_weights,
    flipped_header,
    truncated_config,
    garbled_config,
    lost_field,
    wrong_field,
    wrong_tensor,
    wrong_shards,
)


@cache
def undamaged(name):
    return families.load(FIXTURES / name)


def contents(model):
    """What the model computes with: its config and its weights."""
    return model.config, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("seeds", SEEDS, ids=["few", "many"])
def test_damaged_directories(name, damage, seeds, tmp_path):
    outcomes = [outcome(name, damage, seed, tmp_path) for seed in seeds]
    certain = {truncated_weights, lengthened_weights, truncated_config, wrong_tensor, wrong_shards}
    if damage in certain:
        assert set(outcomes) == {"refused"}


def outcome(name, damage, seed, tmp_path):
    rng = random.Random(f"{name} {damage.__name__} {seed}")
    path = tmp_path / str(seed)
    shutil.copytree(FIXTURES / name, path, ignore=shutil.ignore_patterns("golden*"))
    damage(path, rng)
    try:
        model = families.load(path)
    except gj.ConfigError:
        return "refused"
    assert contents(model) == contents(undamaged(name)), f"loaded another model: {path}"
    return "the same"
