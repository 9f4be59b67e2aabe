"""What the routers of a mixture of experts add to a step of training: losses, and a choice bias."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gelu_jax.nn.balance import updated_choice_bias
from gelu_jax.nn.experts import MoE
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
    if not isinstance(model, Transformer) or _mixture(model) is None:
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
    found = _mixture(model)
    if found is None or found.router.choice_bias is None:
        return params
    return _with_bias(params, found.router.choice_bias[...])


def _moved(model: T, load: Array) -> T:
    moe = _mixture(model)
    assert moe is not None
    rate, bias = moe.config.bias_update_rate, moe.router.choice_bias
    if bias is None or rate == 0.0:
        return model
    return _with_bias(model, updated_choice_bias(bias[...], load, rate))


def _with_bias(model: T, bias: Array) -> T:
    copy = jax.tree.map(lambda leaf: leaf, model)
    moe = _mixture(copy)
    assert moe is not None
    assert moe.router.choice_bias is not None
    moe.router.choice_bias[...] = bias
    return copy


def _mixture(model: Any) -> MoE | None:
    found = getattr(getattr(model, "layers", None), "feed_forward", None)
    return found if isinstance(found, MoE) else None
