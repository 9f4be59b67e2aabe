"""Holding less: what a block keeps for its backward pass, and how many tokens it takes at once.

F is one d_ff-wide tensor a token, in the compute dtype, held from the forward to the backward pass.
The input x and the weights are not counted: x is the output of a norm, which keeps it anyway.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, UInt

from gelu_jax.errors import Problem
from gelu_jax.nn import checks

Residuals = Literal["preactivation", "input", "all"]

_RESIDUALS = ("preactivation", "input", "all")
_RESIDUAL_DTYPES = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16")
_GREATEST_SQUARE = 256.0  # float8_e4m3fn ends at 448

Enter = Callable[[Array, Any], list[Array]]
Leave = Callable[[list[Array], Any, Key[Array, ""] | None], Array]
Whole = Callable[[Array, Any, Key[Array, ""] | None], Array]


def memory_problems(
    residuals: str, residual_dtype: DTypeLike | None, chunk_size: int | None
) -> Iterator[Problem]:
    """What is wrong with the memory choices of a block."""
    yield from checks.one_of(_RESIDUALS, residuals=residuals)
    yield from checks.positive(chunk_size=chunk_size)
    if residual_dtype is None:
        return
    yield from checks.one_of(_RESIDUAL_DTYPES, residual_dtype=_name(residual_dtype))
    if residuals != "preactivation":
        reason = f"residuals = {residuals!r} stores no pre-activation; nearest: None"
        yield Problem("residual_dtype", _name(residual_dtype), reason)


def _name(dtype: DTypeLike) -> str:
    try:
        return jnp.dtype(dtype).name
    except TypeError:
        return str(dtype)


def keeping(residuals: Residuals, dtype: DTypeLike | None, *, enter: Enter, leave: Leave) -> Whole:
    """leave(enter(x, entering), leaving, key), as a function of x, (entering, leaving) and key.

    From forward to backward it holds what ``residuals`` names: ``"preactivation"`` the tensors
    between the two halves (as ``dtype``, where one is given), and `leave` runs again but for its
    last matmul; ``"input"`` x alone, and `enter` runs again too; ``"all"`` whatever autodiff keeps.
    """
    # A checkpointed function keeps its arguments: the choice is where the checkpoint begins.
    if residuals == "preactivation":
        leave = jax.checkpoint(leave) if dtype is None else _differentiated_at(leave, dtype)

    def whole(x: Array, weights: Any, key: Key[Array, ""] | None) -> Array:
        entering, leaving = weights
        return leave(enter(x, entering), leaving, key)

    return jax.checkpoint(whole) if residuals == "input" else whole


def _differentiated_at(leave: Leave, dtype: DTypeLike) -> Leave:
    """`leave` itself; its derivative is taken at the pre-activations as ``dtype`` holds them."""

    @jax.custom_jvp
    def exact(ps: list[Array], leaving: Any, key: Array | None) -> Array:
        return leave(ps, leaving, key)

    @exact.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
        ps, leaving, key = primals

        @jax.checkpoint
        def tangent(stored: list[Any], leaving: Any, key: Array | None, tangents: Any) -> Array:
            rough = [decode(s, dtype, p.dtype) for s, p in zip(stored, ps, strict=True)]
            return jax.jvp(leave, (rough, leaving, key), tangents)[1]

        stored = [encode(p, dtype) for p in ps]
        return leave(ps, leaving, key), tangent(stored, leaving, key, tangents)

    return exact


def encode(
    p: Float[Array, "... f"], dtype: DTypeLike
) -> tuple[UInt[Array, "... f"], Float[Array, "... 1"]]:
    """Each token's p in a narrow dtype, as bits, and the token's greatest |p|.

    What is stored is the signed square of p: float8_e4m3fn spans 18 octaves, of which the
    pre-activations of one token need fewer, and a square trades half of them for half the relative
    error, 2⁻⁵ at most. No sign is lost, so that relu's derivative is exact. The bits are an integer
    array because XLA's CPU compiler widens a float8 carried through a loop to two bytes.

    >>> stored = encode(jnp.array([0.5, -4.0, 0.0]), jnp.float8_e4m3fn)
    >>> decode(stored, jnp.float8_e4m3fn, jnp.float32)
    Array([ 0.5, -4. ,  0. ], dtype=float32)
    """
    wide = p.astype(jnp.float32)
    greatest = jnp.maximum(jnp.abs(wide).max(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    square = _GREATEST_SQUARE * jnp.square(wide / greatest)
    least = float(jnp.finfo(dtype).smallest_subnormal)
    narrow = (jnp.sign(wide) * jnp.maximum(square, least)).astype(dtype)
    return jax.lax.bitcast_convert_type(narrow, f"uint{8 * narrow.dtype.itemsize}"), greatest


def decode(
    stored: tuple[UInt[Array, "... f"], Float[Array, "... 1"]], dtype: DTypeLike, to: DTypeLike
) -> Float[Array, "... f"]:
    """What `encode` stored, in the dtype ``to``."""
    bits, greatest = stored
    square = jax.lax.bitcast_convert_type(bits, dtype).astype(jnp.float32) / _GREATEST_SQUARE
    return (greatest * jnp.sign(square) * jnp.sqrt(jnp.abs(square))).astype(to)


def in_chunks(block: Whole, size: int) -> Whole:
    """The block over ``size`` places of the next-to-last axis at a time, by `jax.lax.scan`.

    The last chunk is padded with zeros. Each chunk has a dropout key of its own. The gradients of
    low-precision weights are summed over the chunks in float32 and rounded once.
    """

    def chunked(x: Array, weights: Any, key: Key[Array, ""] | None) -> Array:
        n = -(-x.shape[-2] // size)
        keys = None if key is None else jax.random.split(key, n)
        # A scan sums the gradients of what it closes over in the dtype that it closes over.
        wide = jax.tree.map(lambda w: w.astype(jnp.promote_types(w.dtype, jnp.float32)), weights)

        def step(_: None, chunk: tuple[Array, Array | None]) -> tuple[None, Array]:
            narrow = jax.tree.map(lambda w, like: w.astype(like.dtype), wide, weights)
            # Flat, and so of another shape than the gradient of x, which the backward scan stacks:
            # of one shape, XLA would hold the zeros that both start from as a third buffer.
            return None, block(chunk[0], narrow, chunk[1]).ravel()

        _, y = jax.lax.scan(step, None, (_cut(x, n, size), keys))
        return _joined(y, x.shape[:-1], size)

    return chunked


def _cut(x: Float[Array, "... t d"], n: int, size: int) -> Float[Array, "n ... s d"]:
    *lead, t, d = x.shape
    padded = jnp.pad(x, [(0, 0)] * len(lead) + [(0, n * size - t), (0, 0)])
    if math.prod(lead) == 1:  # XLA would copy what it moves, if only past an axis of one
        return padded.reshape(n, size, d)
    return jnp.moveaxis(padded.reshape(*lead, n, size, d), -3, 0)


def _joined(y: Float[Array, "n r"], shape: Sequence[int], size: int) -> Float[Array, "... t e"]:
    *lead, t = shape
    y = y.reshape(len(y), *lead, size, -1)
    y = y if math.prod(lead) == 1 else jnp.moveaxis(y, 0, -3)
    return y.reshape(*lead, -1, y.shape[-1])[..., :t, :]
