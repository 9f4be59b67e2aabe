"""The accuracy that the activations promise, at every 16-bit input and at millions of wider ones.

The truth comes from `gelu_jax.numerics.reference`, in float64; tests/numerics/test_reference.py
proves that it is right at every 16-bit input.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from gelu_jax.activations import ACTIVATIONS, activation, gelu, gelu_tanh
from gelu_jax.numerics.reference import REFERENCES
from gelu_jax.numerics.sweep import (
    _errors,
    assess,
    inputs,
    jax_value_and_derivative,
    value_and_derivative,
)

pytestmark = pytest.mark.optimized

GOLDEN = Path(__file__).parents[1] / "golden"
DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Promise:
    """What holds for one activation.

    Attributes:
      limits: its values at −∞ and +∞.
      slopes: its derivatives there.
      value32: the largest error of a float32 value in ulp; the next three likewise.
      cancellations: each zero of the derivative next to which it is exempt from the bound in ulp,
        and the size of the two terms that cancel there.
      mirrored_sum: f(x) + f(−x), where that is a constant.
      even_slope: whether f′(x) = f′(−x).
    """

    limits: tuple[float, float]
    slopes: tuple[float, float]
    value32: float = 2.0
    derivative32: float = 2.0
    value64: float = 4.0
    derivative64: float = 4.0
    cancellations: tuple[tuple[float, float], ...] = ()
    mirrored_sum: float | None = None
    even_slope: bool = False


INF = float("inf")
EXACT = {"value32": 0.0, "derivative32": 0.0, "value64": 0.0, "derivative64": 0.0}
PROMISES = {
    "identity": Promise((-INF, INF), (1, 1), **EXACT, mirrored_sum=0, even_slope=True),
    "relu": Promise((0, INF), (0, 1), **EXACT),
    "relu_squared": Promise((0, INF), (0, INF), value32=0.5, derivative32=0, value64=0.5),
    "relu6": Promise((0, 6), (0, 0), **EXACT),
    "leaky_relu": Promise((-INF, INF), (0.01, 1)),
    "leaky_relu_squared": Promise((INF, INF), (-INF, INF), 0.5, 0, 0.5, 0),
    "elu": Promise((-1, INF), (0, 1), value32=1, derivative32=1),
    "celu": Promise((-1, INF), (0, 1), value32=1, derivative32=1),
    "selu": Promise((-1.7580993408473769, INF), (0, 1.0507009873554805)),
    "hard_sigmoid": Promise((0, 1), (0, 0), derivative32=0.5, even_slope=True),
    "hard_silu": Promise((-0.0, INF), (0, 1), cancellations=((-1.5, 0.5),)),
    "gelu": Promise((-0.0, INF), (0, 1)),
    "gelu_10": Promise((-0.0, 10), (0, 0)),
    "laplace": Promise((0, 1), (0, 0)),
    "sigmoid": Promise((0, 1), (0, 0), mirrored_sum=1, even_slope=True),
    "tanh": Promise((-1, 1), (0, 0), mirrored_sum=0, even_slope=True),
    "silu": Promise((-0.0, INF), (0, 1), cancellations=((-1.278464542761074, 0.2178),)),
    "gelu_sigmoid": Promise((-0.0, INF), (0, 1), cancellations=((-0.7511542554412227, 0.2178),)),
    "gelu_tanh": Promise((-0.0, INF), (0, 1), cancellations=((-0.7524614220710163, 0.2258),)),
    "softplus": Promise((0, INF), (0, 1)),
    "sqrt_softplus": Promise((0, INF), (0, 0)),
    "mish": Promise((-0.0, INF), (0, 1), cancellations=((-1.1924012314748424, 0.2588),)),
    "golu": Promise((-0.0, INF), (0, 1), cancellations=((-0.5671432904097838, 0.1715),)),
    "powlu": Promise(
        (-0.0, 1),
        (0, 0),
        cancellations=((-1.278464542761074, 0.2178), (12.897428558386612, 0.2694)),
    ),
    "situ": Promise((-0.0, 4), (0, 0), cancellations=((-1.2187557268720125, 0.2083),)),
    "softcap_25": Promise((-25, 25), (0, 0), mirrored_sum=0, even_slope=True),
}
NAMES = sorted(PROMISES)


def test_every_activation_has_its_promise_and_its_reference():
    assert set(PROMISES) == set(ACTIVATIONS) == set(REFERENCES)


@np.errstate(invalid="ignore")  # ml_dtypes warns of NaN in bfloat16
def single(x: NDArray | jax.Array) -> NDArray[np.float32]:
    return np.asarray(x).astype(np.float32)


@cache
def results(name: str, dtype: str) -> tuple[NDArray, NDArray]:
    """Value and derivative at every 16-bit input, compiled once for all tests."""
    return jax_value_and_derivative(ACTIVATIONS[name], inputs(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_16_bit_input_is_correctly_rounded(name: str, dtype: str):
    found = assess(*results(name, dtype), name, dtype, "gelu_jax")
    assert (found.wrong_values, found.wrong_derivatives, found.nans) == (0, 0, 0), found
    assert max(found.worst_value_ulp, found.worst_derivative_ulp) <= 0.5, found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_signed_zeros_limits_and_nan(name: str, dtype: str):
    promise = PROMISES[name]
    at = np.asarray(jnp.asarray([-INF, INF, 0.0, -0.0, np.nan], dtype)).view(np.uint16)
    value, slope = (r[at].astype(np.float64) for r in results(name, dtype))
    np.testing.assert_array_equal(value[:2], np.asarray(promise.limits, jnp.dtype(dtype)))
    np.testing.assert_array_equal(slope[:2], np.asarray(promise.slopes, jnp.dtype(dtype)))
    assert np.isnan(value[4])
    assert np.isnan(slope[4])
    if value[2] == 0:
        rectified = name in ("relu", "relu_squared", "leaky_relu_squared", "relu6")
        assert not np.signbit(value[2])
        assert np.signbit(value[3]) or rectified
    for side in (0, 1):
        if promise.limits[side] == 0:
            assert np.signbit(value[side]) == np.signbit(promise.limits[side])


def rectified(x, left):
    return np.where(x > 0, x, left)


PARAMETERS = {  # value and derivative in float64
    "leaky_relu(0.2)": (lambda x: rectified(x, x / 5), lambda x: np.where(x > 0, 1, 0.2)),
    "leaky_relu(0.125)": (lambda x: rectified(x, x / 8), lambda x: np.where(x > 0, 1, 0.125)),
    "leaky_relu(1.5)": (lambda x: rectified(x, 1.5 * x), lambda x: np.where(x > 0, 1, 1.5)),
    "elu(0.5)": (
        lambda x: rectified(x, 0.5 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, 0.5 * np.exp(np.minimum(x, 0))),
    ),
    "elu(1.7)": (
        lambda x: rectified(x, 1.7 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, 1.7 * np.exp(np.minimum(x, 0))),
    ),
    "celu(0.3)": (
        lambda x: rectified(x, 0.3 * np.expm1(np.minimum(x, 0) / 0.3)),
        lambda x: np.exp(np.minimum(x, 0) / 0.3),
    ),
    "celu(2.5)": (
        lambda x: rectified(x, 2.5 * np.expm1(np.minimum(x, 0) / 2.5)),
        lambda x: np.exp(np.minimum(x, 0) / 2.5),
    ),
}


@np.errstate(invalid="ignore")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARAMETERS)
def test_with_other_parameters_every_16_bit_input_is_rounded_as_said(name: str, dtype: str):
    """Slopes of three decimals always the right way; exponentials but for what is all but a tie."""
    x = inputs(dtype).astype(np.float64)
    found = jax_value_and_derivative(activation(name), inputs(dtype))
    almost_a_tie = 0 if name.startswith("leaky") else 2.0**-23 / float(jnp.finfo(dtype).eps)
    for y, truth in zip(found, PARAMETERS[name], strict=True):
        wrong, ulp = _errors(y, x, truth, dtype)
        assert ulp[wrong].max(initial=0) <= (0.5 + almost_a_tie if almost_a_tie else 0)
        assert not np.isnan(single(y)[~np.isnan(x)]).any()


@pytest.mark.parametrize("name", PARAMETERS)
def test_with_other_parameters_float32_is_within_2_ulp(name: str):
    rng = np.random.default_rng(0)
    x = (rng.choice([-1, 1], 100_000) * np.exp2(rng.uniform(-40, 6.5, 100_000))).astype(np.float32)
    f = activation(name)
    found = jax.jit(lambda x: (f(x), jax.vmap(jax.grad(f))(x)))(x)
    for y, truth in zip(found, PARAMETERS[name], strict=True):
        exact = truth(x.astype(np.float64))
        normal = np.abs(exact) > np.finfo(np.float32).tiny
        ulp = np.spacing(np.abs(exact[normal]).astype(np.float32))
        assert (np.abs(np.asarray(y, np.float64)[normal] - exact[normal]) / ulp).max() <= 2


def test_the_forms_of_gelu_as_jax_and_torch_spell_them():
    x = jnp.linspace(-4, 4, 101, dtype=jnp.bfloat16)
    for choice in (False, "none"):
        np.testing.assert_array_equal(gelu(x, choice), gelu(x))
        np.testing.assert_array_equal(activation(f"gelu({choice!r})")(x), gelu(x))
    for choice in (True, "tanh"):
        np.testing.assert_array_equal(gelu(x, approximate=choice), gelu_tanh(x))
        np.testing.assert_array_equal(activation(f"gelu({choice!r})")(x), gelu_tanh(x))
    assert (gelu(x) != gelu_tanh(x)).any()


MIRRORED = [n for n in NAMES if PROMISES[n].mirrored_sum is not None]
EVEN_SLOPE = [n for n in NAMES if PROMISES[n].even_slope]


def right_and_left(result: NDArray, dtype: str) -> list[NDArray]:
    """Results at finite x ≥ 0, and at −x: bit patterns without and with the sign, in one order."""
    finite = np.isfinite(single(inputs(dtype)[: 1 << 15]))
    return [half[finite] for half in np.split(single(result), 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MIRRORED)
def test_mirrored_sums(name: str, dtype: str):
    right, left = right_and_left(results(name, dtype)[0], dtype)
    constant = PROMISES[name].mirrored_sum
    ulp = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(right + left, constant, atol=ulp * constant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVEN_SLOPE)
def test_even_slopes(name: str, dtype: str):
    np.testing.assert_array_equal(*right_and_left(results(name, dtype)[1], dtype))


def surrounded(f, x: jax.Array):
    """Value and derivative in four ways, each among other operations, and the second derivative."""
    one = jnp.ones_like(x)
    (value, slope), (_, second) = jax.jvp(lambda x: jax.jvp(f, (x,), (one,)), (x,), (one,))
    scanned = jax.lax.scan(lambda _, row: (None, f(row)), None, x.reshape(64, -1))[1]
    return second, (
        (value, slope),
        (jax.vmap(f)(x), jax.vmap(jax.grad(f))(x)),
        (scanned.reshape(-1), jax.jvp(jax.remat(f), (x,), (one,))[1]),
        (f(x) * one, jax.linearize(f, x)[1](one)),
    )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float16") for name in NAMES] + [("gelu", "bfloat16"), ("silu", "bfloat16")],
)
def test_the_bits_do_not_depend_on_what_surrounds_the_call(name: str, dtype: str):
    x = inputs(dtype)
    second, pairs = jax.jit(surrounded, static_argnums=0)(ACTIVATIONS[name], x)
    for pair in pairs:
        for got, want in zip(pair, results(name, dtype), strict=True):
            np.testing.assert_array_equal(single(got), single(want))
    assert np.isfinite(single(second))[np.isfinite(single(x))].all()


BFLOAT16_IN_FLOAT32 = ["gelu", "gelu_10", "gelu_sigmoid", "gelu_tanh", "laplace"]


@pytest.mark.parametrize("name", BFLOAT16_IN_FLOAT32)
def test_no_bfloat16_result_is_within_2_ulp_of_float32_of_a_midpoint(name: str):
    """So these functions need no double words for bfloat16."""
    x = single(inputs("bfloat16"))
    for y in jax_value_and_derivative(ACTIVATIONS[name], x):
        normal = np.isfinite(y) & (np.abs(y) > 2.0**-125) & (y != x)
        bits = y[normal].view(np.int32)
        below, above = ((bits + n).view(np.float32) for n in (-2, 2))
        np.testing.assert_array_equal(below.astype(jnp.bfloat16), above.astype(jnp.bfloat16))


CURVED = np.linspace(-9.97, 9.97, 300)  # where the second derivative is compared


@cache
def float32_sample() -> NDArray[np.float32]:
    """Two million inputs, finite but for the last three.

    `CURVED`; then all exponents, where the functions bend, the neighbours of every threshold, and
    all of bfloat16; then NaN, −∞ and ∞.
    """
    random = np.random.default_rng(0)
    spread = random.integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    bends = random.uniform(-20, 20, 1 << 19).astype(np.float32)
    tails = random.uniform(-113, 40, 1 << 18).astype(np.float32)
    zeros = [zero for p in PROMISES.values() for zero, _ in p.cancellations]
    edges = [0, 3, 6, 8, 10, 11, 15.5, 18, 30, 40, 60, 65.5, 80, 88, 104, 112, 240, 2.0**-40, 1e38]
    near = np.asarray([s * e for e in edges for s in (-1, 1)] + zeros, np.float32)
    steps = np.arange(-500, 501, dtype=np.int32)
    neighbours = (near.view(np.int32)[:, None] + steps).view(np.float32).ravel()
    subnormal = random.integers(1, 1 << 23, 1 << 12, dtype=np.uint32).view(np.float32)
    short = single(inputs("bfloat16"))
    rest = (spread, bends, tails, neighbours, subnormal, -subnormal, short)
    x = np.concatenate([single(CURVED), *rest])
    return np.concatenate([x[np.isfinite(x)], np.float32([np.nan, -INF, INF])])


def ulp_errors(got: NDArray, true: NDArray[np.float64], x: NDArray) -> NDArray:
    """Errors in ulp of got's dtype, 0 where the input or the true result is not a normal number."""
    info = np.finfo(got.dtype)
    size, least = np.abs(true), float(info.smallest_normal)
    normal = (size >= least) & (size <= float(info.max)) & (np.abs(x) >= least)
    exponent = np.frexp(np.where(normal, true, 1.0))[1] - 1
    unit = np.ldexp(1.0, exponent - info.nmant)
    return np.where(normal, np.abs(got - true) / unit, 0.0)


