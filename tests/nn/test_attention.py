import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
    kq, kk, kv = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(kq, (2, 9, h, 8))
    k, v = (jax.random.normal(key, (2, 9, g, 8)) for key in (kk, kv))
    y = attention(q, k, v, causal=causal, window=window)
    expected = reference(q, k, v, causal=causal, window=window)
    np.testing.assert_allclose(y, expected, atol=2e-6)  # measured: 6e-7


@pytest.mark.parametrize(("h", "g"), HEADS)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("rotary", [None, gj.RotaryConfig(fraction=0.5)])
@pytest.mark.parametrize("split", [1, 7])
def test_cache_equals_the_full_layer(h, g, window, rotary, split):
    config = gj.AttentionConfig(
        16, num_heads=h, num_kv_heads=g, window=window, rotary=rotary, use_bias=True
    )
    layer = gj.Attention(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 9, 16))
    cache = layer.empty_cache(2, 12)
    parts = [x[:, :split], *jnp.split(x[:, split:], max(1, 9 - split), axis=1)]
    outputs = []
    for part in parts:
        y, cache = layer.attend(part, cache)
        outputs.append(y)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), layer(x), atol=2e-6)  # measured: 5e-7
    assert cache.length == 9


def test_padding_is_not_seen():
    layer = gj.Attention(gj.AttentionConfig(16, num_heads=2, causal=False), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 6, 16))
    mask = jnp.array([[True] * 4 + [False] * 2])
    whole, cut = layer(x, mask=mask)[:, :4], layer(x[:, :4])
    np.testing.assert_allclose(whole, cut, atol=1e-6)


def test_rotary_depends_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
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
        ({"num_heads": 0}, "num_heads = 0: must be above 0; nearest: 1"),
        ({"num_heads": 4, "window": -1}, "window = -1: must be above 0; nearest: 1"),
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
