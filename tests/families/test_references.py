"""PaLM and MBConv against references in plain numpy and float64, written from the papers."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quickly import OPTIONS
from safetensors.numpy import load_file, save_file

from gelu_jax import families
from gelu_jax.nn.decoding import generate

compiled = partial(jax.jit, compiler_options=OPTIONS)

PALM = {
    "model_type": "palm",
    "dim": 12,
    "num_tokens": 29,
    "depth": 3,
    "heads": 3,
    "dim_head": 6,
    "ff_mult": 2,
}


def palm_tensors(key=0, *, tied_copy=False):
    """The tensors that the public PyTorch code would store for PALM."""
    rng = np.random.default_rng(key)
    d, h, k, f = PALM["dim"], PALM["heads"], PALM["dim_head"], PALM["ff_mult"] * PALM["dim"]
    shapes = {"0.weight": (PALM["num_tokens"], d), f"{PALM['depth'] + 1}.gamma": (d,)}
    for i in range(1, PALM["depth"] + 1):
        shapes |= {
            f"{i}.fn.norm.gamma": (d,),
            f"{i}.fn.fused_attn_ff_proj.weight": (h * k + 2 * k + 2 * f, d),
            f"{i}.fn.attn_out.weight": (d, h * k),
            f"{i}.fn.ff_out.1.weight": (d, f),
        }
    tensors = {
        name: rng.normal(float(name.endswith("gamma")), 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    if tied_copy:
        tensors[f"{PALM['depth'] + 2}.weight"] = tensors["0.weight"]
    return tensors


def palm_reference(tensors, tokens):
    """Logits (t, v) of one sequence: y = x + attention(norm x) + feed_forward(norm x)."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    h, k, f = PALM["heads"], PALM["dim_head"], PALM["ff_mult"] * PALM["dim"]

    def norm(x, gamma):
        centered = x - x.mean(-1, keepdims=True)
        return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * gamma

    def turn(x):  # (t, ..., k): pairs (i, i + k/2) turn by position/10000^(2i/k)
        half = k // 2
        angle = np.outer(np.arange(len(x)), 10000.0 ** (-2 * np.arange(half) / k))
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(
            1j * angle.reshape(len(x), *[1] * (x.ndim - 2), half)
        )
        return np.concatenate([z.real, z.imag], -1)

    x = w["0.weight"][tokens]
    for i in range(1, PALM["depth"] + 1):
        n = norm(x, w[f"{i}.fn.norm.gamma"])
        fused = n @ w[f"{i}.fn.fused_attn_ff_proj.weight"].T
        q, key, value, up, gate = np.split(fused, np.cumsum([h * k, k, k, f]), axis=-1)
        q, key = turn(q.reshape(-1, h, k)), turn(key)
        attended = np.zeros((len(x), h, k))
        for t in range(len(x)):
            for head in range(h):
                scores = key[: t + 1] @ q[t, head] / np.sqrt(k)
                weights = np.exp(scores - scores.max())
                attended[t, head] = weights / weights.sum() @ value[: t + 1]
        attention = attended.reshape(-1, h * k) @ w[f"{i}.fn.attn_out.weight"].T
        fed = up * gate / (1 + np.exp(-gate)) @ w[f"{i}.fn.ff_out.1.weight"].T
        x = x + attention + fed
    return norm(x, w[f"{PALM['depth'] + 1}.gamma"]) @ w["0.weight"].T


def palm_folder(path, **options):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(PALM))
    tensors = palm_tensors(**options)
    save_file(tensors, path / "model.safetensors")
    return tensors


