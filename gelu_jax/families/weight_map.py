"""A family's weight map: which tensor of a checkpoint holds which parameter, and in which layout.

The same map loads and saves. Names are those that transformers writes.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gelu_jax.nn.layouts import Shape, inverse, rearrange, rearranged_shape

Array = NDArray[Any]
_UNCHANGED = "... -> ..."


@dataclass(frozen=True)
class Entry:
    """A parameter, the tensor that holds it, and its layout there.

    Entries that name one tensor are concatenated in it, in the order of the map. A second entry for
    a parameter is a tied copy: it is not written, and where a file has it, both must be equal.

    Attributes:
      path: the parameter, as a path in the model; one that the model lacks is passed over.
      name: the tensor. Where there is one for each layer, ``{}`` stands for the layer's number,
        counted from 0 (``{1}`` from 1), and the parameter has a leading layer axis. Where there is
        one for each expert, ``{expert}`` stands for its number, and the parameter has an axis of
        experts next.
      pattern: from the tensor to the parameter (without those axes), as `rearrange` reads it.
      axis: the axis of the tensor that entries are concatenated along.
      whole: from the tensor to one of concatenated entries, n of them, where they are not so in
        files: ``"(h n k) ... -> (n h k) ..."`` where each head's are together.
      first: the first layer that has such a tensor; the rows of those before it are not used.
      layers: the layers that the rows of the parameter are of; empty where they are of all.
    """

    path: str
    name: str
    pattern: str = _UNCHANGED
    axis: int = 0
    whole: str = _UNCHANGED
    first: int = 0
    layers: tuple[int, ...] = ()

    def tensor_name(self, row: int = 0, expert: int = 0) -> str:
        """The tensor of one layer, or of one expert in it.

        Args:
          row: of the parameter, from 0.
          expert: its index, from 0.

        Returns:
          The name.
        """
        layer = self.layers[row] if self.layers else row
        return self.name.format(layer, layer + 1, expert=expert)

    @property
    def leading_axes(self) -> int:
        """How many axes of the parameter are of layers and experts: 0, 1 or 2."""
        return ("{" in self.name) + ("{expert}" in self.name)


WeightMap = tuple[Entry, ...]


def norm(path: str, name: str) -> WeightMap:
    """The entries of a LayerNorm or RMSNorm.

    Args:
      path: the module in our model.
      name: the module in transformers.

    Returns:
      Its scale and bias.
    """
    return Entry(f"{path}.scale", f"{name}.weight"), Entry(f"{path}.bias", f"{name}.bias")


def linear(
    path: str, name: str, pattern: str = "e d -> d e", bias_pattern: str = _UNCHANGED
) -> WeightMap:
    """The entries of a torch.nn.Linear.

    Args:
      path: the kernel or bias in our model, with ``{}`` for "w" and "b".
      name: the module in transformers.
      pattern: of the kernel.
      bias_pattern: of the bias.

    Returns:
      The kernel and the bias.

    >>> [entry.path for entry in linear("attention.{}_out", "self_attn.o_proj")]
    ['attention.w_out', 'attention.b_out']
    """
    return (
        Entry(path.format("w"), f"{name}.weight", pattern),
        Entry(path.format("b"), f"{name}.bias", bias_pattern),
    )


def attention(path: str, name: str, query: str, key: str, value: str, out: str) -> WeightMap:
    """The entries of an attention made of four torch.nn.Linear.

    Args:
      path: the module in our model.
      name: the module in transformers.
      query: in it, what gives the queries.
      key: what gives the keys.
      value: what gives the values.
      out: what is applied to the heads' outputs.

    Returns:
      The kernels and biases.
    """
    into_heads = ("(h k) d -> d h k", "(h k) -> h k")
    return (
        *linear(path + ".{}_query", f"{name}.{query}", *into_heads),
        *linear(path + ".{}_key", f"{name}.{key}", *into_heads),
        *linear(path + ".{}_value", f"{name}.{value}", *into_heads),
        *linear(path + ".{}_out", f"{name}.{out}", "d (h k) -> h k d"),
    )


def fused_attention(
    path: str, name: str, fused: str, out: str, *, whole: str = _UNCHANGED
) -> WeightMap:
    """The entries of an attention whose queries, keys and values come from one torch.nn.Linear.

    Args:
      path: the module in our model.
      name: the module in transformers.
      fused: in it, what gives queries, keys and values.
      out: what is applied to the heads' outputs.
      whole: as in `Entry`.

    Returns:
      The kernels and biases.
    """
    weight, bias = f"{name}.{fused}.weight", f"{name}.{fused}.bias"
    parts = ("query", "key", "value")
    return (
        *(Entry(f"{path}.w_{p}", weight, "(h k) d -> d h k", whole=whole) for p in parts),
        *(Entry(f"{path}.b_{p}", bias, "(h k) -> h k", whole=whole) for p in parts),
        *linear(path + ".{}_out", f"{name}.{out}", "d (h k) -> h k d"),
    )


def feed_forward(path: str, inputs: Sequence[str], out: str) -> WeightMap:
    """The entries of a feed-forward block made of torch.nn.Linear.

    Args:
      path: the module in our model.
      inputs: in transformers, the module of each branch, in the order of the variant.
      out: the module that is applied to their product.

    Returns:
      The kernels and biases.
    """
    branches = (linear(f"{path}.{{}}_in_{i}", name) for i, name in enumerate(inputs))
    return (*chain.from_iterable(branches), *linear(path + ".{}_out", out))


def experts(path: str, name: str, inputs: Sequence[str], out: str) -> WeightMap:
    """The entries of experts that are each made of torch.nn.Linear without biases.

    Args:
      path: the mixture in our model.
      name: the module of one expert in transformers, with ``{expert}`` for its number.
      inputs: in it, the module of each branch, in the order of the variant.
      out: the module that is applied to their product.

    Returns:
      The kernels.

    >>> [entry.name for entry in experts("feed_forward", "mlp.{expert}", ["up"], "down")]
    ['mlp.{expert}.up.weight', 'mlp.{expert}.down.weight']
    """
    return (
        *(
            Entry(f"{path}.experts.w_in_{i}", f"{name}.{module}.weight", "f d -> d f")
            for i, module in enumerate(inputs)
        ),
        Entry(f"{path}.experts.w_out", f"{name}.{out}.weight", "d f -> f d"),
    )


def prefixed(entries: Iterable[Entry], path: str, name: str) -> WeightMap:
    """The entries of a part of a model.

    Args:
      entries: with paths and names within the part.
      path: what stands before each path.
      name: what stands before each name.

    Returns:
      The entries in the whole model.
    """
    return tuple(replace(e, path=path + e.path, name=name + e.name) for e in entries)


Aliases = tuple[tuple[str, str], ...]


def renamed(weight_map: WeightMap, aliases: Aliases) -> WeightMap:
    """The entries with the tensors' names as other files spell them.

    Args:
      weight_map: with names as transformers writes them.
      aliases: pairs of a regular expression and its replacement, applied in turn.

    Returns:
      The entries in the other spelling.

    >>> renamed((Entry("pooler.w", "bert.pooler.dense.weight"),), ((r"^bert\\.", ""),))[0].name
    'pooler.dense.weight'
    """
    for pattern, other in aliases:
        weight_map = tuple(
            replace(entry, name=re.sub(pattern, other, entry.name)) for entry in weight_map
        )
    return weight_map


def with_kept(weight_map: WeightMap, kept: Collection[str]) -> WeightMap:
    """The entries for files that hold a tied tensor under another name than the usual one alone.

    Args:
      weight_map: of the model.
      kept: names of tied copies that are there in place of what they repeat.

    Returns:
      The entries, with these before the others.

    >>> entries = Entry("embedding", "shared.weight"), Entry("embedding", "lm_head.weight")
    >>> [entry.name for entry in with_kept(entries, ["lm_head.weight"])]
    ['lm_head.weight', 'shared.weight']
    """
    if not kept:
        return weight_map
    return tuple(sorted(weight_map, key=lambda entry: entry.name not in kept))


class Part(NamedTuple):
    """The part of a tensor that holds a parameter, or one layer or expert of it.

    Attributes:
      entry: the parameter and its layout in the tensor.
      place: the indices in the parameter's axes of layers and experts, as many as it has.
      shape: of the parameter, without those axes.
    """

    entry: Entry
    place: tuple[int, ...]
    shape: Shape

    @property
    def row(self) -> int | None:
        """The index in the parameter's layer axis; None where it has none."""
        return self.place[0] if self.place else None

    @property
    def stored_shape(self) -> Shape:
        """The shape of the part as it is stored."""
        return rearranged_shape(self.shape, inverse(self.entry.pattern))


def tensor_parts(
    weight_map: WeightMap, shapes: Mapping[str, Shape], most_layers: int | None = None
) -> dict[str, list[Part]]:
    """What each tensor of a checkpoint holds.

    Args:
      weight_map: of the model.
      shapes: of its parameters, by path.
      most_layers: how many layers of a parameter to list at most; None lists all.

    Returns:
      By each tensor's name its parts, in the order in which they are concatenated.
    """
    tensors: dict[str, list[Part]] = {}
    for path, entry in _holders(weight_map).items():
        if path not in shapes:
            continue
        lead = entry.leading_axes
        rows, experts = shapes[path][:1], shapes[path][1:lead]
        places: Iterable[tuple[int, ...]] = product(
            *(range(n)[entry.first : most_layers] for n in rows[:lead]),
            *(range(n)[:most_layers] for n in experts),
        )
        for place in places:
            part = Part(entry, place, shapes[path][lead:])
            tensors.setdefault(entry.tensor_name(*place), []).append(part)
    return tensors


def tied_names(weight_map: WeightMap) -> dict[str, str]:
    """The names under which files may store a tensor a second time.

    Args:
      weight_map: of the model.

    Returns:
      By each such name that of the tensor that it repeats.
    """
    holders = _holders(weight_map)
    copies = (entry for entry in weight_map if holders[entry.path] is not entry)
    return {entry.name: holders[entry.path].name for entry in copies}


