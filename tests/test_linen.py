"""Our Linen modules beside flax's own: classes that its transforms, errors and checkpoints know."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, nnx, serialization
from flax import linen as nn
from flax.traverse_util import flatten_dict

import gelu_jax as gj
from gelu_jax import linen
from gelu_jax.nn.parameters import current_names
from gelu_jax.nn.stack import LayerKind

FFN = gj.FeedForwardConfig(8, 16, "swiglu", use_bias=True, dropout_rate=0.5)
BLOCK = gj.BlockConfig(
    gj.NormConfig(8), gj.AttentionConfig(8, num_heads=2), gj.FeedForwardConfig(8, 16, "geglu")
)
FFN_OF_EXPERTS = gj.FeedForwardConfig(8, 16, "swiglu")
MLP = gj.MLPConfig(d_in=8, num_classes=3, num_layers=2, d_ff=4, variant=("prelu", "identity"))
X = jax.random.normal(jax.random.key(3), (2, 3, 8))


class Model(nn.Module):
    """A person's own model."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        return x + linen.FeedForward(FFN)(nn.LayerNorm()(x), deterministic)


class Step(nn.Module):
    """A layer as `nn.scan` takes it."""

    @nn.compact
    def __call__(self, x, _):
        return x + nn.remat(linen.FeedForward)(FFN, name="ffn")(x), None


@pytest.fixture(scope="module")
def variables():
    return Model().init(jax.random.key(0), X)


def test_names_are_strings_that_a_person_can_read(variables):
    names = flatten_dict(variables["params"]["FeedForward_0"], sep="/")
    assert list(names) == ["b_in_0", "b_in_1", "b_out", "w_in_0", "w_in_1", "w_out"]
    mlp = jax.eval_shape(linen.MLP(MLP).init, jax.random.key(0), jnp.ones((2, 8)))["params"]
    assert {"layers_0/w_in_1", "layers_1/learned_0/slope"} <= flatten_dict(mlp, sep="/").keys()


def test_a_tree_survives_msgpack_without_a_target(variables):
    read = serialization.msgpack_restore(serialization.to_bytes(variables))
    np.testing.assert_array_equal(Model().apply(read, X), Model().apply(variables, X))


def old_names(tree, integer=int):
    """The tree as it was: lists, whose keys msgpack turns into strings."""
    if not isinstance(tree, dict):
        return tree
    lists = ("w_in", "b_in", "learned", "layers")
    old = {}
    for key, below in tree.items():
        name, _, number = key.rpartition("_")
        place = old.setdefault(name, {}) if name in lists else old
        place[integer(number) if name in lists else key] = old_names(below, integer)
    return old


@pytest.mark.parametrize("integer", [int, str])
def test_a_tree_of_an_earlier_version_still_loads(integer):
    layer, x = linen.MLP(MLP), jnp.ones((2, 8))
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    old = {"params": old_names(variables["params"], integer)}
    assert old["params"]["layers"][integer(1)]["w_in"].keys() == {integer(0), integer(1)}
    np.testing.assert_array_equal(layer.apply(old, x), layer.apply(variables, x))
    module = gj.MLP(MLP, rngs=nnx.Rngs(1))
    state = nnx.state(module)
    nnx.replace_by_pure_dict(state, current_names(old["params"], nnx.to_pure_dict(state)))
    np.testing.assert_array_equal(nnx.merge(nnx.graphdef(module), state)(x), layer.apply(old, x))
    del old["params"]["layers"][integer(1)]["w_in"]
    with pytest.raises(errors.ScopeParamNotFoundError):
        layer.apply(old, x)


