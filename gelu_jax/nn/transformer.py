"""The transformer: embed → blocks → norm → head; a decoder or an encoder, as its attention is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Cache
from gelu_jax.nn.block import Block, BlockConfig
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import cast, kernel


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of equal blocks over tokens; causal attention makes it a decoder, full an encoder.

    ``max_positions``: places of a learned position table, None for none (rotary positions belong
    to the attention). ``tie_embeddings``: the head is the embedding's transpose.
    ``scan_layers``: one compiled block for all layers, so that compile time does not grow with
    depth; False unrolls them (same parameters, same results).
    """

    vocab_size: int
    num_layers: int
    block: BlockConfig
    max_positions: int | None = None
    tie_embeddings: bool = True
    scan_layers: bool = True
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kind: Literal["transformer"] = "transformer"

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            vocab_size=self.vocab_size,
            num_layers=self.num_layers,
            max_positions=self.max_positions,
            init_std=self.init_std,
        )
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def layer(self) -> BlockConfig:
        """The block as it stands in the stack: its output kernels start 1/√(2·layers) smaller."""
        scale = (2 * self.num_layers) ** -0.5
        block = self.block
        return replace(
            block,
            attention=replace(block.attention, output_init_scale=scale),
            feed_forward=replace(block.feed_forward, output_init_scale=scale),
        )


class Transformer(nnx.Module):
    """The model as an NNX module; ``layers`` is one `Block` with a leading layer axis.

    A post-norm stack ends in its last block's norm; the others have a ``final_norm``.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, std, dtype = config.block.d_model, config.init_std, config.param_dtype
        table = partial(kernel, rngs, fan_in=d, std=std, dtype=dtype)
        self.embedding = table((config.vocab_size, d))
        self.head = None if config.tie_embeddings else table((config.vocab_size, d))
        places = config.max_positions
        self.positions = None if places is None else table((places, d))
        # Each layer draws from a key of its own, so that what one part draws never shifts another:
        # arms of a comparison start from equal values wherever they have the same parameters.
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.layers = jax.vmap(lambda key: Block(config.layer, rngs=nnx.Rngs(key)))(keys)
        post_norm = config.block.style == "post_norm"
        self.final_norm = None if post_norm else Norm(config.block.norm, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t v"]:
        """Logits in float32; ``mask`` is True at real tokens."""
        return self._logits(self.hidden(tokens, mask=mask, dropout_key=dropout_key))

    def hidden(
        self,
        tokens: Int[Array, "b t"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """The final hidden states, what an encoder is used for."""
        return self._run(tokens, None, mask, dropout_key)[0]

    def decode(
        self, tokens: Int[Array, "b t"], cache: Cache
    ) -> tuple[Float[Array, "b t v"], Cache]:
        """Logits of the next t tokens (a prompt, or one token), and the cache with them added."""
        hidden, cache = self._run(tokens, cache, None, None)
        return self._logits(hidden), cache

    def empty_cache(self, batch_size: int, length: int) -> Cache:
        """A key/value cache with places for `length` tokens in every layer."""
        return jax.vmap(lambda layer: layer.attention.empty_cache(batch_size, length))(self.layers)

    def _run(
        self,
        tokens: Array,
        cache: Cache | None,
        mask: Array | None,
        dropout_key: Array | None,
    ) -> tuple[Array, Any]:
        num_layers = self.config.num_layers
        keys = None if dropout_key is None else jax.random.split(dropout_key, num_layers)

        def layer(x: Array, inputs: tuple[Block, Cache | None, Array | None]):
            block, cache, key = inputs
            return block.attend(x, cache, mask=mask, dropout_key=key)

        start = 0 if cache is None else cache.length[0]
        unroll = 1 if self.config.scan_layers else num_layers
        x, cache = jax.lax.scan(
            layer, self._embed(tokens, start), (self.layers, cache, keys), unroll=unroll
        )
        return x if self.final_norm is None else self.final_norm(x), cache

    def _embed(self, tokens: Array, start: Array | int) -> Array:
        dtype = self.config.dtype
        x = cast(self.embedding, dtype)[tokens]
        if self.positions is None:
            return x
        here = start + jnp.arange(tokens.shape[1])
        return x + cast(self.positions, dtype)[here]

    def _logits(self, x: Array) -> Array:
        table = self.embedding if self.head is None else self.head
        return jnp.einsum(
            "btd,vd->btv", x, cast(table, self.config.dtype), preferred_element_type=jnp.float32
        )
