"""Activations made of straight lines, parabolas and one exponential."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from numbers import Real

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from gelu_jax.activations.documentation import Elementwise, as_written, parametric
from gelu_jax.activations.double_word import (
    DoubleWord,
    Number,
    Operand,
    all_bits_count,
    as_array,
    clamp,
    double_word,
    upper_half,
    where,
)
from gelu_jax.activations.elementwise import Equation, Scaled, elementwise, require_floating
from gelu_jax.activations.exponential import exp, expm1, expm1_less_x


def _constants(
    then: float, condition: Callable[[Array], Array | bool], otherwise: float
) -> Equation:
    """The equation of one constant where a condition holds and another elsewhere; NaN at NaN."""

    def equation(x: Number) -> Array:
        x = as_array(x)
        constant = jnp.where(condition(x), then, otherwise).astype(x.dtype)
        return jnp.where(jnp.isnan(x), x, constant)

    return equation


@elementwise(_constants(1, lambda x: True, otherwise=1))
def identity(x: Number) -> Array:
    """The input itself, for a branch without an activation.

    identity(x) = x, with derivative 1.

    Accuracy: exact in every dtype.

    Examples:
      >>> identity(jnp.float16(-1.5))
      Array(-1.5, dtype=float16)
    """
    return as_array(x)


@elementwise(_constants(1, lambda x: x > 0, otherwise=0))
def relu(x: Number) -> Array:
    """The rectified linear unit.

    relu(x) = max(x, 0), with derivative 1 where x > 0, elsewhere 0.

    Accuracy: exact in every dtype.

    Source: Nair and Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".

    Examples:
      >>> relu(jnp.float16(-1.5))
      Array(0., dtype=float16)
    """
    return jnp.maximum(as_array(x), 0)


@elementwise(lambda x: 2 * jnp.maximum(as_array(x), 0))
def relu_squared(x: Number) -> Array:
    """The square of the rectified linear unit.

    relu_squared(x) = max(x, 0)², with derivative 2·max(x, 0).

    Source: So et al. 2021, "Primer: searching for efficient transformers for language
    modeling", arXiv 2109.08668.

    Examples:
      >>> relu_squared(jnp.float16(3.0))
      Array(9., dtype=float16)
    """
    return jnp.square(jnp.maximum(as_array(x), 0))


@elementwise(lambda x: as_array(x) * jnp.where(as_array(x) > 0, 2, 0.5).astype(as_array(x).dtype))
def leaky_relu_squared(x: Number) -> Array:
    """The square of a rectified linear unit with slope ½ on the left.

    leaky_relu_squared(x) = x² where x > 0, elsewhere x²/4; its derivative is 2·x and x/2. Positive
    on both sides, with its least value at 0.

    Source: openai/parameter-golf 2026, its record of 23 March: `leaky_relu(x, 0.5)²`.

    Examples:
      >>> leaky_relu_squared(jnp.float16(-2.0))
      Array(1., dtype=float16)
    """
    x = as_array(x)
    return jnp.square(jnp.where(x > 0, x, x / 2))


@elementwise(_constants(1, lambda x: (x > 0) & (x < 6), otherwise=0))
def relu6(x: Number) -> Array:
    """The rectified linear unit cut off at 6.

    relu6(x) = min(max(x, 0), 6), with derivative 1 where 0 < x < 6, elsewhere 0.

    Accuracy: exact in every dtype.

    Source: Krizhevsky 2010, "Convolutional deep belief networks on CIFAR-10".

    Examples:
      >>> relu6(jnp.float16(7.0))
      Array(6., dtype=float16)
    """
    return jnp.clip(as_array(x), 0, 6)


def _exact(value: float, name: str) -> Fraction:
    """A parameter as the decimal number that it is written as."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise TypeError(f"{name} = {value!r}: must be a finite number, the same for all entries")
    return Fraction(str(value))


@parametric
def leaky_relu(negative_slope: float = 0.01) -> Elementwise:
    """The rectified linear unit with a small slope on the left.

    leaky_relu(x) = x where x > 0, elsewhere negative_slope·x; its derivative is 1 and
    negative_slope.

    Accuracy: correctly rounded in 16 bits for any slope of up to three decimals; the product with
    another is rounded twice more in float32.

    Source: Maas et al. 2013, "Rectifier nonlinearities improve neural network acoustic models".

    Args:
      negative_slope: the slope on the left, a number; `prelu` takes an array.

    Examples:
      >>> leaky_relu(jnp.float16(-2.0))
      Array(-0.02, dtype=float16)
      >>> leaky_relu(jnp.float16(-2.0), 0.2)
      Array(-0.4, dtype=float16)
    """
    slope = _exact(negative_slope, "negative_slope")

    # A slope of a few decimals is a quotient of integers so small that, x having 11 bits, no
    # quotient of float32 comes to lie on the middle between two numbers of 16 bits.
    @elementwise(_constants(1, lambda x: x > 0, otherwise=float(slope)))
    def leaky_relu(x: Number) -> Array:
        x = as_array(x)
        return jnp.where(x > 0, x, x * float(slope.numerator) / float(slope.denominator))

    return leaky_relu


