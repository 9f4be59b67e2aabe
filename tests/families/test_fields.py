"""Every field of the config of every family changed, one at a time: parity, or refused.

`golden/fields.json` says what transformers computes then; golden/make_fields.py wrote it.
"""

import json
import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import FIXTURES, tiled
from safetensors.numpy import load_file

import gelu_jax as gj
from gelu_jax.families.load_plan import plan_load, read_config
from gelu_jax.families.loading import load
from gelu_jax.nn.dual_encoder import DualEncoder
from gelu_jax.nn.encoder import Encoder
from gelu_jax.nn.encoder_decoder import EncoderDecoder
from gelu_jax.nn.sigmoid_dual_encoder import ImageTower, SigmoidDualEncoder, TextTower
from gelu_jax.nn.tiles import TiledImages
from gelu_jax.nn.transformer import Transformer
from gelu_jax.nn.vision import VisionEncoder, VisionTransformer
from gelu_jax.nn.vision_language import VisionLanguage

CHANGES = json.loads((FIXTURES.parent / "fields.json").read_text())
# of those that change what is computed, by default one of so many is loaded, and one is computed
SHARES = 8, 40


@cache
def inputs(name):
    """The fixture's inputs, without padding, as golden/make_fields.py takes them."""
    golden = load_file(FIXTURES / name / "golden.safetensors")
    rows = slice(1) if "mask" in golden else slice(None)
    names = ("tokens", "targets", "pixels", "features")
    found = {k: jnp.asarray(golden[k][rows]) for k in names if k in golden}
    if "image_sizes" in golden:
        found["pixels"] = tiled(found["pixels"], golden["image_sizes"][rows])
    return found


def entries(model, tokens=None, targets=None, pixels=None, features=None):
    """Eight entries of what golden/make_fields.py compares."""
    images = (
        pixels if pixels is None or isinstance(pixels, TiledImages) else jnp.moveaxis(pixels, 1, -1)
    )
    with jax.disable_jit():  # one compiled operation after another: all changes share them
        match model:
            case Encoder():
                found = model(tokens)
                if model.masked_head is not None:
                    found = model.masked_logits(found)
                elif model.replaced_head is not None:
                    found = model.replaced_logits(found)
            case DualEncoder() | SigmoidDualEncoder():
                found = model(images, tokens)
            case EncoderDecoder():
                found = model(tokens if features is None else features, targets)
            case VisionLanguage():
                found = model(tokens, images=images)
            case VisionEncoder() | ImageTower():
                found = model(images)
            case TextTower():
                found = model(tokens)
            case VisionTransformer():
                found = model.hidden(images)
            case Transformer() if not model.config.has_head:
                found = model.hidden(tokens)
            case _:
                found = model.logits(model(images)) if tokens is None else model(tokens)
    flat = np.asarray(found).ravel()
    return flat[np.linspace(0, len(flat) - 1, 8, dtype=np.float32).astype(int)]


def changed(name, section, field, value):
    values = json.loads((FIXTURES / name / "config.json").read_text())
    target = values[section] if section else values
    target.pop(field, None)
    if value != "<absent>":
        target[field] = value
    return values


@cache
def tensors(name):
    return load_file(FIXTURES / name / "model.safetensors")


def verdict(name, row, tmp_path, *, load_it, compute):
    """What becomes of one change: "refused", "same", "equal", "wrong"; or that it is untried."""
    section, field, value, expected = row
    values = changed(name, section, field, value)
    try:
        made, _ = read_config(values, tensors(name))
    except gj.ConfigError:
        return "refused"
    if made == plain(name)[0]:
        return "same" if expected in ("same", "error") else "wrong"
    if not load_it:
        return "not loaded"
    (tmp_path / "config.json").write_text(json.dumps(values))
    if not (tmp_path / "model.safetensors").exists():
        shutil.copy(FIXTURES / name / "model.safetensors", tmp_path)
    try:
        plan_load(tmp_path, None)
    except gj.ConfigError:
        return "refused"
    if expected == "error":
        return "beyond transformers"
    if not compute:
        return "not computed"
    try:
        ours = entries(load(tmp_path), **inputs(name))
    except gj.ConfigError:
        return "refused"
    target = plain(name)[1] if expected == "same" else expected
    return "equal" if np.allclose(ours, target, rtol=0, atol=2e-5) else "wrong"


@cache
def plain(name):
    """The config of a fixture, and the eight entries of what transformers computes."""
    values = json.loads((FIXTURES / name / "config.json").read_text())
    made, _ = read_config(values, tensors(name))
    return made, CHANGES[name][0][3]


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("shares", [SHARES, pytest.param((1, 1), marks=pytest.mark.slow)])
def test_a_changed_field_is_honoured_or_refused(name, shares, tmp_path):
    found = []
    for number, row in enumerate(CHANGES[name][1:]):
        load_it, compute = (number % share == 0 for share in shares)
        found.append((verdict(name, row, tmp_path, load_it=load_it, compute=compute), *row))
    assert [row[:4] for row in found if row[0] == "wrong"] == []
    assert sum(row[0] != "refused" for row in found) > len(found) / 5  # not all is refused
