"""The optimizer is optax used plainly: schedules by closed forms, decay on kernels alone."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from gelu_jax.errors import ConfigError
from gelu_jax.nn.attention import AttentionConfig
from gelu_jax.nn.block import BlockConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.mlp import MLPConfig
from gelu_jax.nn.norm import NormConfig
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.training.model import make_model
from gelu_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule


def closed_form(name: str, step: int, warmup: int, steps: int) -> float:
    """The share of the peak rate, written down from the definitions."""
    if step < warmup:
        return step / warmup
    through = min(1.0, (step - warmup) / max(1, steps - warmup))
    return {
        "constant": 1.0,
        "linear": 1 - through,
        "cosine": (1 + math.cos(math.pi * through)) / 2,
    }[name]


@settings(max_examples=60)
@given(
    st.sampled_from(["cosine", "linear", "constant"]),
    st.integers(0, 60),
    st.integers(1, 200),
    st.integers(0, 250),
)
def test_schedules_are_their_closed_forms(name: str, warmup: int, steps: int, step: int):
    """Measured: within 1.2e-7 of the peak, which is float32's spacing at 1."""
    shape = schedule(OptimizerConfig(schedule=name, warmup_steps=warmup), steps)  # type: ignore[arg-type]
    assert float(shape(step)) == pytest.approx(closed_form(name, step, warmup, steps), abs=2e-7)


def test_the_rate_scales_the_schedule_and_may_be_traced():
    """An SGD step without momentum is -rate * schedule * gradient; one trace for all rates."""
    config = OptimizerConfig("sgd", b1=0.0, warmup_steps=4, clip_norm=None)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def updates(rate: jax.Array) -> jax.Array:
        optimizer = make_optimizer(config, 10, rate)
        state = optimizer.init(jnp.ones(()))

        def one(state: Any, _: None) -> tuple[Any, jax.Array]:
            update, state = optimizer.update(jnp.ones(()), state, jnp.ones(()))
            return state, update

        return jax.lax.scan(one, state, length=10)[1]

    for rate in (1.0, 1e-3, 0.0):
        expected = [-rate * closed_form("cosine", step, 4, 10) for step in range(10)]
        chex.assert_trees_all_close(updates(jnp.float32(rate)), jnp.array(expected), atol=2e-7)


PARAMS = {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "b_in": jnp.linspace(-2, 2, 4)}
GRADIENTS = [jax.tree.map(lambda p, i=i: jnp.cos(3 * p + i), PARAMS) for i in range(5)]


def trained(optimizer: optax.GradientTransformation) -> Any:
    params, state = PARAMS, optimizer.init(PARAMS)
    for gradient in GRADIENTS:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def cosine(rate: float) -> optax.Schedule:
    return optax.cosine_decay_schedule(rate, 5)


CASES = {
    "adam": (
        OptimizerConfig("adam", b1=0.8, b2=0.95, epsilon=1e-6, clip_norm=None),
        optax.adam(cosine(1e-2), 0.8, 0.95, 1e-6),
    ),
    "adamw": (
        OptimizerConfig("adamw", weight_decay=0.3, clip_norm=None),
        optax.adamw(cosine(1e-2), weight_decay=0.3, mask={"w": True, "b_in": False}),
    ),
    "sgd": (OptimizerConfig("sgd", b1=0.9, clip_norm=None), optax.sgd(cosine(1e-2), 0.9)),
    "clipped": (
        OptimizerConfig("sgd", b1=0.0, clip_norm=0.1),
        optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(cosine(1e-2))),
    ),
    "warmed up": (
        OptimizerConfig("adam", schedule="linear", warmup_steps=2, clip_norm=None),
        optax.adam(
            optax.join_schedules(
                [optax.linear_schedule(0, 1e-2, 2), optax.linear_schedule(1e-2, 0, 3)], [2]
            )
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_optax_used_plainly(case: str):
    """Five steps agree to 1e-7 in values of up to 2 (measured: at most 6e-8)."""
    config, plain = CASES[case]
    chex.assert_trees_all_close(
        trained(make_optimizer(config, 5, 1e-2)), trained(plain), atol=1.5e-7, rtol=0
    )


def test_clipping_bounds_the_global_norm():
    config = OptimizerConfig("sgd", schedule="constant", b1=0.0, clip_norm=0.5)
    for size in (0.01, 1.0, 1e6):
        gradient = {name: size * p for name, p in PARAMS.items()}
        optimizer = make_optimizer(config, 5, 1.0)
        updates, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
        norm = float(optax.tree.norm(gradient))
        assert float(optax.tree.norm(updates)) == pytest.approx(min(norm, 0.5), rel=1e-6)


TRANSFORMER = TransformerConfig(
    vocab_size=11,
    num_layers=2,
    max_positions=6,
    tie_embeddings=False,
    block=BlockConfig(
        NormConfig(8, kind="layer", use_bias=True),
        AttentionConfig(8, num_heads=2, use_bias=True),
        FeedForwardConfig(8, d_ff=16, variant="swiglu", use_bias=True),
    ),
)
MLP = MLPConfig(d_in=6, num_classes=3, num_layers=2, d_ff=4, variant="geglu")


@pytest.mark.parametrize("config", [TRANSFORMER, MLP], ids=["transformer", "mlp"])
def test_decay_falls_on_kernels_and_embeddings_alone(config: Any):
    """A gradient of zero leaves AdamW its decay: params * (1 - rate * decay), and no more.

    A parameter decays if one layer's share of it is a matrix or more; the layers of a stack have
    a leading axis that a bias shares, so that its rank says nothing.
    """
    model: Any = jax.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0)))
    ones = jax.tree.map(lambda p: np.ones(p.shape, p.dtype), model)
    optimizer = make_optimizer(
        OptimizerConfig(schedule="constant", weight_decay=0.5, clip_norm=None), 5, 0.1
    )

    @jax.jit
    def update(params: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optimizer.update(zeros, optimizer.init(params), params)[0]

    decayed = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(update(ones)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rank = leaf.ndim - name.startswith("layers") * isinstance(config, TransformerConfig)
        # (h, k): the biases of a head's query, key and value
        matrix = rank >= 2 and "/b_" not in f"/{name}"
        np.testing.assert_allclose(leaf, -0.05 if matrix else 0.0, rtol=1e-6)
        decayed |= {name} if matrix else set()
    names = {name.removesuffix("/value").rsplit("/", 1)[-1] for name in decayed}
    if config is TRANSFORMER:
        expected = {"embedding", "head", "positions", "w_query", "w_key", "w_value", "w_out"}
    else:
        expected = {"head"}
    assert names == expected | {"w_in_0", "w_in_1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate = 0.0: must be above 0"),
        ({"clip_norm": -1.0}, "clip_norm = -1.0: must be above 0"),
        ({"b1": 1.0}, r"b1 = 1.0: must lie in \[0, 1\)"),
        ({"warmup_steps": -1}, "warmup_steps = -1: must not be below 0"),
        ({"name": "sgd", "weight_decay": 0.1}, "weight_decay = 0.1: only adamw has weight decay"),
        ({"learning_rate": math.nan}, "learning_rate = nan: must be above 0"),
    ],
)
def test_bad_values_are_one_line(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        OptimizerConfig(**changes)
    assert len(caught.value.problems) == 1