@pytest.mark.parametrize("change", ["missing", "renamed", "shape", "all"])
def test_a_parameter_that_is_not_there_raises_as_in_flax(variables, change):
    params = dict(variables["params"]["FeedForward_0"])
    w_out = params.pop("w_out")
    if change == "renamed":
        params["kernel"] = w_out
    elif change == "shape":
        params["w_out"] = w_out.T
    wrong = {"params": {} if change == "all" else variables["params"] | {"FeedForward_0": params}}
    expected = {
        "shape": errors.ScopeParamShapeError,
        "all": errors.ScopeCollectionNotFound,
    }.get(change, errors.ScopeParamNotFoundError)
    with pytest.raises(expected):
        Model().apply(wrong, X)


def test_initial_values_are_those_of_the_nnx_module_from_the_same_key():
    key = jax.random.key(5)

    class Probe(nn.Module):
        def __call__(self):
            return self.make_rng("params")

    params = linen.FeedForward(FFN).init(key, X)["params"]
    first, _ = Probe().init_with_output(key)
    expected = nnx.to_pure_dict(nnx.state(gj.FeedForward(FFN, rngs=nnx.Rngs(first))))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_dropout_draws_from_the_stream_of_that_name(variables):
    key = {"dropout": jax.random.key(1)}
    eval_, train = Model().apply(variables, X), Model().apply(variables, X, False, rngs=key)
    np.testing.assert_array_equal(train, Model().apply(variables, X, False, rngs=key))
    assert jnp.abs(train - eval_).max() > 0.1
    with pytest.raises(ValueError, match=r"dropout_rate = 0.5: training needs a key"):
        Model().apply(variables, X, False)


def test_scan_and_remat_over_layers():
    scan = nn.scan(
        Step,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=3,
    )()
    variables = jax.jit(scan.init)(jax.random.key(0), X, None)
    rngs = {"dropout": jax.random.key(1)}
    stacked = variables["params"]["ffn"]
    assert stacked["w_in_1"].shape == (3, 8, 16)
    assert jnp.std(stacked["w_out"], axis=0).max() > 0.1  # each layer draws its own
    dropped, _ = jax.jit(scan.apply)(variables, X, None, rngs=rngs)
    off = linen.FeedForward(gj.FeedForwardConfig(8, 16, "swiglu", use_bias=True))
    apply, x = jax.jit(off.apply), X
    for i in range(3):
        x = x + apply({"params": jax.tree.map(lambda w: w[i], stacked)}, x)  # noqa: B023
    assert jnp.abs(dropped - x).max() > 0.1


def test_vmap_makes_members_of_their_own():
    members = nn.vmap(
        linen.Norm, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3
    )(gj.NormConfig(8, use_bias=True))
    x = jnp.stack([X, 2 * X, 3 * X])
    variables = members.init(jax.random.key(0), x)
    assert variables["params"]["bias"].shape == (3, 8)
    np.testing.assert_allclose(
        members.apply(variables, x)[1], linen.Norm(gj.NormConfig(8)).apply(
            {"params": {"scale": variables["params"]["scale"][1]}}, 2 * X
        ), rtol=1e-6,
    )  # fmt: skip


