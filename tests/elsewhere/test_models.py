"""Our blocks in models of other people's make: what is done to a model, done to each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from elsewhere.models import MODELS, D
from flax import serialization
from flax.traverse_util import flatten_dict

X = jax.random.normal(jax.random.key(3), (4, 3, D))
KEY = jax.random.key(1)


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def params(name):
    return MODELS[name].init(jax.random.key(0))


@pytest.fixture(scope="module")
def programs(name, params):
    """One compiled program: the output, with and without dropout, and an optimizer step."""
    apply, optimizer = MODELS[name].apply, optax.adam(1e-2)

    def loss(params, key=None):
        return jnp.square(apply(params, X, key) - 1).mean()

    def everything(params, key):
        gradient = jax.grad(loss)(params, key)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        stepped = optax.apply_updates(params, updates)
        return {
            "output": apply(params, X),
            "dropped": apply(params, X, key),
            "gradient": gradient,
            "losses": (loss(params), loss(stepped)),
        }

    return jax.jit(everything).lower(params, KEY).compile()


@pytest.fixture(scope="module")
def found(programs, params):
    return programs(params, KEY)


def test_a_step_of_training_reaches_every_parameter(found):
    for path, gradient in jax.tree_util.tree_leaves_with_path(found["gradient"]):
        assert jnp.abs(gradient).max() > 0, path
    before, after = found["losses"]
    assert after < before


def test_dropout_is_on_with_a_key_alone(found, programs, params):
    assert jnp.abs(found["dropped"] - found["output"]).max() > 0.05
    other = programs(params, jax.random.key(2))
    assert jnp.abs(found["dropped"] - other["dropped"]).max() > 0.05
    np.testing.assert_array_equal(found["output"], other["output"])


def test_keys_are_strings_and_trees_survive_msgpack(found, programs, params):
    assert all(isinstance(key, str) for path in flatten_dict(params) for key in path)
    read = serialization.msgpack_restore(serialization.to_bytes(params))
    same = programs(jax.tree.map(jnp.asarray, read), KEY)
    np.testing.assert_array_equal(same["output"], found["output"])


def test_orbax_without_a_target(found, programs, params, tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", params)
    with ocp.StandardCheckpointer() as checkpointer:
        read = checkpointer.restore(tmp_path / "params")
    assert flatten_dict(read).keys() == flatten_dict(params).keys()
    np.testing.assert_array_equal(programs(read, KEY)["output"], found["output"])


def test_export(name, params, found):
    exported = jax.export.export(jax.jit(MODELS[name].apply))(params, X)
    read = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(read.call(params, X), found["output"], atol=1e-5)
