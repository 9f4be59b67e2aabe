"""A family's table of names: which of their tensors holds which of our parameters, and how.

A row's layout reads "theirs -> ours", with the axes of each: ``"f d -> d f"`` is a transpose,
``"(h k) d -> d h k"`` splits the heads of an (out, in) matrix, ``"1 1 d -> d"`` drops axes of one.
The same row serves loading and saving. Nothing is ever guessed from a shape.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any, NamedTuple

from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One of our parameters, the tensor that holds it, and the layout there.

    A name with ``{}`` stands for one tensor a layer, counted from `first_layer`; the parameter
    then has a leading layer axis. Rows that name one tensor lie in it one after another, along
    its axis `fused`, in the order of the table.
    """

    path: str
    name: str
    layout: str = ""
    fused: int = 0
    first_layer: int = 0


class Place(NamedTuple):
    """A row's part of a tensor: the part from `start` to `stop` along an axis of the whole."""

    row: Entry
    shape: Shape
    start: int
    stop: int
    whole: Shape

    @property
    def span(self) -> tuple[slice, ...]:
        """What to take from the tensor."""
        cut = slice(self.start, self.stop)
        return tuple(cut if a == self.row.fused else slice(None) for a in range(len(self.whole)))

    def names(self, layers: range | None = None) -> list[str]:
        """The tensors of the row, one a layer where there are layers."""
        if not is_stacked(self.row):
            return [self.row.name]
        layers = range(self.shape[0]) if layers is None else layers
        return [self.row.name.format(self.row.first_layer + layer) for layer in layers]


def is_stacked(row: Entry) -> bool:
    """Whether the row's parameter has a leading layer axis."""
    return "{}" in row.name


def within(
    rows: Iterable[Entry], ours: str = "", theirs: str = "", *, first_layer: int = 0
) -> tuple[Entry, ...]:
    """The rows of a part, where the part stands under a name in both models."""
    return tuple(
        replace(row, path=ours + row.path, name=theirs + row.name, first_layer=first_layer)
        for row in rows
    )


def apply_aliases(name: str, aliases: Iterable[tuple[str, str]]) -> str:
    """A tensor's name with each (ours, other) replaced; ``^`` anchors at the name's beginning."""
    for ours, other in aliases:
        anchored = ours.startswith("^")
        pattern = "^" + re.escape(ours[1:]) if anchored else re.escape(ours)
        name = re.sub(pattern, other, name)
    return name


def with_aliases(rows: Iterable[Entry], aliases: Sequence[tuple[str, str]]) -> tuple[Entry, ...]:
    """The rows in another spelling of their tensors' names."""
    return tuple(replace(row, name=apply_aliases(row.name, aliases)) for row in rows)


def places(rows: Iterable[Entry], shapes: Mapping[str, Shape]) -> list[Place]:
    """Where each of our parameters lies; rows for parameters that the model lacks are left out."""
    rows = [row for row in rows if row.path in shapes]
    parts = {row: _their_shape(row, shapes[row.path]) for row in rows}
    filled: dict[str, int] = {}
    spans: list[tuple[Entry, int, int]] = []
    for row in rows:
        start = filled.get(row.name, 0)
        stop = start + (parts[row][row.fused] if parts[row] else 0)
        filled[row.name] = stop
        spans.append((row, start, stop))
    return [
        Place(row, shapes[row.path], start, stop, _with(parts[row], row.fused, filled[row.name]))
        for row, start, stop in spans
    ]


def to_ours(tensor: NDArray[Any], row: Entry, shape: Shape) -> NDArray[Any]:
    """A tensor as our parameter of that shape."""
    if not row.layout:
        return tensor.reshape(shape)
    theirs, ours = _axes(row.layout)
    sizes = _sizes(ours, shape)
    flat = [axis for group in theirs for axis in group]
    split = tensor.reshape([sizes[axis] for axis in flat])
    return split.transpose([flat.index(axis) for axis in sizes]).reshape(shape)


def to_theirs(value: NDArray[Any], row: Entry) -> NDArray[Any]:
    """Our parameter as their tensor."""
    if not row.layout:
        return value
    theirs, ours = _axes(row.layout)
    sizes = _sizes(ours, value.shape)
    axes = list(sizes)
    flat = [axis for group in theirs for axis in group]
    turned = value.reshape([*sizes.values()]).transpose([axes.index(axis) for axis in flat])
    return turned.reshape([prod(sizes[axis] for axis in group) for group in theirs])


def _their_shape(row: Entry, shape: Shape) -> Shape:
    shape = shape[1:] if is_stacked(row) else shape
    if not row.layout:
        return shape
    theirs, ours = _axes(row.layout)
    sizes = _sizes(ours, shape)
    return tuple(prod(sizes[axis] for axis in group) for group in theirs)


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :]) if shape else shape


def _sizes(ours: Sequence[str], shape: Shape) -> dict[str, int]:
    named = zip(ours, shape, strict=True)
    return {axis: size for axis, size in named if axis != "1"}


@cache
def _axes(layout: str) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """The groups of their axes, and our axes: an axis "1" is an empty group."""
    theirs, ours = layout.split(" -> ")
    groups = re.findall(r"\(([^)]*)\)|(\S+)", theirs)
    split = (tuple((grouped or single).split()) for grouped, single in groups)
    return tuple(() if group == ("1",) else group for group in split), tuple(ours.split())
