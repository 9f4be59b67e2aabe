"""Activations as users meet them: names, help, dtypes, autodiff, what the backward pass keeps."""

import inspect
import pickle
import pydoc
from typing import get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import ArrayLike

from gelu_jax.activations import ACTIVATIONS, activation, fatrelu, prelu, xielu
from gelu_jax.numerics.sweep import inputs

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


SIGNATURES = {f: "(x: ArrayLike) -> Array" for f in ACTIVATIONS.values()} | {
    fatrelu: "(x: ArrayLike, threshold: ArrayLike) -> Array",
    prelu: "(x: ArrayLike, slope: ArrayLike = 0.25) -> Array",
    xielu: "(x: ArrayLike, alpha_p: ArrayLike = 0.8, alpha_n: ArrayLike = 0.8, "
    "beta: ArrayLike = 0.5, below: ArrayLike = -1e-06) -> Array",
}


@pytest.mark.parametrize("f", SIGNATURES, ids=lambda f: f.__name__)
def test_help_shows_what_a_user_needs(f):
    signature = inspect.signature(f)
    assert str(signature) == SIGNATURES[f]
    assert f"\n{f.__name__}{signature}\n" in pydoc.plain(pydoc.render_doc(f))
    hints = {name: ArrayLike for name in signature.parameters} | {"return": jax.Array}
    assert get_type_hints(f) == hints
    lines = inspect.getdoc(f).splitlines()
    headings = [line for line in lines if line in ("Args:", "Returns:", "Raises:", "Examples:")]
    assert headings == ["Args:", "Returns:", "Raises:", "Examples:"]
    for name in signature.parameters:
        assert any(line.startswith(f"  {name}: ") for line in lines), name


@pytest.mark.parametrize("name", NAMES)
def test_an_activation_is_found_under_its_own_name(name: str):
    f = ACTIVATIONS[name]
    assert pickle.loads(pickle.dumps(f)) is f
    assert f"def {name}(" in inspect.getsource(f)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_the_backward_pass_keeps_the_input_alone(name: str, dtype: str):
    x = jax.ShapeDtypeStruct((7,), dtype)
    program = jax.make_jaxpr(lambda x: jax.vjp(ACTIVATIONS[name], x)[1])(x).jaxpr
    assert all(any(kept is v for v in program.invars) for kept in program.outvars)


@pytest.mark.parametrize("name", ["relu", "selu", "gelu", "silu", "mish", "softplus"])
def test_every_way_to_differentiate_agrees(name: str):
    f = ACTIVATIONS[name]

    @jax.jit
    def slopes(x: jax.Array) -> list[jax.Array]:
        rematerialized = jax.grad(lambda x: jax.remat(f)(x).sum())(x)
        return [rematerialized, jnp.diag(jax.jacfwd(f)(x)), jnp.diag(jax.jacrev(f)(x))]

    @jax.jit
    def bends(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.diag(jax.vmap(jax.grad(jax.grad(f)))(x)), jax.hessian(lambda x: f(x).sum())(x)

    x = jnp.asarray([-3.0, -0.7, 0.4, 2.0])
    # of float16 every bit is promised, compiled or not
    half = x.astype(jnp.float16)
    uncompiled = jax.vjp(f, half)[1](jnp.ones_like(half))[0]
    for slope in slopes(half):
        np.testing.assert_array_equal(slope, uncompiled)
    np.testing.assert_allclose(*bends(x), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_other_dtypes_are_refused(name: str, dtype: str):
    with pytest.raises(TypeError, match=f"{name}: expected a floating dtype, got {dtype}"):
        ACTIVATIONS[name](jnp.ones(3, dtype))


def test_a_threshold_is_never_guessed():
    with pytest.raises(ValueError, match="has a threshold"):
        activation("fatrelu")


@np.errstate(invalid="ignore")  # ml_dtypes warns of NaN in bfloat16
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fatrelu_is_exact_at_every_input_and_threshold(dtype: str):
    x = inputs(dtype)
    single = x.astype(np.float32)
    compute = jax.jit(lambda x, t: jax.vjp(lambda x: fatrelu(x, t), x))
    for threshold in np.float32([0.01, 0.03, 0.5, 2.0**-20, 300.0]):
        kept = ~(single < threshold)  # NaN is kept
        value, pullback = compute(x, threshold)
        np.testing.assert_array_equal(value.astype(np.float32), np.where(kept, single, 0))
        (slope,) = pullback(jnp.ones_like(value))
        np.testing.assert_array_equal(slope.astype(np.float32), kept)
    assert fatrelu(jnp.float32(0.5), 0.5) == 0.5
    assert jax.grad(fatrelu, 1)(jnp.float32(0.7), 0.5) == 0


def test_prelu_and_xielu_learn():
    x = jnp.linspace(-2, 2, 9)
    by_slope = jax.jit(jax.grad(lambda s: prelu(x, s).sum()))
    assert by_slope(0.25) == x[x < 0].sum()
    by_alphas = jax.jit(jax.grad(lambda p, n: xielu(x, p, n).sum(), argnums=(0, 1)))
    dp, dn = by_alphas(0.8, 0.8)
    np.testing.assert_allclose(dp, jnp.square(x[x > 0]).sum(), rtol=1e-6)
    np.testing.assert_allclose(dn, (jnp.expm1(x[x <= 0]) - x[x <= 0]).sum(), rtol=1e-5)
