"""Loading: a directory as model hubs lay it out → a model of ours."""

import os
import re
from collections.abc import Callable, Mapping
from functools import cache, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jax.typing import ArrayLike, DTypeLike
from numpy.typing import NDArray

from gelu_jax.errors import ConfigError, Problem, nearest
from gelu_jax.families.files import FLOATS, Stored, locate, read_tensor
from gelu_jax.families.load_plan import check_tied, plan_load
from gelu_jax.families.tree import with_values
from gelu_jax.families.weight_map import Place, Shape, is_stacked, to_ours
from gelu_jax.nn.feed_forward import FeedForward

Placement = Sharding | Callable[[str, Shape], Sharding | None] | None
Array = NDArray[Any]


def load(
    path: str | os.PathLike[str], *, dtype: DTypeLike | None = None, sharding: Placement = None
) -> Any:
    """The model in a directory of config.json and safetensors files, ready to call.

    ``path`` may also be a repository id of the model hub, looked up in the hub's local cache;
    nothing is fetched. ``dtype``: parameters and computation; None keeps each tensor's own dtype
    and computes in that of most weights. ``sharding``: one for all parameters, or a function of
    a parameter's path and shape. Reads one layer's tensor at a time, straight into its place:
    the peak is the weights' size and a few times that of a layer's largest tensor (measured on
    1 GB: benchmarks/results/loading.md).

    Raises ConfigError for a config.json that is wrong or asks for what is not built here, and
    WeightsError for files that are not whole and for missing, extra or misshapen tensors.

    >>> load("no/such/directory/anywhere")
    Traceback (most recent call last):
        ...
    gelu_jax.errors.ConfigError: path = 'no/such/directory/anywhere': no such directory
    """
    planned = plan_load(locate(path), dtype)
    check_tied(planned)
    # The largest tensors first: while one is read, it is in memory twice.
    places = sorted(planned.places, key=lambda place: -prod(place.whole))
    values = {
        place.row.path: _parameter(place, planned.tensors, dtype, sharding) for place in places
    }
    return with_values(planned.model, values)


def load_feed_forward(
    path: str | os.PathLike[str],
    layer: int,
    *,
    part: str | None = None,
    dtype: DTypeLike | None = None,
) -> FeedForward:
    """The feed-forward block of one layer, counted from 0; only its tensors are read.

    ``part`` names the stack in a model that has several ("encoder", "decoder", "text", "vision",
    "language", ...). Raises as `load` does, and ConfigError for a layer that is not there.
    """
    planned = plan_load(locate(path), dtype)
    found = (
        re.match(r"(.*?)\.?layers\.feed_forward\.", place.row.path) for place in planned.places
    )
    stacks = {match[1]: match[0] for match in found if match}
    name = next(iter(stacks)) if part is None and len(stacks) == 1 else part
    if name not in stacks:
        hint = nearest(str(name), stacks) if stacks else "this family has none"
        raise ConfigError([Problem("part", part, f"which stack of blocks? {hint}")])
    wanted = [place for place in planned.places if place.row.path.startswith(stacks[name])]
    if not 0 <= layer < wanted[0].shape[0]:
        reason = f"must lie in 0..{wanted[0].shape[0] - 1}"
        raise ConfigError([Problem("layer", layer, reason)])
    values = {
        place.row.path.removeprefix(stacks[name]): _put(
            _piece(place, place.names()[layer], planned.tensors), dtype, None
        )
        for place in wanted
    }
    stacked = reduce(getattr, stacks[name].rstrip(".").split("."), planned.model)
    block = nnx.eval_shape(lambda: FeedForward(stacked.config, rngs=nnx.Rngs(0)))
    return with_values(block, values)


def _parameter(
    place: Place, tensors: Mapping[str, Stored], dtype: DTypeLike | None, placement: Placement
) -> jax.Array:
    """One of our parameters, read and placed a tensor at a time."""
    path = place.row.path
    sharding = placement if isinstance(placement, Sharding | None) else placement(path, place.shape)
    if not is_stacked(place.row):
        return _put(_piece(place, place.row.name, tensors), dtype, sharding)
    stored = FLOATS[tensors[place.names()[0]].dtype]
    whole = jnp.zeros(place.shape, dtype or stored, device=sharding)
    for layer, name in enumerate(place.names()):
        piece = _put(_piece(place, name, tensors), whole.dtype, _of_a_layer(sharding))
        whole = _writer(sharding)(whole, piece, layer).block_until_ready()
    return whole


def _piece(place: Place, name: str, tensors: Mapping[str, Stored]) -> Array:
    shape = place.shape[1:] if is_stacked(place.row) else place.shape
    return to_ours(read_tensor(tensors[name], name, place.span), place.row, shape)


def _put(value: Array, dtype: DTypeLike | None, sharding: Sharding | None) -> jax.Array:
    return jax.device_put(value.astype(dtype or value.dtype, copy=False), sharding)


@cache
def _writer(sharding: Sharding | None) -> Callable[..., jax.Array]:
    """Writes a layer into its place in the stack, which is given away and comes back filled."""

    def write(whole: jax.Array, piece: jax.Array, layer: ArrayLike) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(whole, piece, layer, 0)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)


def _of_a_layer(sharding: Sharding | None) -> Sharding | None:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding
