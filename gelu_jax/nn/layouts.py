"""How checkpoints lay out weights, as patterns in the notation of einops; lossless both ways.

Nothing is read off a shape: a (1024, 1024) kernel is as much a transpose as it is not. Of einops
only `rearrange` is needed, which is too little to make it a dependency of the core.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from types import MappingProxyType
from typing import Any

from gelu_jax.errors import nearest

Tensor = Any  # of jax or numpy: whatever has the array API
Shape = tuple[int, ...]

# From the tensor of a checkpoint to n branches, one for each activation of the variant.
LAYOUTS: Mapping[str, str] = MappingProxyType(
    {
        "gate_up": "... (n f) -> n ... f",  # [gate|up]: Mixtral
        "up_gate": "... (n f) -> n ... f",  # [up|gate]: lucidrains' PaLM
        "interleaved": "... (f n) -> n ... f",  # g0, u0, g1, u1, …: gpt-oss
        "d2f": "... n f -> n ... f",  # (d, 2, f): tokamax
        "2df": "n ... f -> n ... f",  # (2, d, f): Gemma
        "conv1d": "... d (n f) -> n ... d f",  # (in, out): GPT-2's Conv1D, and flax
        "torch_linear": "... (n f) d -> n ... d f",  # (out, in): torch.nn.Linear; n = 2: Phi-3
    }
)


def split(fused: Tensor, layout: str, *, num_branches: int = 2) -> tuple[Tensor, ...]:
    """The branch arrays that one tensor of a checkpoint holds: our kernels, (d, f) each.

    The same layouts serve biases and stacks of experts (leading axes stay as they are), of numpy or
    JAX, in any dtype.

    Args:
      fused: the tensor.
      layout: a name in `LAYOUTS`.
      num_branches: how many arrays it holds; 1 turns a kernel that holds nothing else.

    Returns:
      The arrays in the order of the variant's activations: gate, then up.

    Raises:
      ValueError: the layout is unknown, or the tensor's shape does not hold num_branches arrays.

    >>> import numpy as np
    >>> gate, up = split(np.array([[1, 10, 2, 20]]), "interleaved")
    >>> gate.tolist(), up.tolist()
    ([[1, 2]], [[10, 20]])
    """
    pattern = _named(layout)
    try:
        branches = tuple(rearrange(fused, pattern, n=num_branches))
    except ValueError:
        reason = f"shape {fused.shape} does not hold {num_branches} branches"
        raise ValueError(f"{layout}: {reason}") from None
    return branches[::-1] if layout == "up_gate" else branches


def fuse(branches: Sequence[Tensor], layout: str) -> Tensor:
    """The tensor of a checkpoint that holds several branch arrays: undoes `split`.

    Args:
      branches: arrays of one shape and dtype, in the order of the variant: gate, then up.
      layout: a name in `LAYOUTS`.

    Returns:
      The tensor.

    Raises:
      ValueError: the layout is unknown, or the arrays do not have the axes that it names.

    >>> import numpy as np
    >>> fuse((np.array([[1, 2]]), np.array([[10, 20]])), "up_gate").tolist()
    [[10, 20, 1, 2]]
    """
    pattern = _named(layout)
    ordered = branches[::-1] if layout == "up_gate" else branches
    xp = branches[0].__array_namespace__()
    return rearrange(xp.stack(list(ordered)), inverse(pattern))


def rearrange(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """The array with its axes split, permuted and merged: einops' `rearrange`, for what we need.

    Args:
      x: a numpy or JAX array.
      pattern: the axes before and after: ``"f d -> d f"`` is a transpose, ``"(h k) d -> d h k"``
        splits the heads of an (out, in) matrix, ``"1 1 d -> d"`` drops axes of one, and ``...`` is
        any number of axes.
      **sizes: of axes, by name; all but one of those in parentheses on the left.

    Returns:
      The same elements; a view where numpy can.

    Raises:
      ValueError: the shape of `x` does not have the axes of the pattern, in these sizes.

    >>> import numpy as np
    >>> rearrange(np.ones((6, 5)), "(h k) d -> d h k", k=2).shape
    (5, 3, 2)
    """
    before, after, sizes = _solved(x.shape, pattern, sizes)
    flat = [axis for group in before for axis in group]
    order = [flat.index(axis) for group in after for axis in group]
    apart = x.reshape([sizes[axis] for axis in flat])
    return apart.transpose(order).reshape(_merged(after, sizes))


def rearranged_shape(shape: Shape, pattern: str, **sizes: int) -> Shape:
    """The shape that `rearrange` gives an array of that shape.

    Args:
      shape: of the array.
      pattern: as in `rearrange`.
      **sizes: as in `rearrange`.

    Returns:
      The shape after.

    Raises:
      ValueError: the shape does not have the axes of the pattern, in these sizes.

    >>> rearranged_shape((5, 3, 2), "d h k -> (h k) d")
    (6, 5)
    """
    _, after, sizes = _solved(shape, pattern, sizes)
    return _merged(after, sizes)


def inverse(pattern: str) -> str:
    """The pattern that undoes a pattern.

    Args:
      pattern: as in `rearrange`.

    Returns:
      The same sides, exchanged.

    >>> inverse("f d -> d f")
    'd f -> f d'
    """
    return " -> ".join(reversed(pattern.split(" -> ")))


Groups = list[list[str]]  # the axes that each axis of an array is made of: none where it is "1"


def _solved(
    shape: Shape, pattern: str, sizes: dict[str, int]
) -> tuple[Groups, Groups, dict[str, int]]:
    """The groups of axes before and after, and the size of every axis."""
    before, after = _sides(pattern, len(shape))
    for group, size in zip(before, shape, strict=False):
        known = prod(sizes.get(axis, 1) for axis in group)
        sizes = dict.fromkeys(group, size // max(known, 1)) | sizes
    if len(before) != len(shape) or _merged(before, sizes) != tuple(shape):
        raise ValueError(f"shape {shape} does not have the axes {pattern!r} in sizes {sizes}")
    return before, after, sizes


@cache
def _sides(pattern: str, rank: int) -> tuple[Groups, Groups]:
    """The groups before and after; ``...`` is as many axes as the others leave of the rank."""
    before, after = pattern.split(" -> ")
    lead = rank - len(_groups(before.replace("...", "")))
    dots = " ".join(f"lead{i}" for i in range(lead))
    return _groups(before.replace("...", dots)), _groups(after.replace("...", dots))


def _groups(side: str) -> Groups:
    found = re.findall(r"\(([^)]*)\)|(\S+)", side)
    return [[axis for axis in (several or one).split() if axis != "1"] for several, one in found]


def _merged(groups: Groups, sizes: Mapping[str, int]) -> Shape:
    return tuple(prod(sizes[axis] for axis in group) for group in groups)


def _named(layout: str) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f"layout = {layout!r}: unknown; {nearest(layout, LAYOUTS)}")
    return LAYOUTS[layout]
