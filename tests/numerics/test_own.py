"""A person's own activation: what is found of it, and by which reference."""

import inspect

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import gelu_jax as gj
from gelu_jax.numerics.own import _exact, examine
from gelu_jax.numerics.reference import REFERENCES
from gelu_jax.numerics.sweep import compare, inputs

pytestmark = pytest.mark.optimized


def naive_silu(x):
    return x / (1 + jnp.exp(-x))


def silu_of_mpmath(x):
    return x / (1 + mpmath.exp(-x))


@gj.elementwise(
    derivative=lambda x: jax.nn.sigmoid(x) * (1 + x * jax.nn.sigmoid(-x)), in_float32=gj.IN_FLOAT32
)
def decorated_silu(x):
    """x·σ(x), as a person would write it."""
    return x * jax.nn.sigmoid(x)


def test_what_is_found_of_an_activation():
    found = examine(naive_silu, "naive", dtypes=["float16"])
    (row,) = found.rows
    assert row.source == "yours"
    assert row.wrong_values > 1000
    assert row.nans > 0  # its derivative at very negative x
    assert np.isnan(found.limits[0])
    assert found.limits[1] == np.inf
    ((start, end),) = found.falling
    assert start < -11
    np.testing.assert_allclose(end, -1.2785, atol=0.01)
    x, value, slope, second = found.curves
    np.testing.assert_allclose(value, REFERENCES["silu"].value(x), atol=1e-5)
    np.testing.assert_allclose(slope, REFERENCES["silu"].derivative(x), atol=1e-5)
    np.testing.assert_allclose(np.gradient(slope, x)[1:-1], second[1:-1], atol=1e-3)


def test_ours_pass_the_examination():
    found = examine(gj.relu_squared, "relu_squared", dtypes=["float16"])
    assert found.rows[0].keeps_promise
    assert found.limits == (0, np.inf)
    assert found.falling == ()
    assert found.second_nans == {"float16": 0}


@pytest.mark.parametrize("name", ["silu", "powlu"])
def test_a_reference_by_mpmath_is_that_of_ours(name):
    """Values and derivatives at a few hundred inputs; the built-in reference is SciPy's."""

    def powlu(x):
        return (
            mpmath.power(x, 3 / (mpmath.sqrt(x) + 1)) * silu_of_mpmath(x) / x
            if x > 0
            else silu_of_mpmath(x)
        )

    x = inputs("float16")[::257]
    x = x[np.isfinite(x) & (np.abs(x) > 1e-3)]
    reference = _exact({"silu": silu_of_mpmath, "powlu": powlu}[name])
    value, pullback = jax.vjp(gj.activation(name), jnp.asarray(x))
    (slope,) = pullback(jnp.ones_like(value))
    found = compare(np.asarray(value), np.asarray(slope), x, reference, name, "float16", "ours")
    assert found.keeps_promise, found
    wrong = compare(np.asarray(slope), np.asarray(value), x, reference, name, "float16", "ours")
    assert min(wrong.wrong_values, wrong.wrong_derivatives) > len(x) / 2


def test_where_a_reference_fails_nothing_is_compared():
    x = np.float16([-1.0, 4.0])
    truth = _exact(mpmath.sqrt)
    found = compare(np.float16([7, 2]), np.float16([7, 0.25]), x, truth, "root", "float16", "ours")
    assert found.keeps_promise


@pytest.mark.parametrize("f", [jnp.sum, lambda x: x.astype(jnp.float32), lambda x: x[:1]])
def test_what_is_not_elementwise_is_refused(f):
    with pytest.raises(ValueError, match="must keep shape and dtype"):
        examine(f, "f", dtypes=["float16"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_decorator_gives_memory_and_one_rounding(dtype):
    x = jax.ShapeDtypeStruct((7,), dtype)
    program = jax.make_jaxpr(lambda x: jax.vjp(decorated_silu, x)[1])(x).jaxpr
    assert all(any(kept is v for v in program.invars) for kept in program.outvars)
    x = inputs(dtype)
    x = x[np.isfinite(x.astype(np.float32))]
    value, pullback = jax.vjp(decorated_silu, jnp.asarray(x))
    results = [np.asarray(y) for y in (value, *pullback(jnp.ones_like(value)))]
    found = compare(*results, x, REFERENCES["silu"], "silu", dtype, "yours")
    assert found.nans == 0
    assert found.wrong_values + found.wrong_derivatives < 40


def test_the_decorator_promises_no_exactness():
    assert "correctly rounded" in inspect.getdoc(gj.silu)
    text = inspect.getdoc(decorated_silu)
    assert "correctly rounded" not in text
    assert text.startswith("x·σ(x), as a person would write it.\n\nArgs:")
