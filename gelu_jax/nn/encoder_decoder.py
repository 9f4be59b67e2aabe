"""An encoder, and a decoder that attends to it: T5 (Raffel et al. 2020), Whisper.

T5 reads tokens and has relative positions; Whisper (Radford et al. 2022) reads spectrograms through
a stem of convolutions, and its decoder has a table of learned positions.
"""

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
from gelu_jax.nn.parameters import add_bias, cast, kernel, wide_dtype
from gelu_jax.nn.position import RelativeConfig, relative_bias
from gelu_jax.nn.speech import SpeechStem, SpeechStemConfig
from gelu_jax.nn.stack import apply_layers, empty_cache, init_layers, unstacked

Inputs = Int[Array, "b s"] | Float[Array, "b m f"]


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Two stacks, over one vocabulary where the input is of tokens.

    Attributes:
      vocab_size: number of tokens v.
      num_encoder_layers: blocks of the encoder.
      num_decoder_layers: blocks of the decoder.
      block: the encoder's block. The decoder's is the same with causal attention, and with
        cross-attention to the encoder between that and the feed-forward.
      relative: buckets of the relative positions, a table in either stack; None for none.
      tie_embeddings: whether the head is the embedding's transpose.
      logit_scale: multiplies the decoder's states before the head (1/√d in the first T5, which
        ties its embedding; 1 in version 1.1).
      scan_layers: True compiles one block for all layers, False unrolls them; None scans more than
        8 layers.
      init_std: standard deviation of embedding, head and tables; None for 1/√d.
      dtype: dtype that embedding and head compute in; logits are float32.
      param_dtype: dtype that embedding and head are stored in.
      has_decoder: False for the encoder alone, such as the text encoder of an image generator.
      decoder: the block that the decoder's is made from, where it has other heads or another width
        of the feed-forward; None for the encoder's.
      max_positions: rows of the decoder's table of learned positions; None for no table.
      stem: what makes the encoder's input from a spectrogram; None where the input is of tokens.
      kind: "encoder_decoder", which tells model configs apart in a config file.

    Raises:
      ConfigError: a field has a wrong value, or widths differ.
    """

    vocab_size: int
    num_encoder_layers: int
    num_decoder_layers: int
    block: BlockConfig
    relative: RelativeConfig | None = field(default_factory=RelativeConfig)
    tie_embeddings: bool = False
    logit_scale: float = 1.0
    scan_layers: bool | None = None
    init_std: float | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    has_decoder: bool = True
    decoder: BlockConfig | None = None
    max_positions: int | None = None
    stem: SpeechStemConfig | None = None
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
            max_positions=self.max_positions,
        )
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        parts = {"decoder.norm": self.decoder and self.decoder.norm, "stem": self.stem}
        widths = {f"{name}.d_model": part.d_model for name, part in parts.items() if part}
        yield from checks.equal(self.block.d_model, "block.norm.d_model", widths)

    @property
    def decoder_block(self) -> BlockConfig:
        """The config of the decoder's blocks."""
        block = self.decoder or self.block
        causal = replace(block.attention, causal=True)
        return replace(block, attention=causal, cross_attention=block.attention)


class DecoderCache(NamedTuple):
    """Keys and values that the decoder attends to, each with a leading layer axis.

    Attributes:
      own: those of its own earlier tokens.
      memory: those of the encoder's output.
    """

    own: Cache
    memory: Cache


class _Stack(nnx.Module):
    """Blocks, their table of relative positions or None, and a final norm."""

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
        std, dtype = config.init_std, config.param_dtype
        block = _safe_in_float16(block)
        d, h, axes = block.d_model, block.attention.num_heads, self.axes["relative"]

        def table(buckets: int) -> nnx.Param[Array]:
            shape = (buckets, h)
            return kernel(rngs, shape, fan_in=d, std=std, dtype=dtype, axes=axes)

        buckets = config.relative
        self.relative = None if buckets is None else table(buckets.num_buckets)
        self.layers = init_layers(block, num_layers, rngs=rngs)
        self.final_norm = Norm(block.norm, rngs=rngs)

    def bias(self, queries: Array, keys: Array, *, causal: bool) -> Array | None:
        c = self.config
        if self.relative is None or c.relative is None:
            return None
        table = cast(self.relative, c.dtype)
        return relative_bias(table, queries, keys, c.relative, causal=causal)


