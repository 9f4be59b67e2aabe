"""The transformer block: the residual wiring of attention and feed-forward, in six styles."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Attention, AttentionConfig, Cache, LayerValues
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.balance import RoutingStatistics
from gelu_jax.nn.dropout import Rngs, Stochastic, dropout, split_key
from gelu_jax.nn.experts import MoE, MoEConfig, feed_forward_part
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.norm import Norm, NormConfig
from gelu_jax.nn.parameters import add, cast, constant

Part = Callable[[Array], Array]


def _pre_norm(block: "Block", x: Array, attn: Part, cross_attn: Part | None, ffn: Part) -> Array:
    """GPT-2, LLaMA: each part sees the normed stream (Radford et al. 2019, section 2.3)."""
    x = add(x, attn(block.attention_norm(x)))
    if cross_attn is not None:
        x = add(x, cross_attn(block.cross_attention_norm(x)))
    return add(x, ffn(block.feed_forward_norm(x)))


def _post_norm(block: "Block", x: Array, attn: Part, cross_attn: Part | None, ffn: Part) -> Array:
    """BERT: the stream itself is normed after each part (Vaswani et al. 2017, section 3.1)."""
    x = block.attention_norm(add(x, attn(x)))
    if cross_attn is not None:
        x = block.cross_attention_norm(add(x, cross_attn(x)))
    return block.feed_forward_norm(add(x, ffn(x)))


def _parallel(block: "Block", x: Array, attn: Part, cross_attn: Part | None, ffn: Part) -> Array:
    """PaLM: one norm, and the parts side by side (Chowdhery et al. 2022, section 2)."""
    h = block.attention_norm(x)
    x = add(x, attn(h))
    if cross_attn is not None:
        x = add(x, cross_attn(h))
    return add(x, ffn(h))


def _parallel_norms(
    block: "Block", x: Array, attn: Part, cross_attn: Part | None, ffn: Part
) -> Array:
    """GPT-NeoX: the parts side by side, a norm for each (Black et al. 2022, section 2.1)."""
    h = block.attention_norm(x)
    y = add(x, attn(h))
    if cross_attn is not None:
        y = add(y, cross_attn(h))
    return add(y, ffn(block.feed_forward_norm(x)))


def _branch_norm(block: "Block", x: Array, attn: Part, cross_attn: Part | None, ffn: Part) -> Array:
    """OLMo 2: what each part adds to the stream is normed (Liu et al. 2022, section 3.2)."""
    x = x + block.attention_norm(attn(x))
    if cross_attn is not None:
        x = x + block.cross_attention_norm(cross_attn(x))
    return x + block.feed_forward_norm(ffn(x))


def _sandwich(block: "Block", x: Array, attn: Part, cross_attn: Part | None, ffn: Part) -> Array:
    """Gemma 2: normed before and after each part (Ding et al. 2021, section 3.1)."""
    del cross_attn  # None, as the config says
    x = x + block.attention_out_norm(attn(block.attention_norm(x)))
    return x + block.feed_forward_out_norm(ffn(block.feed_forward_norm(x)))


_STYLES: Mapping[str, Callable[..., Array]] = {
    "pre_norm": _pre_norm,
    "post_norm": _post_norm,
    "parallel": _parallel,
    "parallel_norms": _parallel_norms,
    "branch_norm": _branch_norm,
    "sandwich": _sandwich,
}


Style = Literal["pre_norm", "post_norm", "parallel", "parallel_norms", "branch_norm", "sandwich"]


@dataclass(frozen=True)
class BlockConfig:
    """The parts of a block, and how the residual stream runs through them.

    Attributes:
      norm: the block's norms.
      attention: the self-attention.
      feed_forward: the feed-forward block, or a mixture of experts.
      style: "pre_norm" (GPT-2, LLaMA), "post_norm" (BERT), "parallel" (PaLM), "parallel_norms"
        (GPT-NeoX), "branch_norm" (OLMo 2) or "sandwich" (Gemma 2).
      dropout_rate: dropout of what each part adds to the residual stream, in [0, 1).
      cross_attention: attention to an encoder's output, between the other two (the decoder of
        T5); None for none.
      layer_scale: whether what each part adds is multiplied by a vector, λ·part(x) (Touvron et al.
        2021b, equation 5).

    Raises:
      ConfigError: a field has a wrong value, or widths differ.
    """

    norm: NormConfig
    attention: AttentionConfig
    feed_forward: FeedForwardConfig | MoEConfig
    style: Style = "pre_norm"
    dropout_rate: float = 0.0
    cross_attention: AttentionConfig | None = None
    layer_scale: bool = False

    def __post_init__(self):
        checks.field_types(self)
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.one_of(tuple(_STYLES), style=self.style)
        yield from checks.below_one(dropout_rate=self.dropout_rate)
        if self.style == "sandwich" and self.cross_attention is not None:
            yield Problem("style", self.style, "has no place for cross_attention")
        widths = {
            "attention.d_model": self.attention.d_model,
            "feed_forward.d_model": self.feed_forward.d_model,
        }
        if self.feed_forward.d_out is not None:
            widths["feed_forward.d_out"] = self.feed_forward.d_out
        if self.cross_attention is not None:
            widths["cross_attention.d_model"] = self.cross_attention.d_model
        yield from checks.equal(self.d_model, "norm.d_model", widths)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.norm.d_model

    @property
    def highest_dropout_rate(self) -> float:
        """Of the block's own dropout rate and those of its parts, the highest."""
        parts = (self.attention, self.feed_forward, self.cross_attention)
        return max(self.dropout_rate, *(part.dropout_rate for part in parts if part is not None))