def _of_12_bits(x: float) -> float:
    """The number with its first 12 bits alone, as a bound of `clamp` must have them."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(math.trunc(mantissa * 2**12), exponent - 12)


def _exp_below_0(x: Number, width: Fraction = Fraction(1)) -> Scaled:
    """e^min(x/w, 0), carried 2⁴⁸ times too large, so that it stays in range until it is zero."""
    low = -112 if as_array(x).dtype == jnp.float32 else -720
    argument = clamp(x, _of_12_bits(low * float(width)), 0)
    return Scaled(exp(_divided(argument, width), 48), 2.0**-48)


def _divided(x: Number, width: Fraction) -> Number:
    """x/w to the last bit: eˣ would multiply what is rounded off."""
    return x if width == 1 else double_word(x) / width


def _expm1(y: DoubleWord) -> DoubleWord:
    """eʸ − 1 for y ≤ 0. Next to 0, y and what is beyond it take a word each, so that y² counts."""
    far = exp(y, 0) - 1
    if not all_bits_count(y):
        return far
    beyond = expm1_less_x(y.rounded())
    near = replace(y, lo=beyond if y.lo is None else y.lo + beyond)
    return where(as_array(y) > -(2.0**-6), near, far)


def _scaled_elu(
    x: Number, scale: Operand, scale_left: Operand, width: Fraction = Fraction(1)
) -> Scaled:
    """scale·x where x ≥ 0, elsewhere scale_left·(e^(x/w) − 1)."""
    v = as_array(x)
    # close to 0, it is a multiple of x, so small that the lo of a product would be subnormal
    tiny = jnp.abs(v) < (2.0**-40 if v.dtype == jnp.float32 else 2.0**-64)
    power = jnp.where(tiny, jnp.asarray(2.0**64, v.dtype), jnp.asarray(1, v.dtype))
    raised = x.scaled(power) if isinstance(x, DoubleWord) else double_word(x * power)
    near = double_word(_divided(raised, width))
    argument = double_word(_divided(clamp(x, _of_12_bits(-80 * float(width)), 0), width))
    left = where(tiny, near, _expm1(argument))
    number = where(v >= 0, raised * scale, left * scale_left)
    return Scaled(where(jnp.isinf(v) & (v > 0), DoubleWord(v), number), 1 / power)


def _scaled_elu_derivative(
    x: Number, scale: Operand, scale_left: Operand, width: Fraction = Fraction(1)
) -> Scaled:
    left = _exp_below_0(x, width)
    positive = as_array(x) > 0
    one = jnp.ones_like(as_array(x))
    slope = where(
        positive,
        DoubleWord(one, is_split=True) * scale,
        double_word(left.number) * scale_left,
    )
    return Scaled(slope, jnp.where(positive, one, left.power))


def _elu(x: Number) -> Array:
    """At α = 1, where the value needs no product."""
    x = as_array(x)
    return jnp.where(x >= 0, x, expm1(as_array(clamp(x, -80, 0))).rounded())


@parametric
def elu(alpha: float = 1.0) -> Elementwise:
    """The exponential linear unit.

    elu(x) = x where x > 0, elsewhere α·(eˣ − 1); its derivative is 1 and α·eˣ.

    Accuracy: where α is not 1, a result in 16 bits may be rounded the wrong way if the true one is
    within 2⁻²³ of itself of the middle between two numbers.

    Source: Clevert et al. 2015, "Fast and accurate deep network learning by exponential linear
    units (ELUs)", arXiv 1511.07289.

    Args:
      alpha: α, a number.

    Examples:
      >>> elu(jnp.float16(-1.0))
      Array(-0.6323, dtype=float16)
      >>> elu(jnp.float16(-1.0), alpha=0.5)
      Array(-0.3162, dtype=float16)
    """
    left = _exact(alpha, "alpha")
    derivative = partial(_scaled_elu_derivative, scale=1, scale_left=left)

    @elementwise(_exp_below_0 if left == 1 else derivative)
    def elu(x: Number) -> Array | Scaled:
        return _elu(x) if left == 1 else _scaled_elu(x, 1, left)

    return elu


@parametric
def celu(alpha: float = 1.0) -> Elementwise:
    """The continuously differentiable exponential linear unit; at α = 1 it is `elu`.

    celu(x) = max(x, 0) + min(α·(e^(x/α) − 1), 0), with derivative e^min(x/α, 0).

    Accuracy: where α is not 1, a result in 16 bits may be rounded the wrong way if the true one is
    within 2⁻²³ of itself of the middle between two numbers.

    Source: Barron 2017, "Continuously differentiable exponential linear units", arXiv 1704.07483.

    Args:
      alpha: α, a number above 0.

    Examples:
      >>> celu(jnp.float16(-1.0))
      Array(-0.6323, dtype=float16)
      >>> celu(jnp.float16(-1.0), alpha=2.0)
      Array(-0.787, dtype=float16)
    """
    width = _exact(alpha, "alpha")
    if width <= 0:
        raise ValueError(f"alpha = {alpha}: must be above 0")

    @elementwise(partial(_exp_below_0, width=width))
    def celu(x: Number) -> Array | Scaled:
        return _elu(x) if width == 1 else _scaled_elu(x, 1, width, width)

    return celu


# λ and λα (Klambauer et al. 2017, equation 14)
_SELU_SCALE = "1.0507009873554804934193349852946"
_SELU_SCALE_ALPHA = "1.75809934084737685994021752081231"


@elementwise(partial(_scaled_elu_derivative, scale=_SELU_SCALE, scale_left=_SELU_SCALE_ALPHA))
def selu(x: Number) -> Scaled:
    """The scaled exponential linear unit, which keeps mean 0 and variance 1 from layer to layer.

    selu(x) = λ·(x where x > 0, elsewhere α·(eˣ − 1)) with λ = 1.0507 and α = 1.6733; its derivative
    is λ and λ·α·eˣ.

    Source: Klambauer et al. 2017, "Self-normalizing neural networks", arXiv 1706.02515.

    Examples:
      >>> selu(jnp.float16(-1.0))
      Array(-1.111, dtype=float16)
    """
    return _scaled_elu(x, _SELU_SCALE, _SELU_SCALE_ALPHA)


@elementwise(_constants(1 / 6, lambda x: jnp.abs(x) < 3, otherwise=0))
def hard_sigmoid(x: Number) -> Array:
    """Three straight lines in place of `sigmoid`.

    hard_sigmoid(x) = min(max(x + 3, 0), 6)/6, with derivative 1/6 where |x| < 3, elsewhere 0.

    Source: Howard et al. 2019, "Searching for MobileNetV3", arXiv 1905.02244.

    Examples:
      >>> hard_sigmoid(jnp.float16(1.0))
      Array(0.6665, dtype=float16)
    """
    return jnp.clip(as_array(x) + 3, 0, 6) / 6


def _hard_silu_derivative(x: Number) -> Array:
    x = as_array(x)
    return jnp.where(x >= 3, 1, (2 * jnp.clip(x, -3, 3) + 3) * jnp.where(x <= -3, 0, 1 / 6))


def _sixth(x: DoubleWord) -> DoubleWord:
    """x/6, exact where it has the bits: a result halfway between two float16 numbers must stay so.

    A product with 1/6 would not do, because no double word is 1/6. x.hi less six times the quotient
    is exact, because the quotient is split.
    """
    quotient = x.hi / 6
    hi = upper_half(quotient)
    # x.hi − 6·hi, written so that −0 leaves −0
    rest = -(6 * hi - x.hi) - 6 * (quotient - hi)
    return DoubleWord(quotient, (rest if x.lo is None else rest + x.lo) / 6)


@elementwise(_hard_silu_derivative)
def hard_silu(x: Number) -> Scaled:
    """Lines and a parabola in place of `silu`, also called hard swish.

    hard_silu(x) = x·min(max(x + 3, 0), 6)/6, with derivative (2x + 3)/6 where |x| < 3, elsewhere 0
    and 1.

    Accuracy: within 0.05 of −1.5, where the derivative is zero, its error is at most 2⁻²⁴
    (float64: 2⁻⁵³) times ½, the size of the two terms that cancel there.

    Source: Howard et al. 2019, "Searching for MobileNetV3", arXiv 1905.02244.

    Examples:
      >>> hard_silu(jnp.float16(1.0))
      Array(0.6665, dtype=float16)
    """
    near = clamp(x, -3, 3)
    shifted = double_word(near) + 3
    if isinstance(near, DoubleWord):
        return Scaled(_sixth(near * shifted), 1.0).linear_above(x, 3)
    return Scaled(near * (shifted * Fraction(1, 6)).rounded(), 1.0).linear_above(x, 3)


@as_written
def fatrelu(x: ArrayLike, threshold: ArrayLike) -> Array:
    """The rectified linear unit with a forced threshold, which makes a trained model sparser.

    fatrelu(x) = x where x ≥ T, elsewhere 0; with derivative 1 and 0. torch's `threshold`, which
    vLLM calls for it, is 0 at x = T too.

    Accuracy: exact in every dtype; x is compared with T rounded to float32, in float64 to float64.

    Source: Kurtz et al. 2020, "Inducing and exploiting activation sparsity for fast inference on
    deep neural networks", section 4; Song et al. 2024, "ProSparse", arXiv 2402.13516.

    Args:
      x: floating-point array of any shape, or a Python float.
      threshold: T, positive, which broadcasts against `x`; not learned.

    Returns:
      An array of the dtype of `x` and the common shape.

    Raises:
      TypeError: `x` is not floating.

    Examples:
      >>> fatrelu(jnp.float16([0.25, 0.75]), 0.5)
      Array([0.  , 0.75], dtype=float16)
    """
    x = require_floating(x, "fatrelu")
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    below = x.astype(wide) < lax.stop_gradient(jnp.asarray(threshold, wide))
    return jnp.where(below, jnp.zeros_like(x), x)


@as_written
def prelu(x: ArrayLike, slope: ArrayLike = 0.25) -> Array:
    """The rectified linear unit whose slope on the left is learned.

    prelu(x) = x where x > 0, elsewhere slope·x; differentiable in the slope too.

    Accuracy: the product is rounded to the dtype in which JAX computes it, then to that of `x`.

    Source: He et al. 2015, "Delving deep into rectifiers", arXiv 1502.01852.

    Args:
      x: floating-point array of any shape, or a Python float.
      slope: the slope, which broadcasts against `x`; a layer learns it from 0.25 on.

    Returns:
      An array of the dtype of `x` and the common shape.

    Raises:
      TypeError: `x` is not floating.

    Examples:
      >>> prelu(jnp.float16(-2.0))
      Array(-0.5, dtype=float16)
    """
    x = require_floating(x, "prelu")
    slope = jnp.asarray(slope)
    rank = max(x.ndim, slope.ndim)
    x, slope = lax.broadcast_to_rank(x, rank), lax.broadcast_to_rank(slope, rank)
    return jnp.where(x > 0, x, (slope * x).astype(x.dtype))


@jax.checkpoint
def _xielu(x: Array, alpha_p: Array, alpha_n: Array, beta: Array, below: Array) -> Array:
    right = alpha_p * jnp.square(jnp.maximum(x, 0))
    # e^m − 1 − x with m = min(x, below), as (e^m − 1 − m) + (m − x)
    least = jnp.minimum(x, below)
    left = alpha_n * (expm1_less_x(least) + (least - jnp.minimum(x, 0)))
    return jnp.where(x > 0, right, left) + beta * x


@as_written
def xielu(
    x: ArrayLike,
    alpha_p: ArrayLike = 0.8,
    alpha_n: ArrayLike = 0.8,
    beta: ArrayLike = 0.5,
    below: ArrayLike = -1e-6,
) -> Array:
    """An integral of the ELU with learned coefficients: a parabola right of 0, an exponential left.

    xielu(x) = αp·x² + β·x where x > 0, elsewhere αn·(e^min(x, ε) − 1 − x) + β·x; differentiable in
    all but ε.

    Accuracy: computed in float32, in float64 for a float64 `x`, and rounded once.

    Source: Huang and Schlag 2024, "Deriving activation functions using integration",
    arXiv 2411.13010.

    Args:
      x: floating-point array of any shape, or a Python float.
      alpha_p: αp, the softplus of a learned number; 0.8 at first. Broadcasts against `x`.
      alpha_n: αn, β plus the softplus of a learned number; 0.8 at first. Broadcasts against `x`.
      beta: β, the slope at 0, which is not learned. Broadcasts against `x`.
      below: ε, the negative number near 0 that bounds the exponent. Broadcasts against `x`.

    Returns:
      An array of the dtype of `x` and the common shape.

    Raises:
      TypeError: `x` is not floating.

    Examples:
      >>> xielu(jnp.float16(2.0))
      Array(4.2, dtype=float16)
    """
    x = require_floating(x, "xielu")
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    parameters = (jnp.asarray(p, wide) for p in (alpha_p, alpha_n, beta, below))
    return _xielu(x.astype(wide), *parameters).astype(x.dtype)
