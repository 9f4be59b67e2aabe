"""Activations built on the normal distribution: Φ its distribution function, φ its density.

With a = |x|, gelu(x) = max(x, 0) − a·Φ(−a), but x·(½ + x·E(x²)) where a < 5/8. Its derivative is
[x ≥ 0] + sign(x)·(a − z)·S(a)·φ(a), where −z is its zero: next to it no digits cancel.

Error in ulp: at most 0.5 in bfloat16 and float16 (correctly rounded), 2 in float32, 4 in float64,
value and derivative; but that at the four float32 inputs around −z the derivative, of some 1e-8,
errs by up to 1e-14. Every function keeps only its input for the backward pass.
tests/test_numerics.py measures all of this.
"""

import jax.numpy as jnp
from jax import Array

from gelu_jax.activations.double_word import (
    Number,
    Pair,
    clamped,
    cut,
    magnitude,
    pair,
    plain,
    times,
    where,
)
from gelu_jax.activations.elementwise import Scaled, elementwise
from gelu_jax.activations.exponential import exp, polynomial

# e^(−a²/2) is carried 1/C times too large, so that it stays in range until its products are zero
_SHIFT = 48
_C = 2.0**-_SHIFT
_INVERSE_SQRT_2PI = "0.39894228040143267793994605993438187"
_ZERO = "0.7517915246935644574579049467795240396645"
# polynomials in x² and in w − 13/32, w = a/(a + 5/2): tests/golden/fit_gaussian.py
_NEAR_32 = (
    -7.654208808183035e-06, 0.00011348637308192849, -0.0011863299428500381, 0.00997332341020796,
    -0.06649035992355232, 0.3989422801176653,
)  # fmt: skip
_NEAR_64 = (
    4.0743269774266276e-12, -1.106432828275589e-10, 2.2704137585676e-09, -4.1224107514160815e-08,
    6.659679879655231e-07, -9.444655793103845e-06, 0.00011543468751655941, -0.0011873282154680343,
    0.009973557010035022, -0.06649038006690543, 0.3989422804014327,
)  # fmt: skip
_TAIL_32 = (
    0.1086674366933936, -0.2103171255875192, -0.019664184596696097, 0.13585984231049303,
    0.13460169291482638, -0.08788924668794258, -0.26942200469085753, 0.07609491362493584,
    0.5610826374411471, -0.762928127517124, 0.4010757365494878, 0.3219667065179125,
)  # fmt: skip
_TAIL_64 = (
    -1.9554880083050454, 7.266801374451795, -10.593268804290663, 7.364004674557228,
    -2.194376070413703, -0.18670971716189452, 0.5138054176556274, -0.1306179722647105,
    -0.0969905614233058, -0.06697105992431077, -0.01417462493794927, 0.06678357648612362,
    0.09214888062574365, 0.029576761939273086, -0.07288131342682354, -0.11183372466831433,
    -0.0214444367339961, 0.1257971359380208, 0.13609350213621044, -0.08753597377245717,
    -0.2694915977917689, 0.07608964059918977, 0.5610837059061211, -0.7629280945152013,
    0.40107573226104476, 0.321966706471538,
)  # fmt: skip
_SLOPE_32 = (
    0.0028626335212323397, -0.007272677566017709, -0.009228678775234507, 0.007423072696810701,
    0.021352846578805366, 0.0016179969216346657, -0.047367095120504146, -0.018801216016314366,
    0.18680367231764541, -0.2923642537416414, 0.5154445037942261,
)  # fmt: skip
_SLOPE_64 = (
    0.0012843586824898212, 0.0059301768391854795, -0.004370000930433534, -0.009637676309242296,
    0.0006833689999968526, 0.006321637204348162, 0.004292307164701382, 0.0011567056377707395,
    -0.0024805128715983107, -0.005035857562225628, -0.0036039425886477097, 0.0015237608283608926,
    0.006254357574772182, 0.005548746912657602, -0.0018410627141675943, -0.009862101458524408,
    -0.007893114192095261, 0.007854501976999948, 0.0211875525222491, 0.0015864272826336386,
    -0.04735820446668187, -0.018800268176396108, 0.18680350152204825, -0.29236426172769797,
    0.515444504319726,
)  # fmt: skip


def _mapped(a: Number) -> Pair:
    """a/(a + 5/2) − 13/32, in which what has [0, ∞) for its domain becomes a short polynomial."""
    whole = plain(a)
    d = whole + 2.5
    inverse = 1 / d
    d_hi, quotient = cut(d), cut(whole * inverse)
    rest = (whole - quotient * d_hi) - quotient * (whole - (d_hi - 2.5))
    if isinstance(a, Pair) and a.lo is not None:
        rest = rest + ((a.hi - whole) + a.lo) * (1 - quotient)
    return Pair(quotient - 0.40625, rest * inverse)


def _led(coefficients: tuple[float, ...], x: Array) -> Pair:
    """A polynomial whose last coefficient outweighs the rest, for which one float is enough."""
    lead = pair(coefficients[-1], Pair(x))
    rest = x * polynomial(coefficients[:-1], x)
    return Pair(lead.hi, rest if lead.lo is None else rest + lead.lo, is_cut=True)


def _series(coefficients: tuple[float, ...], x: Pair, narrow: bool) -> Pair:
    """A polynomial; for a narrow input the last steps of Horner's rule are taken in pairs."""
    if not narrow:
        return _led(coefficients, x.sum())
    total = Pair(polynomial(coefficients[:-3], x.sum()))
    for c in coefficients[-3:]:
        total = x * total + c
    return total


