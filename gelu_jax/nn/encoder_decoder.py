"""T5: an encoder, a decoder that attends to it, relative positions (Raffel et al. 2020)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Cache
from gelu_jax.nn.axes import Axes, matmul, take_rows
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.dropout import Rngs, Stochastic, split_key
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.linear import require_part
from gelu_jax.nn.norm import Norm
from gelu_jax.nn.parameters import cast, kernel, wide_dtype
from gelu_jax.nn.position import RelativeConfig, relative_bias
from gelu_jax.nn.stack import apply_layers, empty_cache, init_layers


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Two stacks over one vocabulary.

    Attributes:
      vocab_size: number of tokens v.
      num_encoder_layers: blocks of the encoder.
      num_decoder_layers: blocks of the decoder.
      block: the encoder's block. The decoder's is the same with causal attention, and with
        cross-attention to the encoder between that and the feed-forward.
      relative: buckets of the relative positions, a table in either stack.
      tie_embeddings: whether the head is the embedding's transpose.
      logit_scale: multiplies the decoder's states before the head (1/√d in the first T5, which
        ties its embedding; 1 in version 1.1).
      scan_layers: True compiles one block for all layers, False unrolls them; None scans more than
        8 layers.
      init_std: standard deviation of embedding, head and tables; None for 1/√d.
      dtype: dtype that embedding and head compute in; logits are float32.
      param_dtype: dtype that embedding and head are stored in.
      has_decoder: False for the encoder alone, such as the text encoder of an image generator.
      kind: "encoder_decoder", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value.
    """

    vocab_size: int
    num_encoder_layers: int
    num_decoder_layers: int
    block: BlockConfig
    relative: RelativeConfig = field(default_factory=RelativeConfig)
    tie_embeddings: bool = False
    logit_scale: float = 1.0
    scan_layers: bool | None = None
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    has_decoder: bool = True
    kind: Literal["encoder_decoder"] = "encoder_decoder"

    def __post_init__(self):
        checks.field_types(self)
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
        """The config of the decoder's blocks."""
        attention = self.block.attention
        causal = replace(attention, causal=True)
        return replace(self.block, attention=causal, cross_attention=attention)


class DecoderCache(NamedTuple):
    """Keys and values that the decoder attends to, each with a leading layer axis.

    Attributes:
      own: those of its own earlier tokens.
      memory: those of the encoder's output.
    """

    own: Cache
    memory: Cache


class _Stack(nnx.Module):
    """Blocks, their table of relative positions, and a final norm."""

    axes: ClassVar[Axes] = {"relative": "n h"}

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
        block = _safe_in_float16(block)
        d, axes = block.d_model, self.axes["relative"]
        self.relative = kernel(rngs, shape, fan_in=d, std=std, dtype=dtype, axes=axes)
        self.layers = init_layers(block, num_layers, rngs=rngs)
        self.final_norm = Norm(block.norm, rngs=rngs)

    def bias(self, queries: Array, keys: Array, *, causal: bool) -> Array:
        table = cast(self.relative, self.config.dtype)
        return relative_bias(table, queries, keys, self.config.relative, causal=causal)


def _safe_in_float16(block: BlockConfig) -> BlockConfig:
    """T5's stream and the feed-forward's output exceed 65504, float16's end: in float32 there."""
    if not isinstance(block.feed_forward, FeedForwardConfig):
        return block
    if jnp.dtype(block.feed_forward.dtype) != jnp.float16:
        return block
    return replace(
        block,
        norm=replace(block.norm, dtype=jnp.float32),
        feed_forward=replace(block.feed_forward, dtype=jnp.float32),
    )


