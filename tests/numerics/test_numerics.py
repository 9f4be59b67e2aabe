"""The numbers the activations promise, at every 16-bit input and at millions of wider ones.

The truth comes from `gelu_jax.numerics.reference`, in float64; the goldens, made with 160 bits
by tests/golden/generate.py, prove that what is rounded from it to 16 bits is right at every input.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from gelu_jax.activations import ACTIVATIONS
from gelu_jax.numerics.reference import REFERENCES
from gelu_jax.numerics.sweep import (
    Row,
    inputs,
    measure,
    promise_kept,
    report,
    rounded,
    sweep,
    value_and_derivative,
)

GOLDEN = Path(__file__).parents[1] / "golden"
DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Promise:
    """Limits at −∞ and +∞ of value and derivative, ulp budgets, and where the derivative crosses 0.

    `crossing` is the crossing and the size of the two terms that cancel there; `odd` holds f(x) + c
    antisymmetric for `f(x) + f(−x) = odd`, `even` the derivative's symmetry.
    """

    limits: tuple[float, float]
    slopes: tuple[float, float]
    value32: float = 2.0
    derivative32: float = 2.0
    value64: float = 4.0
    derivative64: float = 4.0
    crossing: tuple[float, float] | None = None
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
    "elu": Promise((-1, INF), (0, 1), value32=1, derivative32=1),
    "celu": Promise((-1, INF), (0, 1), value32=1, derivative32=1),
    "selu": Promise((-1.7580993408473769, INF), (0, 1.0507009873554805)),
    "hard_sigmoid": Promise((0, 1), (0, 0), derivative32=0.5, even_slope=True),
    "hard_silu": Promise((-0.0, INF), (0, 1), crossing=(-1.5, 0.5)),
    "gelu": Promise((-0.0, INF), (0, 1)),
    "gelu_10": Promise((-0.0, 10), (0, 0)),
    "laplace": Promise((0, 1), (0, 0)),
    "sigmoid": Promise((0, 1), (0, 0), mirrored_sum=1, even_slope=True),
    "tanh": Promise((-1, 1), (0, 0), mirrored_sum=0, even_slope=True),
    "silu": Promise((-0.0, INF), (0, 1), crossing=(-1.278464542761074, 0.2178)),
    "gelu_sigmoid": Promise((-0.0, INF), (0, 1), crossing=(-0.7511542554412227, 0.2178)),
    "gelu_tanh": Promise((-0.0, INF), (0, 1), crossing=(-0.7524614220710163, 0.2258)),
    "softplus": Promise((0, INF), (0, 1)),
    "sqrt_softplus": Promise((0, INF), (0, 0)),
    "mish": Promise((-0.0, INF), (0, 1), crossing=(-1.1924012314748424, 0.2588)),
}
NAMES = sorted(PROMISES)


def test_every_activation_has_its_promise_and_its_truth():
    assert set(PROMISES) == set(ACTIVATIONS) == set(REFERENCES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_rounds_to_what_160_bits_round_to(name: str, dtype: str):
    golden = json.loads((GOLDEN / "rounded_16.json").read_text())
    with np.errstate(all="ignore"):
        x = inputs(dtype).astype(np.float64)
        x = x[np.isfinite(x)]
        for what, function in zip(("value", "derivative"), REFERENCES[name], strict=True):
            results = rounded(function(x), dtype)
            digest = hashlib.sha256((results + results.dtype.type(0)).tobytes()).hexdigest()
            assert digest == golden[f"{name} {what} {dtype}"], what


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_16_bit_input_is_correctly_rounded(name: str, dtype: str):
    row = measure(ACTIVATIONS[name], name, dtype, "gelu_jax")
    assert (row.wrong_values, row.wrong_derivatives, row.nans) == (0, 0, 0), row
    assert max(row.worst_value_ulp, row.worst_derivative_ulp) <= 0.5, row


@pytest.mark.parametrize("name", ["gelu", "gelu_10", "gelu_sigmoid", "gelu_tanh", "laplace"])
def test_bfloat16_needs_no_pairs_where_2_ulp_of_float32_change_no_bit(name: str):
    x = jnp.asarray(inputs("bfloat16")).astype(jnp.float32)
    for y in map(np.asarray, value_and_derivative(ACTIVATIONS[name], x)):
        normal = np.isfinite(y) & (np.abs(y) > 2.0**-125) & (y != x)
        bits = y[normal].view(np.int32)
        below, above = ((bits + n).view(np.float32) for n in (-2, 2))
        np.testing.assert_array_equal(below.astype(jnp.bfloat16), above.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float16") for name in NAMES] + [("gelu", "bfloat16"), ("silu", "bfloat16")],
)
def test_the_bits_do_not_depend_on_what_surrounds_the_call(name: str, dtype: str):
    f, x = ACTIVATIONS[name], jnp.asarray(inputs(dtype))

    @jax.jit
    def surrounded(x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], ...]:
        one = jnp.ones_like(x)
        scanned = jax.lax.scan(lambda _, row: (None, f(row)), None, x.reshape(64, -1))[1]
        return (
            jax.jvp(f, (x,), (one,)),
            (jax.vmap(f)(x), jax.vmap(jax.grad(f))(x)),
            (scanned.reshape(-1), jax.jvp(jax.remat(f), (x,), (one,))[1]),
            (f(x) * one, jax.linearize(f, x)[1](one)),
        )

    value, slope = jax.jit(lambda x: value_and_derivative(f, x))(x)
    for y, d in surrounded(x):
        np.testing.assert_array_equal(y.astype(jnp.float32), value.astype(jnp.float32))
        np.testing.assert_array_equal(d.astype(jnp.float32), slope.astype(jnp.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_signed_zeros_limits_and_nan(name: str, dtype: str):
    f, promise = ACTIVATIONS[name], PROMISES[name]
    x = jnp.asarray([-INF, INF, 0.0, -0.0, np.nan], dtype)
    value, slope = (np.asarray(r, np.float64) for r in value_and_derivative(f, x))
    np.testing.assert_array_equal(value[:2], np.asarray(promise.limits, jnp.dtype(dtype)))
    np.testing.assert_array_equal(slope[:2], np.asarray(promise.slopes, jnp.dtype(dtype)))
    assert np.isnan(value[4])
    assert np.isnan(slope[4])
    if value[2] == 0:
        rectified = name in ("relu", "relu_squared", "relu6")
        assert not np.signbit(value[2])
        assert np.signbit(value[3]) or rectified
    for side in (0, 1):
        if promise.limits[side] == 0:
            assert np.signbit(value[side]) == np.signbit(promise.limits[side])


@cache
def float32_sample() -> NDArray[np.float32]:
    """Two million inputs: all exponents, the bends, and the neighbours of every threshold."""
    random = np.random.default_rng(0)
    spread = random.integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    bends = random.uniform(-20, 20, 1 << 19).astype(np.float32)
    tails = random.uniform(-113, 40, 1 << 18).astype(np.float32)
    crossings = [p.crossing[0] for p in PROMISES.values() if p.crossing]
    edges = [0, 3, 6, 8, 10, 11, 15.5, 18, 30, 40, 60, 65.5, 80, 88, 104, 112, 240, 2.0**-40, 1e38]
    near = np.asarray([s * e for e in edges for s in (-1, 1)] + crossings, np.float32)
    steps = np.arange(-500, 501, dtype=np.int32)
    neighbours = (near.view(np.int32)[:, None] + steps).view(np.float32).ravel()
    subnormal = random.integers(1, 1 << 23, 1 << 12, dtype=np.uint32).view(np.float32)
    x = np.concatenate([spread, bends, tails, neighbours, subnormal, -subnormal])
    return x[np.isfinite(x)]


def ulp_errors(got: NDArray, true: NDArray[np.float64], x: NDArray, least: float) -> NDArray:
    """Errors in ulp of got's dtype, 0 where the input or the true result is not a normal number."""
    largest = float(np.finfo(got.dtype).max)
    size = np.abs(true)
    bound = (size >= least) & (size <= largest) & (np.abs(x) >= least)
    exponent = np.frexp(np.where(bound, true, 1.0))[1] - 1
    unit = np.ldexp(1.0, exponent - np.finfo(got.dtype).nmant)
    return np.where(bound, np.abs(got - true) / unit, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_float32(name: str):
    promise, x32 = PROMISES[name], float32_sample()
    both = jax.jit(lambda x: value_and_derivative(ACTIVATIONS[name], x))
    value, slope = (np.asarray(r) for r in both(jnp.asarray(x32)))
    assert not np.isnan(value).any()
    assert not np.isnan(slope).any()
    x = x32.astype(np.float64)
    with np.errstate(all="ignore"):
        true, true_slope = (function(x) for function in REFERENCES[name])
        assert ulp_errors(value, true, x, 2.0**-126).max() <= promise.value32
        slope_errors = ulp_errors(slope, true_slope, x, 2.0**-126)
    if promise.crossing:
        zero, terms = promise.crossing
        near = np.abs(x - zero) <= 0.05
        assert np.abs(slope - true_slope)[near].max() <= terms * 2.0**-24
        slope_errors = slope_errors[~near]
    assert slope_errors.max() <= promise.derivative32


@pytest.mark.parametrize("name", ["gelu", "gelu_10"])
def test_next_to_the_zero_of_its_derivative(name: str):
    """Within 1e-14 (measured: 9.1e-15), which is up to 20 ulp of so little at four inputs."""
    zero = np.float32(-0.7517915246935645).view(np.int32)
    x = (zero + np.arange(-10_000, 10_001, dtype=np.int32)).view(np.float32)
    slope = np.asarray(jax.jit(jax.vmap(jax.grad(ACTIVATIONS[name])))(x))
    x, true = x.astype(np.float64), REFERENCES[name].derivative(x.astype(np.float64))
    wrong = ulp_errors(slope, true, x, 2.0**-126) > 2
    assert wrong.sum() <= 4
    assert np.abs(slope - true)[wrong].max(initial=0) <= 1e-14


def assert_float64(name: str, x: np.ndarray, true: np.ndarray, true_slope: np.ndarray):
    promise = PROMISES[name]
    with jax.enable_x64(True):
        both = jax.jit(lambda x: value_and_derivative(ACTIVATIONS[name], x))
        value, slope = (np.asarray(r) for r in both(jnp.asarray(x)))
    assert value.dtype == np.float64
    with np.errstate(all="ignore"):
        # the truth is itself rounded, which may cost half a unit
        assert ulp_errors(value, true, x, 2.0**-1022).max() <= max(promise.value64 - 0.5, 0)
        slope_errors = ulp_errors(slope, true_slope, x, 2.0**-1022)
    if promise.crossing:
        slope_errors = slope_errors[np.abs(x - promise.crossing[0]) > 0.05]
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
def test_symmetry(name: str):
    promise, f = PROMISES[name], ACTIVATIONS[name]
    x = jnp.asarray(inputs("float16"))
    x = x[jnp.isfinite(x)]
    if promise.mirrored_sum is not None:
        total = f(x).astype(jnp.float32) + f(-x).astype(jnp.float32)
        np.testing.assert_allclose(
            total, promise.mirrored_sum, atol=2.0**-10 * promise.mirrored_sum
        )
    if promise.even_slope:
        slope = value_and_derivative(f, x)[1]
        np.testing.assert_array_equal(slope, value_and_derivative(f, -x)[1])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_finite_and_right(name: str, dtype: str):
    f = ACTIVATIONS[name]
    at = np.linspace(-9.97, 9.97, 300)
    x = jnp.concatenate([at, jnp.asarray(inputs("bfloat16"))]).astype(dtype)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(f))))(x)
    assert jnp.isfinite(second[jnp.isfinite(x)]).all()
    if dtype == "float32":
        slope, step = REFERENCES[name].derivative, 1e-5
        numeric = (slope(at + step) - slope(at - step)) / (2 * step)
        np.testing.assert_allclose(second[: len(at)], numeric, atol=3e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bits_are_rounded_once(name: str, dtype: str):
    x = jax.lax.bitcast_convert_type(jnp.arange(256, dtype=jnp.uint8), jnp.dtype(dtype))
    x = x[jnp.isfinite(x.astype(jnp.float32))]
    with np.errstate(all="ignore"):
        true = REFERENCES[name].value(np.asarray(x).astype(np.float64))
        want = true.astype(np.float32).astype(x.dtype)
    got = jax.jit(ACTIVATIONS[name])(x)
    assert got.dtype == x.dtype
    finite = np.isfinite(want.astype(np.float32))
    np.testing.assert_array_equal(
        np.asarray(got).astype(np.float32)[finite], want.astype(np.float32)[finite]
    )


def test_the_sweep_and_its_report():
    rows = sweep(["silu"], ["float16"])
    assert [row.source for row in rows] == ["gelu_jax", "jax.nn"]
    assert promise_kept(rows)
    assert not rows[1].kept
    console = Console(width=200, record=True, quiet=True)
    report(rows, console)
    assert not promise_kept([Row("silu", "float16", "gelu_jax", 1, 0, 0.5, 0.0, 0.5, 0.0, 0)])
