"""The loss of each target."""

from typing import Any

import optax
from jaxtyping import Array, Bool, Float

from gelu_jax.training.data import Weighted


def cross_entropy(
    logits: Float[Array, "... classes"], targets: Any
) -> tuple[Float[Array, "..."], Bool[Array, "..."] | Float[Array, "..."]]:
    """−log p(target), p the softmax of the logits, and whether the target has the highest logit.

    Args:
      logits: (..., classes), of any floating dtype.
      targets: class numbers (...), int32; or `Weighted`, whose weights multiply both results.

    Returns:
      The loss of each target in nats, and 1 or True where it is predicted, each (...).

    >>> import jax.numpy as jnp
    >>> losses, correct = cross_entropy(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0]))
    >>> round(float(losses[0]), 4), bool(correct[0])
    (1.3863, False)
    """
    labels, weights = targets if isinstance(targets, Weighted) else (targets, None)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = logits.argmax(-1) == labels
    return (losses, correct) if weights is None else (losses * weights, correct * weights)
