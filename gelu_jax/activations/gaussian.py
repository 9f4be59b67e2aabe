"""Activations built on the normal distribution: Φ is its distribution function, φ its density.

With a = |x|, and by the second form of gelu where a < 5/8,

    gelu(x)  = max(x, 0) − a·Φ(−a)
             = x·(½ + x·E(x²))                        E(s) = (Φ(√s) − ½)/√s
    gelu′(x) = [x ≥ 0] + sign(x)·(a·φ(a) − Φ(−a))
             = [x ≥ 0] + sign(x)·(a − z)·D(a)·φ(a)    D(a) = (a − M(a))/(a − z)

where M(a) = Φ(−a)/φ(a) is Mills' ratio, and z = 0.7518 solves M(z) = z. Why in this form:

- The textbook's ½·x·(1 + erf(x/√2)) cancels where x < 0: at x = −5, float32 is left with one digit.
  a·Φ(−a) is small by itself and keeps them all.
- Φ(−a) = M(a)·φ(a), where M falls only as 1/a. A short polynomial in w = a/(a + 5/2), which maps
  [0, ∞) onto [0, 1), therefore fits a·M(a) wherever Φ(−a) is not zero; and one in x² fits E.
- φ(a) multiplies the relative error of a² by a²/2, up to 120: a² is a double word even in float32.
- The derivative is zero at x = −z, where a·φ(a) and Φ(−a) cancel. D is what remains when that zero
  is divided out (deflation), and a − z is computed with z as a double word, so that its relative
  error, and that of the derivative, stays small right up to the zero.

tests/golden/fit_gaussian.py fits the polynomials.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.documentation import Elementwise, parametric
from gelu_jax.activations.double_word import (
    DoubleWord,
    Number,
    all_bits_count,
    as_array,
    clamp,
    double_word,
    in_form_of,
    magnitude,
    upper_half,
    where,
)
from gelu_jax.activations.elementwise import Scaled, elementwise
from gelu_jax.activations.exponential import exp, polynomial
from gelu_jax.activations.logistic import gelu_tanh

# e^(−a²/2) is carried 1/C times too large, so that it stays in range until its products are zero
_SHIFT = 48
_C = 2.0**-_SHIFT
_INVERSE_SQRT_2PI = "0.39894228040143267793994605993438187"
_ZERO = "0.7517915246935644574579049467795240396645"
# E in powers of x²; a·M(a)/√(2π) and D(a)/√(2π) in powers of w − 13/32. The relative errors are
# below 2⁻³⁰, 2⁻³¹ and 2⁻²⁹ in float32 (before rounding the coefficients), 2⁻⁶¹, 2⁻⁵⁹ and 2⁻⁵⁵ in
# float64
_CENTRAL_32 = (
    -7.654208808183035e-06, 0.00011348637308192849, -0.0011863299428500381, 0.00997332341020796,
    -0.06649035992355232, 0.3989422801176653,
)  # fmt: skip
_CENTRAL_64 = (
    4.0743269774266276e-12, -1.106432828275589e-10, 2.2704137585676e-09, -4.1224107514160815e-08,
    6.659679879655231e-07, -9.444655793103845e-06, 0.00011543468751655941, -0.0011873282154680343,
    0.009973557010035022, -0.06649038006690543, 0.3989422804014327,
)  # fmt: skip
_MILLS_32 = (
    0.1086674366933936, -0.2103171255875192, -0.019664184596696097, 0.13585984231049303,
    0.13460169291482638, -0.08788924668794258, -0.26942200469085753, 0.07609491362493584,
    0.5610826374411471, -0.762928127517124, 0.4010757365494878, 0.3219667065179125,
)  # fmt: skip
_MILLS_64 = (
    -1.9554880083050454, 7.266801374451795, -10.593268804290663, 7.364004674557228,
    -2.194376070413703, -0.18670971716189452, 0.5138054176556274, -0.1306179722647105,
    -0.0969905614233058, -0.06697105992431077, -0.01417462493794927, 0.06678357648612362,
    0.09214888062574365, 0.029576761939273086, -0.07288131342682354, -0.11183372466831433,
    -0.0214444367339961, 0.1257971359380208, 0.13609350213621044, -0.08753597377245717,
    -0.2694915977917689, 0.07608964059918977, 0.5610837059061211, -0.7629280945152013,
    0.40107573226104476, 0.321966706471538,
)  # fmt: skip
_DEFLATED_32 = (
    0.0028626335212323397, -0.007272677566017709, -0.009228678775234507, 0.007423072696810701,
    0.021352846578805366, 0.0016179969216346657, -0.047367095120504146, -0.018801216016314366,
    0.18680367231764541, -0.2923642537416414, 0.5154445037942261,
)  # fmt: skip
_DEFLATED_64 = (
    0.0012843586824898212, 0.0059301768391854795, -0.004370000930433534, -0.009637676309242296,
    0.0006833689999968526, 0.006321637204348162, 0.004292307164701382, 0.0011567056377707395,
    -0.0024805128715983107, -0.005035857562225628, -0.0036039425886477097, 0.0015237608283608926,
    0.006254357574772182, 0.005548746912657602, -0.0018410627141675943, -0.009862101458524408,
    -0.007893114192095261, 0.007854501976999948, 0.0211875525222491, 0.0015864272826336386,
    -0.04735820446668187, -0.018800268176396108, 0.18680350152204825, -0.29236426172769797,
    0.515444504319726,
)  # fmt: skip


def _fit_variable(a: Number) -> DoubleWord:
    """w − 13/32 of a ≥ 0, with w = a/(a + 5/2): the variable of `_MILLS` and `_DEFLATED`."""
    whole = as_array(a)
    d = whole + 2.5
    inverse = 1 / d
    d_hi, w = upper_half(d), upper_half(whole * inverse)
    # long division: w is the first digit, a − w·(a + 5/2) the remainder, with a + 5/2 in two parts
    rest = (whole - w * d_hi) - w * (whole - (d_hi - 2.5))
    if isinstance(a, DoubleWord) and a.lo is not None:
        rest = rest + ((a.hi - whole) + a.lo) * (1 - w)
    return DoubleWord(w - 0.40625, rest * inverse)


def _constant_led(coefficients: tuple[float, ...], x: Array) -> DoubleWord:
    """A polynomial whose constant outweighs its other terms, so that these may be rounded in lo."""
    constant = double_word(coefficients[-1], DoubleWord(x))
    rest = x * polynomial(coefficients[:-1], x)
    lo = rest if constant.lo is None else rest + constant.lo
    return DoubleWord(constant.hi, lo, is_split=True)


def _fitted_polynomial(
    single: tuple[float, ...], double: tuple[float, ...], a: Number
) -> DoubleWord:
    """The polynomial at a; if all bits count, Horner's last three steps are in double words."""
    coefficients, x = _coefficients_for(single, double, as_array(a)), _fit_variable(a)
    if not all_bits_count(a):
        return _constant_led(coefficients, x.rounded())
    total = DoubleWord(polynomial(coefficients[:-3], x.rounded()))
    for c in coefficients[-3:]:
        total = x * total + c
    return total