def value_derivative_and_second(f, x: jax.Array):
    (value, slope), (_, second) = jax.jvp(
        lambda x: value_and_derivative(f, x), (x,), (jnp.ones_like(x),)
    )
    return value, slope, second


@pytest.mark.parametrize("name", NAMES)
def test_float32(name: str):
    promise, x32 = PROMISES[name], float32_sample()
    compute = jax.jit(value_derivative_and_second, static_argnums=0)
    value, slope, second = map(np.asarray, compute(ACTIVATIONS[name], x32))
    assert np.isnan([value[-3], slope[-3]]).all()
    np.testing.assert_allclose(value[-2:], promise.limits, rtol=2.0**-22)
    np.testing.assert_allclose(slope[-2:], promise.slopes, rtol=2.0**-22)
    value, slope, second, x = value[:-3], slope[:-3], second[:-3], x32[:-3].astype(np.float64)
    assert not np.isnan([value, slope]).any()
    assert np.isfinite(second).all()
    with np.errstate(all="ignore"):
        true, true_slope = (function(x) for function in REFERENCES[name])
        assert ulp_errors(value, true, x).max() <= promise.value32
        slope_errors = ulp_errors(slope, true_slope, x)
    for zero, terms in promise.cancellations:
        near = np.abs(x - zero) <= 0.05
        assert np.abs(slope - true_slope)[near].max() <= terms * 2.0**-24
        slope_errors[near] = 0
    assert slope_errors.max() <= promise.derivative32
    derivative, step = REFERENCES[name].derivative, 1e-5
    numeric = (derivative(CURVED + step) - derivative(CURVED - step)) / (2 * step)
    np.testing.assert_allclose(second[: len(CURVED)], numeric, atol=3e-5)


