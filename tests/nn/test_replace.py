"""Our block in models that this project did not write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gelu_jax as gj
from gelu_jax.nn.layouts import split


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
    return gj.replace_feed_forward(model, **(layers | config), rngs=nnx.Rngs(7))


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
        ({"w_out": "gate"}, "must be kernels (..., d, f) and (..., f, e)"),
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


class Theirs(nnx.Module):
    """A block with everything in it that a block may have."""

    def __init__(self, rngs, *, bias=(True, False, True), linear=nnx.Linear, **kwargs):
        self.gate = linear(8, 24, use_bias=bias[0], rngs=rngs, **kwargs)
        self.up = linear(8, 24, use_bias=bias[1], rngs=rngs, **kwargs)
        self.down = nnx.Linear(24, 8, use_bias=bias[2], rngs=rngs, **kwargs)
        for layer in (self.gate, self.up, self.down):
            if layer.bias is not None:
                layer.bias[...] += 0.5

    def __call__(self, x):
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


SWIGLU = GATED | {"where": Theirs, "variant": "swiglu"}


class Holder(nnx.Module):
    def __init__(self, **parts):
        for name, part in parts.items():
            setattr(self, name, part)


@pytest.mark.parametrize("bias", [(False, False, True), (False, True, False), (True, False, True)])
def test_every_bias_comes_along(bias):
    model = Holder(mlp=Theirs(nnx.Rngs(0), bias=bias))
    before = model.mlp(X)
    (replaced,) = swap(model, SWIGLU)
    names = np.array(["b_in_0", "b_in_1", "b_out"])
    assert set(names[list(bias)]) <= set(replaced.kept)
    assert set(names[~np.array(bias)]) == set(replaced.initialised)
    assert replaced.dropped == ()
    np.testing.assert_allclose(model.mlp(X), before, rtol=1e-5, atol=1e-6)


def test_biases_that_are_refused_are_named():
    model = Holder(mlp=Theirs(nnx.Rngs(0)))
    (replaced,) = swap(model, SWIGLU, use_bias=False)
    assert replaced.dropped == ("gate.bias", "down.bias")
    assert str(replaced).endswith("initialised nothing; dropped gate.bias, down.bias")


def test_a_shared_block_stays_shared():
    block = Theirs(nnx.Rngs(0))
    inner = Holder(b=block)
    model = Holder(first=block, inner=inner, again=inner, last=nnx.List([block]))
    (replaced,) = swap(model, SWIGLU)
    assert (replaced.path, replaced.shared_with) == ("first", ("inner.b", "last.0"))
    assert isinstance(model.first, gj.FeedForward)
    assert model.first is model.inner.b is model.again.b is model.last[0]
    assert str(replaced).startswith("first, inner.b, last.0: kept ")


def test_blocks_in_tuples_dicts_and_under_odd_names():
    blocks = [Theirs(nnx.Rngs(i)) for i in range(6)]
    model = Holder(
        pair=nnx.data((blocks[0], [blocks[1]])),
        table=nnx.data({"a.b": blocks[2], "7": blocks[3]}),
        named=nnx.Dict({"c.d": blocks[4]}),
    )
    setattr(model, "0", blocks[5])
    places = {
        "pair.0": lambda: model.pair[0],
        "pair.1.0": lambda: model.pair[1][0],
        "table.a.b": lambda: model.table["a.b"],
        "table.7": lambda: model.table["7"],
        "named.c.d": lambda: model.named["c.d"],
        "0": lambda: getattr(model, "0"),
    }
    before = {path: place()(X) for path, place in places.items()}
    assert {r.path for r in swap(model, SWIGLU)} == set(places)
    for path, place in places.items():
        assert isinstance(place(), gj.FeedForward)
        np.testing.assert_allclose(place()(X), before[path], rtol=1e-5, atol=1e-6)


def test_layers_under_odd_names():
    block = Holder(parts=nnx.Dict({"in.0": nnx.Linear(8, 24, rngs=nnx.Rngs(0))}),
                   ends=nnx.data({1: nnx.Linear(24, 8, rngs=nnx.Rngs(1))}))  # fmt: skip
    model = nnx.Dict(block=block)
    kernel = block.ends[1].kernel
    layers = {"where": lambda path, _: path == "block", "w_in": ["parts.in.0"], "w_out": "ends.1"}
    (replaced,) = swap(model, layers, variant="relu")
    assert replaced.kept == ("b_in_0", "b_out", "w_in_0", "w_out")
    assert model.block.w_out is kernel


class Stubborn(Holder):
    def __setattr__(self, name, value):
        if isinstance(value, gj.FeedForward) and name == "second":
            raise RuntimeError("no")
        super().__setattr__(name, value)


def test_a_failure_half_way_leaves_the_model_as_it_was():
    model = Stubborn(first=Theirs(nnx.Rngs(0)), second=Theirs(nnx.Rngs(1)))
    first, second = model.first, model.second
    with pytest.raises(RuntimeError, match="no"):
        swap(model, SWIGLU)
    assert (model.first, model.second) == (first, second)


def test_an_abstract_model_stays_abstract():
    model = nnx.eval_shape(lambda: Holder(mlp=Theirs(nnx.Rngs(0), param_dtype=jnp.bfloat16)))
    (replaced,) = swap(model, SWIGLU, variant=("silu", "xielu"), dtype="float32")
    assert "learned_0.raw_alpha_p" in replaced.initialised
    leaves = jax.tree.leaves(nnx.state(model))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert model.mlp.w_in_0.shape == (8, 24)
    assert model.mlp.w_in_0.dtype == jnp.bfloat16


def test_stacked_blocks_stay_stacked():
    keys = jax.random.split(jax.random.key(0), 3)
    stack = nnx.vmap(lambda key: Theirs(nnx.Rngs(key)), in_axes=0)(keys)
    model = Holder(blocks=stack)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def run(block, x):
        return x + block(x)

    before = run(model.blocks, X)
    (replaced,) = swap(model, SWIGLU)
    assert replaced.initialised == ("b_in_1",)
    assert model.blocks.w_in_0.shape == (3, 8, 24)
    assert model.blocks.b_in_1.shape == (3, 24)
    np.testing.assert_allclose(run(model.blocks, X), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["gate_up", "up_gate", "interleaved"])
def test_a_fused_kernel_is_split(layout):
    class Fused(nnx.Module):
        def __init__(self, rngs):
            self.wi = nnx.Linear(8, 48, rngs=rngs, bias_init=nnx.initializers.normal())
            self.wo = nnx.Linear(24, 8, rngs=rngs)

        def __call__(self, x):
            gate, up = split(self.wi(x), layout)
            return self.wo(nnx.silu(gate) * up)

    model = Holder(mlp=Fused(nnx.Rngs(0)))
    before = model.mlp(X)
    layers = {"where": Fused, "w_in": ["wi"], "w_out": "wo", "layout": layout}
    (replaced,) = swap(model, layers, variant="swiglu")
    assert (replaced.initialised, replaced.dropped) == ((), ())
    np.testing.assert_allclose(model.mlp(X), before, rtol=1e-5, atol=1e-6)
    with pytest.raises(gj.ConfigError, match="layout = 'gate_up' is that of a single layer"):
        swap(Holder(mlp=Theirs(nnx.Rngs(0))), SWIGLU, layout="gate_up")


class Frozen(nnx.Variable):
    pass


def test_classes_metadata_and_sharding_of_parameters_stay():
    mesh = jax.make_mesh((1,), ("tensor",), axis_types=(jax.sharding.AxisType.Explicit,))
    names = nnx.with_partitioning(nnx.initializers.normal(), (None, "tensor"))
    with jax.set_mesh(mesh):
        model = Holder(mlp=Theirs(nnx.Rngs(0), kernel_init=names))
        model.mlp.down.kernel = Frozen(model.mlp.down.kernel[...], note="mine")
        kernel, out = model.mlp.gate.kernel, model.mlp.down.kernel
        swap(model, SWIGLU, param_dtype="bfloat16")
    assert isinstance(model.mlp.w_out, Frozen)
    assert model.mlp.w_out.get_metadata("note") == "mine"
    assert model.mlp.w_out.dtype == model.mlp.w_in_0.dtype == jnp.bfloat16
    assert nnx.get_partition_spec(nnx.state(model))["mlp"]["w_in_0"].get_value() == (
        nnx.get_partition_spec(nnx.state(Holder(k=kernel)))["k"].get_value()
    )
    assert model.mlp.w_in_0.get_value().sharding.is_equivalent_to(kernel.get_value().sharding, 2)
    np.testing.assert_array_equal(model.mlp.w_out[...], out[...].astype(jnp.bfloat16))


def test_what_does_not_come_along_is_named():
    class Whole(Theirs):
        def __init__(self, rngs):
            lora = lambda *args, **kwargs: nnx.LoRALinear(*args, lora_rank=2, **kwargs)  # noqa: E731
            super().__init__(rngs, bias=(False, False, False), linear=lora)
            self.norm = nnx.LayerNorm(24, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.down.promote_dtype = lambda *args, **kwargs: args[0]

    model = Holder(mlp=Whole(nnx.Rngs(0)))
    (replaced,) = swap(model, SWIGLU | {"where": Whole}, d_ff=32)
    assert replaced.kept == ()
    assert sorted(replaced.dropped) == [
        "down.kernel", "down.promote_dtype", "dropout (Dropout)", "gate.kernel",
        "gate.lora (LoRA)", "gate.lora.lora_a", "gate.lora.lora_b", "norm (LayerNorm)",
        "norm.bias", "norm.scale", "up.kernel", "up.lora (LoRA)", "up.lora.lora_a",
        "up.lora.lora_b",
    ]  # fmt: skip


def test_a_gated_block_made_plain_drops_its_other_kernel():
    model = Holder(mlp=Theirs(nnx.Rngs(0), bias=(False, False, False)))
    (replaced,) = swap(model, SWIGLU, variant="silu")
    assert (replaced.kept, replaced.dropped) == (("w_in_0", "w_out"), ("up.kernel",))


@pytest.mark.parametrize(("param_dtype", "computed"), [("float32", "float32"), ("bfloat16", None)])
def test_a_compute_dtype_that_depends_on_x_is_asked_for(param_dtype, computed):
    model = Holder(mlp=Theirs(nnx.Rngs(0), param_dtype=jnp.dtype(param_dtype)))
    block = model.mlp
    if computed is None:
        with pytest.raises(gj.ConfigError, match=r"dtype = None: mlp: the old layers .*; say in"):
            swap(model, SWIGLU)
        assert model.mlp is block
        before, computed = block(X), "float32"
        swap(model, SWIGLU, dtype="float32")
    else:
        before = block(X)
        swap(model, SWIGLU)
    assert model.mlp.config.dtype == computed
    np.testing.assert_allclose(model.mlp(X), before, rtol=1e-5, atol=1e-6)


def test_an_output_of_another_width_stays():
    model = Holder(mlp=nnx.Sequential(nnx.Linear(8, 24, rngs=nnx.Rngs(0)), nnx.relu,
                                      nnx.Linear(24, 5, rngs=nnx.Rngs(1))))  # fmt: skip
    before = model.mlp(X)
    (replaced,) = swap(model, PLAIN, variant="relu")
    assert (replaced.initialised, replaced.dropped) == ((), ())
    np.testing.assert_allclose(model.mlp(X), before, rtol=1e-5, atol=1e-6)


def test_precision_and_dot_general_stay():
    def mine(*args, **kwargs):
        return jax.lax.dot_general(*args, **kwargs)

    model = Holder(mlp=Theirs(nnx.Rngs(0), precision=jax.lax.Precision.HIGH, dot_general=mine))
    model.mlp.down.precision, model.mlp.down.dot_general = None, jax.lax.dot_general
    (replaced,) = swap(model, SWIGLU)
    assert replaced.dropped == ("gate.precision", "gate.dot_general", "up.precision",
                                "up.dot_general")  # fmt: skip
    model = Holder(mlp=Theirs(nnx.Rngs(0), precision=jax.lax.Precision.HIGH, dot_general=mine))
    (replaced,) = swap(model, SWIGLU)
    assert replaced.dropped == ()
    assert (model.mlp.config.precision, model.mlp.config.dot_general) == ("high", mine)


@pytest.mark.parametrize("stacked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_dense_block_becomes_experts_that_are_copies_of_it(stacked):
    """While the gates have the sum 1 the function is the same; the report says what is new."""
    keys = jax.random.split(jax.random.key(0), 3)
    block = (
        jax.vmap(lambda key: GatedMLP(nnx.Rngs(key)))(keys) if stacked else GatedMLP(nnx.Rngs(0))
    )
    model, old = Holder(mlp=block), nnx.clone(block)
    layers = GATED | {"experts": {"num_experts": 4, "experts_per_token": 2}, "variant": "swiglu"}
    (found,) = swap(model, layers)
    assert str(found) == "mlp: copied to every expert w_in_0, w_in_1, w_out; initialised router.w"
    lead = (3,) if stacked else ()
    assert model.mlp.experts.w_out.shape == (*lead, 4, 24, 8)
    assert model.mlp.router.w.shape == (*lead, 8, 4)
    apply = jax.vmap(lambda block: block(X)) if stacked else (lambda block: block(X))
    np.testing.assert_allclose(apply(model.mlp), apply(old), rtol=1e-5, atol=1e-5)
    plain = Holder(mlp=GatedMLP(nnx.Rngs(0)))
    with pytest.raises(gj.ConfigError, match="experts_per_token = 5"):
        swap(plain, layers | {"experts": {"num_experts": 4, "experts_per_token": 5}})
    assert isinstance(plain.mlp, GatedMLP)


def test_copies_in_experts_keep_the_sharding_of_parameters():
    mesh = jax.make_mesh((1,), ("tensor",), axis_types=(jax.sharding.AxisType.Explicit,))
    names = nnx.with_partitioning(nnx.initializers.normal(), (None, "tensor"))
    with jax.set_mesh(mesh):
        model = Holder(mlp=GatedMLP(nnx.Rngs(0), kernel_init=names))
        swap(model, GATED, experts={"num_experts": 2, "experts_per_token": 1}, variant="swiglu")
    found = nnx.get_partition_spec(nnx.state(model))["mlp"]["experts"]["w_in_0"].get_value()
    assert tuple(found) == (None, None, "tensor")