def _safe_in_float16(block: BlockConfig) -> BlockConfig:
    """The stream and the feed-forward's output exceed 65504, float16's end: in float32 there.

    So it is in T5; transformers clips Whisper's stream for the same reason.
    """
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

    Parameters: ``embedding`` (v, d); ``head`` (v, d), None where tied; ``positions`` (t, d) of the
    decoder and ``stem``, or None; ``encoder`` and ``decoder``, or None, each with ``layers``,
    ``relative`` (buckets, h) or None, and ``final_norm``.

    Args:
      config: the model's config.
      rngs: source of the initial values.
    """

    axes: ClassVar[Axes] = {"embedding": "v d", "head": "v d", "positions": "t d"}

    def __init__(self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs):
        c = self.config = config

        def table(name: str, rows: int) -> nnx.Param[Array]:
            d, axes = c.block.d_model, self.axes[name]
            std, dtype = c.init_std, c.param_dtype
            return kernel(rngs, (rows, d), fan_in=d, std=std, dtype=dtype, axes=axes)

        self.embedding = table("embedding", c.vocab_size)
        own_head = c.has_decoder and not c.tie_embeddings
        self.head = table("head", c.vocab_size) if own_head else None
        self.encoder = _Stack(c, c.block, c.num_encoder_layers, rngs=rngs)
        self.decoder: Any = (  # Any: None only where the config says so
            _Stack(c, c.decoder_block, c.num_decoder_layers, rngs=rngs) if c.has_decoder else None
        )
        most = c.max_positions
        self.positions = None if most is None else table("positions", most)
        self.stem = None if c.stem is None else SpeechStem(c.stem, rngs=rngs)

    def __call__(
        self,
        inputs: Inputs,
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
          inputs: tokens or spectrograms, as in `encode`.
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
          ConfigError: the decoder has no positions for so many targets, or as in `encode`.
          ValueError: dropout is on, and there is no key.
        """
        options: dict[str, Any] = {"mask": mask, "target_mask": target_mask}
        options |= {"rngs": rngs, "dropout_key": dropout_key}
        return self._logits(self.hidden(inputs, targets, deterministic, **options))

    def hidden(
        self,
        inputs: Inputs,
        targets: Int[Array, "b t"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b s"] | None = None,
        target_mask: Bool[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Computes the decoder's final hidden states, to which the head is applied.

        Args:
          inputs: tokens or spectrograms, as in `encode`.
          targets: the decoder's input, (b, t), integers in [0, v).
          deterministic: whether dropout is off, as in `__call__`.
          mask: (b, s), True at real tokens of the input; None for no padding.
          target_mask: (b, t), True at real tokens of the targets; None for no padding.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, t, d).
        Raises:
          ConfigError: as in `__call__`.
          ValueError: dropout is on, and there is no key.
        """
        c = self.config
        check(checks.within_positions(targets.shape[1], c.max_positions))
        rate = max(c.block.highest_dropout_rate, c.decoder_block.highest_dropout_rate)
        key = self.key_of_call(rate, deterministic, rngs, dropout_key)
        off, (of_encoder, of_decoder) = key is None, split_key(key, 2)
        states = self.encode(inputs, off, mask=mask, dropout_key=of_encoder)
        memory = self.project_kv(states, mask=mask)
        positions = jnp.arange(targets.shape[1])
        x, _ = apply_layers(
            self.decoder.layers,
            self._placed(targets, positions),
            mask=target_mask,
            bias=self.decoder.bias(positions, positions, causal=True),
            memory=memory,
            deterministic=off,
            dropout_key=of_decoder,
            scan=c.scan_layers,
        )
        return self.decoder.final_norm(x)

    def encode(
        self,
        inputs: Inputs,
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b s"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b s d"]:
        """Computes the encoder's final hidden states.

        Args:
          inputs: tokens, (b, s), integers in [0, v); of a model with a stem log-mel spectrograms,
            (b, m, 2·s), of any floating dtype.
          deterministic: whether dropout is off, as in `__call__`.
          mask: (b, s), True at real tokens; None for no padding.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout.
        Returns:
          Hidden states (b, s, d).
        Raises:
          ConfigError: the spectrograms have another number of bands or frames than the stem.
          ValueError: dropout is on, and there is no key.
        """
        rate = self.config.block.highest_dropout_rate
        key = self.key_of_call(rate, deterministic, rngs, dropout_key)
        x = self._embed(inputs) if self.stem is None else _stream(self.stem(inputs))
        positions = jnp.arange(x.shape[1])
        x, _ = apply_layers(
            self.encoder.layers,
            x,
            mask=mask,
            bias=self.encoder.bias(positions, positions, causal=False),
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
        inputs: Inputs,
        length: int,
        *,
        mask: Bool[Array, "b s"] | None = None,
    ) -> DecoderCache:
        """Encodes the input and makes a cache for `decode`; dropout is off.

        Args:
          inputs: tokens or spectrograms, as in `encode`.
          length: tokens of output that fit into a row.
          mask: (b, s), True at real tokens; None for no padding.
        Returns:
          A cache with no output in it yet.
        Raises:
          ConfigError: the decoder has no positions for so many tokens, or as in `encode`.
        """
        check(checks.within_positions(length, self.config.max_positions))
        own = empty_cache(self.decoder.layers, inputs.shape[0], length)
        return DecoderCache(own, self.project_kv(self.encode(inputs, True, mask=mask), mask=mask))

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
        slots = jnp.arange(cache.own.mask[0].shape[1])
        positions = cache.own.length[0] + jnp.arange(tokens.shape[1])
        x, own = apply_layers(
            self.decoder.layers,
            self._placed(tokens, positions),
            cache.own,
            bias=self.decoder.bias(positions, slots, causal=True),
            memory=cache.memory,
            deterministic=True,
            scan=self.config.scan_layers,
        )
        assert own is not None
        return self._logits(self.decoder.final_norm(x)), DecoderCache(own, cache.memory)

    def unstacked(self, cache: DecoderCache) -> tuple["EncoderDecoder", DecoderCache]:
        """The model and its cache for a loop over tokens, as `gelu_jax.nn.stack.unstacked` says.

        Args:
          cache: as `start` or `decode` made it.
        Returns:
          A model and a cache whose `decode` gives the same.
        """
        copy = jax.tree.map(lambda leaf: leaf, self)
        layers, cache = unstacked(self.decoder.layers, cache, self.config.scan_layers)
        copy.decoder.layers = layers
        return copy, cache

    def _placed(self, tokens: Array, positions: Array) -> Array:
        """The decoder's input: embeddings, and learned positions where there are any."""
        x = self._embed(tokens)
        if self.positions is None:
            return x
        return add_bias(x, take_rows(cast(self.positions, x.dtype), positions))

    def _embed(self, tokens: Array) -> Array:
        return _stream(take_rows(cast(self.embedding, self.config.dtype), tokens))

    def _logits(self, hidden: Array) -> Array:
        c = self.config
        x = (hidden * c.logit_scale).astype(c.dtype)
        table = cast(self.embedding if self.head is None else self.head, c.dtype)
        wide = wide_dtype(table.dtype)
        return matmul(x, table.T, preferred_element_type=wide)


def _stream(x: Array) -> Array:
    """The start of a residual stream: see `_safe_in_float16`."""
    return x.astype(jnp.float32) if x.dtype == jnp.float16 else x
