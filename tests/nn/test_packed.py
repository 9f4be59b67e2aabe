"""Documents that share a row compute what they compute alone, in their rows and in gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gelu_jax.nn.attention import Attention, AttentionConfig, attention
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.position import (
    LongRopeScaling,
    RelativeConfig,
    RotaryConfig,
    token_positions,
)
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import Transformer, TransformerConfig

ATTENTION = AttentionConfig(16, num_heads=4, num_kv_heads=2, rotary=RotaryConfig())
PARTS = NormConfig(16), ATTENTION, FeedForwardConfig(16, d_ff=24)
ROTARY = TransformerConfig(31, 2, BlockConfig(*PARTS), scan_layers=True)
LEARNED = replace(
    ROTARY,
    block=replace(ROTARY.block, attention=replace(ATTENTION, rotary=None, causal=False, window=5)),
    max_positions=200,
    relative=RelativeConfig(8, 16),
)
KINDS = LayerKind(4, RotaryConfig(100.0)), LayerKind(None)
PATTERN = replace(ROTARY, scan_layers=False, pattern=KINDS)
STRETCHED = RotaryConfig(scaling=LongRopeScaling((1.0, 1.5), (2.0, 8.0), 140, factor=2.0))
LONGROPE = replace(
    ROTARY, block=replace(ROTARY.block, attention=replace(ATTENTION, rotary=STRETCHED))
)
LONGROPE_PATTERN = replace(PATTERN, pattern=(LayerKind(4, STRETCHED), LayerKind(None)))
CONFIGS = {
    "rotary": ROTARY,
    "learned": LEARNED,
    "pattern": PATTERN,
    "longrope": LONGROPE,
    "longrope in one layer": LONGROPE_PATTERN,
}

LENGTHS = 1, 160, 7, 132  # in one row; a document may be longer than a block of queries, or shorter


def packed() -> tuple[jax.Array, jax.Array]:
    tokens = jax.random.randint(jax.random.key(0), (2, sum(LENGTHS)), 0, 31)
    ids = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    return tokens, jnp.array([ids, 7 - ids])  # only their equality counts, not their order


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_document_is_alone(config: TransformerConfig):
    model = Transformer(config, rngs=nnx.Rngs(1))
    tokens, ids = packed()
    ends = np.cumsum(LENGTHS)

    def weighted(logits: jax.Array, start: int) -> jax.Array:
        return (logits * jnp.sin(start + jnp.arange(logits.shape[1]))[:, None]).sum()

    def together(model: Transformer) -> tuple[jax.Array, jax.Array]:
        logits = model(tokens, segment_ids=ids)
        return weighted(logits, 0), logits

    def apart(model: Transformer) -> tuple[jax.Array, jax.Array]:
        starts = ends - LENGTHS
        parts = [model(tokens[:, a:b]) for a, b in zip(starts, ends, strict=True)]
        total = sum(weighted(part, a) for part, a in zip(parts, starts, strict=True))
        return total, jnp.concatenate(parts, axis=1)

    (_, ours), gradient = jax.jit(jax.value_and_grad(together, has_aux=True))(model)
    (_, theirs), expected = jax.jit(jax.value_and_grad(apart, has_aux=True))(model)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4 * float(jnp.abs(other).max()))


def test_segments_beside_a_mask_a_bias_and_a_window():
    """The core, against one softmax over the whole matrix of scores."""
    keys = jax.random.split(jax.random.key(2), 5)
    b, t, h, g, k = 2, 300, 4, 2, 8
    query = jax.random.normal(keys[0], (b, t, h, k))
    key, value = (jax.random.normal(of, (b, t, g, k)) for of in keys[1:3])
    bias = jax.random.normal(keys[3], (1, h, t, t))
    mask = jax.random.bernoulli(keys[4], 0.8, (b, 1, 1, t))
    _, ids = packed()
    ours = attention(query, key, value, window=40, mask=mask, bias=bias, segment_ids=ids)
    places = jnp.arange(t)
    near = (places[None] <= places[:, None]) & (places[:, None] - places[None] < 40)
    seen = mask & near & (ids[:, None, :, None] == ids[:, None, None, :])
    scores = jnp.einsum("bthk,bshk->bhts", query, jnp.repeat(key, h // g, 2)) / k**0.5 + bias
    weights = jnp.where(seen, jax.nn.softmax(jnp.where(seen, scores, -1e30)), 0)
    expected = jnp.einsum("bhts,bshk->bthk", weights, jnp.repeat(value, h // g, 2))
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_positions_begin_again_and_padding_has_none():
    ids = jnp.array([[3, 3, 3, 1, 1, 1, 1]])
    mask = jnp.array([[False, True, True, False, True, False, True]])
    assert token_positions(7, None, None, ids).tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert token_positions(7, mask, None, ids).tolist() == [[0, 0, 1, 0, 0, 0, 1]]


def test_a_cache_holds_one_document():
    layer = Attention(ATTENTION, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="segment_ids: a cache holds one document in each row"):
        layer.attend(
            jnp.ones((1, 2, 16)), layer.empty_cache(1, 4), segment_ids=jnp.ones((1, 2), int)
        )


def test_what_is_in_use_grows_with_the_length():
    """No matrix (t, t) of who sees whom: measured on the compiled program."""

    def bytes_in_use(t: int) -> int:
        shape = jax.ShapeDtypeStruct((1, t, 2, 8), jnp.float32)
        ids = jax.ShapeDtypeStruct((1, t), jnp.int32)
        core = jax.grad(lambda q, k, v, s: attention(q, k, v, segment_ids=s).sum(), (0, 1, 2))
        return (
            jax.jit(core)
            .lower(shape, shape, shape, ids)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert bytes_in_use(4096) < 4.4 * bytes_in_use(1024)
