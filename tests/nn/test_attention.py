import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn import blockwise
from gelu_jax.nn.attention import QKNormConfig, attention
from gelu_jax.nn.position import LongRopeScaling
from gelu_jax.nn.stack import LayerKind
from gelu_jax.training.flops import products

HEADS = [(4, 4), (4, 2), (4, 1)]
VISIBILITY = [(True, None), (False, None), (True, 3), (False, 3)]


def reference(q, k, v, *, causal, window, mask=True, bias=0.0):
    """Plain float64 numpy, one head at a time; a row that sees nothing is 0."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    shape = q.shape[0], q.shape[2], q.shape[1], k.shape[1]
    mask, bias = np.broadcast_to(mask, shape), np.broadcast_to(bias, shape)
    out = np.zeros_like(q)
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        g = h * k.shape[2] // q.shape[2]
        scores = q[b, :, h] @ k[b, :, g].T / np.sqrt(q.shape[-1]) + bias[b, h]
        i, j = np.ogrid[: shape[2], : shape[3]]
        seen = ((j <= i) | (not causal)) & mask[b, h]
        if window is not None:
            seen &= abs(i - j) < window
        weights = np.where(seen, np.exp(scores - scores.max()), 0)
        total = weights.sum(-1, keepdims=True)
        out[b, :, h] = weights / np.where(total == 0, 1, total) @ v[b, :, g]
    return out


@pytest.mark.parametrize(("h", "g"), HEADS)
@pytest.mark.parametrize(("causal", "window"), VISIBILITY)
def test_attention_equals_the_plain_formula(h, g, causal, window):
    q, k, v = random_arrays((2, 9, h, 8), (2, 9, g, 8), (2, 9, g, 8))
    y = jax.jit(partial(attention, causal=causal, window=window))(q, k, v)
    expected = reference(q, k, v, causal=causal, window=window)
    np.testing.assert_allclose(y, expected, atol=2e-6)  # measured: 6e-7


def masked_loss(attend, q, k, v, bias):
    y = attend(q, k, v, bias=bias)
    return jnp.vdot(y, jnp.sin(jnp.arange(y.size)).reshape(y.shape)), y


def whole_scores(q, k, v, *, causal, window, mask, bias):
    """All scores at once, in plain jax."""
    r = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, r, 2), jnp.repeat(v, r, 2)
    ahead = jnp.arange(k.shape[1]) - jnp.arange(q.shape[1])[:, None]
    seen = mask & ((ahead <= 0) | (not causal)) & (abs(ahead) < (window or 1000))
    scores = jnp.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5 + bias
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), where=seen)
    return jnp.einsum("bhts,bshk->bthk", weights, v)


@pytest.mark.parametrize(("causal", "window"), [*VISIBILITY, (True, 40), (False, 25)])
@pytest.mark.parametrize("rows", [1, 70])
def test_blocks_of_queries_change_nothing(monkeypatch, causal, window, rows):
    """70 queries in 18 blocks: values, and the gradients of all that has one, the bias included."""
    monkeypatch.setattr(blockwise, "BLOCK", 4)
    arrays = random_arrays((2, 70, 4, 8), (2, 70, 2, 8), (2, 70, 2, 8), (1, 4, rows, 70))
    mask = jnp.asarray(np.random.default_rng(0).random((2, 1, rows, 70)) < 0.9).at[..., 0].set(True)
    options = {"causal": causal, "window": window, "mask": mask}
    found, expected = (
        jax.jit(
            jax.value_and_grad(partial(masked_loss, partial(f, **options)), (0, 1, 2, 3), True)
        )(*arrays)
        for f in (attention, whole_scores)
    )
    np.testing.assert_allclose(found[0][1], expected[0][1], atol=2e-6)
    for gradient, other in zip(found[1], expected[1], strict=True):
        assert abs(gradient - other).max() <= 2e-6 * abs(other).max()


def test_blocks_in_other_transforms(monkeypatch):
    """vmap and jvp of a sequence that has 3 blocks, the last of them not full."""
    monkeypatch.setattr(blockwise, "BLOCK", 4)
    q, k, v = random_arrays((3, 2, 10, 2, 8), (3, 2, 10, 1, 8), (3, 2, 10, 1, 8))

    def along(q, k, v):
        return jax.jvp(attention, (q, k, v), (k.repeat(2, 2), v, k))

    whole = jax.jit(jax.vmap(along))(q, k, v)
    monkeypatch.setattr(blockwise, "BLOCK", 128)
    for found, expected in zip(whole, jax.jit(jax.vmap(along))(q, k, v), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def temporary_bytes(t, **options):
    x = jax.ShapeDtypeStruct((1, t, 2, 16), jnp.float32)
    gradient = jax.grad(lambda q, k, v: attention(q, k, v, **options).sum(), (0, 1, 2))
    return jax.jit(gradient).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("window", [None, 200])
def test_memory_grows_with_the_number_of_tokens(window):
    """From 1k to 16k tokens at most 5 % beyond what is linear."""
    assert temporary_bytes(16384, window=window) <= 16 * 1.05 * temporary_bytes(1024, window=window)


def test_a_window_reads_the_keys_it_needs():
    """4096 queries in a window of 64 take the products of 128 + 63 keys each, forward."""
    x = jax.ShapeDtypeStruct((1, 4096, 2, 16), jnp.float32)
    counted = products(partial(attention, window=64), x, x, x)
    assert sum(p.flops for p in counted) == 2 * 2 * 2 * 4096 * (128 + 63) * 16


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


def hidden_rows():
    """A mask and a bias of −∞ that leave some queries no key, each in its own places."""
    rng = np.random.default_rng(3)
    mask = rng.random((2, 4, 9, 9)) < 0.5
    mask[0, 1, 5] = mask[1, :, 0] = False
    bias = np.where(rng.random((1, 4, 9, 9)) < 0.7, rng.normal(size=(1, 4, 9, 9)), -np.inf)
    bias[0, 2, 7] = -np.inf
    return jnp.asarray(mask), jnp.asarray(bias, jnp.float32)


@pytest.mark.parametrize(("causal", "window"), VISIBILITY)
def test_a_row_that_sees_nothing_gives_zeros_and_has_no_gradient(causal, window):
    arrays = random_arrays((2, 9, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8), (2, 9, 4, 8))
    *qkv, weight = arrays
    mask, bias = hidden_rows()

    @jax.jit
    def both(q, k, v, bias):
        def loss(q, k, v, bias, weight):
            y = attention(q, k, v, causal=causal, window=window, mask=mask, bias=bias)
            return jnp.vdot(y, weight), y

        run = jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)
        (_, y), gradients = run(q, k, v, bias, weight)
        live = (y != 0).any(-1, keepdims=True)
        return y, live, gradients, run(q, k, v, bias, jnp.where(live, weight, 0))[1]

    y, live, gradients, without = both(*qkv, bias)
    expected = reference(*qkv, causal=causal, window=window, mask=mask, bias=bias)
    np.testing.assert_allclose(y, expected, atol=2e-6)
    dead = ~np.asarray(live)[..., 0]
    assert dead[1, 0].all()
    assert dead[0, 5, 1]
    assert dead[:, 7, 2].all()
    assert not dead.all(1).any()
    for gradient, other in zip(gradients, without, strict=True):
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient, other)
    assert (np.asarray(gradients[0])[dead] == 0).all()


@pytest.mark.parametrize("lowest", [jnp.finfo(jnp.float32).min, -jnp.inf])
def test_a_bias_is_a_mask_where_it_is_lowest(lowest):
    q, k, v = random_arrays((2, 9, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8))
    mask, _ = hidden_rows()
    masked = attention(q, k, v, mask=mask)
    biased = attention(q, k, v, bias=jnp.where(mask, 0, lowest))
    np.testing.assert_array_equal(masked, biased)


def test_queries_beyond_the_window_of_all_keys_give_zeros():
    q, k, v = random_arrays((1, 9, 2, 8), (1, 4, 2, 8), (1, 4, 2, 8))
    y = attention(q, k, v, window=3)
    np.testing.assert_allclose(y, reference(q, k, v, causal=True, window=3), atol=2e-6)
    assert (y[:, 6:] == 0).all()


def test_a_layer_gives_zeros_where_all_is_padding():
    layer = random_model(gj.Attention, gj.AttentionConfig(16, num_heads=2))
    (x,) = random_arrays((2, 5, 16))
    mask = jnp.array([[False] * 5, [False] * 2 + [True] * 3])  # one row with no token at all

    @jax.jit
    def in_every_way(layer, x):
        cached = layer.attend(x, layer.empty_cache(2, 6), mask=mask)[0]
        return layer(x, mask=mask), cached, layer.cross_attend(x, layer.project_kv(x, mask=mask))

    y, with_cache, crossed = in_every_way(layer, x)
    for found in (y[0], y[1, :2], with_cache[0], with_cache[1, :2], crossed[0]):
        assert (found == 0).all()
    np.testing.assert_allclose(with_cache, y, atol=2e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("mask", "error", "line"),
    [
        (jnp.zeros((2, 5)), TypeError, "mask = float32[2,5]: must be bool, True at what is seen"),
        (np.ones((2, 5), int), TypeError, "mask = int64[2,5]: must be bool, True at what is seen"),
        ([[True] * 5] * 2, TypeError, "mask = [[True, True, True, True, True], [True, True,"),
        (jnp.ones((1, 5), bool), ValueError, "must have the shape (b t) = (2, 5)"),
        (jnp.ones((2, 1, 5, 5), bool), ValueError, "mask = bool[2,1,5,5]: must have the 2 axes"),
    ],
)
def test_a_mask_is_of_bool_and_of_the_tokens_shape(mask, error, line, cached):
    layer = random_model(gj.Attention, gj.AttentionConfig(16, num_heads=2))
    x = jnp.ones((2, 5, 16))
    with pytest.raises(error) as raised:
        layer.attend(x, layer.empty_cache(2, 6) if cached else None, mask=mask)
    assert line in str(raised.value)
    with pytest.raises(error, match="mask = "):
        layer.project_kv(x, mask=mask)


@pytest.mark.usefixtures("unchecked")
def test_the_masks_of_the_function_are_checked():
    q = jnp.ones((2, 3, 4, 8))
    with pytest.raises(TypeError, match=r"mask = float32\[2,1,3,3\]: must be bool"):
        attention(q, q, q, mask=jnp.full((2, 1, 3, 3), -1e9))
    with pytest.raises(ValueError, match=r"bias = float32\[3,3\]: must have the 4 axes"):
        attention(q, q, q, bias=jnp.zeros((3, 3)))


def test_what_a_cache_cannot_hold_is_refused():
    x, full = jnp.ones((1, 5, 16)), gj.AttentionConfig(16, num_heads=2, causal=False)
    encoder = random_model(gj.Attention, full)
    with pytest.raises(ValueError, match="cache: attention with causal = False has none"):
        encoder.attend(x, encoder.empty_cache(1, 9))
    decoder = random_model(gj.Attention, gj.AttentionConfig(16, num_heads=2))
    with pytest.raises(ValueError, match="cache: 4 slots for 5 tokens"):
        decoder.attend(x, decoder.empty_cache(1, 4))


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


LONGROPE = LongRopeScaling((1.0, 2.0), (1.0, 4.0), original_positions=8, factor=2.0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"num_heads": 5}, "num_heads = 5: must divide d_model = 16; nearest: 4"),
        (
            {"num_heads": 4, "num_kv_heads": 3},
            "num_kv_heads = 3: must divide num_heads = 4; nearest: 2",
        ),
        ({"num_heads": 0}, "num_heads = 0: must be above 0"),
        (
            {"num_heads": 2, "rotary": gj.RotaryConfig(scaling=LONGROPE)},
            "rotary.scaling.short_factors = (1.0, 2.0): must have 4 numbers, "
            "one for each pair that is rotated",
        ),
        ({"num_heads": 4, "window": -1}, "window = -1: must be above 0"),
        ({"num_heads": 4, "value_head_dim": 0}, "value_head_dim = 0: must be above 0"),
        ({"num_heads": 4, "dropout_rate": 1.0}, "dropout_rate = 1.0: must lie in [0, 1)"),
        (
            {"num_heads": 4, "cache_dtype": "int8"},
            "cache_dtype = 'int8': unknown; choose from bfloat16, float16, float32, float64, "
            "float8_e4m3fn, float8_e5m2",
        ),
        (
            {"num_heads": 4, "precision": "hihg"},
            "precision = 'hihg': unknown; did you mean high, highest?",
        ),
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


def dropped_weights(blocks, rate, key, t):
    """The factor of each weight, drawn as the module says: a key for each block of queries."""
    size = -(-t // blocks)
    keep = [jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, (2, 2, 2, size, t))
            for i in range(blocks)]  # fmt: skip
    return jnp.concatenate(keep, -2)[..., :t, :].reshape(2, 4, t, t) / (1 - rate)


@pytest.mark.parametrize(("block", "blocks"), [(128, 1), (4, 3)])
def test_dropout_of_the_softmax_and_its_gradient(monkeypatch, block, blocks):
    """Beside all scores at once, times the same factors: the backward pass draws them again."""
    monkeypatch.setattr(blockwise, "BLOCK", block)
    arrays = random_arrays((2, 10, 4, 8), (2, 10, 2, 8), (2, 10, 2, 6))
    key, rate = jax.random.key(3), 0.4
    factors = dropped_weights(blocks, rate, key, 10)

    def whole(q, k, v):
        k, v = jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2)
        scores = jnp.einsum("bthk,bshk->bhts", q, k) / 8**0.5
        return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores) * factors, v)

    def loss(f, *arrays):
        y = f(*arrays)
        return jnp.vdot(y, jnp.sin(jnp.arange(y.size)).reshape(y.shape)), y

    drop = partial(attention, causal=False, dropout_rate=rate, dropout_key=key)
    (_, y), gradients = jax.jit(jax.value_and_grad(partial(loss, drop), (0, 1, 2), True))(*arrays)
    (_, expected), others = jax.jit(jax.value_and_grad(partial(loss, whole), (0, 1, 2), True))(
        *arrays
    )
    np.testing.assert_allclose(y, expected, atol=2e-6)
    for gradient, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(gradient, other, atol=5e-6)


def test_dropout_keeps_no_masks():
    """From 1k to 8k tokens at most 5 % beyond what is linear, as without dropout."""
    drop = {"dropout_rate": 0.1, "dropout_key": jax.random.key(0)}
    assert temporary_bytes(8192, **drop) <= 8 * 1.05 * temporary_bytes(1024, **drop)


def test_a_layer_with_dropout_is_called_as_the_others_are():
    config = gj.AttentionConfig(16, num_heads=2, dropout_rate=0.5)
    layer = random_model(gj.Attention, config)
    (x,) = random_arrays((2, 5, 16))
    off = random_model(gj.Attention, gj.AttentionConfig(16, num_heads=2))(x)
    np.testing.assert_array_equal(layer(x, deterministic=True), off)
    dropped = layer(x, dropout_key=jax.random.key(1))
    np.testing.assert_array_equal(dropped, layer(x, rngs=jax.random.key(1)))
    assert jnp.abs(dropped - off).max() > 0.05
    memory = layer.project_kv(x)
    for call in (layer, layer.attend, partial(layer.cross_attend, memory=memory)):
        with pytest.raises(ValueError, match=r"dropout_rate = 0.5: training needs a key"):
            call(x)
    one, other = (layer.cross_attend(x, memory, dropout_key=jax.random.key(i)) for i in (1, 2))
    assert jnp.abs(one - other).max() > 0.05


def test_values_of_a_size_of_their_own():
    """Beside the plain formula, and through the cache; with the fan of the output's kernel."""
    config = gj.AttentionConfig(16, num_heads=4, num_kv_heads=2, value_head_dim=6, use_bias=True)
    layer = random_model(gj.Attention, config)
    assert layer.w_value.shape == (16, 2, 6)
    assert layer.w_out.shape == (4, 6, 16)
    (x,) = random_arrays((2, 9, 16))
    q, k, v = (
        jnp.einsum("btd,dhk->bthk", x, w[...]) + b[...]
        for w, b in ((layer.w_query, layer.b_query), (layer.w_key, layer.b_key),
                     (layer.w_value, layer.b_value))
    )  # fmt: skip
    mixed = jax.jit(partial(whole_scores, causal=True, window=None, mask=True, bias=0.0))(q, k, v)
    expected = jnp.einsum("bthk,hkd->btd", mixed, layer.w_out[...]) + layer.b_out[...]
    np.testing.assert_allclose(layer(x), expected, atol=5e-6)
    _, cache = layer.attend(x[:, :5], layer.empty_cache(2, 9))
    assert (cache.keys.shape[-1], cache.values.shape[-1]) == (4, 6)
    np.testing.assert_allclose(layer.attend(x[:, 5:], cache)[0], expected[:, 5:], atol=5e-6)
    started = gj.Attention(gj.AttentionConfig(64, 8, value_head_dim=128), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(started.w_out[...].std(), (8 * 128) ** -0.5, rtol=0.05)


@pytest.mark.parametrize("in_pattern", [False, True])
def test_positions_are_the_callers(in_pattern):
    """Two texts packed into a row, learned and rotary positions: the second begins anew.

    A window of 3 lets its first two tokens see the text before; the others are as alone.
    """
    kind = {"window": 3, "rotary": gj.RotaryConfig()}
    attention = gj.AttentionConfig(16, 2, **({} if in_pattern else kind))
    block = gj.BlockConfig(gj.NormConfig(16), attention, gj.FeedForwardConfig(16, 8))
    pattern = (LayerKind(**kind),) if in_pattern else ()
    stack = gj.TransformerConfig(11, 1, block, max_positions=8, pattern=pattern)
    model = random_model(gj.Transformer, stack)
    tokens, positions = jnp.arange(1, 11)[None], jnp.tile(jnp.arange(5), 2)[None]

    @jax.jit
    def every_way(model):
        first, cache = model.decode(
            tokens[:, :4], model.empty_cache(1, 8), positions=positions[:, :4]
        )
        later, _ = model.decode(tokens[:, 4:8], cache, positions=positions[:, 4:8])
        packed, decoded = model(tokens, positions=positions), jnp.concatenate([first, later], 1)
        return packed, decoded, model(tokens[:, 5:]), model(tokens[:, :8])

    packed, decoded, alone, counted = every_way(model)
    np.testing.assert_allclose(packed[:, 7:], alone[:, 2:], atol=1e-5)
    np.testing.assert_allclose(decoded, packed[:, :8], atol=1e-5)
    np.testing.assert_allclose(counted[:, :5], packed[:, :5], atol=1e-5)
    assert jnp.abs(counted[:, 5:] - packed[:, 5:8]).max() > 1e-2


def test_positions_shift_nothing_but_their_own():
    """Rotary positions say how far tokens are apart: the same distances give the same result."""
    layer = random_model(gj.Attention, gj.AttentionConfig(16, 2, rotary=gj.RotaryConfig()))
    (x,) = random_arrays((2, 5, 16))
    moved = layer(x, positions=jnp.arange(5)[None] + jnp.array([[7], [100]]))
    np.testing.assert_allclose(moved, layer(x), atol=2e-5)
    spread = layer(x, positions=3 * jnp.arange(5)[None])
    assert jnp.abs(spread - layer(x)).max() > 1e-2


@pytest.mark.parametrize(
    ("dtype", "bound"), [("bfloat16", 2**-7), ("float16", 2**-9), ("float8_e4m3fn", 2**-3)]
)
def test_a_cache_in_another_dtype(dtype, bound):
    """Every entry is the nearest of its dtype, also beyond its range; the output stays near."""
    layer = random_model(gj.Attention, gj.AttentionConfig(16, 2, cache_dtype=dtype))
    (x,) = random_arrays((2, 5, 16))
    y, cache = layer.attend(x, layer.empty_cache(2, 6))
    assert cache.keys.dtype == cache.values.dtype == dtype
    exact = layer.project_kv(x)
    np.testing.assert_array_equal(cache.keys[:, :5], exact.keys.astype(dtype))
    np.testing.assert_array_equal(cache.values[:, :5], exact.values.astype(dtype))
    assert 0 < jnp.abs(y - layer(x)).max() < bound * jnp.abs(layer(x)).max()
    far = 1e6 * x
    _, cache = layer.attend(far, layer.empty_cache(2, 6))
    assert jnp.isfinite(cache.values.astype(jnp.float32)).all()


def test_a_stack_decodes_from_a_narrow_cache():
    block = gj.BlockConfig(
        gj.NormConfig(16), gj.AttentionConfig(16, 2, cache_dtype="bfloat16"),
        gj.FeedForwardConfig(16, 8),
    )  # fmt: skip
    model = random_model(gj.Transformer, gj.TransformerConfig(11, 2, block))
    cache = model.empty_cache(1, 6)
    assert cache.keys.dtype == jnp.bfloat16
    logits, cache = jax.jit(lambda m, c: m.decode(jnp.array([[1, 2, 3, 4]]), c))(model, cache)
    expected = model(jnp.array([[1, 2, 3, 4]]))
    assert cache.keys.dtype == jnp.bfloat16
    assert 0 < jnp.abs(logits - expected).max() < 0.05 * jnp.abs(expected).max()


def test_precision_and_dot_general_reach_the_products():
    """`precision` all six, `dot_general` those with the four kernels."""
    config = gj.AttentionConfig(16, num_heads=2, precision="highest", qk_norm=QKNormConfig())
    x = jnp.ones((1, 3, 16))
    layer = random_model(gj.Attention, config)
    counted = str(jax.make_jaxpr(lambda m, x: m(x))(layer, x))
    assert counted.count("dot_general[") == counted.count("Precision.HIGHEST, Precision.HIGHEST")
    assert counted.count("dot_general[") == 6

    calls = []

    def half(x, w, dimensions, precision=None):
        calls.append((w.shape, dimensions, precision))
        return jax.lax.dot_general(x, w, dimensions, precision) / 2

    replaced = random_model(gj.Attention, dataclasses.replace(config, dot_general=half))
    y = replaced(x)
    contract = ((1,), (0,)), ((), ())
    shape = (16, 2, 8)
    assert calls == [(shape, contract, "highest")] * 3 + [
        ((2, 8, 16), (((1, 2), (0, 1)), ((), ())), "highest")
    ]
    # q and k are normed, v and the output halved once each
    np.testing.assert_allclose(y, layer(x) / 4, atol=1e-6)


@pytest.mark.parametrize("mask", [None, "padded"])
def test_sinks_are_a_key_that_has_no_value(mask):
    """The same as one more key whose score is the sink and whose value is 0; gradients, too."""
    q, k, v, sinks = random_arrays((2, 5, 4, 6), (2, 5, 2, 6), (2, 5, 2, 6), (4,))
    seen = jnp.tril(jnp.ones((1, 1, 5, 5), bool))
    if mask == "padded":  # the first tokens see nothing but the sink
        seen = seen & (jnp.arange(5) >= 2)

    def expected(q, k, v, sinks):
        keys, values = (jnp.repeat(x, 2, 2) for x in (k, v))
        scores = jnp.einsum("bthk,bshk->bhts", q, keys) * 6**-0.5
        scores = jnp.where(seen, scores, -jnp.inf)
        last = jnp.broadcast_to(sinks[:, None, None], (2, 4, 5, 1))
        weights = jax.nn.softmax(jnp.concatenate([scores, last], -1), -1)[..., :-1]
        return jnp.einsum("bhts,bshv->bthv", weights, values)

    def ours(q, k, v, sinks):
        return gj.attention(q, k, v, causal=False, mask=seen, sinks=sinks)

    def both(f):
        value = jax.value_and_grad(lambda *args: jnp.sin(f(*args)).sum(), argnums=(0, 1, 2, 3))
        return value(q, k, v, sinks)

    for a, b in zip(*(jax.tree.leaves(both(f)) for f in (ours, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_sinks_decode_as_they_compute():
    layer = random_model(
        gj.Attention, gj.AttentionConfig(8, 2, rotary=gj.RotaryConfig(), sinks=True)
    )
    (x,) = random_arrays((1, 4, 8))
    y, cache = layer.attend(x[:, :3], layer.empty_cache(1, 4))
    last, _ = layer.attend(x[:, 3:], cache)
    np.testing.assert_allclose(jnp.concatenate([y, last], 1), layer(x), rtol=1e-5, atol=1e-6)
    assert abs(layer(x) - gj.Attention.__call__(_without(layer), x)).max() > 1e-3


def _without(layer):
    plain = jax.tree.map(lambda leaf: leaf, layer)
    plain.sinks = None
    return plain
