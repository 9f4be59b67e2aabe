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
    what each part adds to the stream.
    """

    norm: NormConfig
    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    style: Literal["pre_norm", "post_norm", "parallel"] = "pre_norm"
    dropout_rate: float = 0.0

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.one_of(tuple(_WIRINGS), style=self.style)
        yield from checks.rate(dropout_rate=self.dropout_rate)
        yield from checks.equal(
            self.d_model,
            "norm.d_model",
            {
                "attention.d_model": self.attention.d_model,
                "feed_forward.d_model": self.feed_forward.d_model,
            },
        )

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.norm.d_model


class Block(nnx.Module):
    """The block as an NNX module: ``attention``, ``feed_forward``, and a norm before or after each.

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
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], Cache | None]:
        """The same with a key/value cache, returned with x's keys added."""
        rate = self.config.dropout_rate
        keys = [None] * 3 if dropout_key is None else jax.random.split(dropout_key, 3)

        def attend(h: Array) -> tuple[Array, Cache | None]:
            y, extended = self.attention.attend(h, cache, mask=mask)
            return dropout(y, rate, keys[0]), extended

        def feed(h: Array) -> Array:
            return dropout(self.feed_forward(h, dropout_key=keys[1]), rate, keys[2])

        norms = (n for n in (self.attention_norm, self.feed_forward_norm) if n is not None)
        return _WIRINGS[self.config.style](x, attend, feed, *norms)


def _pre_norm(
    x: Array, attend: Attend, feed: Feed, attention_norm: Norm, feed_forward_norm: Norm
) -> tuple[Array, Cache | None]:
    y, cache = attend(attention_norm(x))
    x = x + y
    return x + feed(feed_forward_norm(x)), cache


def _post_norm(
    x: Array, attend: Attend, feed: Feed, attention_norm: Norm, feed_forward_norm: Norm
) -> tuple[Array, Cache | None]:
    y, cache = attend(x)
    x = attention_norm(x + y)
    return feed_forward_norm(x + feed(x)), cache


def _parallel(x: Array, attend: Attend, feed: Feed, norm: Norm) -> tuple[Array, Cache | None]:
    h = norm(x)
    y, cache = attend(h)
    return x + y + feed(h), cache


_WIRINGS: Mapping[str, Callable[..., tuple[Array, Cache | None]]] = {
    "pre_norm": _pre_norm,
    "post_norm": _post_norm,
    "parallel": _parallel,
}
