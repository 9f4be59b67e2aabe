from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.attention import attention

HEADS = [(4, 4), (4, 2), (4, 1)]
VISIBILITY = [(True, None), (False, None), (True, 3), (False, 3)]


def reference(q, k, v, *, causal, window):
    """Plain float64 numpy, one head at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        g = h * k.shape[2] // q.shape[2]
        scores = q[b, :, h] @ k[b, :, g].T / np.sqrt(q.shape[-1])
        i, j = np.ogrid[: len(scores), : len(scores)]
        seen = (j <= i) | (not causal)
        if window is not None:
            seen &= abs(i - j) < window
        weights = np.where(seen, np.exp(scores - scores.max()), 0)
        out[b, :, h] = weights / weights.sum(-1, keepdims=True) @ v[b, :, g]
    return out


@pytest.mark.parametrize(("h", "g"), HEADS)
@pytest.mark.parametrize(("causal", "window"), VISIBILITY)
def test_attention_equals_the_plain_formula(h, g, causal, window):
    q, k, v = random_arrays((2, 9, h, 8), (2, 9, g, 8), (2, 9, g, 8))
    y = jax.jit(partial(attention, causal=causal, window=window))(q, k, v)
    expected = reference(q, k, v, causal=causal, window=window)
    np.testing.assert_allclose(y, expected, atol=2e-6)  # measured: 6e-7


@pytest.mark.parametrize(("h", "g"), HEADS)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("rotary", [None, gj.RotaryConfig(fraction=0.5)])
def test_cache_equals_the_full_layer(h, g, window, rotary):
    config = gj.AttentionConfig(
        16, num_heads=h, num_kv_heads=g, window=window, rotary=rotary, use_bias=True
    )
    (x,) = random_arrays((2, 9, 16))

    @jax.jit
    def in_every_way(layer):
        def step(cache, x):
            y, cache = layer.attend(x[:, None], cache)
            return cache, y[:, 0]

        outputs = []
        for prompt in (1, 7):  # the rest comes one by one
            y, cache = layer.attend(x[:, :prompt], layer.empty_cache(2, 12))
            cache, rest = jax.lax.scan(step, cache, x[:, prompt:].swapaxes(0, 1))
            outputs.append((jnp.concatenate([y, rest.swapaxes(0, 1)], 1), cache.length))
        return layer(x), outputs

    whole, outputs = in_every_way(random_model(gj.Attention, config))
    for y, length in outputs:
        np.testing.assert_allclose(y, whole, atol=2e-6)
        assert length == 9


def test_padding_is_not_seen():
    layer = random_model(gj.Attention, gj.AttentionConfig(16, num_heads=2, causal=False))
    (x,) = random_arrays((1, 6, 16))
    mask = jnp.array([[True] * 4 + [False] * 2])
    whole, cut = layer(x, mask=mask)[:, :4], layer(x[:, :4])
    np.testing.assert_allclose(whole, cut, atol=1e-6)


def test_rotary_depends_on_distance_alone():
    q, k = random_arrays((1, 1, 1, 8), (1, 1, 1, 8))
    rotate = lambda x, p: gj.rotary(x, jnp.array([[p]]))  # noqa: E731
    near = (rotate(q, 3) * rotate(k, 1)).sum()
    far = (rotate(q, 103) * rotate(k, 101)).sum()
    np.testing.assert_allclose(near, far, atol=2e-5)
    assert abs(near - (rotate(q, 3) * rotate(k, 2)).sum()) > 1e-2


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"num_heads": 5}, "num_heads = 5: must divide d_model = 16; nearest: 4"),
        (
            {"num_heads": 4, "num_kv_heads": 3},
            "num_kv_heads = 3: must divide num_heads = 4; nearest: 2",
        ),
        ({"num_heads": 0}, "num_heads = 0: must be above 0"),
        ({"num_heads": 4, "window": -1}, "window = -1: must be above 0"),
        (
            {"num_heads": 4, "dtype": "bfloat17"},
            "dtype = 'bfloat17': not a floating dtype; did you mean bfloat16, float16, float64?",
        ),
    ],
)
def test_bad_configs_name_the_field_the_value_and_the_nearest(fields, line):
    with pytest.raises(gj.ConfigError) as error:
        gj.AttentionConfig(d_model=16, **fields)
    assert str(error.value).splitlines()[0] == line
