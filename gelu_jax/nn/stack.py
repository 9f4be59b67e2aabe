"""A stack of blocks: one `Block` whose every parameter has a leading layer axis.

Where the layers' feed-forward parts differ, as in a stack that mixes dense and sparse layers, the
block's is a `FeedForwards`, which has a stack for each of them; all else is as it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
from gelu_jax.nn.experts import MoE, MoEConfig, feed_forward_part
from gelu_jax.nn.feed_forward import FeedForward, FeedForwardConfig
from gelu_jax.nn.parameters import numbered, set_numbered
from gelu_jax.nn.position import RotaryConfig, frequencies, long_frequencies

_NO_WINDOW = 2**30


@dataclass(frozen=True)
class LayerKind:
    """What one kind of layer in a stack has of its own.

    Attributes:
      window: a token attends to tokens closer than this alone; None for no limit.
      rotary: rotary positions; None for none.
      normed: whether attention sees the normed stream; False for the stream itself, where the
        embeddings were normed just before (the first layer of ModernBERT).
      feed_forward: the feed-forward block or mixture of experts; None for that of the stack's
        block.
    """

    window: int | None = None
    rotary: RotaryConfig | None = None
    normed: bool = True
    feed_forward: FeedForwardConfig | MoEConfig | None = None


class FeedForwards(nnx.Module):
    """The feed-forward parts of a stack whose layers have different ones.

    Parameters: ``kind_0``, ``kind_1``, …, each a `FeedForward` or `MoE` whose parameters have a
    leading axis of the layers that have it, in order.

    Args:
      stacks: the part of each kind.
      kinds: the kind of each layer.
    """

    def __init__(self, stacks: Sequence[FeedForward | MoE], kinds: tuple[int, ...]):
        self.kinds = kinds
        set_numbered(self, "kind", stacks)

    @property
    def stacks(self) -> tuple[FeedForward | MoE, ...]:
        """The part of each kind."""
        return numbered(self, "kind")

    def place(self, layer: int) -> tuple[int, int]:
        """Where the part of a layer is.

        Args:
          layer: its index, from 0.
        Returns:
          Its kind, and its place in the stack of that kind.
        """
        kind = self.kinds[layer]
        return kind, self.kinds[:layer].count(kind)


class Unstacked(nnx.Module):
    """The blocks of a stack with arrays of their own.

    Parameters: ``layer_0``, ``layer_1``, …, each a `Block`.

    Args:
      layers: a stack, as `init_layers` makes it.
    """

    def __init__(self, layers: Block):
        count = layers.attention.w_query.shape[0]
        set_numbered(self, "layer", [one_layer(layers, i) for i in range(count)])

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, in order."""
        return numbered(self, "layer")


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
    values = LayerValues(
        window=jnp.array([pattern[i].window or _NO_WINDOW for i in layers], jnp.int32),
        frequencies=jnp.array([turning[i][0] for i in layers], jnp.float32),
        magnitude=jnp.array([turning[i][1] for i in layers], jnp.float32),
        normed=None
        if all(kind.normed for kind in pattern)
        else jnp.array([pattern[i].normed for i in layers]),
    )
    lengths = [None if kind.rotary is None else kind.rotary.short_length for kind in pattern]
    if all(length is None for length in lengths):
        return values
    long = [
        still[0] if k.rotary is None else long_frequencies(head_size, k.rotary) for k in pattern
    ]
    return values._replace(
        long_frequencies=jnp.array([long[i] for i in layers], jnp.float32),
        # where length does not matter, the frequencies of short and long sequences are the same
        short_length=jnp.array([lengths[i] or 0 for i in layers], jnp.int32),
    )


MAX_UNROLLED = 8
"""Layers that are unrolled by default: on a CPU a step takes 0.75–0.8 of the time of a scan, and at
8 layers compiling takes 1.2 times as long."""


