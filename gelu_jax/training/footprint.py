"""How much memory a run of any kind of model takes, counted before anything is compiled."""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import jax

from gelu_jax.training.model import learned, with_learned
from gelu_jax.training.trainer import Keys, Trainer, loss


class Footprint(NamedTuple):
    """Bytes on one device.

    Attributes:
      state: weights, optimizer and what else a step changes.
      gradients: of all that is learned.
      kept: from the forward to the backward pass, beside the weights.
      data: that lie on the device.
    """

    state: int
    gradients: int
    kept: int
    data: int

    @property
    def total(self) -> int:
        """All of it, with the state as it was before a chunk of steps and as it is after it."""
        return 2 * self.state + self.gradients + self.kept + self.data


def footprint(trainer: Trainer) -> Footprint:
    """Counts the memory of a run; what a compiler adds or saves is left out.

    Args:
      trainer: of the run; on a mesh, its tensors are counted as they are spread.

    Returns:
      The bytes.
    """
    state: Any = trainer.abstract_state
    parts = trainer.config.gradient_accumulation_steps * _shares(trainer)
    return Footprint(
        state=_bytes(state),
        gradients=_bytes(learned(state.model)),
        kept=_kept(trainer) // parts,
        data=_bytes(trainer.data),
    )


def _shares(trainer: Trainer) -> int:
    """In how many parts the mesh splits a batch."""
    sizes: Mapping[str, int] = {} if trainer.mesh is None else dict(trainer.mesh.shape)
    return prod(sizes.get(axis, 1) for axis in ("data", "fsdp", "expert"))


def _kept(trainer: Trainer) -> int:
    keys, data = Keys.of(0), trainer.data
    batches = data.abstract_batches(1)
    inputs, targets = jax.eval_shape(lambda held: held.batch(keys.data, 0), batches)

    def residuals(model: Any, inputs: Any, targets: Any) -> Any:
        def value(params: Any) -> Any:
            return loss(with_learned(model, params), inputs, targets, keys.dropout)[0]

        return jax.vjp(value, learned(model))[1]

    program = jax.make_jaxpr(residuals)(trainer.abstract_state.model, inputs, targets).jaxpr
    kept = {id(v): v.aval for v in program.outvars if not hasattr(v, "val")}
    given = {id(v) for v in program.invars}
    return sum(_size(aval) for name, aval in kept.items() if name not in given)


def _bytes(tree: Any) -> int:
    return sum(map(_size, jax.tree.leaves(tree)))


def _size(leaf: Any) -> int:
    """Bytes of an array, or of one device's share of it."""
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return prod(shape) * leaf.dtype.itemsize
