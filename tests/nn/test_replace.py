"""Our block in models that this project did not write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gelu_jax as gj


class GatedMLP(nnx.Module):
    def __init__(self, rngs, **kwargs):
        self.gate = nnx.Linear(8, 24, use_bias=False, rngs=rngs, **kwargs)
        self.up = nnx.Linear(8, 24, use_bias=False, rngs=rngs, **kwargs)
        self.down = nnx.Linear(24, 8, use_bias=False, rngs=rngs, **kwargs)

    def __call__(self, x):
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Model(nnx.Module):
    def __init__(self, rngs, **kwargs):
        self.mlp = nnx.Sequential(
            nnx.Linear(8, 32, rngs=rngs, **kwargs), nnx.gelu, nnx.Linear(32, 8, rngs=rngs, **kwargs)
        )
        self.blocks = nnx.List([GatedMLP(rngs, **kwargs) for _ in range(2)])
        self.named = nnx.Dict(last=GatedMLP(rngs, **kwargs))

    def __call__(self, x):
        for part in (self.mlp, *self.blocks, self.named.last):
            x = x + part(x)
        return x


GATED = {"where": GatedMLP, "w_in": ["gate", "up"], "w_out": "down"}
PLAIN = {"where": nnx.Sequential, "w_in": ["layers.0"], "w_out": "layers.2"}
X = jax.random.normal(jax.random.key(3), (5, 8))


def swap(model, layers, **config):
    return gj.replace_feed_forward(model, **layers, rngs=nnx.Rngs(7), **config)


def test_the_same_function_keeps_everything():
    model = Model(nnx.Rngs(0))
    before = model(X)
    replaced = swap(model, GATED, variant="swiglu") + swap(model, PLAIN, variant="gelu_tanh")
    assert [r.path for r in replaced] == ["blocks.0", "blocks.1", "named.last", "mlp"]
    assert all(r.initialised == () for r in replaced)
    assert isinstance(model.blocks[1], gj.FeedForward)
    assert isinstance(model.named.last, gj.FeedForward)
    np.testing.assert_allclose(model(X), before, rtol=1e-5, atol=1e-6)


def test_another_variant_keeps_what_it_can_and_says_the_rest():
    model = Model(nnx.Rngs(0))
    kernel, out = model.mlp.layers[0].kernel[...], model.mlp.layers[2].kernel[...]
    (replaced,) = swap(model, PLAIN, variant="swiglu", residuals="input")
    assert replaced.kept == ("b_in_0", "b_out", "w_in_0", "w_out")
    assert replaced.initialised == ("b_in_1", "w_in_1")
    assert str(replaced) == ("mlp: kept b_in_0, b_out, w_in_0, w_out; initialised b_in_1, w_in_1")
    assert model.mlp.config.residuals == "input"
    np.testing.assert_array_equal(model.mlp.w_in[0][...], kernel)
    np.testing.assert_array_equal(model.mlp.w_out[...], out)
    assert jnp.std(model.mlp.w_in[1][...]) > 0.1


def test_a_matched_width_starts_its_kernels_anew():
    model = Model(nnx.Rngs(0))
    width = gj.matched_width(32, "swiglu")
    (replaced,) = swap(model, PLAIN, variant="swiglu", d_ff=width)
    assert replaced.kept == ("b_out",)


def test_a_gated_block_made_plain_keeps_its_gate():
    model = Model(nnx.Rngs(0))
    replaced = swap(model, GATED, variant="silu")
    assert all(r.kept == ("w_in_0", "w_out") for r in replaced)


def test_where_by_path():
    model = Model(nnx.Rngs(0))
    layers = GATED | {"where": lambda path, module: path == "blocks.1"}
    assert [r.path for r in swap(model, layers, variant="swiglu")] == ["blocks.1"]
    assert isinstance(model.blocks[0], GatedMLP)


def test_dtypes_stay():
    model = Model(nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float16)
    swap(model, GATED, variant="swiglu")
    assert model.blocks[0].config.dtype == jnp.bfloat16
    assert model.blocks[0].w_out.dtype == jnp.float16


def test_the_swapped_model_trains():
    model = Model(nnx.Rngs(0))
    swap(model, PLAIN, variant="xielu")
    grads = nnx.grad(lambda model: jnp.square(model(X)).sum())(model)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"where": nnx.BatchNorm}, "no module of the model matches"),
        ({"where": Model}, "the model itself matches"),
        ({"w_in": ["gaet", "up"]}, "blocks.0: GatedMLP has no linear layer 'gaet'"),
        ({"w_out": "gate"}, "must be kernels of shape (d, f) and (f, d)"),
        ({"variant": "swigle"}, "did you mean swiglu"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change, message):
    model = Model(nnx.Rngs(0))
    before = model(X)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        gj.replace_feed_forward(model, **(GATED | change), rngs=nnx.Rngs(0))
    assert message in str(error.value)
    np.testing.assert_array_equal(model(X), before)