def _table(x: Array, single: tuple[float, ...], double: tuple[float, ...]) -> tuple[float, ...]:
    return single if x.dtype == jnp.float32 else double


def _bound(x: Number) -> float:
    """Where Φ(−x) has become 0 and Φ(x) 1, in float32 and in float64."""
    return 15.5 if plain(x).dtype == jnp.float32 else 38.5


def _is_narrow(x: Number) -> bool:
    return isinstance(x, Pair) and not x.is_wide


def _bell(a: Number) -> Pair:
    """e^(−a²/2)/C."""
    a = pair(a)
    return exp((a * a).scaled(-0.5), _SHIFT)


def _damped(number: Pair, a: Number) -> Pair:
    """number·e^(−a²/2)/C."""
    bell = _bell(a)
    if _is_narrow(a):
        return number * bell
    # of a wide one hi is a power of two, with which no product is rounded
    assert bell.lo is not None
    rest = number.sum() * bell.lo
    rest = rest if number.lo is None else number.lo * bell.hi + rest
    return Pair(number.hi * bell.hi, rest, is_wide=True)


def _tail(a: Number) -> Pair:
    """a·Φ(−a)/C for a ≥ 5/8."""
    table = _table(plain(a), _TAIL_32, _TAIL_64)
    return _damped(_series(table, _mapped(a), _is_narrow(a)), a)


def _dip(a: Number) -> Pair:
    """(a − Φ(−a)/φ(a))·φ(a)/C: negative below its zero z."""
    table = _table(plain(a), _SLOPE_32, _SLOPE_64)
    return _damped((pair(a) - _ZERO) * _series(table, _mapped(a), _is_narrow(a)), a)


def _near_0(x: Number) -> Number:
    """Φ(x) for |x| ≤ 1, as ½ + x·E(x²)."""
    square = jnp.square(plain(x))
    return times(x, _led(_table(square, _NEAR_32, _NEAR_64), square)) + 0.5


def _lowered(number: Pair, x: Number) -> Number:
    """number·C, an array where x is one."""
    return number.scaled(_C) if isinstance(x, Pair) else number.sum() * _C


def _sides(x: Number, left: Pair, right: Number) -> tuple[Number, Array]:
    """left·C where x < 0, elsewhere right, as a number and a power of two."""
    negative = plain(x) < 0
    one = jnp.ones_like(plain(x))
    if isinstance(right, Pair):
        return where(negative, left, right), jnp.where(negative, _C * one, one)
    return jnp.where(negative, left.sum() * _C, right), one


def _size(x: Number) -> Number:
    """|x|, at most where Φ(−|x|) has become 0."""
    return clamped(magnitude(x), 0, _bound(x))


def _gelu(x: Number) -> Scaled:
    tail = _tail(_size(x))
    number, power = _sides(x, -tail, x - _lowered(tail, x))
    near = jnp.abs(plain(x)) < 0.625
    number, power = where(near, x * _near_0(x), number), jnp.where(near, 1, power)
    return Scaled(number, power).linear_beyond(x, _bound(x))


def _gelu_derivative(x: Number) -> Scaled:
    """[x ≥ 0] + sign(x)·dip(|x|)."""
    dip = _dip(_size(x))
    return Scaled(*_sides(x, -dip, 1 + _lowered(dip, x)))


@elementwise(_gelu_derivative, bfloat16_in_pairs=False)
def gelu(x: Number) -> Scaled:
    """x·Φ(x) (Hendrycks and Gimpel 2016, section 2); its derivative is Φ(x) + x·φ(x).

    >>> abs(gelu(1.0) - 0.84134475).item() < 1e-7
    True
    >>> gelu(jnp.bfloat16(-5.0)) == jnp.bfloat16(-1.4333e-6)
    Array(True, dtype=bool)
    """
    return _gelu(x)


def _gelu_10_derivative(x: Number) -> Scaled:
    slope = _gelu_derivative(x)
    return Scaled(slope.number, jnp.where(plain(x) >= 10, jnp.zeros_like(slope.power), slope.power))


@elementwise(_gelu_10_derivative, bfloat16_in_pairs=False)
def gelu_10(x: Number) -> Scaled:
    """gelu(x) clipped to [−10, 10]; its derivative is 0 from 10 on.

    >>> gelu_10(100.0).item()
    10.0
    """
    return _gelu(clamped(x, -jnp.inf, 10))


_MEAN, _INVERSE_DEVIATION = "0.707107", "3.54490508516634467112143072369237313670926461"


def _laplace_argument(x: Number) -> Pair:
    low, high = (-3.625, 5.0) if plain(x).dtype == jnp.float32 else (-10.0, 11.5)
    return (pair(clamped(x, low, high)) - _MEAN) * _INVERSE_DEVIATION


def _laplace_derivative(x: Number) -> Scaled:
    bell = _bell(_laplace_argument(x))
    return Scaled(bell * _INVERSE_SQRT_2PI * _INVERSE_DEVIATION, _C)


@elementwise(_laplace_derivative, bfloat16_in_pairs=False)
def laplace(x: Number) -> Scaled:
    """Φ((x − 0.707107)/0.282095), a bounded stand-in for relu_squared (Ma et al. 2022, "Mega").

    >>> abs(laplace(0.707107) - 0.5).item() < 1e-6
    True
    """
    y = _laplace_argument(x)
    a = magnitude(y)
    upper = _tail(a) / a
    number, power = _sides(y, upper, 1 - _lowered(upper, y))
    near = a.hi < 1
    return Scaled(where(near, _near_0(y), number), jnp.where(near, 1, power))