def init_layers(
    block: BlockConfig,
    num_layers: int,
    *,
    feed_forwards: Sequence[FeedForwardConfig | MoEConfig] = (),
    rngs: nnx.Rngs,
) -> Block:
    """Makes a stack of blocks; the output kernels start 1/√(2·layers) smaller than in one block.

    Each layer draws from a key of its own, so that what one part draws never shifts another: arms
    of a comparison start from equal values wherever they have the same parameters.

    Args:
      block: the config of every block.
      num_layers: number of blocks.
      feed_forwards: the feed-forward part of each block; empty where all have the config's.
      rngs: source of the initial values.
    Returns:
      One `Block` whose parameters have a leading axis of num_layers, but for those of its
      `FeedForwards` where the parts differ.
    """
    keys = jax.random.split(rngs.params(), num_layers)
    parts = list(dict.fromkeys(feed_forwards)) or [block.feed_forward]

    def stack(part: FeedForwardConfig | MoEConfig, keys: Array) -> Block:
        config = _scaled_for_depth(replace(block, feed_forward=part), num_layers)
        return jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)

    layers = stack(parts[0], keys)
    if len(parts) > 1:
        kinds = tuple(map(parts.index, feed_forwards))
        own = [
            jnp.array([k for k, found in enumerate(kinds) if found == i]) for i in range(len(parts))
        ]
        stacks = [stack(part, keys[at]).feed_forward for part, at in zip(parts, own, strict=True)]
        layers = _with_feed_forward(layers, FeedForwards(stacks, kinds))
    return add_axis(layers, 0, {nnx.PARTITION_NAME: None})


def init_feed_forwards(
    parts: Sequence[FeedForwardConfig | MoEConfig], *, rngs: nnx.Rngs
) -> FeedForward | MoE | FeedForwards:
    """Makes the feed-forward parts of a stack alone.

    Args:
      parts: the config of each layer's.
      rngs: source of the initial values.
    Returns:
      One part whose parameters have a leading layer axis, or a `FeedForwards` where they differ.
    """
    keys = jax.random.split(rngs.params(), len(parts))
    found = list(dict.fromkeys(parts))
    kinds = tuple(map(found.index, parts))

    def stack(i: int) -> FeedForward | MoE:
        own = keys[jnp.array([n for n, kind in enumerate(kinds) if kind == i])]
        return jax.vmap(lambda key: feed_forward_part(found[i], rngs=nnx.Rngs(key)))(own)

    stacks = [stack(i) for i in range(len(found))]
    return stacks[0] if len(stacks) == 1 else FeedForwards(stacks, kinds)


def _with_feed_forward(layers: Block, part: Any) -> Block:
    """A copy with another feed-forward part."""
    copy = jax.tree.map(lambda leaf: leaf, layers)
    copy.feed_forward = part
    if isinstance(part, FeedForward | MoE):
        copy.config = replace(copy.config, feed_forward=part.config)
    return copy


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


MAX_UNSTACKED = 2**30
"""Bytes of a stack that `unstacked` copies at most."""


def unstacked(layers: Block, cache: Any, scan: bool | None) -> tuple[Block | Unstacked, Any]:
    """A stack and the cache of its model for a loop over tokens on a CPU: each layer by itself.

    XLA's products on a CPU read a layer of a stack from a copy, which for a single token takes
    longer than the product itself; and a stacked cache is copied whole. Both at every token:
    without, the loop is about 1.5 times as fast (12 layers, 768 wide). The layers are unrolled, and
    their weights are there twice as long as the loop takes; so more than `MAX_UNSTACKED` bytes of
    them stay as they are.

    Args:
      layers: a stack, as `init_layers` makes it.
      cache: of the model's ``decode``, with leading layer axes.
      scan: whether the layers shall be compiled as one; None where that is open.
    Returns:
      An `Unstacked`, and a cache that has a tuple of arrays for each stacked one; or both as they
      are, where the layers shall be scanned, there is one block, the backend is no CPU, or the
      stack is larger.
    """
    one = layers.attention.w_query.shape[0] == 1
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(layers))
    if scan or one or size > MAX_UNSTACKED or jax.default_backend() != "cpu":
        return layers, cache
    return Unstacked(layers), jax.tree.map(tuple, cache)


def first_layers(layers: Block, num_layers: int) -> Block:
    """The first blocks of a stack.

    Args:
      layers: a stack, as `init_layers` makes it.
      num_layers: how many; a negative number counts from the end, as in a slice.
    Returns:
      A stack of that many blocks.
    """
    return jax.tree.map(lambda leaf: leaf[:num_layers], layers)


