"""The feed-forward equation and its choices, against float64 and against each other."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.experimental import jet
from random_models import random_arrays, random_model
from scipy.special import erf, expit

import gelu_jax as gj
from gelu_jax.nn.branches import XIELU
from gelu_jax.nn.feed_forward import HiddenLayer, branch_product, choice_problems
from gelu_jax.nn.remat import dequantize, quantize
from gelu_jax.nn.vision_language import Projector
from gelu_jax.training.flops import products

CHOICES = {
    "preactivation": {},
    "input": {"residuals": "input"},
    "all": {"residuals": "all"},
    "fp8": {"residual_dtype": "float8_e4m3fn"},
    "bf16": {"residual_dtype": "bfloat16"},
}
EXACT = ["preactivation", "input", "all"]


def weights(variant, d=16, f=48, e=16, *, dtype=jnp.float32, seed=0):
    n = len(gj.branches(variant))
    shapes = [(d, f)] * n + [(f,)] * n + [(f, e), (e,)]
    drawn = [(a / a.shape[0] ** 0.5).astype(dtype) for a in random_arrays(*shapes, seed=seed)]
    w_in, b_in, (w_out, b_out) = drawn[:n], drawn[n:-2], drawn[-2:]
    return {"w_in": w_in, "w_out": w_out, "b_in": b_in, "b_out": b_out}


def tokens(*lead, d=16, dtype=jnp.float32, seed=9):
    return random_arrays((*lead, d), seed=seed)[0].astype(dtype)


def gradients(x, params, choices, **shared):
    """By x and by the parameters, for each choice, in one program."""

    def loss(x, params, choice):
        y = gj.feed_forward(x, **params, **shared, **choice)
        return jnp.sum(jnp.sin(jnp.arange(y.size).reshape(y.shape)) * y.astype(jnp.float32))

    @jax.jit
    def every(x, params):
        return [jax.grad(partial(loss, choice=choice), (0, 1))(x, params) for choice in choices]

    return every(x, params)


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def cosine(a, b):
    a, b = flat(a), flat(b)
    return a @ b / np.sqrt((a @ a) * (b @ b))


NUMPY = {
    "relu": [lambda p: np.maximum(p, 0)],
    "gelu": [lambda p: p * (1 + erf(p / 2**0.5)) / 2],
    "glu": [expit, lambda p: p],
    "reglu": [lambda p: np.maximum(p, 0), lambda p: p],
    "geglu": [lambda p: p * (1 + erf(p / 2**0.5)) / 2, lambda p: p],
    "swiglu": [lambda p: p * expit(p), lambda p: p],
    "bilinear": [lambda p: p, lambda p: p],
}


@pytest.mark.parametrize("variant", sorted(NUMPY))
def test_is_the_equation(variant):
    x, w = tokens(7), weights(variant)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), w)
    h = np.prod(
        [
            phi(np.asarray(x, np.float64) @ k + b)
            for phi, k, b in zip(NUMPY[variant], wide["w_in"], wide["b_in"], strict=True)
        ],
        axis=0,
    )
    want = h @ wide["w_out"] + wide["b_out"]
    got = jax.jit(lambda x, w: gj.feed_forward(x, **w, variant=variant))(x, w)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("variant", ["gelu", "swiglu_gpt_oss", ("relu", "tanh", "gelu")])
def test_choices_agree_in_value(variant):
    x, w, key = tokens(5, 3), weights(variant), jax.random.key(1)
    run = partial(gj.feed_forward, variant=variant, dropout_rate=0.3, dropout_key=key)
    values = jax.jit(lambda x, w: {c: run(x, **w, **CHOICES[c]) for c in CHOICES})(x, w)
    for value in values.values():
        np.testing.assert_array_equal(value, values["all"])


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        ("gelu", jnp.float32),
        ("swiglu_gpt_oss", jnp.bfloat16),
        (("relu", "tanh", "gelu"), jnp.float32),
    ],
)
def test_exact_choices_agree_in_gradient(variant, dtype):
    x, w = tokens(5, 3, dtype=dtype), weights(variant, dtype=dtype)
    extra = {"variant": variant, "dropout_rate": 0.3, "dropout_key": jax.random.key(1)}
    want, *found = map(flat, gradients(x, w, [CHOICES[c] for c in reversed(EXACT)], **extra))
    for got in found:
        # fused differently: a few roundings of the compute dtype
        tolerance = {jnp.float32: 2e-6, jnp.bfloat16: 2e-2}[dtype]
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("learned", [False, True], ids=["swiglu", "tanh · xielu"])
def test_forward_mode_and_second_derivatives(learned):
    x, dx = tokens(3, d=4), tokens(3, d=4, seed=1)
    w = weights("swiglu", 4, 6, 4)
    phis = ("tanh", XIELU()) if learned else "swiglu"

    @jax.jit
    def derivatives(x, dx):
        def every(**choice):
            f = partial(gj.feed_forward, **w, variant=phis, **choice)

            def square(x):
                return jnp.square(f(x)).sum()

            return (
                jax.jvp(f, (x,), (dx,))[1],
                jax.jvp(jax.grad(square), (x,), (dx,))[1],
                jax.grad(lambda x: jnp.vdot(jax.grad(square)(x), dx))(x),
            )

        return {choice: every(**CHOICES[choice]) for choice in EXACT}

    found = derivatives(x, dx)
    for choice in EXACT:
        np.testing.assert_allclose(flat(found[choice]), flat(found["all"]), rtol=1e-4, atol=1e-4)
    push, forward_over_reverse, reverse_over_reverse = found["all"]
    np.testing.assert_allclose(forward_over_reverse, reverse_over_reverse, rtol=1e-4, atol=1e-4)
    step = 1e-2
    f = partial(gj.feed_forward, **w, variant=phis)
    np.testing.assert_allclose(
        push, (f(x + step * dx) - f(x - step * dx)) / (2 * step), rtol=2e-2, atol=2e-2
    )


def test_forward_mode_of_float8_residuals_is_that_of_its_reverse_mode():
    w, dx, dy = weights("swiglu"), tokens(6, seed=1), tokens(6, seed=2)
    f = partial(gj.feed_forward, **w, variant="swiglu", **CHOICES["fp8"])

    @jax.jit
    def both(x):
        y, pushed = jax.jvp(f, (x,), (dx,))
        _, pull = jax.vjp(f, x)
        return y, f(x), jnp.vdot(pushed, dy), jnp.vdot(dx, pull(dy)[0])

    y, plain, forward, reverse = both(tokens(6))
    np.testing.assert_allclose(forward, reverse, rtol=1e-5)
    np.testing.assert_array_equal(y, plain)


# The relative distance to the exact Hessian: twice what was measured and more. Where the stored
# copy is not differentiated, it is about 1.
HESSIANS = {"float16": 5e-4, "bfloat16": 4e-3, "float8_e4m3fn": 2e-2, "float8_e5m2": 6e-2}


@pytest.mark.parametrize(("variant", "dtypes"), [("swiglu", HESSIANS), ("gelu", ["bfloat16"])])
def test_second_derivatives_are_taken_through_what_is_stored(variant, dtypes):
    x, w = tokens(4, d=8), weights(variant, 8, 64, 8)

    def loss(x, dtype):
        y = gj.feed_forward(x, **w, variant=variant, residual_dtype=dtype)
        return y.sum() + jnp.square(y).sum()

    @jax.jit
    def hessians(x):
        in_reverse = jax.jacrev(jax.grad(loss))(x, "bfloat16")
        stored = {dtype: jax.hessian(loss)(x, dtype) for dtype in dtypes}
        return jax.hessian(loss)(x, None), stored | {"reverse": in_reverse}

    exact, found = hessians(x)
    for dtype, rough in found.items():
        distance = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
        tolerance = HESSIANS["bfloat16" if dtype == "reverse" else dtype]
        assert 0 < distance <= tolerance, (dtype, distance)


@pytest.mark.parametrize("choice", ["preactivation", "input", "fp8"])
def test_vmap_is_a_loop(choice):
    x = tokens(4, 5)
    keys = jax.random.split(jax.random.key(0), 4)
    w = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(weights("swiglu", seed=i) for i in range(4))
    )

    def loss(x, w, key):
        y = gj.feed_forward(x, **w, dropout_rate=0.2, dropout_key=key, **CHOICES[choice])
        return jnp.square(y).sum()

    grad = jax.grad(loss, (0, 1))

    @jax.jit
    def both(x, w, keys):
        return jax.vmap(grad)(x, w, keys), jax.lax.map(lambda args: grad(*args), (x, w, keys))

    together, one_by_one = both(x, w, keys)
    assert cosine(together, one_by_one) >= 1 - 1e-6


@pytest.mark.parametrize(
    "variant", ["relu", "gelu", "relu_squared", "mish", "swiglu", "geglu", "reglu", "bilinear"]
)
def test_float8_residuals_keep_the_gradient(variant):
    # measured in float32: 1 − cosine 0.8e-4 (gelu) to 2.4e-4 (relu_squared); the promise is 1e-3
    for dtype in (jnp.float32, jnp.bfloat16)[: 1 + (variant == "swiglu")]:
        x, w = tokens(64, d=128, dtype=dtype), weights(variant, 128, 512, 128, dtype=dtype)
        exact, rough = gradients(x, w, [{}, CHOICES["fp8"]], variant=variant)
        for a, b in zip(jax.tree.leaves(rough), jax.tree.leaves(exact), strict=True):
            assert cosine(a, b) >= 0.999


def test_float8_residuals_keep_the_gradient_of_trained_weights():
    x = tokens(256, d=32, seed=3)
    teacher = weights("gelu", 32, 64, 32, seed=4)
    target = 3 * gj.feed_forward(x, **teacher, variant="gelu")
    w = weights("swiglu", 32, 96, 32, seed=5)

    def loss(w, **choice):
        return jnp.square(gj.feed_forward(x, **w, variant="swiglu", **choice) - target).mean()

    def step(w, _):
        return jax.tree.map(lambda p, g: p - 0.3 * g, w, jax.grad(loss)(w)), None

    @jax.jit
    def train(w):
        trained, _ = jax.lax.scan(step, w, length=200)
        last, exact = jax.value_and_grad(loss)(trained)
        return loss(w), last, exact, jax.grad(partial(loss, **CHOICES["fp8"]))(trained)

    first, last, exact, rough = train(w)
    assert last < first / 10
    # measured 0.99923. The less is left of the gradient, the more of it is rounding: after 400
    # steps on these 256 tokens, where the loss has fallen 30 times, 0.9984.
    assert cosine(rough, exact) >= 0.999


@given(arrays(np.float32, 9, elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@settings(max_examples=200)
def test_stored_values_are_near_and_keep_their_signs(p):
    p[np.abs(p) < 2.0**-100] = 0  # the CPU flushes subnormal numbers
    stored = quantize(jnp.asarray(p), jnp.float8_e4m3fn)
    back = np.asarray(dequantize(stored, "float8_e4m3fn", "float32"))
    # 2⁻⁵ of each entry, or, where squares are below e4m3's least, 2⁻⁸·⁵ of the token's greatest
    assert np.all(np.abs(back - p) <= np.abs(p) * 2**-4.9 + np.abs(p).max() * 2**-8.4)
    np.testing.assert_array_equal(np.sign(back), np.sign(p))


@pytest.mark.parametrize(
    ("chunk_size", "residuals", "lead"),
    [
        (1, "input", (12,)),
        (4, "preactivation", (2, 12)),
        (5, "input", (2, 3, 12)),
        (64, "input", (12,)),
    ],
)
def test_chunks_change_nothing(chunk_size, residuals, lead):
    x, w = tokens(*lead), weights("swiglu")
    weight = tokens(*lead, seed=1)

    def loss(x, w, **choice):
        y = gj.feed_forward(x, **w, residuals=residuals, **choice)
        return jnp.sum(weight * y), y

    @jax.jit
    def both(x, w):
        grad = partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
        return grad(loss)(x, w), grad(partial(loss, chunk_size=chunk_size))(x, w)

    ((_, whole), wanted), ((_, chunked), got) = both(x, w)
    np.testing.assert_allclose(chunked, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat(got), flat(wanted), atol=2e-5)


@pytest.mark.parametrize(("t", "size", "padded"), [(64, 1024, 64), (1100, 1024, 1100), (13, 5, 15)])
def test_chunks_compute_little_that_is_padding(t, size, padded):
    """A chunk is no longer than the sequence, and the last is about as long as the others."""
    w = weights("swiglu")
    x = jax.ShapeDtypeStruct((2, t, w["w_out"].shape[1]), jnp.float32)
    chunked, whole = (
        sum(p.flops for p in products(lambda x, c=c: gj.feed_forward(x, **w, **c), x))
        for c in ({"chunk_size": size}, {})
    )
    assert chunked * t == whole * padded


def test_bf16_gradients_of_many_chunks_do_not_drift():
    x, w = tokens(4096, dtype=jnp.bfloat16), weights("swiglu", dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (x, w))
    (want,) = gradients(*wide, [{}])
    whole, chunked = gradients(x, w, [{}, {"chunk_size": 16}])
    assert cosine(chunked, want) >= cosine(whole, want) - 1e-6
    gap = np.linalg.norm(flat(chunked) - flat(want)) / np.linalg.norm(flat(whole) - flat(want))
    assert gap <= 1.1  # summed in bfloat16 it would be 4.2


def test_each_chunk_drops_its_own():
    x, w = jnp.ones((8, 16)), weights("gelu")
    y = gj.feed_forward(
        x, **w, variant="gelu", dropout_rate=0.5, dropout_key=jax.random.key(0), chunk_size=2
    )
    assert len(np.unique(np.asarray(y), axis=0)) == 8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_hf_rounds_the_gate_and_then_the_product(dtype):
    narrow = ml_dtypes.bfloat16 if dtype == jnp.bfloat16 else np.float16
    with np.errstate(over="ignore"):
        gate = np.linspace(-9, 9, 4096).astype(narrow)
        up = np.random.default_rng(0).normal(size=4096).astype(narrow)
    # each entry alone in a (1, 1) product with a kernel of 1: the pre-activations are the inputs
    x = jnp.stack([jnp.asarray(gate), jnp.asarray(up)], -1)
    w_in = [jnp.array([[1.0], [0.0]], dtype), jnp.array([[0.0], [1.0]], dtype)]
    act = np.asarray(gj.silu(jnp.asarray(gate)))
    hf = (act.astype(np.float32) * up.astype(np.float32)).astype(narrow)
    wide = np.asarray(gj.silu(jnp.asarray(gate, jnp.float32)))
    once = (wide * up.astype(np.float32)).astype(narrow)

    def run(rounding):
        h = jax.jit(partial(branch_product, variant="swiglu", rounding=rounding))
        return np.asarray(h(x, w_in))[:, 0].astype(narrow)

    np.testing.assert_array_equal(run("hf"), hf)
    np.testing.assert_array_equal(run("once"), once)
    assert 100 < np.sum(hf != once) < 2000  # the two orders differ, by one rounding


@pytest.mark.parametrize(
    "choice",
    [
        {"residuals": "input", "use_bias": True},
        {"residual_dtype": "float8_e4m3fn", "chunk_size": 2},
        {"rounding": "hf", "dtype": "bfloat16"},
    ],
)
def test_the_choices_reach_the_module(choice):
    x = tokens(6, d=8)
    config = gj.FeedForwardConfig(8, 24, ("xielu", "identity"), **choice)
    ffn = gj.FeedForward(config, rngs=nnx.Rngs(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(ffn))) == config.num_parameters
    y, grads = jax.jit(jax.value_and_grad(lambda ffn: jnp.square(ffn(x)).sum()))(ffn)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    plain = gj.FeedForward(
        gj.FeedForwardConfig(8, 24, ("xielu", "identity"), use_bias=config.use_bias),
        rngs=nnx.Rngs(0),
    )
    tolerance = 2e-2 if config.dtype == "bfloat16" else 1e-6
    np.testing.assert_allclose(y, jnp.square(plain(x)).sum(), rtol=tolerance)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"chunk_size": 0}, "chunk_size = 0: must be above 0"),
        ({"residual_dtype": "float8_e4m3"}, "'float8_e4m3': unknown; did you mean float8_e4m3fn"),
        ({"residual_dtype": "bfloat16", "residuals": "input"}, "stores no pre-activations"),
        ({"variant": "swigle"}, "did you mean swiglu"),
    ],
)  # fmt: skip
def test_bad_choices_are_named(choice, message):
    with pytest.raises(gj.ConfigError, match=r"^\w+ = ") as error:
        gj.FeedForwardConfig(8, 16, **choice)
    assert message in str(error.value)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        gj.feed_forward(tokens(2), **weights("swiglu"), **choice)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("residuals", "rounding", "message"),
    [
        ("preactivations", "once", "'preactivations': unknown; did you mean preactivation?"),
        ("all", "HF", "rounding = 'HF': unknown"),
    ],
)
def test_bad_names_are_named(residuals, rounding, message):
    """Under these tests beartype refuses them at the door; a user meets this check."""
    (problem,) = choice_problems(residuals, None, None, rounding)
    assert message in str(problem)


def test_an_output_width_of_its_own():
    config = gj.FeedForwardConfig(8, 24, "swiglu", use_bias=True, d_out=5)
    ffn, x = random_model(gj.FeedForward, config), tokens(3, d=8)
    assert config.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(ffn))
    cost = gj.cost(config)
    assert cost.flops_forward == 2 * (2 * 8 * 24 + 24 * 5)
    assert cost.flops_backward == 2 * cost.flops_forward
    h = HiddenLayer.__call__(ffn, x)
    assert h.shape == (3, 24)
    np.testing.assert_allclose(ffn(x), h @ ffn.w_out[...] + ffn.b_out[...], rtol=1e-6, atol=1e-6)
    with pytest.raises(gj.ConfigError, match="d_out = 0: must be above 0"):
        gj.FeedForwardConfig(8, 24, d_out=0)


def test_what_is_drawn_first():
    """A block's output, so that variants share it; a projector's branches, as its models began."""
    config = gj.FeedForwardConfig(4, 6, "swiglu", d_out=6)

    def drawn(*shapes):
        rngs = nnx.Rngs(0)
        return [jax.random.normal(rngs.params(), s) * s[0] ** -0.5 for s in shapes]

    block, projector = (m(config, rngs=nnx.Rngs(0)) for m in (gj.FeedForward, Projector))
    for found, want in (
        ([block.w_out, *block.w_in], drawn((6, 6), (4, 6), (4, 6))),
        ([*projector.w_in, projector.w_out], drawn((4, 6), (4, 6), (6, 6))),
    ):
        for param, values in zip(found, want, strict=True):
            np.testing.assert_array_equal(param[...], values)


def test_one_kernel_too_few_is_named():
    w = weights("gelu")
    with pytest.raises(ValueError, match="w_in = 1 kernels: variant 'swiglu' has 2 branches"):
        gj.feed_forward(tokens(2), **w, variant="swiglu")


def test_a_learned_branch_without_its_module_is_named():
    with pytest.raises(ValueError, match="a branch has parameters"):
        gj.feed_forward(tokens(2), **weights("prelu"), variant="prelu")


def test_does_not_compile_twice():
    config = gj.FeedForwardConfig(16, 32, "swiglu", residual_dtype="float8_e4m3fn", chunk_size=4)
    ffn = gj.FeedForward(config, rngs=nnx.Rngs(0))
    traces = []

    @jax.jit
    def run(ffn, x):
        traces.append(1)
        return ffn(x)

    run(ffn, tokens(8))
    run(ffn, tokens(8, seed=1))
    assert len(traces) == 1


def fan(key, shape, dtype):
    """An initializer that shows the shape it was given: inputs + outputs/1000."""
    del key
    return jnp.full(shape, shape[0] + shape[1] / 1000, dtype)


def test_initializers_of_flax_and_jax_see_inputs_and_outputs():
    start = {"kernel_init": fan, "bias_init": nnx.initializers.constant(2.0), "use_bias": True}
    config = gj.FeedForwardConfig(4, 8, "swiglu", d_out=3, **start, output_init_scale=0.5)
    ffn = gj.FeedForward(config, rngs=nnx.Rngs(0))
    for kernel in ffn.w_in:
        np.testing.assert_allclose(kernel[...], 4.008)
    np.testing.assert_allclose(ffn.w_out[...], 8.003 / 2)
    for bias in (*ffn.b_in, ffn.b_out):
        np.testing.assert_array_equal(bias[...], 2)
    heads = gj.AttentionConfig(6, num_heads=3, num_kv_heads=1, head_dim=4, **start)
    attn = gj.Attention(heads, rngs=nnx.Rngs(0))
    assert attn.w_query.shape == (6, 3, 4)
    np.testing.assert_allclose(attn.w_query[...], 6.012)
    np.testing.assert_allclose(attn.w_key[...], 6.004)
    np.testing.assert_allclose(attn.w_out[...], 12.006)
    np.testing.assert_array_equal(attn.b_key[...], 2)
    with pytest.raises(
        gj.ConfigError, match=r"init_std = 0\.1: kernel_init has the kernels' scale"
    ):
        gj.FeedForwardConfig(4, 8, kernel_init=fan, init_std=0.1)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("residuals", EXACT)
def test_dot_general_takes_the_place_of_jaxs(residuals, chunk_size):
    """A recipe in miniature: products of weights rounded to bfloat16, forward and backward."""
    x, w = tokens(5), weights("swiglu")
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), w)
    rounded["b_in"], rounded["b_out"] = w["b_in"], w["b_out"]

    def dot_general(left, right, dimensions, *, precision):
        assert precision == "high"
        right = jax.lax.reduce_precision(right, exponent_bits=8, mantissa_bits=7)
        return jax.lax.dot_general(left, right, dimensions, precision=precision)

    choices = {"residuals": residuals, "chunk_size": chunk_size, "precision": "high"}

    @jax.jit
    def both(x):
        def loss(x, w, **extra):
            return jnp.sin(gj.feed_forward(x, **w, **choices, **extra)).sum()

        run = jax.value_and_grad(loss)
        return run(x, w, dot_general=dot_general), run(x, rounded)

    found, expected = both(x)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("precision", ["default", "high", "highest"])
def test_precision_reaches_every_product(precision):
    config = gj.FeedForwardConfig(4, 8, "swiglu", precision=precision)
    block = nnx.eval_shape(lambda: gj.FeedForward(config, rngs=nnx.Rngs(0)))
    printed = str(jax.make_jaxpr(lambda m, x: m(x))(block, jnp.ones((2, 4))))
    named = f"Precision.{precision.upper()}"
    assert printed.count(f"precision=({named}, {named})") == 3
    with pytest.raises(gj.ConfigError, match="precision = 'best': unknown; did you mean highest"):
        gj.FeedForwardConfig(4, 8, precision="best")


def normed64(x, ffn, kind, epsilon):
    """The block with a norm of the hidden layer, in float64."""
    gate, up, out = (np.float64(w[...]) for w in (*ffn.w_in, ffn.w_out))
    h = np.maximum(x @ gate, 0) ** 2 * (x @ up)
    centered = h - h.mean(-1, keepdims=True) if kind == "layer" else h
    scale = np.float64(ffn.hidden_norm.scale[...])
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * scale @ out


@pytest.mark.parametrize(
    ("kind", "choice"),
    [
        ("rms", {}),
        ("layer", {"residuals": "input", "chunk_size": 2}),
        ("rms", {"residuals": "all"}),
    ],
)
def test_the_hidden_layer_is_normed(kind, choice):
    config = gj.FeedForwardConfig(
        8, 24, "reglu_squared", hidden_norm=kind, hidden_norm_epsilon=1e-3, **choice
    )
    ffn, x = random_model(gj.FeedForward, config), tokens(5, d=8)
    leaves = jax.tree.leaves(nnx.state(ffn))
    assert sum(leaf.size for leaf in leaves) == config.num_parameters == 3 * 8 * 24 + 24
    assert gj.cost(config).bytes_kept == gj.cost(replace(config, hidden_norm=None)).bytes_kept
    y, grads = jax.jit(jax.value_and_grad(lambda ffn: (ffn(x) ** 2).sum()))(ffn)
    want = normed64(np.float64(x), ffn, kind, 1e-3)
    np.testing.assert_allclose(ffn(x), want, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(y, (want**2).sum(), rtol=2e-5)
    step, along = 1e-3, jnp.ones(24)
    scale = ffn.hidden_norm.scale
    moved = []
    for sign in (1, -1):
        scale[...] += sign * step * along
        moved.append((normed64(np.float64(x), ffn, kind, 1e-3) ** 2).sum())
        scale[...] -= sign * step * along
    slope = (moved[0] - moved[1]) / (2 * step)
    np.testing.assert_allclose(grads.hidden_norm.scale[...].sum(), slope, rtol=1e-3)
    tree = {"params": nnx.to_pure_dict(nnx.state(ffn))}
    np.testing.assert_allclose(gj.linen.FeedForward(config).apply(tree, x), ffn(x), rtol=1e-6)


def test_the_norm_is_off_unless_asked_for():
    assert gj.FeedForward(gj.FeedForwardConfig(8, 24), rngs=nnx.Rngs(0)).hidden_norm is None
    with pytest.raises(gj.ConfigError, match="hidden_norm_epsilon = 0: must be above 0"):
        gj.FeedForwardConfig(8, 24, hidden_norm_epsilon=0)


@pytest.mark.parametrize("residuals", ["preactivation", "input", "all"])
def test_jet_is_refused_and_nested_jvp_is_right(residuals):
    """Taylor coefficients of a block along a line, beside those of jax's own functions by jet."""
    config = gj.FeedForwardConfig(4, 8, "swiglu", residuals=residuals)
    block = random_model(gj.FeedForward, config)
    x, v = random_arrays((2, 4), (2, 4))
    with pytest.raises(NotImplementedError, match=r"feed_forward: jax.experimental.jet"):
        jet.jet(block, (x,), ([v, jnp.zeros_like(v)],))
    with pytest.raises(Exception, match=r"remat|barrier|checkpoint|racer|rule"):
        jet.jet(jax.jit(lambda x: block(x)), (x,), ([v, jnp.zeros_like(v)],))

    def theirs(x):
        gate, up = x @ block.w_in_0[...], x @ block.w_in_1[...]
        return (gate / (1 + jnp.exp(-gate)) * up) @ block.w_out[...]

    def nested(t):
        return block(x + t * v)

    zero, one = jnp.zeros(()), jnp.ones(())
    found = []
    for _ in range(3):
        found.append(jax.jit(nested)(zero))
        nested = lambda t, f=nested: jax.jvp(f, (t,), (one,))[1]  # noqa: E731
    y, series = jet.jet(theirs, (x,), ([v, jnp.zeros_like(v)],))
    for ours, expected in zip(found, [y, *series], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-5)
