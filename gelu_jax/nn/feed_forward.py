"""The feed-forward block: FFN(x) = (∏ᵢ φᵢ(x Wᵢ + bᵢ)) W_out + b_out.

A variant is the tuple of its branch activations φᵢ; everything else (parameter count, matched
width, initialisation, the Linen module) follows from the tuple.
"""

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from gelu_jax.activations import ACTIVATIONS, Elementwise, activation
from gelu_jax.errors import Problem, check, nearest
from gelu_jax.nn import checks
from gelu_jax.nn.parameters import cast, constant, kernel

Variant = str | tuple[str | Elementwise, ...]

_identity = ACTIVATIONS["identity"]

VARIANTS: Mapping[str, tuple[Elementwise, ...]] = MappingProxyType(
    {name: (phi,) for name, phi in ACTIVATIONS.items()}
    | {
        "glu": (ACTIVATIONS["sigmoid"], _identity),
        "reglu": (ACTIVATIONS["relu"], _identity),
        "geglu": (ACTIVATIONS["gelu"], _identity),
        "geglu_tanh": (ACTIVATIONS["gelu_tanh"], _identity),
        "swiglu": (ACTIVATIONS["silu"], _identity),
        "bilinear": (_identity, _identity),
    }
)


def branches(variant: Variant) -> tuple[Elementwise, ...]:
    """The branch activations of a variant.

    A variant is a name of `VARIANTS`, any spelling that `activation` knows (one branch), or a
    tuple with one entry a branch: an activation's name, ``"module:function"``, or a function.

    Raises ValueError for a name that nothing answers to.

    >>> len(branches("swiglu")), len(branches("gelu_new")), len(branches(("relu", jnp.tanh)))
    (2, 1, 2)
    """
    if isinstance(variant, str):
        return VARIANTS.get(variant) or (_branch(variant),)
    return tuple(map(_branch, variant))


def _branch(branch: str | Elementwise) -> Elementwise:
    if not isinstance(branch, str):
        return branch
    if ":" in branch:
        return _imported(branch)
    try:
        return activation(branch)
    except ValueError:
        raise ValueError(f"unknown; {nearest(branch, VARIANTS)}") from None


def _imported(name: str) -> Elementwise:
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot be imported as module:function ({error})") from None


def variant_problems(variant: Variant) -> Iterator[Problem]:
    """What is wrong with a variant, for the configs that have one."""
    try:
        branches(variant)
    except ValueError as error:
        yield Problem("variant", variant, str(error))


def matched_width(d_ff: int, variant: Variant, *, multiple_of: int = 1) -> int:
    """The width at which a variant has as many weights as an ungated block of width d_ff.

    n branches and the output make (n + 1)·d·f weights, so f = 2·d_ff/(n + 1), rounded to the
    nearest multiple (Shazeer 2020, section 2).

    >>> matched_width(2048, "swiglu", multiple_of=8), matched_width(2048, "relu")
    (1368, 2048)
    """
    exact = 2 * d_ff / (len(branches(variant)) + 1)
    return max(1, round(exact / multiple_of)) * multiple_of


def branch_product(
    x: Float[Array, "... d"],
    w_in: Sequence[Float[Array, "d f"]],
    *,
    variant: Variant,
    b_in: Sequence[Float[Array, " f"]] | None = None,
) -> Float[Array, "... f"]:
    """The hidden layer h = ∏ᵢ φᵢ(x Wᵢ + bᵢ), in float32 from pre-activations to product.

    The pre-activations have the dtype of ``x @ w``; activations and product are computed in
    float32 (float64 stays) and rounded once, to the dtype of x.
    """
    phis = branches(variant)
    if len(w_in) != len(phis):
        raise ValueError(
            f"w_in = {len(w_in)} kernels: variant {variant!r} has {len(phis)} branches"
        )
    pre_activations = [x @ w for w in w_in]
    if b_in is not None:
        pre_activations = [p + b for p, b in zip(pre_activations, b_in, strict=True)]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    h = reduce(mul, (phi(p.astype(wide)) for phi, p in zip(phis, pre_activations, strict=True)))
    return h.astype(x.dtype)


def dropout(x: Array, rate: float, key: Key[Array, ""] | None) -> Array:
    """Zeroes entries with probability rate and scales the rest by 1/(1 − rate).

    No key, or a rate of 0, leaves x as it is (Srivastava et al. 2014).
    """
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


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
) -> Float[Array, "... e"]:
    """The feed-forward equation, (∏ᵢ φᵢ(x Wᵢ + bᵢ)) W_out + b_out (Shazeer 2020, equations 5–6).

    ``w_in`` holds one kernel a branch, in the order of the variant's activations: for "swiglu"
    the gate, then the up projection. Dropout, where a key is given, falls on the hidden layer.
    The result has the dtype of x.

    Raises ValueError for an unknown variant or a wrong number of kernels.

    >>> x, gate, up, out = jnp.ones((2, 4)), jnp.ones((4, 8)), jnp.ones((4, 8)), jnp.ones((8, 4))
    >>> feed_forward(x, (gate, up), out, variant="swiglu").shape
    (2, 4)
    """
    h = dropout(branch_product(x, w_in, variant=variant, b_in=b_in), dropout_rate, dropout_key)
    y = h @ w_out
    return y if b_out is None else y + b_out


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
        yield from variant_problems(self.variant)

    @property
    def num_branches(self) -> int:
        """How many kernels ``w_in`` holds."""
        return len(branches(self.variant))

    @property
    def num_parameters(self) -> int:
        """Weights and biases of the block."""
        n, d, f = self.num_branches, self.d_model, self.d_ff
        return (n + 1) * d * f + self.use_bias * (n * f + d)


class FeedForward(nnx.Module):
    """The block as an NNX module: parameters ``w_in`` (one a branch), ``w_out``, and biases.

    Computes in ``config.dtype`` whatever the dtype of its input, as flax's own layers do.

    >>> ffn = FeedForward(FeedForwardConfig(d_model=4, d_ff=8), rngs=nnx.Rngs(0))
    >>> ffn(jnp.ones((2, 4))).shape
    (2, 4)
    """

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

    def __call__(
        self, x: Float[Array, "... d"], *, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "... d"]:
        c = self.config
        return feed_forward(
            x.astype(c.dtype),
            [cast(w, c.dtype) for w in self.w_in],
            cast(self.w_out, c.dtype),
            variant=c.variant,
            b_in=None if self.b_in is None else [cast(b, c.dtype) for b in self.b_in],
            b_out=None if self.b_out is None else cast(self.b_out, c.dtype),
            dropout_rate=c.dropout_rate,
            dropout_key=dropout_key,
        )