@pytest.mark.parametrize("name", ["gelu", "gelu_10"])
def test_next_to_the_zero_of_its_derivative(name: str):
    """Within 1e-14 (measured: 9.1e-15), which is up to 20 ulp of so little at four inputs."""
    zero = np.float32(-0.7517915246935645).view(np.int32)
    x = (zero + np.arange(-10_000, 10_001, dtype=np.int32)).view(np.float32)
    slope = jax_value_and_derivative(ACTIVATIONS[name], x)[1]
    x = x.astype(np.float64)
    true = REFERENCES[name].derivative(x)
    wrong = ulp_errors(slope, true, x) > 2
    assert wrong.sum() <= 4
    assert np.abs(slope - true)[wrong].max(initial=0) <= 1e-14


def assert_float64(name: str, x: NDArray, true: NDArray, true_slope: NDArray):
    promise = PROMISES[name]
    with jax.enable_x64(True):
        value, slope = jax_value_and_derivative(ACTIVATIONS[name], x)
    assert value.dtype == np.float64
    with np.errstate(all="ignore"):
        # the truth is itself rounded, which may cost half a unit
        assert ulp_errors(value, true, x).max() <= max(promise.value64 - 0.5, 0)
        slope_errors = ulp_errors(slope, true_slope, x)
    for zero, terms in promise.cancellations:
        near = np.abs(x - zero) <= 0.05
        assert np.abs(slope - true_slope)[near].max(initial=0) <= terms * 2.0**-53
        slope_errors[near] = 0
    assert slope_errors.max() <= max(promise.derivative64 - 0.5, 0)