class EncoderDecoder(Stochastic):
    """The model as an NNX module.

    Parameters: ``embedding`` (v, d); ``head`` (v, d), None where tied; ``encoder`` and
    ``decoder``, or None, each with ``layers``, ``relative`` (buckets, h) and ``final_norm``.

    Args:
      config: the model's config.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {"embedding": "v d", "head": "v d"}

    def __init__(self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs):
        c = self.config = config

        def table(name: str) -> nnx.Param[Array]:
            (v, d), axes = (c.vocab_size, c.block.d_model), self.axes[name]
            std, dtype = c.init_std, c.param_dtype
            return kernel(rngs, (v, d), fan_in=d, std=std, dtype=dtype, axes=axes)

        self.embedding = table("embedding")
        own_head = c.has_decoder and not c.tie_embeddings
        self.head = table("head") if own_head else None
        self.encoder = _Stack(c, c.block, c.num_encoder_layers, rngs=rngs)
        self.decoder: Any = (  # Any: None only where the config says so
            _Stack(c, c.decoder_block, c.num_decoder_layers, rngs=rngs) if c.has_decoder else None
        )

    def __call__(
        self,
        tokens: Int[Array, "b s"],
        targets: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b s"] | None = None,
        target_mask: Bool[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t v"]:
        """Computes the logits of the targets (teacher forcing).

        Args:
          tokens: the input, (b, s), integers in [0, v).
          targets: the decoder's input, (b, t), integers in [0, v).
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          mask: (b, s), True at real tokens of the input; None for no padding.
          target_mask: (b, t), True at real tokens of the targets; None for no padding.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Logits (b, t, v) in float32.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        rate = self.config.block.highest_dropout_rate
        key = self.key_of_call(rate, deterministic, rngs, dropout_key)
        off, (of_encoder, of_decoder) = key is None, split_key(key, 2)
        hidden = self.encode(tokens, off, mask=mask, dropout_key=of_encoder)
        memory = self.project_kv(hidden, mask=mask)
        positions = jnp.arange(targets.shape[1])
        bias = self.decoder.bias(positions, positions, causal=True)
        x, _ = apply_layers(
            self.decoder.layers,
            self._embed(targets),
            mask=target_mask,
            bias=bias,
            memory=memory,
            deterministic=off,
            dropout_key=of_decoder,
            scan=self.config.scan_layers,
        )
        return self._logits(x)

    def encode(
        self,
        tokens: Int[Array, "b s"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b s"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b s d"]:
        """Computes the encoder's final hidden states.

        Args:
          tokens: the input, (b, s), integers in [0, v).
          deterministic: whether dropout is off, as in `__call__`.
          mask: (b, s), True at real tokens; None for no padding.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, s, d).
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        rate = self.config.block.highest_dropout_rate
        key = self.key_of_call(rate, deterministic, rngs, dropout_key)
        positions = jnp.arange(tokens.shape[1])
        bias = self.encoder.bias(positions, positions, causal=False)
        x, _ = apply_layers(
            self.encoder.layers,
            self._embed(tokens),
            mask=mask,
            bias=bias,
            deterministic=key is None,
            dropout_key=key,
            scan=self.config.scan_layers,
        )
        return self.encoder.final_norm(x)

    def project_kv(
        self, hidden: Float[Array, "b s d"], *, mask: Bool[Array, "b s"] | None = None
    ) -> Cache:
        """Projects the encoder's states to the keys and values of every cross-attention.

        Args:
          hidden: the encoder's final hidden states, (b, s, d).
          mask: (b, s), True at real tokens; None for no padding.
        Returns:
          Keys and values with a leading layer axis.
        Raises:
          ValueError: the model is an encoder alone.
        """
        require_part(self.decoder, "decoder")

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
        """Encodes the input and makes a cache for `decode`; dropout is off.

        Args:
          tokens: the input, (b, s), integers in [0, v).
          length: tokens of output that fit into a row.
          mask: (b, s), True at real tokens; None for no padding.
        Returns:
          A cache with no output in it yet.
        """
        own = empty_cache(self.decoder.layers, tokens.shape[0], length)
        return DecoderCache(own, self.project_kv(self.encode(tokens, True, mask=mask), mask=mask))

    def decode(
        self, tokens: Int[Array, "b t"], cache: DecoderCache
    ) -> tuple[Float[Array, "b t v"], DecoderCache]:
        """Computes the logits of the next t tokens of output; dropout is off.

        Args:
          tokens: (b, t), integers in [0, v).
          cache: as `start` or this method made it.
        Returns:
          Logits (b, t, v) in float32, and the cache with the t tokens added.
        """
        slots = jnp.arange(cache.own.keys.shape[2])
        positions = cache.own.length[0] + jnp.arange(tokens.shape[1])
        x, own = apply_layers(
            self.decoder.layers,
            self._embed(tokens),
            cache.own,
            bias=self.decoder.bias(positions, slots, causal=True),
            memory=cache.memory,
            deterministic=True,
            scan=self.config.scan_layers,
        )
        assert own is not None
        return self._logits(x), DecoderCache(own, cache.memory)

    def _embed(self, tokens: Array) -> Array:
        x = take_rows(cast(self.embedding, self.config.dtype), tokens)
        return x.astype(jnp.float32) if x.dtype == jnp.float16 else x

    def _logits(self, x: Array) -> Array:
        c = self.config
        x = (self.decoder.final_norm(x) * c.logit_scale).astype(c.dtype)
        table = cast(self.embedding if self.head is None else self.head, c.dtype)
        wide = wide_dtype(table.dtype)
        return matmul(x, table.T, preferred_element_type=wide)
