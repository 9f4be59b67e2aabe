"""Activations as users meet them: names, dtypes, limits, autodiff, what the backward pass keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelu_jax.activations import ACTIVATIONS, activation, prelu, xielu

NAMES = sorted(ACTIVATIONS)
FLOATS = ("float32", "bfloat16", "float16")
ALIASES = {
    "identity": ("linear", "none"),
    "relu": ("relu",),
    "relu_squared": ("relu2", "squared_relu", "relu_sq"),
    "gelu": ("gelu_exact", "gelu_erf", "gelu_python"),
    "gelu_tanh": (
        "gelu_new",
        "gelu_accurate",
        "gelu_fast",
        "gelu_pytorch_tanh",
        "gelu_python_tanh",
        "gelu_approx",
    ),
    "gelu_sigmoid": ("quick_gelu",),
    "silu": ("swish",),
    "hard_sigmoid": ("hardsigmoid",),
    "hard_silu": ("hardswish", "hard_swish", "hardsilu"),
    "sqrt_softplus": ("sqrtsoftplus",),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_canonical_name_is_the_name_of_its_function(name: str):
    assert activation(name) is ACTIVATIONS[name]
    assert ACTIVATIONS[name].__name__ == name


@pytest.mark.parametrize(("name", "aliases"), ALIASES.items())
def test_aliases(name: str, aliases: tuple[str, ...]):
    assert {activation(alias) for alias in aliases} == {ACTIVATIONS[name]}


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match=r"activation = 'geul': unknown; did you mean .*gelu"):
        activation("geul")


@pytest.mark.parametrize("name", ["prelu", "xielu"])
def test_learned_activations_are_never_handed_out_frozen(name: str):
    with pytest.raises(ValueError, match="learned parameters"):
        activation(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_backward_pass_keeps_the_input_alone(name: str, dtype: str):
    x = jnp.linspace(-3, 3, 7).astype(dtype)
    kept = jax.tree.leaves(jax.vjp(ACTIVATIONS[name], x)[1])
    assert sum(r.size * r.dtype.itemsize for r in kept) <= x.size * x.dtype.itemsize
    assert all(np.array_equal(r, x) for r in kept)


@pytest.mark.parametrize("name", ["relu", "selu", "gelu", "silu", "mish", "softplus"])
def test_every_way_to_differentiate_agrees(name: str):
    f = ACTIVATIONS[name]
    x = jnp.asarray([-3.0, -0.7, 0.4, 2.0])
    slope = jax.vmap(jax.grad(f))(x)
    np.testing.assert_array_equal(jax.jacfwd(f)(x), jnp.diag(slope))
    np.testing.assert_array_equal(jax.jacrev(f)(x), jnp.diag(slope))
    np.testing.assert_array_equal(jax.grad(lambda x: jax.remat(f)(x).sum())(x), slope)
    bend = jax.vmap(jax.grad(jax.grad(f)))(x)
    np.testing.assert_allclose(jax.hessian(lambda x: f(x).sum())(x), jnp.diag(bend), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_float32_nan_and_limits(name: str):
    value, pull = jax.vjp(ACTIVATIONS[name], jnp.asarray([jnp.nan, -jnp.inf, jnp.inf]))
    slope = pull(jnp.ones_like(value))[0]
    np.testing.assert_array_equal(jnp.isnan(value), [True, False, False])
    np.testing.assert_array_equal(jnp.isnan(slope), [True, False, False])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_other_dtypes_are_refused(name: str, dtype: str):
    with pytest.raises(TypeError, match=f"{name}: expected a floating dtype, got {dtype}"):
        ACTIVATIONS[name](jnp.ones(3, dtype))


def test_prelu_and_xielu_learn():
    x = jnp.linspace(-2, 2, 9)
    assert jax.grad(lambda s: prelu(x, s).sum())(0.25) == x[x < 0].sum()
    dp, dn = jax.grad(lambda p, n: xielu(x, p, n).sum(), argnums=(0, 1))(0.8, 0.8)
    np.testing.assert_allclose(dp, jnp.square(x[x > 0]).sum(), rtol=1e-6)
    np.testing.assert_allclose(dn, (jnp.expm1(x[x <= 0]) - x[x <= 0]).sum(), rtol=1e-5)
