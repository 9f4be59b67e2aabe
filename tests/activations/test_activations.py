"""Activations as users meet them: names, help, dtypes, autodiff, what the backward pass keeps."""

import inspect
import pickle
import pydoc
import re
from typing import Literal, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet
from jax.typing import ArrayLike

from gelu_jax.activations import (
    ACTIVATIONS,
    activation,
    celu,
    elu,
    fatrelu,
    gelu,
    leaky_relu,
    prelu,
    xielu,
)
from gelu_jax.numerics.sweep import inputs

pytestmark = pytest.mark.optimized

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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("geul(1)", "activation = 'geul': unknown; did you mean"),
        ("silu(2)", "activation = 'silu(2)': too many positional arguments"),
        ("elu(beta=2)", "activation = 'elu(beta=2)': got an unexpected keyword argument 'beta'"),
        ("elu('a')", "alpha = 'a': must be a finite number"),
        ("elu(x)", "not a name with numbers or strings in parentheses"),
        ("elu(1", "not a name with numbers or strings in parentheses"),
        ("celu(0)", "alpha = 0: must be above 0"),
        ("gelu('erf')", 'approximate = \'erf\': must be False, True, "none" or "tanh"'),
        ("prelu(0.1)", "activation = 'prelu': carries learned parameters"),
    ],
)
def test_wrong_parameters_are_named(name: str, reason: str):
    with pytest.raises(ValueError, match=re.escape(reason)):
        activation(name)


def test_parameters_are_numbers_not_arrays():
    for f in (leaky_relu, elu, celu):
        for value in (float("nan"), True, jnp.ones(3)):
            with pytest.raises(TypeError, match=r"must be a finite number|unhashable"):
                f(1.0, value)


def test_a_name_with_parameters_is_one_function():
    """So that configs that say the same share a program."""
    assert activation("elu(0.5)") is activation("elu(0.5)")
    assert activation("swish()") is activation("silu")
    x = jnp.float16([0.25, 0.75])
    np.testing.assert_array_equal(activation("fatrelu(0.5)")(x), fatrelu(x, 0.5))


@pytest.mark.parametrize("name", [*NAMES, "leaky_relu(0.2)", "gelu('tanh')"])
def test_jet_is_refused_with_a_reason(name: str):
    """Its Taylor coefficients would be those of the bit masks in an equation."""
    f, x, series = activation(name), jnp.float32(0.7), [jnp.ones(()), jnp.zeros(())]
    with pytest.raises(NotImplementedError, match=r"jax.experimental.jet does not call the rules"):
        jet.jet(f, (x,), (series,))


def test_jet_of_a_compiled_function_gives_no_value():
    """What jax itself raises there, another error in each version."""
    for f in (activation("gelu"), activation("silu"), activation("elu")):
        with pytest.raises(Exception, match=r"tracer|rule|primitive"):
            jet.jet(jax.jit(lambda x, f=f: 2 * f(x)), (jnp.float32(0.7),), ([jnp.ones(())],))


@pytest.mark.parametrize("name", ["prelu", "xielu"])
def test_learned_activations_are_never_handed_out_frozen(name: str):
    with pytest.raises(ValueError, match="learned parameters"):
        activation(name)


SIGNATURES = {f: "(x: ArrayLike) -> Array" for f in ACTIVATIONS.values()} | {
    fatrelu: "(x: ArrayLike, threshold: ArrayLike) -> Array",
    gelu: "(x: ArrayLike, approximate: bool | Literal['none', 'tanh'] = False) -> Array",
    leaky_relu: "(x: ArrayLike, negative_slope: float = 0.01) -> Array",
    elu: "(x: ArrayLike, alpha: float = 1.0) -> Array",
    celu: "(x: ArrayLike, alpha: float = 1.0) -> Array",
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
    hints |= {"approximate": bool | Literal["none", "tanh"]} if f is gelu else {}
    hints |= {name: float for name in hints if name in ("negative_slope", "alpha")}
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
