"""A stack of equal blocks: one `Block` whose every parameter has a leading layer axis."""

from dataclasses import replace

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from gelu_jax.nn.attention import Cache
from gelu_jax.nn.axes import with_sharding_constraint
from gelu_jax.nn.block import Block, BlockConfig


def in_stack(block: BlockConfig, num_layers: int) -> BlockConfig:
    """The block as it stands in a stack: its output kernels start 1/√(2·layers) smaller."""
    scale = (2 * num_layers) ** -0.5
    cross = block.cross_attention
    return replace(
        block,
        attention=replace(block.attention, output_init_scale=scale),
        feed_forward=replace(block.feed_forward, output_init_scale=scale),
        cross_attention=None if cross is None else replace(cross, output_init_scale=scale),
    )


def stack(block: BlockConfig, num_layers: int, *, rngs: nnx.Rngs) -> Block:
    """num_layers blocks in one.

    Each layer draws from a key of its own, so that what one part draws never shifts another: arms
    of a comparison start from equal values wherever they have the same parameters.
    """
    keys = jax.random.split(rngs.params(), num_layers)
    config = in_stack(block, num_layers)
    return jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)


def depth(layers: Block) -> int:
    """How many layers a stack has."""
    return layers.attention.w_query.shape[0]


def first(layers: Block, num_layers: int) -> Block:
    """The first layers of a stack; a negative number counts from the end, as in a slice."""
    return jax.tree.map(lambda leaf: leaf[:num_layers], layers)


def run(
    layers: Block,
    x: Float[Array, "b t d"],
    cache: Cache | None = None,
    *,
    mask: Bool[Array, "b t"] | None = None,
    bias: Float[Array, "#b #h t s"] | None = None,
    memory: Cache | None = None,
    dropout_key: Key[Array, ""] | None = None,
    scan: bool = True,
) -> tuple[Float[Array, "b t d"], Cache | None]:
    """Runs the stream through all layers; cache and memory have a leading layer axis too.

    ``scan``: one compiled block for all layers; False unrolls them (the same results).
    """
    num_layers = depth(layers)
    keys = None if dropout_key is None else jax.random.split(dropout_key, num_layers)

    def layer(x: Array, inputs: tuple[Block, Cache | None, Cache | None, Array | None]):
        block, cache, memory, key = inputs
        x = with_sharding_constraint(x, "b t d")
        return block.attend(x, cache, mask=mask, bias=bias, memory=memory, dropout_key=key)

    unroll = 1 if scan else num_layers
    return jax.lax.scan(layer, x, (layers, cache, memory, keys), unroll=unroll)


def empty_cache(layers: Block, batch_size: int, length: int) -> Cache:
    """A key/value cache with places for `length` tokens in every layer."""
    return jax.vmap(lambda layer: layer.attention.empty_cache(batch_size, length))(layers)