def test_palm(tmp_path):
    tensors = palm_folder(tmp_path)
    model = families.load(tmp_path)
    tokens = np.random.default_rng(1).integers(0, PALM["num_tokens"], (2, 9))
    logits = compiled(lambda model, tokens: model(tokens))(model, jnp.asarray(tokens))
    for row, ours in zip(tokens, logits, strict=True):
        np.testing.assert_allclose(ours, palm_reference(tensors, row), rtol=0, atol=1e-5)
    block = families.load_feed_forward(tmp_path, 1)  # its kernels share a tensor with attention's
    inside = jax.tree.map(lambda leaf: leaf[1], model.layers.feed_forward)
    jax.tree.map(np.testing.assert_array_equal, block, inside)
    families.save(model, tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(saved[name].tobytes() == tensors[name].tobytes() for name in saved)


def test_palm_decodes_greedily(tmp_path):
    tensors = palm_folder(tmp_path)
    model = families.load(tmp_path)
    prompt = [3, 1, 4]
    greedy = compiled(lambda m, t: generate(m, t, 6))(model, jnp.asarray([prompt]))
    for token in np.asarray(greedy)[0]:
        assert token == palm_reference(tensors, np.array(prompt))[-1].argmax()
        prompt.append(int(token))


def test_palm_with_its_tied_head_stored_twice(tmp_path):
    tensors = palm_folder(tmp_path, tied_copy=True)
    families.load(tmp_path)
    tensors[f"{PALM['depth'] + 2}.weight"] = tensors["0.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(families.WeightsError, match=r"5\.weight: must equal 0\.weight"):
        families.load(tmp_path)


def convolve(x, w, stride):
    """(y, x, c) with (p, p, c, d), places padded as little as gives ⌈size/stride⌉ of them."""
    p, places = w.shape[0], [-(-size // stride) for size in x.shape[:2]]
    total = [max((n - 1) * stride + p - size, 0) for n, size in zip(places, x.shape, strict=False)]
    x = np.pad(x, [(t // 2, t - t // 2) for t in total] + [(0, 0)])
    y = np.zeros((*places, w.shape[-1]))
    for i in range(places[0]):
        for j in range(places[1]):
            patch = x[i * stride : i * stride + p, j * stride : j * stride + p]
            y[i, j] = np.einsum("pqc,pqcd->d", patch, w)
    return y


def mbconv_reference(block, x):
    """One MBConv block on one image, from the paper's table 1 and its references."""
    c = block.config

    def value(param):
        return np.asarray(param[...], np.float64)

    def normed(part, y):
        spread = np.sqrt(value(part.variance) + c.epsilon)
        return (y - value(part.mean)) / spread * value(part.scale) + value(part.bias)

    def sigmoid(y):
        return 1 / (1 + np.exp(-y))

    h = x
    if block.expand is not None:
        h = normed(block.expand, convolve(h, value(block.expand.w), 1))
        h = h * sigmoid(h)
    channels = [
        convolve(h[..., [i]], value(block.depthwise.w)[..., [i]], c.stride)
        for i in range(h.shape[-1])
    ]
    h = normed(block.depthwise, np.concatenate(channels, -1))
    h = h * sigmoid(h)
    squeezed = h.mean((0, 1)) @ value(block.squeeze.w) + value(block.squeeze.b)
    squeezed = squeezed * sigmoid(squeezed)
    h = h * sigmoid(squeezed @ value(block.excite.w) + value(block.excite.b))
    y = normed(block.project, convolve(h, value(block.project.w), 1))
    return x + y if c.skip else y


@pytest.mark.parametrize("size", [6, 7])
def test_mbconv(size):
    """Every block of the fixture, even and odd sizes: wide, strided, skipping, and not."""
    model = families.load(Path(__file__).parents[1] / "golden" / "families" / "efficientnet")
    kinds = {(b.config.expansion == 1, b.config.stride, b.config.skip) for b in model.blocks}
    assert len(kinds) >= 4
    rng = np.random.default_rng(0)
    images = [
        rng.normal(size=(size, size, block.config.d_in)).astype(np.float32)
        for block in model.blocks
    ]
    outputs = compiled(
        lambda blocks, xs: [block(x[None])[0] for block, x in zip(blocks, xs, strict=True)]
    )(list(model.blocks), images)
    for block, x, ours in zip(model.blocks, images, outputs, strict=True):
        expected = mbconv_reference(block, x.astype(np.float64))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