def _holders(weight_map: WeightMap) -> dict[str, Entry]:
    """The entry of each parameter; later ones for the same are tied copies."""
    holders: dict[str, Entry] = {}
    for entry in weight_map:
        holders.setdefault(entry.path, entry)
    return holders


def whole_shape(parts: Sequence[Part]) -> Shape:
    """The shape of a tensor.

    Args:
      parts: all that it holds.

    Returns:
      The shape as it is stored.
    """
    first, *others = (part.stored_shape for part in parts)
    axis = parts[0].entry.axis
    size = sum(shape[axis] for shape in others)
    return (*first[:axis], first[axis] + size, *first[axis + 1 :]) if others else first


def from_tensor(tensor: Array, parts: Sequence[Part]) -> list[Array]:
    """The parameters, or layers of them, that a tensor holds.

    Args:
      tensor: of the shape `whole_shape(parts)`.
      parts: all that it holds.

    Returns:
      The value of each part.
    """
    axis, whole = parts[0].entry.axis, parts[0].entry.whole
    if whole != _UNCHANGED:
        tensor = rearrange(tensor, whole, n=len(parts), **_axis_sizes(parts[0]))
    pieces = [tensor]
    if len(parts) > 1:
        sizes = [part.stored_shape[axis] for part in parts]
        pieces = np.split(tensor, np.cumsum(sizes)[:-1], axis)
    return [
        rearrange(piece, part.entry.pattern, **_axis_sizes(part))
        for piece, part in zip(pieces, parts, strict=True)
    ]


def to_tensor(values: Sequence[Array], parts: Sequence[Part]) -> Array:
    """The tensor that holds parameters, or layers of them: undoes `from_tensor`.

    Args:
      values: the value of each part.
      parts: all that it holds.

    Returns:
      The tensor as it is stored.
    """
    pieces = [
        rearrange(value, inverse(part.entry.pattern))
        for value, part in zip(values, parts, strict=True)
    ]
    axis, whole = parts[0].entry.axis, parts[0].entry.whole
    tensor = np.concatenate(pieces, axis) if len(pieces) > 1 else pieces[0]
    if whole == _UNCHANGED:
        return tensor
    return rearrange(tensor, inverse(whole), n=len(parts), **_axis_sizes(parts[0]))


def _axis_sizes(part: Part) -> dict[str, int]:
    _, ours = part.entry.pattern.split(" -> ")
    axes = ours.split()
    named = zip(axes, part.shape, strict=True) if "..." not in axes else ()
    return {axis: size for axis, size in named if axis != "1"}
