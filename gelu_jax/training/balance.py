"""What the routers of a mixture of experts add to a step of training: losses, and a choice bias."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gelu_jax.nn.balance import updated_choice_bias
from gelu_jax.nn.experts import MoE
from gelu_jax.nn.stack import FeedForwards
from gelu_jax.nn.transformer import Transformer

T = TypeVar("T")


def call(model: T, *args: Any, **options: Any) -> tuple[Array, Float[Array, ""], T]:
    """Calls a model as a step of training does.

    Args:
      model: maps inputs to logits.
      *args: of the call.
      **options: of the call.

    Returns:
      The logits; what the training loss adds, the sum over the layers of
      `gelu_jax.RoutingStatistics.loss`, 0 without experts; and the model, the choice biases of its
      routers moved by their load.
    """
    apply: Any = model
    if not isinstance(model, Transformer) or not _mixtures(model):
        return apply(*args, **options), jnp.zeros(()), model
    logits, routing = model.with_routing(*args, **options)
    assert routing is not None
    return logits, routing.loss.sum(), _moved(model, routing.load)


def with_choice_biases(params: T, model: Any) -> T:
    """Parameters after an optimizer's step, with the choice biases of a model.

    Args:
      params: a model as the optimizer left it.
      model: the model that `call` returned.

    Returns:
      The parameters.
    """
    found = [moe.router.choice_bias for moe, _ in _mixtures(model)]
    return _with_biases(params, [None if bias is None else bias[...] for bias in found])


def _moved(model: T, load: Array) -> T:
    biases = list[Array | None]()
    for moe, layers in _mixtures(model):
        rate, bias = moe.config.bias_update_rate, moe.router.choice_bias
        moved = None
        if bias is not None and rate != 0.0:
            moved = updated_choice_bias(bias[...], load[layers], rate)
        biases.append(moved)
    return _with_biases(model, biases)


def _with_biases(model: T, biases: list[Array | None]) -> T:
    if all(bias is None for bias in biases):
        return model
    copy = jax.tree.map(lambda leaf: leaf, model)
    for (moe, _), bias in zip(_mixtures(copy), biases, strict=True):
        if moe.router.choice_bias is not None and bias is not None:
            moe.router.choice_bias[...] = bias
    return copy


def _mixtures(model: Any) -> list[tuple[MoE, Any]]:
    """Each stack of mixtures, and which of the layers that have experts it holds."""
    part = getattr(getattr(model, "layers", None), "feed_forward", None)
    if isinstance(part, MoE):
        return [(part, slice(None))]
    if not isinstance(part, FeedForwards):
        return []
    sparse = [kind for kind in part.kinds if isinstance(part.stacks[kind], MoE)]
    return [
        (stack, jnp.array([i for i, kind in enumerate(sparse) if kind == own]))
        for own, stack in enumerate(part.stacks)
        if isinstance(stack, MoE)
    ]
