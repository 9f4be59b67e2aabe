"""T5: an encoder whose states a decoder looks at, with relative positions (Raffel et al. 2020)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Cache
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import cast, kernel
from gelu_jax.nn.position import RelativeConfig, relative_bias
from gelu_jax.nn.stack import empty_cache, run, stack


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Two stacks over one vocabulary.

    ``block`` is the encoder's; the decoder's is the same with causal attention, and attention to
    the encoder between that and the feed-forward. ``logit_scale`` multiplies the decoder's states
    before the head (1/√d in the first T5, which ties its embedding; 1 in version 1.1).
    """

    vocab_size: int
    num_encoder_layers: int
    num_decoder_layers: int
    block: BlockConfig
    relative: RelativeConfig = field(default_factory=RelativeConfig)
    tie_embeddings: bool = False
    logit_scale: float = 1.0
    scan_layers: bool = True
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kind: Literal["encoder_decoder"] = "encoder_decoder"

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(
            vocab_size=self.vocab_size,
            num_encoder_layers=self.num_encoder_layers,
            num_decoder_layers=self.num_decoder_layers,
            logit_scale=self.logit_scale,
            init_std=self.init_std,
        )
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def decoder_block(self) -> BlockConfig:
        """The decoder's block."""
        attention = self.block.attention
        causal = replace(attention, causal=True)
        return replace(self.block, attention=causal, cross_attention=attention)


class DecoderCache(NamedTuple):
    """What the decoder remembers: its own tokens, and the encoder's states."""

    own: Cache
    memory: Cache


class _Tower(nnx.Module):
    def __init__(
        self,
        config: EncoderDecoderConfig,
        block: BlockConfig,
        num_layers: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.config = config
        shape = (config.relative.num_buckets, block.attention.num_heads)
        std, dtype = config.init_std, config.param_dtype
        self.relative = kernel(rngs, shape, fan_in=block.d_model, std=std, dtype=dtype)
        self.layers = stack(block, num_layers, rngs=rngs)
        self.final_norm = Norm(block.norm, rngs=rngs)

    def bias(self, queries: Array, keys: Array, *, causal: bool) -> Array:
        table = cast(self.relative, self.config.dtype)
        return relative_bias(table, queries, keys, self.config.relative, causal=causal)


class EncoderDecoder(nnx.Module):
    """The model as an NNX module; calling it gives the logits of the targets."""

    def __init__(self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        shape, d = (c.vocab_size, c.block.d_model), c.block.d_model
        std, dtype = c.init_std, c.param_dtype
        self.embedding = kernel(rngs, shape, fan_in=d, std=std, dtype=dtype)
        self.head = (
            None if c.tie_embeddings else kernel(rngs, shape, fan_in=d, std=std, dtype=dtype)
        )
        self.encoder = _Tower(c, c.block, c.num_encoder_layers, rngs=rngs)
        self.decoder = _Tower(c, c.decoder_block, c.num_decoder_layers, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "b s"],
        targets: Int[Array, "b t"],
        *,
        mask: Bool[Array, "b s"] | None = None,
        target_mask: Bool[Array, "b t"] | None = None,
    ) -> Float[Array, "b t v"]:
        """Logits in float32; ``mask`` is True at real tokens of the input."""
        memory = self.project_kv(self.encode(tokens, mask=mask), mask=mask)
        here = jnp.arange(targets.shape[1])
        bias = self.decoder.bias(here, here, causal=True)
        x, _ = run(
            self.decoder.layers,
            self._embed(targets),
            mask=target_mask,
            bias=bias,
            memory=memory,
            scan=self.config.scan_layers,
        )
        return self._logits(x)

    def encode(
        self, tokens: Int[Array, "b s"], *, mask: Bool[Array, "b s"] | None = None
    ) -> Float[Array, "b s d"]:
        """The encoder's final hidden states."""
        here = jnp.arange(tokens.shape[1])
        bias = self.encoder.bias(here, here, causal=False)
        scan = self.config.scan_layers
        x, _ = run(self.encoder.layers, self._embed(tokens), mask=mask, bias=bias, scan=scan)
        return self.encoder.final_norm(x)

    def project_kv(
        self, hidden: Float[Array, "b s d"], *, mask: Bool[Array, "b s"] | None = None
    ) -> Cache:
        """The encoder's states as every layer of the decoder looks at them."""

        def layer(cross: Any) -> Cache:
            return cross.project_kv(hidden, mask=mask)

        return jax.vmap(layer)(self.decoder.layers.cross_attention)

    def start(
        self,
        tokens: Int[Array, "b s"],
        length: int,
        *,
        mask: Bool[Array, "b s"] | None = None,
    ) -> DecoderCache:
        """Encodes the input: a cache with places for `length` tokens of output."""
        own = empty_cache(self.decoder.layers, tokens.shape[0], length)
        return DecoderCache(own, self.project_kv(self.encode(tokens, mask=mask), mask=mask))

    def decode(
        self, tokens: Int[Array, "b t"], cache: DecoderCache
    ) -> tuple[Float[Array, "b t v"], DecoderCache]:
        """Logits of the next t tokens of output, and the cache with them added."""
        places = jnp.arange(cache.own.keys.shape[2])
        here = cache.own.length[0] + jnp.arange(tokens.shape[1])
        x, own = run(
            self.decoder.layers,
            self._embed(tokens),
            cache.own,
            bias=self.decoder.bias(here, places, causal=True),
            memory=cache.memory,
            scan=self.config.scan_layers,
        )
        assert own is not None
        return self._logits(x), DecoderCache(own, cache.memory)

    def _embed(self, tokens: Array) -> Array:
        return cast(self.embedding, self.config.dtype)[tokens]

    def _logits(self, x: Array) -> Array:
        c = self.config
        x = self.decoder.final_norm(x) * jnp.asarray(c.logit_scale, c.dtype)
        table = cast(self.embedding if self.head is None else self.head, c.dtype)
        wide = jnp.promote_types(table.dtype, jnp.float32)
        return jnp.einsum("btd,vd->btv", x, table, preferred_element_type=wide)
