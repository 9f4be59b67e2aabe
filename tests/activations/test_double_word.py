"""Double-word arithmetic beside exact fractions; rounding to odd at every midpoint of float16."""

import operator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelu_jax.activations.double_word import DoubleWord, clamp, double_word, reciprocal, upper_half
from gelu_jax.activations.elementwise import _rounded_to_odd

pytestmark = pytest.mark.optimized

POINTS = 1000
BOUND = {"float32": 2.0**-32, "float64": 2.0**-75}  # of an operation's error, over its result


@pytest.fixture(params=BOUND)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def positive(random, dtype):
    return jnp.asarray(np.exp2(random.uniform(-10, 10, POINTS)), dtype)


def split(random, dtype):
    """What an array becomes: hi has half the bits."""
    return double_word(positive(random, dtype))


def unsplit(random, dtype):
    """What a sum gives: hi has all the bits, and lo is below the last of them."""
    hi = positive(random, dtype)
    return DoubleWord(hi, hi * jnp.asarray(random.uniform(-0.25, 0.25, POINTS), dtype) * eps(dtype))


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


def parts(x):
    return x.hi, jnp.zeros_like(x.hi) if x.lo is None else x.lo


def exact(x):
    """Each element of an array, or of the two parts of a double word, as a fraction."""
    if isinstance(x, tuple):
        return [hi + lo for hi, lo in zip(*map(exact, x), strict=True)]
    return [Fraction(v) for v in np.asarray(x, np.float64).tolist()]


def worst(got, want, size):
    return max(abs(g - w) / s for g, w, s in zip(got, want, size, strict=True))


OPERATIONS = (operator.add, operator.sub, operator.mul, operator.truediv)


@pytest.mark.parametrize("make", [split, unsplit])
def test_operations(make, dtype):
    @jax.jit
    def compute(a, b):
        a, b = DoubleWord(*a, *flags), DoubleWord(*b, *flags)
        results = [operation(a, b) for operation in OPERATIONS]
        return [parts(x) for x in (*results, a.sqrt(), a.split())]

    random, bound = np.random.default_rng(0), BOUND[dtype]
    a, b = make(random, dtype), make(random, dtype)
    flags = a.is_split, a.guard_bits_only
    *results, root, halves = (exact(x) for x in compute(parts(a), parts(b)))
    a, b = exact(parts(a)), exact(parts(b))
    for operation, result in zip(OPERATIONS, results, strict=True):
        want = list(map(operation, a, b))
        # where digits cancel, the error is small beside the terms
        size = list(map(operator.add, a, b)) if operation is operator.sub else want
        assert worst(result, want, size) < bound, operation
    # a relative error of e in a root is one of 2e in its square
    assert worst([r * r for r in root], a, a) < 2 * bound
    assert worst(halves, a, a) < bound


def test_halves_of_the_bits(dtype):
    """They have no more bits than half, and are added and multiplied without error."""
    random = np.random.default_rng(0)
    a, b = (upper_half(positive(random, dtype)) for _ in "ab")
    mantissa = np.frexp(np.asarray(a))[0] * 2.0 ** (12 if dtype == "float32" else 26)
    np.testing.assert_array_equal(mantissa, np.round(mantissa))
    x, y = DoubleWord(a, is_split=True), DoubleWord(b, is_split=True)
    for operation in (operator.add, operator.mul):
        want = list(map(operation, exact(a), exact(b)))
        assert exact(parts(operation(x, y))) == want


def test_reciprocal(dtype):
    info = jnp.finfo(dtype)
    x = jnp.asarray(np.geomspace(4 * float(info.tiny), float(1 / info.tiny) / 8, POINTS), dtype)
    want = [1 / v for v in exact(x)]
    assert worst(exact(reciprocal(x)), want, want) < (2**-22 if dtype == "float32" else 2**-51)


@pytest.mark.parametrize("constant", ["1.702", "0.044715", Fraction(1, 6), -3, 0.1, 48])
def test_constants_are_kept_to_the_last_bit(constant, dtype):
    number = double_word(constant, DoubleWord(jnp.ones((), dtype)))
    value = sum(Fraction(float(part)) for part in parts(number))
    assert abs(value / Fraction(constant) - 1) < eps(dtype) * 2.0 ** (
        -12 if dtype == "float32" else -25
    )
    assert number.hi.dtype == dtype


def test_a_constant_alone_has_no_dtype():
    with pytest.raises(TypeError, match=r"'1\.702' needs a double word"):
        double_word("1.702")


def test_clamping_refuses_to_drop_lo():
    with pytest.raises(AssertionError):
        clamp(DoubleWord(jnp.ones(()), jnp.ones(()) * 1e-9), 0, 1)


def test_rounding_to_odd_decides_every_midpoint_of_float16():
    """Next to each midpoint, 2⁻³⁶ of it decides; at the midpoint itself, the even neighbour."""
    below = np.arange(0x7BFF, dtype=np.uint16)  # all positive float16 but the largest
    low, high = below.view(np.float16), (below + np.uint16(1)).view(np.float16)
    middle = (low.astype(np.float32) + high.astype(np.float32)) / 2
    even = np.where(below % 2 == 0, low, high)
    rounded = jax.jit(lambda hi, lo: _rounded_to_odd(hi, lo).astype(jnp.float16))
    for side, want in ((-1, low), (0, even), (1, high)):
        for hi, expected in ((middle, want), (-middle, -want)):
            np.testing.assert_array_equal(rounded(hi, hi * np.float32(side * 2.0**-36)), expected)


def test_rounding_to_odd_keeps_what_is_not_finite():
    hi = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan])
    got = _rounded_to_odd(hi, jnp.zeros(3)).astype(jnp.float16)
    np.testing.assert_array_equal(got, hi.astype(jnp.float16))
