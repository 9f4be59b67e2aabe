"""Arms of equal cost: the hidden width at which one config costs what another does."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from flax import nnx

from gelu_jax.nn.mlp import MLPConfig
from gelu_jax.training.data import Dataset
from gelu_jax.training.run import Keys, TrainConfig, init, make_model, step

Cost = Callable[[TrainConfig], int | float]


def parameters(config: TrainConfig) -> int:
    """Entries of all parameters of the model; nothing is allocated."""
    model = jax.eval_shape(
        lambda key: make_model(config.model, rngs=nnx.Rngs(key)), jax.random.key(0)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(model))


def flops_per_step(config: TrainConfig, data: Dataset) -> float:
    """Floating-point operations of the matrix products of one training step, forward and backward.

    Counted in the program as it is written, 2·m·n·k a product, whatever a compiler makes of it;
    elementwise work is left out, as is usual in the field.
    """
    keys, rate = Keys.of(0), jax.numpy.zeros(())
    state = jax.eval_shape(lambda keys: init(config, keys), keys)
    program = jax.make_jaxpr(lambda *args: step(config, *args))(state, data, keys, rate)
    return float(_products(program.jaxpr))


def _products(jaxpr: Any) -> int:
    return sum(
        _product(eqn) + eqn.params.get("length", 1) * sum(map(_products, _inside(eqn)))
        for eqn in jaxpr.eqns
    )


def _product(eqn: Any) -> int:
    if eqn.primitive.name != "dot_general":
        return 0
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left, out = eqn.invars[0].aval, eqn.outvars[0].aval
    return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)


def _inside(eqn: Any) -> list[Any]:
    """The programs that an operation runs: the body of a scan, the function of a call."""
    values = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr"))
    programs = (getattr(value, "jaxpr", value) for value in values)
    return [program for program in programs if hasattr(program, "eqns")]


def width(config: TrainConfig) -> int:
    """d_ff, wherever the model has it."""
    model = config.model
    return model.d_ff if isinstance(model, MLPConfig) else model.block.feed_forward.d_ff


def with_width(config: TrainConfig, d_ff: int) -> TrainConfig:
    """The same config with another d_ff."""
    model = config.model
    if isinstance(model, MLPConfig):
        return replace(config, model=replace(model, d_ff=d_ff))
    feed_forward = replace(model.block.feed_forward, d_ff=d_ff)
    return replace(
        config, model=replace(model, block=replace(model.block, feed_forward=feed_forward))
    )


def matched(config: TrainConfig, cost: Cost, target: int | float, multiple_of: int) -> TrainConfig:
    """The config at the width, a multiple, whose cost is nearest to the target.

    ``cost`` must grow with the width; the width is found by doubling and halving.
    """

    def at(n: int) -> int | float:
        return cost(with_width(config, n * multiple_of))

    low, high = 1, 2
    while at(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < target else (low, middle)
    n = min((low, high), key=lambda n: abs(at(n) - target))
    return with_width(config, n * multiple_of)