def _coefficients_for(
    single: tuple[float, ...], double: tuple[float, ...], x: Array
) -> tuple[float, ...]:
    return single if x.dtype == jnp.float32 else double


def _saturation_bound(x: Number) -> float:
    """Where Φ(−x) has become 0 and Φ(x) 1, in float32 and in float64."""
    return 15.5 if as_array(x).dtype == jnp.float32 else 38.5


def _gaussian(a: Number) -> DoubleWord:
    """e^(−a²/2)/C."""
    a = double_word(a)
    return exp((a * a).scaled(-0.5), _SHIFT)


def _times_gaussian(number: DoubleWord, a: Number) -> DoubleWord:
    """number·e^(−a²/2)/C."""
    gaussian = _gaussian(a)
    if all_bits_count(a):
        return number * gaussian
    # gaussian.hi is a power of two: products with it are exact, and those with lo may be rounded
    assert gaussian.lo is not None
    rest = number.rounded() * gaussian.lo
    rest = rest if number.lo is None else number.lo * gaussian.hi + rest
    return DoubleWord(number.hi * gaussian.hi, rest, guard_bits_only=True)


def _tail(a: Number) -> DoubleWord:
    """a·Φ(−a)/C for a ≥ 5/8."""
    return _times_gaussian(_fitted_polynomial(_MILLS_32, _MILLS_64, a), a)


def _overshoot(a: Number) -> DoubleWord:
    """(a·φ(a) − Φ(−a))/C for a ≥ 0, by which the derivative exceeds 1; negative for a < z."""
    factor = (double_word(a) - _ZERO) * _fitted_polynomial(_DEFLATED_32, _DEFLATED_64, a)
    return _times_gaussian(factor, a)


def _central_cdf(x: Number) -> Number:
    """Φ(x) for |x| ≤ 1, as ½ + x·E(x²)."""
    square = jnp.square(as_array(x))
    e = _constant_led(_coefficients_for(_CENTRAL_32, _CENTRAL_64, square), square)
    return x * in_form_of(e, x) + 0.5


def _unscaled(number: DoubleWord, x: Number) -> Number:
    """number·C, an array where x is one."""
    return number.scaled(_C) if isinstance(x, DoubleWord) else number.rounded() * _C


def _by_sign(x: Number, left: DoubleWord, right: Number) -> tuple[Number, Array]:
    """left·C where x < 0, elsewhere right, as a number and a power of two."""
    negative = as_array(x) < 0
    one = jnp.ones_like(as_array(x))
    if isinstance(right, DoubleWord):
        return where(negative, left, right), jnp.where(negative, _C * one, one)
    return jnp.where(negative, left.rounded() * _C, right), one


