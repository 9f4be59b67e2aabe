"""The layouts in which checkpoints hold the branch weights of one block, by name, lossless.

`gelu_jax` holds one kernel a branch, each (d, f), in the order of the variant's activations. The
same functions serve kernels, biases and stacks of experts, of numpy or JAX, in any dtype. An order
is never read off a shape: (1024, 1024) is as much a transpose as it is not.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from jax import Array

from gelu_jax.errors import nearest

Value = TypeVar("Value")
Tensor = Array | Any  # jax or numpy: whatever has the array API


class Layout(NamedTuple):
    """How n branch tensors become one, and one becomes n again."""

    fuse: Callable[[Any, Sequence[Tensor]], Tensor]
    split: Callable[[Any, Tensor, int], list[Tensor]]


def _concatenated(xp: Any, branches: Sequence[Tensor]) -> Tensor:
    return xp.concat(list(branches), axis=-1)


def _cut(xp: Any, fused: Tensor, n: int) -> list[Tensor]:
    return _unstacked(xp, xp.reshape(fused, (*fused.shape[:-1], n, -1)), -2)


def _interleaved(xp: Any, branches: Sequence[Tensor]) -> Tensor:
    stacked = xp.stack(list(branches), axis=-1)
    return xp.reshape(stacked, (*stacked.shape[:-2], -1))


def _combed(xp: Any, fused: Tensor, n: int) -> list[Tensor]:
    return _unstacked(xp, xp.reshape(fused, (*fused.shape[:-1], -1, n)), -1)


def _unstacked(xp: Any, stacked: Tensor, axis: int) -> list[Tensor]:
    return list(xp.moveaxis(stacked, axis, 0))


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        # [gate|up]: Phi-3, Mixtral
        "gate_up": Layout(_concatenated, _cut),
        # [up|gate]: lucidrains' PaLM
        "up_gate": Layout(
            lambda xp, branches: _concatenated(xp, branches[::-1]),
            lambda xp, fused, n: _cut(xp, fused, n)[::-1],
        ),
        # g0, u0, g1, u1, …: gpt-oss
        "interleaved": Layout(_interleaved, _combed),
        # (d, 2, f): tokamax
        "d2f": Layout(
            lambda xp, branches: xp.stack(list(branches), axis=-2),
            lambda xp, fused, n: _unstacked(xp, fused, -2),
        ),
        # (2, d, f): Gemma
        "2df": Layout(
            lambda xp, branches: xp.stack(list(branches), axis=0),
            lambda xp, fused, n: _unstacked(xp, fused, 0),
        ),
    }
)

# Whether a kernel is held as (in, out), as flax and GPT-2's Conv1D do, or as (out, in).
_TRANSPOSED = MappingProxyType({"flax": False, "conv1d": False, "torch_linear": True})


def split(fused: Tensor, layout: str, *, num_branches: int = 2) -> tuple[Tensor, ...]:
    """The branch tensors that one fused tensor holds, in the order of the variant: gate, then up.

    Raises ValueError for an unknown layout and for a tensor that does not hold num_branches.

    >>> import numpy as np
    >>> gate, up = split(np.array([[1, 10, 2, 20]]), "interleaved")
    >>> gate.tolist(), up.tolist()
    ([[1, 2]], [[10, 20]])
    """
    xp = fused.__array_namespace__()
    chosen = _named(layout, LAYOUTS, "layout")
    try:
        found = chosen.split(xp, fused, num_branches)
    except (ValueError, TypeError):
        found = []
    if len(found) != num_branches:
        raise ValueError(f"{layout}: shape {fused.shape} does not hold {num_branches} branches")
    return tuple(found)


def fuse(branches: Sequence[Tensor], layout: str) -> Tensor:
    """One tensor of several branch tensors, given in the order of the variant: undoes `split`.

    Raises ValueError for an unknown layout.

    >>> import numpy as np
    >>> fuse((np.array([[1, 2]]), np.array([[10, 20]])), "up_gate").tolist()
    [[10, 20, 1, 2]]
    """
    xp = branches[0].__array_namespace__()
    return _named(layout, LAYOUTS, "layout").fuse(xp, branches)


def transposed(kernel: Tensor, order: str) -> Tensor:
    """A kernel held as ``order`` turned to (in, out), or back: the same function undoes itself.

    ``"flax"`` and GPT-2's ``"conv1d"`` hold (in, out), ``"torch_linear"`` (out, in). A fused torch
    kernel (2f, d) is turned first and split then. Leading axes (experts) stay.

    Raises ValueError for an unknown order.

    >>> import numpy as np
    >>> [transposed(np.ones((8, 2)), order).shape for order in ("torch_linear", "conv1d")]
    [(2, 8), (8, 2)]
    """
    if not _named(order, _TRANSPOSED, "order"):
        return kernel
    return kernel.__array_namespace__().moveaxis(kernel, -1, -2)


def _named(name: str, table: Mapping[str, Value], field: str) -> Value:
    if name not in table:
        raise ValueError(f"{field} = {name!r}: unknown; {nearest(name, table)}")
    return table[name]
