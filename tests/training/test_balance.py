"""A decoder with experts in steps of training: its losses, its choice bias, its health."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelu_jax.nn.balance import updated_choice_bias
from gelu_jax.training.balance import call, with_choice_biases
from gelu_jax.training.config import from_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.health import health
from gelu_jax.training.trainer import Keys, TrainConfig, init, step

EXPERTS = {"num_experts": 4, "experts_per_token": 2, "variant": "swiglu", "d_ff": 8}
SIGMOID = {"router": {"kind": "sigmoid"}, "bias_update_rate": 0.01}
PLAIN = {
    "data": {"kind": "stdlib", "context": 8, "validation_windows": 9},
    "model": {"kind": "transformer", "vocab_size": 256, "num_layers": 2, "d_model": 8},
    "optimizer": {"warmup_steps": 2, "weight_decay": 0.1},
    "steps": 6,
    "batch_size": 4,
    "eval_every": 2,
}


def config_of(accumulate: int = 1, **experts):
    block = {
        "norm": {"kind": "rms"},
        "attention": {"num_heads": 2, "rotary": {}},
        "feed_forward": EXPERTS | experts,
    }
    model = PLAIN["model"] | {"block": block}
    more = {"model": model, "gradient_accumulation_steps": accumulate}
    return from_dict(PLAIN | more, TrainConfig)


def after_a_step(config):
    """The state before and after a step, its loss, and the tokens and targets."""
    data = load_data(config.data, config.batch_size)
    keys = Keys.of(0)
    state = init(config, keys)
    # every row of the embedding, and so every token, has a part in common: a load that is uneven
    state.model.embedding[...] = state.model.embedding[...] + 1

    @jax.jit
    def take(state):
        return *step(config, state, data, keys, jnp.float32(1e-3)), data.batch(keys.data, 0)

    return state, *take(state)


def router_of(state):
    return state.model.layers.feed_forward.router


def test_the_losses_of_routers_reach_the_gradient_and_not_the_curve():
    """A loss of the routers alone moves nothing that a plain step leaves where it was."""
    _, plain, value, batch = after_a_step(config_of())
    start, balanced, same, _ = after_a_step(config_of(auxiliary_loss=5.0, z_loss=0.5))
    np.testing.assert_allclose(value, same, rtol=1e-6)  # the loss of the targets alone
    assert jnp.abs(router_of(plain).w[...] - router_of(balanced).w[...]).max() > 1e-5
    _, routing = start.model.with_routing(batch[0])
    assert routing.load.shape == (2, 4)
    np.testing.assert_allclose(routing.load.sum(-1), 1, rtol=1e-6)
    assert routing.loss.shape == (2,)
    want = 5 * routing.auxiliary_loss + 0.5 * routing.z_loss
    np.testing.assert_allclose(routing.loss, want, rtol=1e-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_choice_bias_moves_by_the_load_alone(parts):
    """By one step of its rate; neither the optimizer nor its weight decay has a part in it."""
    before, after, _, (tokens, _) = after_a_step(config_of(parts, **SIGMOID))
    if parts == 1:
        _, routing = before.model.with_routing(tokens)
        want = updated_choice_bias(jnp.zeros((2, 4)), routing.load, 0.01)
        np.testing.assert_allclose(router_of(after).choice_bias[...], want, rtol=1e-6)
    assert (router_of(after).choice_bias[...] != 0).any()
    still, *_ = after_a_step(config_of(router={"kind": "sigmoid"}))
    assert (router_of(still).choice_bias[...] == 0).all()


def test_health_of_experts():
    config = config_of()
    state = init(config, Keys.of(0))
    tokens = jnp.arange(16).reshape(2, 8)
    found = jax.jit(health)(state.model, tokens, tokens)
    loads = [found[f"load of expert {i}"] for i in range(1, 5)]
    np.testing.assert_allclose(sum(loads), 1, rtol=1e-6)
    np.testing.assert_array_equal(jnp.max(jnp.stack(loads), 0), found["largest load"])
    assert all(layers.shape == (2,) for layers in found.values())
    assert (found["largest load"] >= 0.25).all()
    assert (found["largest gate"] >= 0.5).all()


def test_a_stack_mixes_dense_and_sparse_layers():
    """From a config: the choice bias of each sparse layer moves by its load; health is measured."""
    experts = {"feed_forward": EXPERTS | SIGMOID, "rotary": {}}
    dense = {"norm": {"kind": "rms"}, "attention": {"num_heads": 2}, "feed_forward": {"d_ff": 12}}
    more = {"num_layers": 3, "block": dense, "pattern": [{"rotary": {}}, experts]}
    config = from_dict(PLAIN | {"model": PLAIN["model"] | more}, TrainConfig)
    data, keys = load_data(config.data, config.batch_size), Keys.of(0)
    batch, model = data.batch(keys.data, 0), init(config, keys).model
    (_, loss, moved), (_, routing) = jax.jit(lambda m, x: (call(m, x), m.with_routing(x)))(
        model, batch[0]
    )
    assert routing.load.shape == (1, 4)
    want = updated_choice_bias(jnp.zeros((1, 4)), routing.load, 0.01)
    found = moved.layers.feed_forward.kind_1.router.choice_bias[...]
    np.testing.assert_allclose(found, want, rtol=1e-6)
    kept = with_choice_biases(model, moved).layers.feed_forward.kind_1.router.choice_bias[...]
    np.testing.assert_array_equal(kept, found)
    assert loss == 0
    measured = jax.jit(health)(model, *batch)
    sparse = [name for name in measured if np.isfinite(measured[name][1])]
    assert {"load of expert 4", "router entropy", "gradient norm"} <= set(sparse)
    assert np.isfinite(measured["gradient norm"]).all()
    assert [name for name in measured if np.isfinite(measured[name]).all()] == ["gradient norm"]
