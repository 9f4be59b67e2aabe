"""Dropout, and flax's two questions about it: is it on, and which key does it draw with?

A module drops entries unless ``deterministic=True`` is passed, or `flax.nnx.Module.eval` was
called and ``deterministic=False`` is not passed. Its key is ``dropout_key``, or comes from the
stream "dropout" of ``rngs``. Without a key it raises, as flax's own `Dropout` does: training
without the dropout that its config asks for would show in no error, only in the result.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

Rngs = nnx.Rngs | nnx.RngStream | Key[Array, ""]


def dropout(x: Array, rate: float, key: Key[Array, ""] | None) -> Array:
    """Zeroes entries with probability `rate` and scales the rest by 1/(1 − rate).

    The "inverted" dropout of Srivastava et al. 2014.

    Args:
      x: array of any shape and floating dtype.
      rate: in [0, 1); 0 leaves x as it is.
      key: PRNG key; None leaves x as it is.
    Returns:
      An array of the shape and dtype of x.
    """
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def split_key(key: Key[Array, ""] | None, parts: int) -> Sequence[Key[Array, ""] | None]:
    """A dropout key for each part of a model.

    Args:
      key: PRNG key; None where nothing is dropped.
      parts: how many.
    Returns:
      The keys, the same whatever the number of those after them; or so many None.
    """
    return [None] * parts if key is None else list(jax.random.split(key, parts))


class Stochastic(nnx.Module):
    """A module with dropout in it, which `nnx.Module.train` and `nnx.Module.eval` switch."""

    deterministic = False

    def set_view(self, deterministic: bool | None = None) -> None:
        """Switches dropout in the view that `flax.nnx.view` makes.

        Args:
          deterministic: whether dropout is off; None leaves it as it is.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def key_of_call(
        self,
        rate: float,
        deterministic: bool | None,
        rngs: Rngs | None,
        dropout_key: Key[Array, ""] | None,
    ) -> Key[Array, ""] | None:
        """The dropout key of one call of this module.

        Args:
          rate: the highest dropout rate in the module.
          deterministic: whether dropout is off; None for what `train` and `eval` set.
          rngs: as flax's `Dropout` takes them, drawn from only where dropout is on; or None.
          dropout_key: PRNG key, which takes precedence over `rngs`; or None.
        Returns:
          The key; None where nothing is dropped.
        Raises:
          ValueError: dropout is on, and there is no key.
        """
        if rate == 0.0 or (self.deterministic if deterministic is None else deterministic):
            return None
        if dropout_key is not None:
            return dropout_key
        if rngs is None:
            raise ValueError(
                f"dropout_rate = {rate}: training needs a key; pass dropout_key=key or rngs=rngs, "
                "or deterministic=True, which model.eval() sets, to drop nothing"
            )
        return _drawn(rngs)


def _drawn(rngs: Rngs) -> Key[Array, ""]:
    if isinstance(rngs, nnx.Rngs):
        return rngs.dropout()
    return rngs() if isinstance(rngs, nnx.RngStream) else rngs
