"""The exponential functions beside mpmath: their relative errors, and the arguments they reduce."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf

from gelu_jax.activations.double_word import double_word
from gelu_jax.activations.exponential import exp, expm1, expm1_less_x

pytestmark = pytest.mark.optimized

SHIFT = 48  # keeps e⁻¹¹² a normal float32


@pytest.fixture(params=["float32", "float64"], autouse=True)
def dtype(request):
    with jax.enable_x64(request.param == "float64"), mp.workprec(160):
        yield request.param


def worst(hi, lo, x, true):
    """The largest relative error of hi + lo at the points x."""
    triples = zip(*(np.asarray(v).tolist() for v in (hi, lo, x)), strict=True)
    return max(abs(mp.fsum([hi, lo]) / true(mpf(x)) - 1) for hi, lo, x in triples)


def points(dtype, low, high):
    """Spread evenly, and close to (n + ½)·ln 2, where the reduced argument is largest."""
    halves = (np.arange(np.ceil(low / np.log(2)), np.floor(high / np.log(2))) + 0.5) * np.log(2)
    edges = np.concatenate([halves * (1 - 1e-6), halves * (1 + 1e-6)])
    return jnp.asarray(np.concatenate([np.linspace(low, high, 1000), edges]), dtype)


@pytest.mark.parametrize("all_bits", [False, True])
def test_exp(all_bits, dtype):
    @jax.jit
    def compute(x):
        number = exp(replace(double_word(x), guard_bits_only=False) if all_bits else x, SHIFT)
        return number.hi, number.lo

    x = points(dtype, -112 if dtype == "float32" else -700, 40)
    hi, lo = compute(x)
    bound = {"float32": (-24, -28), "float64": (-53, -57)}[dtype][all_bits]
    assert worst(hi, lo, x, lambda v: mp.exp(v) * 2**SHIFT) < 2.0**bound
    if not all_bits:
        np.testing.assert_array_equal(np.frexp(hi)[0], 0.5)


def test_expm1(dtype):
    @jax.jit
    def compute(x):
        number = expm1(x)
        return number.hi, number.lo, number.rounded()

    x = jnp.concatenate([points(dtype, -80, -1e-3), -jnp.geomspace(1e-30, 1e-3, 300, dtype=dtype)])
    hi, lo, rounded = compute(x)
    half_ulp = float(jnp.finfo(dtype).eps) / 2
    assert worst(hi, lo, x, mp.expm1) < half_ulp
    assert worst(rounded, np.zeros_like(rounded), x, mp.expm1) < 2 * half_ulp


def test_expm1_less_x(dtype):
    x = jnp.asarray(-np.geomspace(1e-12, 300, 1000), dtype)
    bound = 2.0 ** (-21 if dtype == "float32" else -49)  # measured 2⁻⁴⁹·⁷ on 60,000 points
    y = jax.jit(expm1_less_x)(x)
    assert worst(y, np.zeros_like(y), x, lambda v: mp.expm1(v) - v) < bound