def _clamped_magnitude(x: Number) -> Number:
    """|x|, at most where Φ(−|x|) has become 0."""
    return clamp(magnitude(x), 0, _saturation_bound(x))


def _gelu(x: Number) -> Scaled:
    tail = _tail(_clamped_magnitude(x))
    number, power = _by_sign(x, -tail, x - _unscaled(tail, x))
    near = jnp.abs(as_array(x)) < 0.625
    number, power = where(near, x * _central_cdf(x), number), jnp.where(near, 1, power)
    return Scaled(number, power).linear_above(x, _saturation_bound(x))


def _gelu_derivative(x: Number) -> Scaled:
    """[x ≥ 0] + sign(x)·(|x|·φ(x) − Φ(−|x|))."""
    overshoot = _overshoot(_clamped_magnitude(x))
    return Scaled(*_by_sign(x, -overshoot, 1 + _unscaled(overshoot, x)))


@parametric
def gelu(approximate: bool | Literal["none", "tanh"] = False) -> Elementwise:
    """The Gaussian error linear unit: x times the probability of a standard normal number below x.

    gelu(x) = x·Φ(x) = ½·x·(1 + erf(x/√2)), with derivative Φ(x) + x·φ(x).

    Accuracy: at the four float32 inputs next to −0.7518, where the derivative is zero, its error is
    up to 1e-14 (of about 1e-8).

    Source: Hendrycks and Gimpel 2016, "Gaussian error linear units (GELUs)", section 2,
    arXiv 1606.08415.

    Args:
      approximate: False, or "none" as in torch, for this form; True, or "tanh", for `gelu_tanh`.
        The default of `jax.nn.gelu` is True.

    Examples:
      >>> gelu(jnp.float16(1.0))
      Array(0.8413, dtype=float16)
      >>> gelu(jnp.bfloat16(-5.0))
      Array(-1.43051e-06, dtype=bfloat16)
    """
    if approximate in (True, "tanh"):
        return gelu_tanh
    if approximate not in (False, "none"):
        choices = 'False, True, "none" or "tanh"'
        raise ValueError(f"approximate = {approximate!r}: must be {choices}")

    @elementwise(_gelu_derivative, in_float32=("bfloat16",))
    def gelu(x: Number) -> Scaled:
        return _gelu(x)

    return gelu


def _gelu_10_derivative(x: Number) -> Scaled:
    slope = _gelu_derivative(x)
    above = as_array(x) >= 10
    return Scaled(slope.number, jnp.where(above, jnp.zeros_like(slope.power), slope.power))


@elementwise(_gelu_10_derivative, in_float32=("bfloat16",))
def gelu_10(x: Number) -> Scaled:
    """`gelu` cut off at 10.

    gelu_10(x) = min(x·Φ(x), 10), with derivative Φ(x) + x·φ(x) where x < 10, elsewhere 0.

    Accuracy: at the four float32 inputs next to −0.7518, where the derivative is zero, its error is
    up to 1e-14 (of about 1e-8).

    Examples:
      >>> gelu_10(jnp.float16(100.0))
      Array(10., dtype=float16)
    """
    return _gelu(clamp(x, -jnp.inf, 10))


_MEAN, _INVERSE_DEVIATION = "0.707107", "3.54490508516634467112143072369237313670926461"


def _standardized(x: Number) -> DoubleWord:
    """y = (x − 0.707107)/0.282095, within bounds beyond which Φ(y) has become 0 and 1."""
    low, high = (-3.625, 5.0) if as_array(x).dtype == jnp.float32 else (-10.0, 11.5)
    return (double_word(clamp(x, low, high)) - _MEAN) * _INVERSE_DEVIATION


def _laplace_derivative(x: Number) -> Scaled:
    gaussian = _gaussian(_standardized(x))
    return Scaled(gaussian * _INVERSE_SQRT_2PI * _INVERSE_DEVIATION, _C)


@elementwise(_laplace_derivative, in_float32=("bfloat16",))
def laplace(x: Number) -> Scaled:
    """A normal distribution function: a bounded and smooth stand-in for `relu_squared`.

    laplace(x) = Φ(y) with y = (x − 0.707107)/0.282095, and derivative φ(y)/0.282095.

    Source: Ma et al. 2022, "Mega: moving average equipped gated attention", arXiv 2209.10655.

    Examples:
      >>> laplace(jnp.float16(0.707))
      Array(0.5, dtype=float16)
    """
    y = _standardized(x)
    a = magnitude(y)
    upper = _tail(a) / a
    number, power = _by_sign(y, upper, 1 - _unscaled(upper, y))
    near = a.hi < 1
    return Scaled(where(near, _central_cdf(y), number), jnp.where(near, 1, power))