def one_layer(layers: Block, layer: int) -> Block:
    """One block of a stack.

    Args:
      layers: a stack, as `init_layers` makes it.
      layer: its index, from 0.
    Returns:
      A `Block` without the layer axis.
    """
    parts: Any = layers.feed_forward
    if not isinstance(parts, FeedForwards):
        return jax.tree.map(lambda leaf: leaf[layer], layers)
    kind, place = parts.place(layer)
    common = jax.tree.map(lambda leaf: leaf[layer], _with_feed_forward(layers, None))
    own = jax.tree.map(lambda leaf: leaf[place], parts.stacks[kind])
    return _with_feed_forward(common, own)


def apply_layers(
    layers: Block | Unstacked,
    x: Float[Array, "b t d"],
    cache: Cache | None = None,
    **options: Any,
) -> tuple[Float[Array, "b t d"], Cache | None]:
    """Applies all blocks of a stack, one after another.

    Args:
      layers: a stack, as `init_layers` makes it, or its blocks one by one.
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
    layers: Block | Unstacked,
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
      layers: a stack, as `init_layers` makes it, or its blocks one by one.
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
      added, or None; and the statistics of the routing with a leading axis of the layers that have
      experts, None where none has.
    """
    stack: Any = layers
    blocks = layers.blocks if isinstance(layers, Unstacked) else None
    num_layers: int = repeats or (len(blocks) if blocks else stack.attention.w_query.shape[0])
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

    if blocks is not None:
        return _one_after_another(layer, x, blocks, [cache, memory, values, keys])
    scan = num_layers > MAX_UNROLLED if scan is None else scan
    if isinstance(stack.feed_forward, FeedForwards):
        return _over_periods(layer, x, stack, (cache, memory, values, keys), scan)
    unroll = 1 if scan else num_layers
    each = layers if shared is None else None
    inputs = (each, cache, memory, values, keys)
    x, (cache, routing) = jax.lax.scan(layer, x, inputs, length=num_layers, unroll=unroll)
    return x, cache, routing


def _one_after_another(
    layer: Callable[[Array, Any], tuple[Array, Any]], x: Array, blocks: Sequence[Block], inputs: Any
) -> tuple[Array, Cache | None, RoutingStatistics | None]:
    """Applies blocks that are `Unstacked`; what they have of their own is stacked, or in tuples."""
    caches, routings = list[Any](), list[Any]()
    for i, block in enumerate(blocks):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], inputs, is_leaf=_is_tuple)
        x, (cache, routing) = layer(x, (block, *own))
        caches.append(cache)
        routings += [] if routing is None else [routing]
    cache = None if caches[0] is None else jax.tree.map(lambda *leaves: leaves, *caches)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *routings) if routings else None
    return x, cache, stacked


def _is_tuple(part: Any) -> bool:
    """Whether it is one of `unstacked`; a cache is a tuple with names."""
    return type(part) is tuple


class Period(NamedTuple):
    """A run of layers that repeats itself.

    Attributes:
      first: the first layer.
      length: layers of the period.
      repeats: how often it comes.
    """

    first: int
    length: int
    repeats: int


def periods(kinds: Sequence[int]) -> tuple[Period, ...]:
    """Cuts a stack into runs that repeat themselves, so that the fewest layers are compiled.

    Args:
      kinds: the kind of each layer.
    Returns:
      The runs, in order.

    >>> [tuple(run) for run in periods([0, 0, 0, 1, 1, 1, 1])]
    [(0, 1, 3), (3, 1, 4)]
    >>> [tuple(run) for run in periods([0, 1, 0, 1, 0, 1])]
    [(0, 2, 3)]
    """
    n = len(kinds)
    best: list[tuple[Period, ...]] = [()] * (n + 1)
    for first in reversed(range(n)):
        runs = (
            Period(first, length, repeats)
            for length in range(1, n - first + 1)
            for repeats in [_repeats(kinds[first:], length)]
        )
        ways = [(run, *best[run.first + run.length * run.repeats]) for run in runs]
        best[first] = min(ways, key=lambda way: sum(run.length for run in way))
    return best[0]


