"""What holds for everything public: one literal table of functions and one of modules."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gelu_jax as gj

MODULES = {
    "FeedForward": gj.FeedForwardConfig(8, d_ff=16, variant="swiglu", use_bias=True),
    "MoE": gj.MoEConfig(
        gj.FeedForwardConfig(8, d_ff=16, variant="swiglu", use_bias=True),
        num_experts=3,
        experts_per_token=2,
        router=gj.TopKSoftmaxRouterConfig(),
        shared=gj.FeedForwardConfig(8, d_ff=8, variant="gelu"),
        shared_gate=True,
    ),
    "Norm": gj.NormConfig(8, use_bias=True),
    "Attention": gj.AttentionConfig(8, num_heads=4, num_kv_heads=2, rotary=gj.RotaryConfig()),
    "Block": gj.BlockConfig(
        gj.NormConfig(8), gj.AttentionConfig(8, num_heads=2), gj.FeedForwardConfig(8, d_ff=16)
    ),
    "Transformer": gj.TransformerConfig(
        vocab_size=11,
        num_layers=2,
        block=gj.BlockConfig(
            gj.NormConfig(8, kind="rms"),
            gj.AttentionConfig(8, num_heads=2),
            gj.FeedForwardConfig(8, d_ff=16, variant="geglu"),
        ),
        max_positions=8,
    ),
    "MLP": gj.MLPConfig(d_in=8, num_classes=3, num_layers=2, d_ff=16),
}


def example(name):
    shape = (2, 8) if name == "MLP" else (2, 5, 8)
    if name == "Transformer":
        return jax.random.randint(jax.random.key(1), (2, 5), 0, 11)
    return jax.random.normal(jax.random.key(1), shape)


@pytest.fixture(params=MODULES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return made(name, MODULES[name])


@pytest.fixture(scope="module")
def eager(name, model):
    return model(example(name))


@pytest.fixture(scope="module")
def transformed(name, model):
    """The outputs of one program that calls the module in every way."""

    @jax.jit
    def every_way(model, x):
        twice = jnp.stack([x, x])
        return {
            "jit": [model(x)],
            "vmap": jax.vmap(lambda x: model(x))(twice),
            "scan": jax.lax.scan(lambda _, x: (None, model(x)), None, twice)[1],
            "remat": [jax.checkpoint(lambda model, x: model(x))(model, x)],
        }

    return every_way(model, example(name))


@pytest.fixture(scope="module")
def gradients(name, model, eager):
    """Of a random sum of the outputs, plain and under `jax.checkpoint`."""
    x, weight = example(name), jax.random.normal(jax.random.key(2), eager.shape)

    def loss(model):
        return jnp.vdot(weight, model(x))

    return jax.jit(lambda m: (jax.grad(loss)(m), jax.grad(jax.checkpoint(loss))(m)))(model)


def made(name, config, seed=0):
    return getattr(gj, name)(config, rngs=nnx.Rngs(seed))


def test_every_module_is_in_the_table():
    modules = {n for n in gj.__all__ if isinstance(getattr(gj, n), type)
               and issubclass(getattr(gj, n), nnx.Module)}  # fmt: skip
    in_linen = {n for n, v in vars(gj.linen).items() if getattr(v, "nnx_class", None)}
    assert modules == set(MODULES) == in_linen


def test_linen_equals_nnx_from_transplanted_parameters(name, model, eager):
    x = example(name)
    linen = getattr(gj.linen, name)(MODULES[name])
    params = nnx.to_pure_dict(nnx.state(model))
    initial = jax.eval_shape(linen.init, jax.random.key(0), x)["params"]
    chex.assert_trees_all_equal_structs(initial, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(initial, params)
    np.testing.assert_array_equal(linen.apply({"params": params}, x), eager)


@pytest.mark.parametrize("way", ["jit", "vmap", "scan", "remat"])
def test_transformed_equals_eager(transformed, eager, way):
    for y in transformed[way]:
        np.testing.assert_allclose(y, eager, atol=2e-6)  # measured: 7e-7


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_parameters_keep_their_dtype_and_outputs_take_the_compute_dtype(name, dtype):
    model = jax.eval_shape(lambda: made(name, _with_dtype(MODULES[name], dtype)))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model)} == {"float32"}
    # logits are float32, and a block's stream keeps the dtype of its input
    expected = "float32" if name in ("Transformer", "MLP", "Block") else dtype
    assert jax.eval_shape(lambda model, x: model(x), model, example(name)).dtype == expected


def _with_dtype(config, dtype):
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "dtype":
            changes["dtype"] = dtype
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _with_dtype(value, dtype)
    return dataclasses.replace(config, **changes)


def test_gradients_are_finite_and_reach_every_parameter(gradients):
    gradient, _ = gradients
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.abs(leaf).max() > 0, path


def test_one_trace_serves_every_call(name):
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda model, x: model(x), n=1))
    for seed in range(3):
        traced.trace(made(name, MODULES[name], seed), example(name))


def test_gradient_under_remat_is_the_same(gradients):
    plain, remat = gradients
    chex.assert_trees_all_close(plain, remat, atol=1e-4, rtol=1e-4)


def test_the_library_section_of_the_main_job_runs_as_written():
    x = jnp.ones((2, 16))
    for function in (gj.gelu, gj.gelu_tanh, gj.silu, gj.relu):
        assert function(x).shape == x.shape
    assert gj.activation("gelu_new") is gj.gelu_tanh
    with pytest.raises(ValueError, match=r"did you mean.*gelu"):
        gj.activation("geluu")
    assert gj.ACTIVATIONS["silu"] is gj.silu
    for table in (gj.ACTIVATIONS, gj.VARIANTS):
        with pytest.raises(TypeError):
            table["mine"] = gj.relu
    names = ["relu", "gelu", "silu", "relu_squared", "glu", "reglu", "geglu", "swiglu", "bilinear"]
    assert [len(gj.VARIANTS[name]) for name in names] == [1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert gj.matched_width(2048, "swiglu", multiple_of=8) == 1368
    w, w_out = jnp.ones((16, 24)), jnp.ones((24, 16))
    assert gj.feed_forward(x, (w, w), w_out, variant="swiglu", b_in=None, b_out=None).shape == (
        2,
        16,
    )
    config = gj.FeedForwardConfig(
        d_model=16, d_ff=24, variant="gelu", use_bias=False, dropout_rate=0.0,
        dtype=jnp.float32, param_dtype=jnp.float32,
    )  # fmt: skip
    assert gj.FeedForward(config, rngs=nnx.Rngs(0))(x).shape == (2, 16)
    linen = gj.linen.FeedForward(config)
    assert linen.apply(linen.init(jax.random.key(0), x), x).shape == (2, 16)
    for noun in ("Norm", "Attention", "Block", "Transformer", "MLP"):
        assert hasattr(gj, noun)
        assert hasattr(gj, f"{noun}Config")


def test_a_persons_own_activation_takes_part_everywhere():
    own = gj.FeedForwardConfig(8, d_ff=16, variant=(jnp.sin, "identity"))
    named = gj.FeedForwardConfig(8, d_ff=16, variant=("jax.numpy:sin", "identity"))
    x = jnp.ones((2, 8))
    mine, theirs = (gj.FeedForward(c, rngs=nnx.Rngs(0))(x) for c in (own, named))
    np.testing.assert_array_equal(mine, theirs)
    assert gj.matched_width(96, own.variant) == 64
