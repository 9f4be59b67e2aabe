"""Arms of equal cost: the hidden width at which one config costs what another does."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import jax

from gelu_jax.nn.experts import MoEConfig
from gelu_jax.nn.mlp import MLPConfig
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.training.data import Dataset
from gelu_jax.training.flops import products
from gelu_jax.training.model import (
    PretrainedConfig,
    architecture,
    learned,
    make_model,
    num_active_parameters,
)
from gelu_jax.training.python_model import PythonModel
from gelu_jax.training.trainer import Keys, TrainConfig, example_inputs, init, step

Cost = Callable[[TrainConfig], int | float]


def parameters(config: TrainConfig, data: Dataset | None = None) -> int:
    """Entries of all parameters of the model; nothing is allocated.

    Args:
      config: of a run.
      data: that it trains on, whose shapes a Linen module of a person's own needs.

    Returns:
      How many numbers are learned.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(_learned(config, data)))


def active_parameters(config: TrainConfig, data: Dataset | None = None) -> int:
    """Entries of the parameters that one token meets: of a mixture's experts, k of e.

    A token meets each in one multiply-add, so that this matches the FLOPs of the products that are
    wanted, and leaves out the rows that a mixture may leave empty. In a model of a person's own
    every parameter counts.

    Args:
      config: of a run.
      data: as of `parameters`.

    Returns:
      How many numbers there are.
    """
    return num_active_parameters(_learned(config, data))


def _learned(config: TrainConfig, data: Dataset | None) -> Any:
    """Shapes and dtypes of what is learned."""
    inputs = None if data is None else example_inputs(data)
    model = jax.eval_shape(lambda key: make_model(config.model, key, inputs), jax.random.key(0))
    return learned(model)


def flops_per_step(config: TrainConfig, data: Dataset) -> float:
    """Floating-point operations of the matrix products of one training step, forward and backward.

    Counted in the program as it is written, 2·m·n·k a product, whatever a compiler makes of it;
    elementwise work is left out, as is usual in the field. Of a mixture of experts every row counts
    that some routing may need: up to an eighth more than the experts that the tokens chose.

    Args:
      config: of a run.
      data: that it trains on.

    Returns:
      FLOPs of one step.
    """
    keys, rate = Keys.of(0), jax.numpy.zeros(())
    state = jax.eval_shape(lambda keys: init(config, keys, example_inputs(data)), keys)
    counted = products(
        lambda *args: step(config, *args), state, data.abstract_batches(1), keys, rate
    )
    return float(sum(product.flops for product in counted))


def width(config: TrainConfig) -> int | None:
    """The hidden width of the model's feed-forward blocks.

    Args:
      config: of a run.

    Returns:
      d_ff, in a mixture that of each expert; None for a model of a person's own that does not say
      which of its arguments it is.
    """
    match model := architecture(config.model):
        case PythonModel():
            return None if model.width is None else model.arguments[model.width]
        case MLPConfig():
            return model.d_ff
        case TransformerConfig():
            return model.block.feed_forward.d_ff


def sets_width(config: TrainConfig, changes: Iterable[str]) -> bool:
    """Whether changes to a run set its hidden width.

    Args:
      config: of the changed run.
      changes: the dotted paths of the fields.

    Returns:
      True if one of them is the width; that of a block shared beside experts is not.
    """
    model = config.model
    name = model.width if isinstance(model, PythonModel) else "d_ff"
    paths = [path.split(".") for path in changes]
    return any(path[-1] == name and "shared" not in path for path in paths)


def with_width(config: TrainConfig, d_ff: int) -> TrainConfig:
    """The same config with another hidden width; feed-forward parts of a pattern stay as they are.

    Args:
      config: of a run.
      d_ff: the new width.

    Returns:
      A new config.
    """
    model = config.model
    if isinstance(model, PythonModel):
        arguments = {**model.arguments, str(model.width): d_ff}
        return replace(config, model=replace(model, arguments=arguments))
    if isinstance(model, MLPConfig | PretrainedConfig):
        return replace(config, model=replace(model, d_ff=d_ff))
    block = model.block.feed_forward
    if isinstance(block, MoEConfig):  # of each expert; a shared block stays as it is
        feed_forward = replace(block, feed_forward=replace(block.feed_forward, d_ff=d_ff))
    else:
        feed_forward = replace(block, d_ff=d_ff)
    return replace(
        config, model=replace(model, block=replace(model.block, feed_forward=feed_forward))
    )


def matched(config: TrainConfig, cost: Cost, target: int | float, multiple_of: int) -> TrainConfig:
    """The config at the width whose cost is nearest to the target, found by bisection.

    Args:
      config: of a run.
      cost: of a config; must grow with the width.
      target: the cost to be met.
      multiple_of: the width is a multiple of it.

    Returns:
      A new config.
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
