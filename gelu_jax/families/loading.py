"""Loading: a directory as model hubs lay it out → a model of ours."""

import os
import re
from collections.abc import Callable, Iterator
from functools import cache, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jax.typing import ArrayLike, DTypeLike

from gelu_jax.errors import ConfigError, Problem, nearest
from gelu_jax.families.files import locate, read_tensor
from gelu_jax.families.load_plan import LoadPlan, check_tied, plan_load
from gelu_jax.families.tree import leaves_of, with_values
from gelu_jax.families.weight_map import Array, Part, from_tensor
from gelu_jax.nn.experts import MoE, feed_forward_part
from gelu_jax.nn.feed_forward import FeedForward
from gelu_jax.nn.layouts import Shape
from gelu_jax.nn.stack import FeedForwards

Placement = Sharding | Callable[[str, Shape], Sharding | None] | None


def load(
    path: str | os.PathLike[str], *, dtype: DTypeLike | None = None, sharding: Placement = None
) -> Any:
    """The model in a directory of config.json and safetensors files, ready to call.

    Reads one tensor at a time, straight into its parameter: the peak of memory is the weights' size
    and a few times that of the largest tensor (measured on 1 GB: benchmarks/results/loading.md).

    Args:
      path: the directory, or a repository id of the model hub, which is looked up in the hub's
        local cache; nothing is fetched.
      dtype: of parameters and computation. None keeps each tensor's own, and computes in that of
        most weights.
      sharding: of all parameters, or a function of a parameter's path and shape.

    Returns:
      The family's module, such as `Transformer`, with its `source`, so that it can be saved again.

    Raises:
      ConfigError: there is no such directory, or its config.json is wrong or asks for what is not
        supported.
      WeightsError: a file is not whole, or tensors are missing, unexpected or misshapen.

    >>> load("no/such/directory/anywhere")
    Traceback (most recent call last):
        ...
    gelu_jax.errors.ConfigError: path = 'no/such/directory/anywhere': no such directory
    """
    plan = plan_load(locate(path), dtype)
    check_tied(plan)
    return with_values(plan.model, _parameters(plan, dtype, sharding))


def load_feed_forward(
    path: str | os.PathLike[str],
    layer: int,
    *,
    part: str | None = None,
    dtype: DTypeLike | None = None,
) -> FeedForward | MoE:
    """The feed-forward block of one layer, or its mixture; only the tensors that hold it are read.

    Args:
      path: as in `load`.
      layer: counted from 0.
      part: the stack of layers in a model that has several: "encoder", "decoder", "text", "vision",
        "language".
      dtype: as in `load`.

    Returns:
      The block, a `FeedForward`, or a `MoE` with all experts of the layer.

    Raises:
      ConfigError: as in `load`, and where there is no such part or layer.
      WeightsError: as in `load`.
    """
    plan = plan_load(locate(path), dtype, feed_forward=True)
    paths = (part.entry.path for parts in plan.parts.values() for part in parts)
    found = (re.match(r"(.*?)\.?layers\.feed_forward\.", path) for path in paths)
    stacks = {match[1]: match[0] for match in found if match}
    name = next(iter(stacks)) if part is None and len(stacks) == 1 else part
    if name not in stacks:
        hint = nearest(str(name), stacks) if any(stacks) else f"this model has {len(stacks)}"
        raise ConfigError([Problem("part", part, f"which stack of layers? {hint}")])
    stacked = reduce(getattr, stacks[name].rstrip(".").split("."), plan.model)
    mixed = isinstance(stacked, FeedForwards)
    num_layers = len(stacked.kinds) if mixed else jax.tree.leaves(stacked)[0].shape[0]
    if not 0 <= layer < num_layers:
        raise ConfigError([Problem("layer", layer, f"must lie in 0..{num_layers - 1}")])
    prefix, row = stacks[name], layer
    if mixed:
        kind, row = stacked.place(layer)
        prefix, stacked = f"{prefix}kind_{kind}.", stacked.stacks[kind]
    block = nnx.eval_shape(lambda: feed_forward_part(stacked.config, rngs=nnx.Rngs(0)))
    return with_values(block, _layer_values(plan, prefix, row, dtype))


def _layer_values(
    plan: LoadPlan, prefix: str, row: int, dtype: DTypeLike | None
) -> dict[str, jax.Array]:
    """One layer's values of the parameters whose paths have a prefix, by the rest of the path."""

    def belongs(part: Part) -> bool:
        return part.row == row and part.entry.path.startswith(prefix)

    found: dict[str, dict[tuple[int, ...], Array]] = {}
    for name, parts in plan.parts.items():
        if any(map(belongs, parts)):
            for part, value in _read(plan, name):
                if belongs(part):
                    found.setdefault(part.entry.path, {})[part.place[1:]] = value
    return {
        path.removeprefix(prefix): _put(_stacked(values), plan.dtype_of(path, dtype), None)
        for path, values in found.items()
    }


def _stacked(values: dict[tuple[int, ...], Array]) -> Array:
    """The experts' values, in their order, with an axis of experts; or the one value."""
    if () in values:
        return values[()]
    return np.stack([values[place] for place in sorted(values)])


def _parameters(
    plan: LoadPlan, dtype: DTypeLike | None, placement: Placement
) -> dict[str, jax.Array]:
    """The parameters by path; one tensor at a time is read."""
    shapes = {path: leaf.shape for path, leaf in leaves_of(plan.model)[0]}
    shardings = {path: _sharding(placement, path, shape) for path, shape in shapes.items()}
    values: dict[str, jax.Array] = {}
    # The largest tensors first: while one is read, it is in memory twice.
    for name in sorted(plan.parts, key=lambda name: -prod(plan.tensors[name].shape)):
        for (entry, place, _), value in _read(plan, name):
            path, sharding = entry.path, shardings[entry.path]
            kind = plan.dtype_of(path, dtype)
            if not place:
                values[path] = _put(value, kind, sharding)
                continue
            if path not in values:
                values[path] = jnp.zeros(shapes[path], kind or value.dtype, device=sharding)
            piece = _put(value, values[path].dtype, _of_a_part(sharding, len(place)))
            # Waited for, so that no more than one layer is in memory beside the stack.
            values[path] = _writer(sharding)(values[path], piece, place).block_until_ready()
    return values


def _read(plan: LoadPlan, name: str) -> Iterator[tuple[Part, Array]]:
    """The parts of a tensor, with their values."""
    tensor = read_tensor(plan.tensors[name], name)
    return zip(plan.parts[name], from_tensor(tensor, plan.parts[name]), strict=True)


def _put(value: Array, dtype: DTypeLike | None, sharding: Sharding | None) -> jax.Array:
    return jax.device_put(value.astype(dtype or value.dtype, copy=False), sharding)


def _sharding(placement: Placement, path: str, shape: Shape) -> Sharding | None:
    return placement if isinstance(placement, Sharding | None) else placement(path, shape)


@cache
def _writer(sharding: Sharding | None) -> Callable[..., jax.Array]:
    """Writes one layer or expert of a stack, whose buffer is donated."""

    def write(whole: jax.Array, piece: jax.Array, place: tuple[ArrayLike, ...]) -> jax.Array:
        piece = jax.lax.expand_dims(piece, range(len(place)))
        start = (*place, *(0 for _ in whole.shape[len(place) :]))
        return jax.lax.dynamic_update_slice(whole, piece, start)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)


def _of_a_part(sharding: Sharding | None, axes: int) -> Sharding | None:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[axes:]))
    return sharding