@pytest.mark.parametrize("name", NAMES)
def test_float64_against_160_bits(name: str):
    with np.load(GOLDEN / "float64.npz") as golden:
        assert_float64(name, *(golden[k] for k in ("x", f"{name} value", f"{name} derivative")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_float64_at_a_hundred_thousand_points(name: str, monkeypatch: pytest.MonkeyPatch):
    """As above, the truth computed here: some seconds a function."""
    monkeypatch.syspath_prepend(GOLDEN)
    from generate import FLOAT64, TRUTH, mpf, rounded, sample

    x = sample(100_000, seed=1)
    assert_float64(
        name, x, *(np.array([rounded(f(mpf(v)), *FLOAT64) for v in x]) for f in TRUTH[name])
    )


@pytest.mark.parametrize("name", NAMES)
def test_eight_bits_are_rounded_once(name: str):
    f, bits = ACTIVATIONS[name], np.arange(256, dtype=np.uint8)
    every = [bits.view(jnp.dtype(dtype)) for dtype in ("float8_e4m3fn", "float8_e5m2")]
    for x, y in zip(every, jax.jit(lambda arrays: list(map(f, arrays)))(every), strict=True):
        assert y.dtype == x.dtype
        with np.errstate(all="ignore"):
            true = REFERENCES[name].value(x.astype(np.float64))
            want = single(single(true).astype(x.dtype))
        finite = np.isfinite(single(x)) & np.isfinite(want)
        np.testing.assert_array_equal(single(y)[finite], want[finite])