def test_methods_by_name_and_on_a_bound_module():
    config = gj.TransformerConfig(11, num_layers=1, block=BLOCK, max_positions=8)
    model, tokens = linen.Transformer(config), jnp.arange(10).reshape(2, 5)

    @jax.jit  # one program is compiled sooner than its operations one by one
    def outcomes(tokens):
        variables = model.init(jax.random.key(0), tokens)
        cache = model.apply(variables, 2, 8, method="empty_cache")
        first, cache = model.apply(variables, tokens[:, :3], cache, method="decode")
        bound = model.bind(variables)
        later, _ = bound.decode(tokens[:, 3:], cache)
        hidden = model.apply(variables, tokens, method=linen.Transformer.hidden)
        return model.apply(variables, tokens), first, later, bound.logits(hidden)

    expected, first, later, logits = outcomes(tokens)
    np.testing.assert_allclose(first, expected[:, :3], atol=1e-5)
    np.testing.assert_allclose(later, expected[:, 3:], atol=1e-5)
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_a_stack_of_dense_and_sparse_layers():
    """Value, gradient and cached decoding are those of the NNX module with the same parameters."""
    kinds = LayerKind(), LayerKind(feed_forward=gj.MoEConfig(FFN_OF_EXPERTS, 4, 2))
    config = gj.TransformerConfig(11, num_layers=4, block=BLOCK, max_positions=8, pattern=kinds)
    model, tokens = linen.Transformer(config), jnp.arange(10).reshape(2, 5)

    @jax.jit
    def outcomes(variables, theirs):
        cache = model.apply(variables, 2, 5, method="empty_cache")
        decoded, _ = model.apply(variables, tokens, cache, method="decode")
        of_linen, of_nnx = (lambda v: model.apply(v, tokens)), (lambda m: m(tokens))
        losses = [lambda p, f=f: jnp.sin(f(p)).sum() for f in (of_linen, of_nnx)]
        gradients = jax.grad(losses[0])(variables)["params"], jax.grad(losses[1])(theirs)
        return (of_linen(variables), decoded, gradients[0]), (of_nnx(theirs), gradients[1])

    theirs = gj.Transformer(config, rngs=nnx.Rngs(1))
    variables = {"params": nnx.to_pure_dict(nnx.state(theirs))}
    empty = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
    assert jax.tree.map(jnp.shape, dict(empty["params"])) == jax.tree.map(
        jnp.shape, variables["params"]
    )
    (ours, decoded, gradient), (expected, their_gradient) = outcomes(variables, theirs)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(decoded, expected, atol=1e-5)
    flat = flatten_dict(nnx.to_pure_dict(nnx.state(their_gradient)))
    assert {**flatten_dict(gradient)}.keys() == flat.keys()
    for name, found in flatten_dict(gradient).items():
        np.testing.assert_allclose(found, flat[name], atol=1e-6)
        assert found.any(), name


def test_they_are_classes():
    class Mine(linen.FeedForward):
        """With a map of its own after the block."""

        width: int = 5

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(super().__call__(x, True))

    layer = linen.FeedForward(FFN)
    assert isinstance(layer, nn.Module)
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert layer.copy(name="other").name == "other"
    y, variables = Mine(FFN).init_with_output(jax.random.key(0), X)
    assert y.shape == (2, 3, 5)
    assert {"Dense_0", "w_in_0"} <= variables["params"].keys()


def test_axis_names_are_metadata_where_rules_place_them():
    rules = (("f", "tensor"), ("d", "fsdp"), ("batch", "data"))
    scan = nn.scan(
        Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )()  # fmt: skip
    with nn.logical_axis_rules(rules):
        boxed = jax.eval_shape(Model().init, jax.random.key(0), X)
        block = jax.eval_shape(linen.Block(BLOCK).init, jax.random.key(0), X)
        stacked = jax.eval_shape(scan.init, jax.random.key(0), X, None)
        values = Model().init(jax.random.key(0), X)
        specs = nn.get_partition_spec(boxed)["params"]["FeedForward_0"]
        placed = nn.logical_to_mesh(specs)
    spec = jax.sharding.PartitionSpec
    assert specs["w_in_0"] == spec("d", "f")
    assert placed["w_in_0"] == spec("fsdp", "tensor")
    assert placed["w_out"] == spec("tensor", "fsdp")
    assert placed["b_in_1"] == spec("tensor")
    inner = nn.get_partition_spec(block)["params"]
    assert inner["attention"]["w_query"] == spec("d", "h", "k")
    assert inner["feed_forward"]["w_out"] == spec("f", "d")
    ffn = nn.get_partition_spec(stacked)["params"]["ffn"]
    assert ffn["w_in_0"] == spec("layers", "d", "f")
    plain = Model().init(jax.random.key(0), X)
    assert isinstance(plain["params"]["FeedForward_0"]["w_out"], jax.Array)
    np.testing.assert_array_equal(Model().apply(values, X), Model().apply(plain, X))
