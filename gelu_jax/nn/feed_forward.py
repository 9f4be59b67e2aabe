"""The feed-forward block: FFN(x) = (∏ᵢ φᵢ(x Wᵢ + bᵢ)) W_out + b_out.

A variant is the tuple of its branch activations φᵢ (`gelu_jax.nn.variants`); everything else
(parameter count, matched width, initialisation, the Linen module) follows from the tuple.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from gelu_jax.activations import Elementwise
from gelu_jax.errors import Problem, check
from gelu_jax.nn import checks
from gelu_jax.nn.axes import Axes
from gelu_jax.nn.parameters import cast, constant, kernel
from gelu_jax.nn.remat import Residuals, in_chunks, keeping, memory_problems
from gelu_jax.nn.variants import (
    Variant,
    branches,
    functions,
    learned_branches,
    num_learned,
    variant_problems,
)

Rounding = Literal["once", "hf"]


def feed_forward(
    x: Float[Array, "... d"],
    w_in: Sequence[Float[Array, "d f"]],
    w_out: Float[Array, "f e"],
    *,
    variant: Variant = "swiglu",
    b_in: Sequence[Float[Array, " f"]] | None = None,
    b_out: Float[Array, " e"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    residuals: Residuals = "preactivation",
    residual_dtype: DTypeLike | None = None,
    chunk_size: int | None = None,
    rounding: Rounding = "once",
) -> Float[Array, "... e"]:
    """The feed-forward equation, (∏ᵢ φᵢ(x Wᵢ + bᵢ)) W_out + b_out (Shazeer 2020, equations 5–6).

    ``w_in`` holds one kernel a branch, in the order of the variant's activations: for "swiglu"
    the gate, then the up projection. Dropout, where a key is given, falls on the hidden layer.
    The result has the dtype of x; ``rounding`` is explained at `branch_product`.

    ``residuals`` names what is kept for the backward pass beside x and the weights, for n
    branches in tensors of d_ff entries a token: ``"preactivation"`` n, no matmul repeated;
    ``"input"`` none, the branches' matmuls repeated; ``"all"`` what plain autodiff keeps.
    ``residual_dtype`` stores the pre-activations in fewer bytes: the output stays exact, the
    gradient is taken at the stored values (float8_e4m3fn: its cosine to the exact one ≥ 0.999).

    ``chunk_size`` takes that many places of the axis before d at a time, each chunk with a dropout
    key of its own. With ``residuals="input"`` the memory in use beside x and the result does not
    grow with their number; a batch of several rows is copied, as wide as d.

    Raises ValueError for an unknown variant or choice, and for a wrong number of kernels.

    >>> x, gate, up, out = jnp.ones((2, 4)), jnp.ones((4, 8)), jnp.ones((4, 8)), jnp.ones((8, 4))
    >>> feed_forward(x, (gate, up), out, variant="swiglu").shape
    (2, 4)
    """
    check(_choice_problems(residuals, residual_dtype, chunk_size, rounding))
    phis = _functions(variant, w_in)

    def leave(ps: Sequence[Array], leaving: Any, key: Array | None) -> Array:
        phis, w_out, b_out = leaving
        # Masks wait for their pre-activations: else XLA draws those of all layers ahead of time.
        ps, key = jax.lax.optimization_barrier((ps, key))
        h = dropout(_product(ps, phis, x.dtype, rounding), dropout_rate, key)
        y = h @ w_out
        return y if b_out is None else y + b_out

    block = keeping(residuals, residual_dtype, enter=_pre_activations, leave=leave)
    if chunk_size is not None:
        block = in_chunks(block, chunk_size)
    return block(x, ((w_in, b_in), (phis, w_out, b_out)), dropout_key)


def _choice_problems(
    residuals: str, residual_dtype: DTypeLike | None, chunk_size: int | None, rounding: str
) -> Iterator[Problem]:
    yield from memory_problems(residuals, residual_dtype, chunk_size)
    yield from checks.one_of(("once", "hf"), rounding=rounding)


def branch_product(
    x: Float[Array, "... d"],
    w_in: Sequence[Float[Array, "d f"]],
    *,
    variant: Variant,
    b_in: Sequence[Float[Array, " f"]] | None = None,
    rounding: Rounding = "once",
) -> Float[Array, "... f"]:
    """The hidden layer h = ∏ᵢ φᵢ(x Wᵢ + bᵢ), in float32 from pre-activations to product.

    The pre-activations have the dtype of ``x @ w``; activations and product are computed in
    float32 (float64 stays) and rounded once, to the dtype of x. ``rounding="hf"`` rounds every
    activation and every product, the order of ``act(gate) * up`` in torch models.

    Raises ValueError for an unknown variant or a wrong number of kernels.
    """
    phis = _functions(variant, w_in)
    return _product(_pre_activations(x, (w_in, b_in)), phis, x.dtype, rounding)


def _functions(variant: Variant, w_in: Sequence[Array]) -> tuple[Elementwise, ...]:
    phis = branches(variant)
    if len(w_in) != len(phis):
        raise ValueError(
            f"w_in = {len(w_in)} kernels: variant {variant!r} has {len(phis)} branches"
        )
    return functions(phis)


def _pre_activations(x: Array, entering: Any) -> list[Array]:
    w_in, b_in = entering
    ps = [x @ w for w in w_in]
    return ps if b_in is None else [p + b for p, b in zip(ps, b_in, strict=True)]


def _product(
    ps: Sequence[Array], phis: Sequence[Elementwise], dtype: DTypeLike, rounding: Rounding
) -> Array:
    wide = jnp.promote_types(dtype, jnp.float32)
    within = wide if rounding == "once" else dtype
    values = [phi(p.astype(wide)).astype(within) for phi, p in zip(phis, ps, strict=True)]
    return reduce(mul, values).astype(dtype)


def dropout(x: Array, rate: float, key: Key[Array, ""] | None) -> Array:
    """Zeroes entries with probability rate and scales the rest by 1/(1 − rate).

    No key, or a rate of 0, leaves x as it is (Srivastava et al. 2014).
    """
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


@dataclass(frozen=True)
class FeedForwardConfig:
    """What a feed-forward block is made of; `gelu_jax.nn.parameters` says how its parameters start.

    >>> FeedForwardConfig(d_model=512, d_ff=1368, variant="swiglu").num_parameters
    2101248
    """

    d_model: int
    d_ff: int
    variant: Variant = "gelu"
    use_bias: bool = False
    dropout_rate: float = 0.0
    residuals: Residuals = "preactivation"
    residual_dtype: DTypeLike | None = None
    chunk_size: int | None = None
    rounding: Rounding = "once"
    init_std: float | None = None
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(d_model=self.d_model, d_ff=self.d_ff, init_std=self.init_std)
        yield from checks.rate(dropout_rate=self.dropout_rate)
        yield from checks.floating(dtype=self.dtype, param_dtype=self.param_dtype)
        yield from _choice_problems(
            self.residuals, self.residual_dtype, self.chunk_size, self.rounding
        )
        yield from variant_problems(self.variant)

    @property
    def num_branches(self) -> int:
        """How many kernels ``w_in`` holds."""
        return len(branches(self.variant))

    @property
    def num_parameters(self) -> int:
        """Weights and biases of the block, and what its branches learn."""
        n, d, f = self.num_branches, self.d_model, self.d_ff
        return (n + 1) * d * f + self.use_bias * (n * f + d) + num_learned(self.variant)


class FeedForward(nnx.Module):
    """The block as an NNX module: parameters ``w_in`` (one a branch), ``w_out``, and biases.

    Computes in ``config.dtype`` whatever the dtype of its input, as flax's own layers do.

    >>> ffn = FeedForward(FeedForwardConfig(d_model=4, d_ff=8), rngs=nnx.Rngs(0))
    >>> ffn(jnp.ones((2, 4))).shape
    (2, 4)
    """

    axes: ClassVar[Axes] = {"w_in": "d f", "w_out": "f d", "b_in": "f", "b_out": "d"}

    def __init__(self, config: FeedForwardConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, f, std, dtype = config.d_model, config.d_ff, config.init_std, config.param_dtype
        # w_out and the first branch are drawn first, so that variants of one width share them.
        self.w_out = kernel(
            rngs, (f, d), fan_in=f, std=std, scale=config.output_init_scale, dtype=dtype
        )
        self.w_in = nnx.List(
            kernel(rngs, (d, f), fan_in=d, std=std, dtype=dtype) for _ in range(config.num_branches)
        )
        bias = config.use_bias
        self.b_in = nnx.List(constant(0.0, (f,), dtype) for _ in self.w_in) if bias else None
        self.b_out = constant(0.0, (d,), dtype) if bias else None
        self.learned = learned_branches(config.variant, dtype)

    def __call__(
        self, x: Float[Array, "... d"], *, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "... d"]:
        c = self.config
        return feed_forward(
            x.astype(c.dtype),
            [cast(w, c.dtype) for w in self.w_in],
            cast(self.w_out, c.dtype),
            variant=functions(c.variant, self.learned),
            b_in=None if self.b_in is None else [cast(b, c.dtype) for b in self.b_in],
            b_out=None if self.b_out is None else cast(self.b_out, c.dtype),
            dropout_rate=c.dropout_rate,
            dropout_key=dropout_key,
            residuals=c.residuals,
            residual_dtype=c.residual_dtype,
            chunk_size=c.chunk_size,
            rounding=c.rounding,
        )
