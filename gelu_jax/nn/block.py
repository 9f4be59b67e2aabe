"""The transformer block: nothing but the residual wiring of its parts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.attention import Attention, AttentionConfig, Cache
from gelu_jax.nn.feed_forward import FeedForward, FeedForwardConfig, dropout
from gelu_jax.nn.norm import Norm, NormConfig

Attend = Callable[[Array], tuple[Array, Cache | None]]
Feed = Callable[[Array], Array]


@dataclass(frozen=True)
class BlockConfig:
    """The parts of a block and how the residual stream runs through them.

    ``"pre_norm"`` (GPT-2, LLaMA), ``"post_norm"`` (BERT), ``"parallel"`` (PaLM). Dropout falls on
    what each part adds to the stream. ``cross_attention``, where there is one, stands between
    the other two and looks at a memory (the decoder of T5).
    """

    norm: NormConfig
    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    style: Literal["pre_norm", "post_norm", "parallel"] = "pre_norm"
    dropout_rate: float = 0.0
    cross_attention: AttentionConfig | None = None

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.one_of(tuple(_WIRINGS), style=self.style)
        yield from checks.rate(dropout_rate=self.dropout_rate)
        widths = {
            "attention.d_model": self.attention.d_model,
            "feed_forward.d_model": self.feed_forward.d_model,
        }
        if self.cross_attention is not None:
            widths["cross_attention.d_model"] = self.cross_attention.d_model
        yield from checks.equal(self.d_model, "norm.d_model", widths)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.norm.d_model


class Block(nnx.Module):
    """The block as an NNX module: ``attention``, ``feed_forward``, and a norm before or after each.

    The stream keeps the dtype of x; each part computes in its own.

    >>> parts = NormConfig(8), AttentionConfig(8, num_heads=2), FeedForwardConfig(8, d_ff=32)
    >>> Block(BlockConfig(*parts), rngs=nnx.Rngs(0))(jax.numpy.ones((1, 3, 8))).shape
    (1, 3, 8)
    """

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.attention = Attention(config.attention, rngs=rngs)
        self.feed_forward = FeedForward(config.feed_forward, rngs=rngs)
        self.attention_norm = Norm(config.norm, rngs=rngs)
        one_norm = config.style == "parallel"
        self.feed_forward_norm = None if one_norm else Norm(config.norm, rngs=rngs)
        cross = config.cross_attention
        self.cross_attention = None if cross is None else Attention(cross, rngs=rngs)
        self.cross_attention_norm = (
            None if cross is None or one_norm else Norm(config.norm, rngs=rngs)
        )

    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Runs the stream through the block; ``mask`` is True at real tokens."""
        return self.attend(x, mask=mask, dropout_key=dropout_key)[0]

    def attend(
        self,
        x: Float[Array, "b t d"],
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        bias: Float[Array, "#b #h t s"] | None = None,
        memory: Cache | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], Cache | None]:
        """The same with a key/value cache, returned with x's keys added.

        ``bias`` is added to the attention's scores; ``memory`` is what a cross-attention sees.
        """
        rate = self.config.dropout_rate
        keys = [None] * 4 if dropout_key is None else jax.random.split(dropout_key, 4)

        def attend(h: Array) -> tuple[Array, Cache | None]:
            y, extended = self.attention.attend(h, cache, mask=mask, bias=bias)
            return dropout(y, rate, keys[0]), extended

        def feed(h: Array) -> Array:
            return dropout(self.feed_forward(h, dropout_key=keys[1]), rate, keys[2])

        def cross_attend(h: Array) -> Array:
            assert self.cross_attention is not None
            assert memory is not None, "memory: a block with cross-attention needs one"
            return dropout(self.cross_attention.cross_attend(h, memory), rate, keys[3])

        feeds = (feed,) if self.cross_attention is None else (cross_attend, feed)
        norms = self.attention_norm, self.cross_attention_norm, self.feed_forward_norm
        wire = _WIRINGS[self.config.style]
        y, cache = wire(x, tuple(n for n in norms if n is not None), attend, feeds)
        return y.astype(x.dtype), cache


def _pre_norm(
    x: Array, norms: tuple[Norm, ...], attend: Attend, feeds: tuple[Feed, ...]
) -> tuple[Array, Cache | None]:
    first, *rest = norms
    y, cache = attend(first(x))
    x = x + y
    for norm, feed in zip(rest, feeds, strict=True):
        x = x + feed(norm(x))
    return x, cache


def _post_norm(
    x: Array, norms: tuple[Norm, ...], attend: Attend, feeds: tuple[Feed, ...]
) -> tuple[Array, Cache | None]:
    first, *rest = norms
    y, cache = attend(x)
    x = first(x + y)
    for norm, feed in zip(rest, feeds, strict=True):
        x = norm(x + feed(x))
    return x, cache


def _parallel(
    x: Array, norms: tuple[Norm, ...], attend: Attend, feeds: tuple[Feed, ...]
) -> tuple[Array, Cache | None]:
    h = norms[0](x)
    y, cache = attend(h)
    return sum((feed(h) for feed in feeds), x + y), cache


_WIRINGS: Mapping[str, Callable[..., tuple[Array, Cache | None]]] = {
    "pre_norm": _pre_norm,
    "post_norm": _post_norm,
    "parallel": _parallel,
}
