"""A stack of equal blocks: one `Block` whose every parameter has a leading layer axis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.spmd import add_axis
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.nn.attention import Cache, LayerValues
from gelu_jax.nn.axes import with_sharding_constraint
from gelu_jax.nn.balance import RoutingStatistics
from gelu_jax.nn.block import Block, BlockConfig
from gelu_jax.nn.compiled import compiled_once
from gelu_jax.nn.experts import MoEConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.position import RotaryConfig, frequencies

_NO_WINDOW = 2**30


@dataclass(frozen=True)
class LayerKind:
    """What one kind of layer in a stack has of its own; weights of all kinds have equal shapes.

    Attributes:
      window: a token attends to tokens closer than this alone; None for no limit.
      rotary: rotary positions; None for none.
      normed: whether attention sees the normed stream; False for the stream itself, where the
        embeddings were normed just before (the first layer of ModernBERT).
    """

    window: int | None = None
    rotary: RotaryConfig | None = None
    normed: bool = True


def layer_values(
    pattern: Sequence[LayerKind], num_layers: int, head_size: int
) -> LayerValues | None:
    """The kinds of the layers as arrays, so that one program serves layers of all kinds.

    Args:
      pattern: the kinds of the first layers, repeated for the others; empty where all are alike.
      num_layers: number of layers.
      head_size: entries k of a head.
    Returns:
      Values with a leading layer axis, or None.

    >>> kinds = LayerKind(window=4), LayerKind()
    >>> layer_values(kinds, 3, 8).window.tolist()
    [4, 1073741824, 4]
    """
    if not pattern:
        return None
    rotations = [kind.rotary for kind in pattern if kind.rotary is not None]
    pairs = len(frequencies(head_size, rotations[0])[0]) if rotations else 0
    still = ([0.0] * pairs, 1.0)
    turning = [still if k.rotary is None else frequencies(head_size, k.rotary) for k in pattern]
    layers = [i % len(pattern) for i in range(num_layers)]
    return LayerValues(
        window=jnp.array([pattern[i].window or _NO_WINDOW for i in layers], jnp.int32),
        frequencies=jnp.array([turning[i][0] for i in layers], jnp.float32),
        magnitude=jnp.array([turning[i][1] for i in layers], jnp.float32),
        normed=None
        if all(kind.normed for kind in pattern)
        else jnp.array([pattern[i].normed for i in layers]),
    )


MAX_UNROLLED = 8
"""Layers that are unrolled by default: on a CPU a step takes 0.75–0.8 of the time of a scan, and at
8 layers compiling takes 1.2 times as long."""


def init_layers(block: BlockConfig, num_layers: int, *, rngs: nnx.Rngs) -> Block:
    """Makes a stack of blocks; the output kernels start 1/√(2·layers) smaller than in one block.

    Each layer draws from a key of its own, so that what one part draws never shifts another: arms
    of a comparison start from equal values wherever they have the same parameters.

    Args:
      block: the config of every block.
      num_layers: number of blocks.
      rngs: source of the initial values.
    Returns:
      One `Block` whose parameters have a leading axis of num_layers.
    """
    keys = jax.random.split(rngs.params(), num_layers)
    config = _scaled_for_depth(block, num_layers)
    layers = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)
    return add_axis(layers, 0, {nnx.PARTITION_NAME: None})


def _scaled_for_depth(block: BlockConfig, num_layers: int) -> BlockConfig:
    scale = (2 * num_layers) ** -0.5
    cross = block.cross_attention
    return replace(
        block,
        attention=replace(block.attention, output_init_scale=scale),
        feed_forward=_scaled(block.feed_forward, scale),
        cross_attention=None if cross is None else replace(cross, output_init_scale=scale),
    )


def _scaled(
    feed_forward: FeedForwardConfig | MoEConfig, scale: float
) -> FeedForwardConfig | MoEConfig:
    if isinstance(feed_forward, MoEConfig):
        return feed_forward.with_output_init_scale(scale)
    return replace(feed_forward, output_init_scale=scale)


def first_layers(layers: Block, num_layers: int) -> Block:
    """The first blocks of a stack.

    Args:
      layers: a stack, as `init_layers` makes it.
      num_layers: how many; a negative number counts from the end, as in a slice.
    Returns:
      A stack of that many blocks.
    """
    return jax.tree.map(lambda leaf: leaf[:num_layers], layers)


def apply_layers(
    layers: Block, x: Float[Array, "b t d"], cache: Cache | None = None, **options: Any
) -> tuple[Float[Array, "b t d"], Cache | None]:
    """Applies all blocks of a stack, one after another.

    Args:
      layers: a stack, as `init_layers` makes it.
      x: residual stream, (b, t, d).
      cache: keys and values of earlier tokens, with a leading layer axis; None for none.
      **options: as of `apply_layers_with_routing`.
    Returns:
      The residual stream after the last block, (b, t, d); and the cache with the keys and values
      of x added, or None.
    """
    x, cache, _ = apply_layers_with_routing(layers, x, cache, **options)
    return x, cache


@compiled_once("scan", "deterministic", "repeats")
def apply_layers_with_routing(
    layers: Block,
    x: Float[Array, "b t d"],
    cache: Cache | None = None,
    *,
    mask: Bool[Array, "b t"] | None = None,
    positions: Int[Array, "#b t"] | None = None,
    segment_ids: Int[Array, "b t"] | None = None,
    bias: Float[Array, "#b #h t s"] | None = None,
    memory: Cache | None = None,
    values: LayerValues | None = None,
    deterministic: bool | None = None,
    dropout_key: Key[Array, ""] | None = None,
    scan: bool | None = None,
    repeats: int | None = None,
) -> tuple[Float[Array, "b t d"], Cache | None, RoutingStatistics | None]:
    """Applies all blocks of a stack, and says what their routers did.

    Args:
      layers: a stack, as `init_layers` makes it.
      x: residual stream, (b, t, d).
      cache: keys and values of earlier tokens, with a leading layer axis; None for none.
      mask: (b, t), True at real tokens, False at padding; None for no padding.
      positions: of the tokens, as in `Attention.attend`.
      segment_ids: documents of the tokens, as in `Attention.attend`.
      bias: added to the scores of every self-attention, (b or 1, h or 1, t, s).
      memory: keys and values of the encoder's output for every cross-attention, with a leading
        layer axis; None where the blocks have none.
      values: of every layer, as `layer_values` makes them; None where all layers are alike.
      deterministic: whether dropout is off, as in `Block.__call__`.
      dropout_key: PRNG key of all dropout.
      scan: True compiles one block for all layers, False unrolls them; None scans where there are
        more than `MAX_UNROLLED`. The results are the same.
      repeats: how often a stack of one block is applied; None applies each block once.
    Returns:
      The residual stream after the last block, (b, t, d); the cache with the keys and values of x
      added, or None; and the statistics of the routing with a leading layer axis, None where the
      blocks have no experts.
    """
    num_layers = layers.attention.w_query.shape[0] if repeats is None else repeats
    shared = None if repeats is None else jax.tree.map(lambda leaf: leaf[0], layers)
    keys = None if dropout_key is None else jax.random.split(dropout_key, num_layers)
    context: dict[str, Any] = {"mask": mask, "positions": positions, "bias": bias}
    context |= {"segment_ids": segment_ids, "deterministic": deterministic}

    def layer(x: Array, inputs: tuple[Any, Cache | None, Any, Any, Array | None]):
        own_block, cache, memory, own, key = inputs
        block: Any = shared if own_block is None else own_block
        x = with_sharding_constraint(x, "b t -")
        given: dict[str, Any] = {"memory": memory, "values": own, "dropout_key": key}
        x, cache, routing = block.attend_with_routing(x, cache, **given, **context)
        return x, (cache, routing)

    scan = num_layers > MAX_UNROLLED if scan is None else scan
    unroll = 1 if scan else num_layers
    each = layers if shared is None else None
    inputs = (each, cache, memory, values, keys)
    x, (cache, routing) = jax.lax.scan(layer, x, inputs, length=num_layers, unroll=unroll)
    return x, cache, routing


def empty_cache(layers: Block, batch_size: int, length: int) -> Cache:
    """An empty key/value cache for every block of a stack.

    Args:
      layers: a stack, as `init_layers` makes it.
      batch_size: rows b.
      length: tokens that fit into a row.
    Returns:
      A cache with a leading layer axis.
    """
    return jax.vmap(lambda layer: layer.attention.empty_cache(batch_size, length))(layers)
