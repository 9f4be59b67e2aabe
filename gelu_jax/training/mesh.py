"""Several devices: one table says along which axis of the mesh each axis of an array is split.

The devices form a mesh of four axes. Along ``data`` each device holds the whole state and a share
of the batch. Along ``fsdp`` batch and state are split, and a layer's weights are gathered when it
runs (Rajbhandari et al. 2020, "ZeRO", stage 3). Along ``expert`` the batch and the experts of a
mixture are split, and tokens go to their experts (`gelu_jax.nn.exchange`; Lepikhin et al. 2020,
"GShard"). Along ``tensor`` the heads, the hidden layer and the vocabulary are split (Shoeybi et al.
2019, "Megatron-LM"). The program is the one of a single device; but for that exchange, XLA inserts
the collectives.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import gcd, prod
from typing import Any, TypeVar

import jax
from flax.linen import logical_axis_rules
from flax.linen.spmd import logical_to_mesh_axes
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.nn.axes import axis_names
from gelu_jax.nn.experts import MoEConfig
from gelu_jax.nn.mlp import MLPConfig
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.training.python_model import PythonModel

T = TypeVar("T")

RULES = (
    ("b", ("data", "fsdp", "expert")),
    ("x", "expert"),
    ("f", "tensor"),
    ("h", "tensor"),
    ("g", "tensor"),
    ("v", "tensor"),
    ("d", "fsdp"),
)
"""Axis of an array → axis of the mesh. An axis that is not here is never split, nor is one of a
parameter whose length the mesh does not divide."""


@dataclass(frozen=True)
class MeshConfig:
    """How many devices lie along each axis of the mesh; one of them may be −1: all that are left.

    Attributes:
      data: devices that share the batch; each holds the whole state.
      fsdp: devices that share the batch and the state.
      expert: devices that share the batch and the experts of each mixture.
      tensor: devices that share heads, hidden units and vocabulary.
    """

    data: int = -1
    fsdp: int = 1
    expert: int = field(default=1, kw_only=True)  # so that the others keep their places
    tensor: int = 1

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        for name, size in vars(self).items():
            if size < 1 and size != -1:
                yield Problem(name, size, "must be above 0, or -1 for all that are left")
        left = [name for name, size in vars(self).items() if size == -1]
        for name in left[1:]:
            yield Problem(name, -1, f"only one axis may be -1, and {left[0]} is")

    def sizes(self, devices: int) -> dict[str, int]:
        """Devices along each axis.

        Args:
          devices: how many there are in all.

        Returns:
          The size of each axis, by its name.

        Raises:
          ConfigError: there are too few devices, or they cannot be shared out evenly.

        >>> MeshConfig(tensor=2).sizes(8)
        {'data': 4, 'fsdp': 1, 'expert': 1, 'tensor': 2}
        """
        known = prod(size for size in vars(self).values() if size > 0)
        if known > devices or (-1 in vars(self).values() and devices % known):
            there = f"{devices} device{'s' * (devices != 1)}"
            raise ConfigError([Problem("mesh", vars(self), f"does not fit on {there}")])
        return {k: devices // known if size == -1 else size for k, size in vars(self).items()}


def make_mesh(config: MeshConfig | None) -> Mesh | None:
    """Makes the mesh of the devices of all processes.

    Args:
      config: the axes; None is one device.

    Returns:
      The mesh; None where it would have one device.

    Raises:
      ConfigError: the devices are too few, or several processes would not use all of them.
    """
    sizes = {} if config is None else config.sizes(jax.device_count())
    devices = prod(sizes.values())
    if jax.process_count() > 1 and devices != jax.device_count():
        reason = f"must use all {jax.device_count()} devices of the processes, as data: -1 does"
        raise ConfigError([Problem("mesh", config and vars(config), reason)])
    if devices == 1:
        return None
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        (AxisType.Auto,) * len(sizes),
        devices=jax.devices()[:devices],
    )


@contextmanager
def use_mesh(mesh: Mesh | None) -> Generator[None]:
    """A context in which what is traced is spread over a mesh, by `RULES`.

    Args:
      mesh: the mesh; None changes nothing.
    """
    if mesh is None:
        yield
    else:
        with jax.set_mesh(mesh), logical_axis_rules(RULES):
            yield


def with_shardings(
    tree: T, mesh: Mesh | AbstractMesh | None, names: Sequence[str] | None = None
) -> T:
    """Gives each leaf of a tree its place on a mesh.

    Args:
      tree: arrays, or their shapes and dtypes.
      mesh: the mesh; None returns the tree as it is.
      names: the axes of each leaf; None asks the modules in the tree (`axis_names`).

    Returns:
      Shapes and dtypes, each with its sharding.
    """
    if mesh is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    names = axis_names(tree) if names is None else names
    places = [_place(leaf.shape, axes, mesh) for leaf, axes in zip(leaves, names, strict=True)]
    return jax.tree.unflatten(
        structure,
        [
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
            for leaf, place in zip(leaves, places, strict=True)
        ],
    )


def shardings(tree: Any) -> Any:
    """The shardings that `with_shardings` gave to the leaves of a tree.

    Args:
      tree: shapes and dtypes.

    Returns:
      The tree of shardings; None where no leaf has one.
    """
    places = [leaf.sharding for leaf in jax.tree.leaves(tree)]
    return jax.tree.map(lambda leaf: leaf.sharding, tree) if any(places) else None


def replicate(tree: T, mesh: Mesh | None) -> T:
    """Puts a copy of every array on every device; each process serves its own.

    Args:
      tree: arrays.
      mesh: the mesh; None returns the tree as it is.

    Returns:
      The tree of global arrays.
    """
    if mesh is None:
        return tree
    place = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(partial(jax.make_array_from_process_local_data, place), tree)


def _place(shape: tuple[int, ...], axes: str, mesh: Any) -> NamedSharding:
    letters: list[str | None] = list(axes.split())
    # A vector is so small that gathering it would cost more than holding it everywhere.
    rules = [rule for rule in RULES if len(letters) > 1 or rule[1] != "fsdp"]
    letters = [None] * (len(shape) - len(letters)) + letters
    spec = zip(shape, logical_to_mesh_axes(letters, rules) or (), strict=True)
    fitting = (None if n % mesh.shape.get(axis, 1) else axis for n, axis in spec)
    return NamedSharding(mesh, PartitionSpec(*fitting))


def mesh_problems(
    sizes: dict[str, int], model: TransformerConfig | MLPConfig | PythonModel, batch_size: int
) -> Iterator[Problem]:
    """Finds where a mesh cannot divide a run evenly.

    Args:
      sizes: devices along each axis.
      model: the network.
      batch_size: examples in a step.

    Yields:
      A problem for each length that an axis does not divide.
    """
    if isinstance(model, TransformerConfig):
        block = model.block
        parts = model.feed_forwards or (block.feed_forward,)
        mixtures = [part for part in parts if isinstance(part, MoEConfig)]
        shared = [part.shared.d_ff for part in mixtures if part.shared is not None]
        lengths = {
            "num_heads": ("tensor", block.attention.num_heads),
            "d_ff": ("tensor", gcd(*(part.d_ff for part in parts))),
            "shared.d_ff": ("tensor", gcd(*shared)),
            "d_model": ("fsdp", block.d_model),
            "num_experts": ("expert", gcd(*(part.num_experts for part in mixtures))),
        }
        if sizes["expert"] > 1 and not mixtures:
            yield Problem("mesh.expert", sizes["expert"], "needs a mixture of experts")
    else:
        lengths = {"d_ff": ("tensor", model.d_ff)} if isinstance(model, MLPConfig) else {}
    for name, (axis, length) in lengths.items():
        if length % sizes[axis]:
            yield Problem(f"mesh.{axis}", sizes[axis], f"must divide {name} = {length}")
    rows = sizes["data"] * sizes["fsdp"] * sizes["expert"]
    if batch_size % rows:
        best = max(1, round(batch_size / rows)) * rows
        reason = f"must be a multiple of data × fsdp × expert = {rows}; nearest: {best}"
        yield Problem("batch_size", batch_size, reason)