def _repeats(kinds: Sequence[int], length: int) -> int:
    """How often the first layers come before others do."""
    same = (kinds[i : i + length] == kinds[:length] for i in range(0, len(kinds), length))
    return next((i for i, found in enumerate(same) if not found), len(kinds) // length)


def _over_periods(
    layer: Callable[[Array, Any], tuple[Array, Any]],
    x: Array,
    layers: Block,
    inputs: Any,
    scan: bool,
) -> tuple[Array, Cache | None, RoutingStatistics | None]:
    """Scans each run of a stack of different layers over its period."""
    caches, routings = list[Any](), list[Any]()
    kinds = _parts(layers).kinds
    for run in periods(kinds):
        own, blocks = _grouped(inputs, run, run.first), _grouped_blocks(layers, run)

        def period(x: Array, inputs: Any, run: Period = run) -> tuple[Array, Any]:
            (common, stacks), own = inputs
            found = list[Any]()
            for i, (kind, place, count) in enumerate(_places(kinds, run)):
                part = _one_of(stacks[kind], place, count)
                block, more = _one_of((common, own), i, run.length)
                x, out = layer(x, (_with_feed_forward(block, part), *more))
                found.append(out)
            return x, found

        unroll = 1 if scan else run.repeats
        x, found = jax.lax.scan(period, x, (blocks, own), length=run.repeats, unroll=unroll)
        caches += _in_order([cache for cache, _ in found if cache is not None])
        routings += _in_order([routing for _, routing in found if routing is not None])
    return x, _joined(caches), _joined(routings)


def _parts(layers: Any) -> FeedForwards:
    return layers.feed_forward


def _places(kinds: Sequence[int], run: Period) -> Iterator[tuple[int, int, int]]:
    """Of each layer of a period its kind, its place among those of the kind, and their number."""
    own = kinds[run.first : run.first + run.length]
    for i, kind in enumerate(own):
        yield kind, own[:i].count(kind), own.count(kind)


def _grouped(tree: Any, run: Period, first: int, length: int | None = None) -> Any:
    """(layers, …) as (repeats, length, …), of the layers of a run; as (repeats, …) for length 1.

    What is cut out of a scan's inputs is kept for the backward pass, so that weights would be
    there twice; those of which a period has one are its inputs as they are.
    """
    length = run.length if length is None else length
    last = first + run.repeats * length

    def grouped(leaf: Array) -> Array:
        leaf = leaf if (first, last) == (0, len(leaf)) else leaf[first:last]
        return leaf if length == 1 else leaf.reshape(run.repeats, length, *leaf.shape[1:])

    return jax.tree.map(grouped, tree)


def _one_of(grouped: Any, place: int, length: int) -> Any:
    return grouped if length == 1 else jax.tree.map(lambda leaf: leaf[place], grouped)


def _grouped_blocks(layers: Block, run: Period) -> tuple[Block, list[Any]]:
    """What all blocks have, and the feed-forward part of each kind."""
    parts = _parts(layers)
    common = _grouped(_with_feed_forward(layers, None), run, run.first)
    own = parts.kinds[run.first : run.first + run.length]
    before = parts.kinds[: run.first]
    return common, [
        _grouped(stack, run, before.count(kind), own.count(kind))
        for kind, stack in enumerate(parts.stacks)
    ]


def _in_order(found: list[Any]) -> list[Any]:
    """(repeats, …) of each layer of a period as one (layers, …)."""
    if not found:
        return []

    def merged(*leaves: Array) -> Array:
        stacked = jnp.stack(leaves, 1)
        return stacked.reshape(-1, *stacked.shape[2:])

    return [jax.tree.map(merged, *found)]


def _joined(found: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found) if found else None


def empty_cache(layers: Block, batch_size: int, length: int) -> Cache:
    """An empty key/value cache for every block of a stack.

    Args:
      layers: a stack, as `init_layers` makes it.
      batch_size: rows b.
      length: tokens that fit into a row.
    Returns:
      A cache with a leading layer axis.
    """
    return jax.vmap(lambda attention: attention.empty_cache(batch_size, length))(layers.attention)
