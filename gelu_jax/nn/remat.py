"""What a block keeps for its backward pass, and how many tokens it computes at a time.

F is one tensor of d_ff entries per token in the compute dtype, held from the forward to the
backward pass. The input x and the weights are not counted: x is the output of a norm, which keeps
it anyway.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.export import is_symbolic_dim
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, UInt

from gelu_jax.errors import Problem
from gelu_jax.nn import checks
from gelu_jax.nn.axes import gathered_along, is_explicit
from gelu_jax.nn.parameters import wide_dtype

Residuals = Literal["preactivation", "input", "all"]

_RESIDUALS = ("preactivation", "input", "all")
_RESIDUAL_DTYPES = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16")
_MAX_SQUARE = 256.0  # the greatest square stored; float8_e4m3fn ends at 448

Function = Callable[..., Any]
Quantized = tuple[UInt[Array, "... f"], Float[Array, "... 1"]]


def residual_problems(
    residuals: str, residual_dtype: DTypeLike | None, chunk_size: int | None
) -> Iterator[Problem]:
    """Checks what a block is told to keep.

    Args:
      residuals: a name of `Residuals`.
      residual_dtype: dtype of the stored pre-activations; None for the compute dtype.
      chunk_size: tokens computed at a time; None for all.
    Returns:
      The problems found.
    """
    yield from checks.one_of(_RESIDUALS, residuals=residuals)
    yield from checks.positive(chunk_size=chunk_size)
    if residual_dtype is None:
        return
    name = checks.dtype_name(residual_dtype)
    yield from checks.one_of(_RESIDUAL_DTYPES, residual_dtype=name)
    if residuals != "preactivation":
        reason = f"residuals = {residuals!r} stores no pre-activations"
        yield Problem("residual_dtype", name, reason)


def checkpoint_if(
    condition: bool, dtype: DTypeLike | None = None
) -> Callable[[Function], Function]:
    """A decorator: where the condition holds, the function keeps only its arguments for backward.

    Everything else is computed again in the backward pass (`jax.checkpoint`). The forward value
    does not change.

    Args:
      condition: whether to checkpoint.
      dtype: the function's first argument, a list of arrays (..., f), is kept in this narrow
        dtype, and derivatives of every order are taken at the values so stored; None keeps it
        as it is, and derivatives are exact.
    Returns:
      The decorator.
    """
    if not condition:
        return lambda function: function
    return _checkpoint if dtype is None else partial(_checkpoint_quantized, dtype=dtype)


def _checkpoint(function: Function) -> Function:
    """`jax.checkpoint`; a call on arrays, which differentiates nothing, is the function itself.

    So libraries that quantize or adapt parameters at their first use (qwix) meet the parameters.
    """
    checkpointed = jax.checkpoint(function)

    def call(*args: Any) -> Any:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args))
        return (checkpointed if traced else function)(*args)

    return call


def _checkpoint_quantized(function: Function, *, dtype: DTypeLike) -> Function:
    """The function itself, with its derivatives taken at the quantized values of its ps."""

    @jax.custom_jvp
    def exact(ps: Sequence[Array], *args: Any) -> Array:
        return function(ps, *args)

    @exact.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
        ps, *args = primals
        stored = [quantize(p, dtype) for p in ps]

        # Keeps `stored` and `args`, but not `ps`: their values are not used, only their derivative.
        @jax.checkpoint
        def tangent(ps: Any, stored: Any, args: Any, tangents: Any) -> Array:
            near = [_straight_through(p, s, dtype) for p, s in zip(ps, stored, strict=True)]
            return jax.jvp(function, (near, *args), tangents)[1]

        return exact(ps, *args), tangent(ps, stored, args, tangents)

    return exact


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _straight_through(p: Array, stored: Quantized, dtype: DTypeLike) -> Array:
    """The stored value of p, with the derivative of p itself (Bengio et al. 2013)."""
    return dequantize(stored, dtype, p.dtype)


@_straight_through.defjvp
def _straight_through_jvp(dtype: DTypeLike, primals: Any, tangents: Any) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
    return _straight_through(*primals, dtype), tangents[0]


def quantize(p: Float[Array, "... f"], dtype: DTypeLike) -> Quantized:
    """Stores each token's signed squares of p in a narrow dtype, scaled by its greatest |p|.

    float8_e4m3fn spans 18 octaves, of which the pre-activations of one token need fewer; a square
    trades half of them for half the relative error, at most 2⁻⁵. No sign is lost, so that relu's
    derivative is exact.

    Args:
      p: pre-activations of any floating dtype, (..., f).
      dtype: a float of 1 or 2 bytes.
    Returns:
      The bits, (..., f), as unsigned integers (XLA's CPU compiler widens a float8 carried through
      a loop to two bytes), and the greatest |p| of each token, (..., 1), in float32.

    >>> stored = quantize(jnp.array([0.5, -4.0, 0.0]), jnp.float8_e4m3fn)
    >>> dequantize(stored, jnp.float8_e4m3fn, jnp.float32)
    Array([ 0.5, -4. ,  0. ], dtype=float32)
    """
    wide = p.astype(jnp.float32)
    absmax = jnp.maximum(jnp.abs(wide).max(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    square = _MAX_SQUARE * jnp.square(wide / absmax)
    least = float(jnp.finfo(dtype).smallest_subnormal)
    narrow = (jnp.sign(wide) * jnp.maximum(square, least)).astype(dtype)
    return jax.lax.bitcast_convert_type(narrow, f"uint{8 * narrow.dtype.itemsize}"), absmax


def dequantize(stored: Quantized, dtype: DTypeLike, to: DTypeLike) -> Float[Array, "... f"]:
    """The values that `quantize` stored.

    Args:
      stored: what `quantize` returned.
      dtype: the narrow dtype that it was given.
      to: dtype of the result.
    Returns:
      An array (..., f).
    """
    bits, absmax = stored
    square = jax.lax.bitcast_convert_type(bits, dtype).astype(jnp.float32) / _MAX_SQUARE
    return (absmax * jnp.sign(square) * jnp.sqrt(jnp.abs(square))).astype(to)


def in_chunks(block: Function, size: int, width: int) -> Function:
    """Applies a block to a chunk of tokens at a time, along the axis before the last, by a scan.

    Chunks are as equal as can be, so that the last one is padded with few zeros. The gradients of
    low-precision weights are summed over the chunks in float32 and rounded once.

    Args:
      block: a function of x (..., t, d), a tree of weights and a dropout key or None, which
        returns an array (..., t, e).
      size: tokens in a chunk, at most.
      width: entries e of a token of the result.
    Returns:
      The same function of whole sequences; each chunk draws from a dropout key of its own.
    """

    def chunked(x: Array, weights: Any, key: Key[Array, ""] | None) -> Array:
        if x.ndim == 1:  # one token
            return block(x, weights, key)
        t = x.shape[-2]
        n = -(-t // size)
        rows = size if is_symbolic_dim(t) or t == 0 else -(-t // n)
        keys = None if key is None else jax.random.split(key, n)
        # A scan sums the gradients of what it closes over in the dtype that it closes over.
        wide = jax.tree.map(lambda w: w.astype(wide_dtype(w.dtype)), weights)

        def step(_: None, chunk: tuple[Array, Array | None]) -> tuple[None, Array]:
            narrow = jax.tree.map(lambda w, like: w.astype(like.dtype), wide, weights)
            y = block(chunk[0], narrow, chunk[1])
            # Flat, and so of another shape than the gradient of x, which the backward scan stacks:
            # of one shape, XLA would hold the zeros that both start from as a third buffer.
            return None, y if is_explicit(y) else y.ravel()

        _, y = jax.lax.scan(step, None, (_split(gathered_along(x, -2), n, rows), keys))
        return _join(y, (*x.shape[:-1], width), rows)

    return chunked


def _split(x: Float[Array, "... t d"], n: int, size: int) -> Float[Array, "n ... s d"]:
    *lead, t, d = x.shape
    padded = jnp.pad(x, [(0, 0)] * len(lead) + [(0, n * size - t), (0, 0)])
    if math.prod(lead) == 1:  # XLA would copy what it moves, if only past an axis of one
        return padded.reshape(n, size, d)
    return jnp.moveaxis(padded.reshape(*lead, n, size, d), -3, 0)


def _join(y: Float[Array, "n r"], shape: Sequence[int], size: int) -> Float[Array, "... t e"]:
    *lead, t, e = shape
    n = y.shape[0]
    y = y.reshape(n, *lead, size, e)
    y = y if math.prod(lead) == 1 else jnp.moveaxis(y, 0, -3)
    return y.reshape(*lead, n * size, e)[..., :t, :]