class Block(Stochastic):
    """The block as an NNX module: ``attention``, ``feed_forward``, and a norm before or after each.

    Where the config asks for them: ``attention_scale`` (d,) and ``feed_forward_scale`` (d,). The
    residual stream keeps the dtype of x; each part computes in its own.

    Args:
      config: the block's config.
      rngs: source of the initial values.

    >>> import jax.numpy as jnp
    >>> parts = NormConfig(8), AttentionConfig(8, num_heads=2), FeedForwardConfig(8, d_ff=32)
    >>> Block(BlockConfig(*parts), rngs=nnx.Rngs(0))(jnp.ones((1, 3, 8))).shape
    (1, 3, 8)
    """

    axes: ClassVar[Axes] = {"attention_scale": "d", "feed_forward_scale": "d"}

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        cross, one_norm = c.cross_attention, c.style == "parallel"
        self.attention = Attention(c.attention, rngs=rngs)
        self.feed_forward = feed_forward_part(c.feed_forward, rngs=rngs)
        self.attention_norm = Norm(c.norm, rngs=rngs)
        # Any: None only where the block's style does not call it
        self.feed_forward_norm: Any = None if one_norm else Norm(c.norm, rngs=rngs)
        sandwich = c.style == "sandwich"
        self.attention_out_norm: Any = Norm(c.norm, rngs=rngs) if sandwich else None
        self.feed_forward_out_norm: Any = Norm(c.norm, rngs=rngs) if sandwich else None
        self.cross_attention = None if cross is None else Attention(cross, rngs=rngs)
        self.cross_attention_norm: Any = (
            None if cross is None or one_norm else Norm(c.norm, rngs=rngs)
        )
        self.attention_scale = _layer_scale(c)
        self.feed_forward_scale = _layer_scale(c)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        deterministic: bool | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        rngs: Rngs | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Applies the block.

        Args:
          x: residual stream, (b, t, d).
          deterministic: whether dropout is off; None for what `nnx.Module.train` and
            `nnx.Module.eval` set last, and on in a new module.
          mask: (b, t), True at real tokens, False at padding; None for no padding.
          positions: of the tokens, as in `Attention.attend`.
          segment_ids: documents of the tokens, as in `Attention.attend`.
          rngs: gives the dropout's key where `dropout_key` is None; its stream is "dropout".
          dropout_key: PRNG key of all dropout in the block.
        Returns:
          The residual stream after the block, (b, t, d), of the dtype of x.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        key = self.key_of_call(self.config.highest_dropout_rate, deterministic, rngs, dropout_key)
        place: dict[str, Any] = {"mask": mask, "positions": positions}
        place["segment_ids"] = segment_ids
        return self.attend(x, **place, deterministic=key is None, dropout_key=key)[0]

    def attend(
        self, x: Float[Array, "b t d"], cache: Cache | None = None, **options: Any
    ) -> tuple[Float[Array, "b t d"], Cache | None]:
        """Applies the block with a key/value cache.

        Args:
          x: residual stream, (b, t, d).
          cache: keys and values of earlier tokens; None attends within x alone.
          **options: as of `attend_with_routing`.
        Returns:
          The residual stream after the block, (b, t, d), of the dtype of x; and the cache with the
          keys and values of x added, or None.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        y, cache, _ = self.attend_with_routing(x, cache, **options)
        return y, cache

    def attend_with_routing(
        self,
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
    ) -> tuple[Float[Array, "b t d"], Cache | None, RoutingStatistics | None]:
        """Applies the block with a key/value cache, and says what its router did.

        Args:
          x: residual stream, (b, t, d).
          cache: keys and values of earlier tokens; None attends within x alone.
          mask: (b, t), True at real tokens, False at padding, which passes no expert; None for no
            padding.
          positions: of the tokens, as in `Attention.attend`.
          segment_ids: documents of the tokens, as in `Attention.attend`.
          bias: added to the scores of the self-attention, (b or 1, h or 1, t, s).
          memory: keys and values of the encoder's output; required where the block has
            cross-attention.
          values: window and rotary positions of this layer in place of those of the config.
          deterministic: whether dropout is off, as in `__call__`.
          dropout_key: PRNG key of all dropout in the block.
        Returns:
          The residual stream after the block, (b, t, d), of the dtype of x; the cache with the
          keys and values of x added, or None; and the statistics of the routing, None where the
          feed-forward block is no mixture of experts.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        rate, highest = self.config.dropout_rate, self.config.highest_dropout_rate
        dropout_key = self.key_of_call(highest, deterministic, None, dropout_key)
        off, keys = dropout_key is None, split_key(dropout_key, 6)
        routing: RoutingStatistics | None = None
        context: dict[str, Any] = {"mask": mask, "positions": positions}
        context |= {
            "segment_ids": segment_ids,
            "bias": bias,
            "values": values,
            "deterministic": off,
        }

        def attn(h: Array) -> Array:
            nonlocal cache
            if values is not None and values.normed is not None:
                h = jnp.where(values.normed, h, x.astype(h.dtype))
            y, cache = self.attention.attend(h, cache, **context, dropout_key=keys[4])
            return dropout(_scaled(y, self.attention_scale), rate, keys[0])

        def ffn(h: Array) -> Array:
            nonlocal routing
            if isinstance(self.feed_forward, MoE):
                own: dict[str, Any] = {"mask": mask, "dropout_key": keys[1]}
                y, routing = self.feed_forward.with_routing(h, off, **own)
            else:
                y = self.feed_forward(h, off, dropout_key=keys[1])
            return dropout(_scaled(y, self.feed_forward_scale), rate, keys[2])

        def cross_attn(h: Array) -> Array:
            assert self.cross_attention is not None
            assert memory is not None, "memory: a block with cross-attention needs one"
            drop: dict[str, Any] = {"deterministic": off, "dropout_key": keys[5]}
            return dropout(self.cross_attention.cross_attend(h, memory, **drop), rate, keys[3])

        cross = None if self.cross_attention is None else cross_attn
        y = _STYLES[self.config.style](self, x, attn, cross, ffn)
        return y.astype(x.dtype), cache, routing


def _layer_scale(config: BlockConfig) -> nnx.Param[Array] | None:
    if not config.layer_scale:
        return None
    return constant(1.0, (config.d_model,), config.norm.param_dtype, "d")


def _scaled(y: Array, scale: nnx.Param[Array] | None) -> Array:
    return y if scale is None else y * cast(scale, y.dtype)
