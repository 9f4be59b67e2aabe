"""Attention over blocks of queries, so that no matrix of scores is ever held whole.

A block of queries sees a run of keys: all of them, those that are not ahead of it, or those in its
window. What a block computes is computed again in the backward pass (`jax.checkpoint`), so that the
scores in use are those of one block, and memory grows with t, not with t² (Rabe & Staats 2021).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Bool, Float, Int, Key

BLOCK = 128
"""The most queries in a block."""

_SEGMENTS = 4  # of a causal sequence; each is compiled by itself, and reads keys up to its end

Attend = Callable[..., Array]


def exp_and_sum(
    scores: Float[Array, "... s"], sink: Float[Array, "... 1"] | None = None
) -> tuple[Float[Array, "... s"], Float[Array, "... 1"]]:
    """e = exp(x − m), m the greatest x of a row, and Σ e: their quotient is the softmax.

    No derivative needs to pass through m, of which the quotient does not depend.

    Args:
      scores: (..., s), −∞ where a key is not seen.
      sink: one more score of each row, that of no key, which counts in the sum alone; or None.
    Returns:
      e, (..., s), and Σ e, (..., 1). Where a row sees nothing, e is 0 and its sum is given as ½, or
      that of the sink.

    >>> exp_and_sum(jnp.array([[0.0, 0.0], [-jnp.inf, -jnp.inf]]))[1]
    Array([[2. ],
           [0.5]], dtype=float32)
    """
    greatest = scores.max(-1, keepdims=True, initial=-jnp.inf)
    greatest = greatest if sink is None else jnp.maximum(greatest, sink)
    greatest = jax.lax.stop_gradient(greatest)
    # Finite, as −∞ − −∞ is no number; and above the dtype's lowest number, which many a bias has
    # for −∞.
    greatest = jnp.maximum(greatest, 0.7 * jnp.finfo(scores.dtype).min)
    e = jnp.exp(scores - greatest)
    total = e.sum(-1, keepdims=True)
    if sink is not None:
        return e, total + jnp.exp(sink - greatest)
    return e, jnp.maximum(total, 0.5)  # at least e⁰, or 0 where nothing is seen


class Inputs(NamedTuple):
    """What attention reads, heads before time; g groups of r query heads share a key head.

    Attributes:
      query: (b, g, r, t, k).
      key: (b, g, s, k).
      value: (b, g, s, v).
      mask: (b or 1, g or 1, r or 1, t or 1, s), True where a query may attend; or None.
      bias: of the same axes; or None.
      query_segments: (b, 1, 1, t, 1), with `key_segments`; or None.
      key_segments: (b, 1, 1, 1, s): a query sees the keys of its own segment alone; or None.
      dropout_key: PRNG key with which the block's weights are dropped; or None.
    """

    query: Float[Array, "b g r t k"]
    key: Float[Array, "b g s k"]
    value: Float[Array, "b g s v"]
    mask: Bool[Array, "#b #g #r #t s"] | None
    bias: Float[Array, "#b #g #r #t s"] | None
    query_segments: Int[Array, "b 1 1 t 1"] | None
    key_segments: Int[Array, "b 1 1 1 s"] | None
    dropout_key: Key[Array, ""] | None


def over_query_blocks(
    attend: Attend, inputs: Inputs, *, causal: bool, window: int | None
) -> Float[Array, "b g r t v"]:
    """Calls `attend` on one block of queries after another, with the keys that it may see.

    Args:
      attend: a function of `Inputs` whose mask says all about who sees whom; it returns
        (b, g, r, t, v).
      inputs: the whole sequence; each block has a dropout key of its own, folded from its number.
      causal: whether query i attends to keys j ≤ i alone.
      window: query i attends to keys with |i − j| < window alone; None for no limit.
    Returns:
      What `attend` returns for all queries, (b, g, r, t, v).
    """
    t, s = inputs.query.shape[-2], inputs.key.shape[-2]

    @jax.checkpoint
    def seeing(x: Inputs, first_query: Any, first_key: Any) -> Array:
        queries = first_query + jnp.arange(x.query.shape[-2])
        keys = first_key + jnp.arange(x.key.shape[-2])
        visible = _both(_visible(queries, keys, causal, window), _same_segment(x))
        return attend(x._replace(mask=_both(x.mask, visible)))

    def dropout_key(i: Any) -> Array | None:
        key = inputs.dropout_key
        return None if key is None else jax.random.fold_in(key, i)

    symbolic = any(map(is_symbolic_dim, (t, s)))
    if symbolic or t <= BLOCK or _sharded_in_time(inputs.query):
        return seeing(inputs._replace(dropout_key=dropout_key(0)), 0, 0)

    n = -(-t // BLOCK)
    size = -(-t // n)
    split = partial(_split, n=n, size=size)
    by_query = inputs.query, inputs.mask, inputs.bias, inputs.query_segments
    stacked = *map(split, by_query), jnp.arange(n)

    def over(first: int, last: int, span: int) -> Array:
        """Blocks first to last − 1, each of which sees `span` keys."""

        def block(_: None, of_block: Any) -> tuple[None, Array]:
            query, mask, bias, segments, i = of_block
            start = 0 if span == s else jnp.clip(i * size - (window or span) + 1, 0, s - span)
            start = 0 if window is None else start
            keys = partial(_slice, start=start, size=span)
            seen = Inputs(
                query,
                keys(inputs.key, axis=-2),
                keys(inputs.value, axis=-2),
                keys(inputs.mask if mask is None else mask, axis=-1),
                keys(inputs.bias if bias is None else bias, axis=-1),
                segments,
                keys(inputs.key_segments, axis=-1),
                dropout_key(i),
            )
            return None, seeing(seen, i * size, start)

        return jax.lax.scan(block, None, jax.tree.map(lambda x: x[first:last], stacked))[1]

    y = jnp.concatenate([over(*segment) for segment in _segments(n, size, s, causal, window)])
    y = jnp.moveaxis(y, 0, -3)
    return y.reshape(*y.shape[:-3], n * size, y.shape[-1])[..., :t, :]


def _sharded_in_time(query: Array) -> bool:
    """Whether each device holds some of the queries: then all of them are one block."""
    sharding = getattr(jax.typeof(query), "sharding", None)
    return sharding is not None and sharding.spec[-2] is not None


def _segments(
    n: int, size: int, s: int, causal: bool, window: int | None
) -> Iterator[tuple[int, int, int]]:
    """The first block, the end, and how many keys each block sees."""
    if window is not None and size + (2 - causal) * (window - 1) < s:
        yield 0, n, size + (2 - causal) * (window - 1)
    elif causal:
        step = max(2, -(-n // _SEGMENTS))  # a scan of one step would be unrolled
        for first in range(0, n, step):
            last = min(first + step, n)
            yield first, last, min(last * size, s)
    else:
        yield 0, n, s


def _visible(queries: Array, keys: Array, causal: bool, window: int | None) -> Array | None:
    ahead = (keys[None] - queries[:, None])[None, None, None]  # of the axes of a mask
    conditions = [ahead <= 0] * causal
    conditions += [] if window is None else [abs(ahead) < window]
    return None if not conditions else _both(conditions[0], conditions[-1])


def _same_segment(x: Inputs) -> Array | None:
    return None if x.key_segments is None else x.query_segments == x.key_segments


def _both(mask: Array | None, other: Array | None) -> Array | None:
    if mask is None or other is None:
        return other if mask is None else mask
    return mask & other


def _split(x: Array | None, n: int, size: int) -> Array | None:
    """(..., t, c) → (n, ..., size, c); None where all queries share one row."""
    if x is None or x.shape[-2] == 1:
        return None
    *lead, t, c = x.shape
    x = jnp.pad(x, [(0, 0)] * len(lead) + [(0, n * size - t), (0, 0)])
    return jnp.moveaxis(x.reshape(*lead, n, size, c), -3, 0)


def _slice(x: Array | None, start: Any, size: int, axis: int) -> Any:
    return None if x is None else jax.lax.dynamic_slice_in_dim(x, start, size, axis)
