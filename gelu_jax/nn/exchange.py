"""Experts over several devices: tokens go to the devices that hold their experts, and back.

On a mesh each device has a share of the tokens, and p devices along one axis hold E/p of the E
experts each. A device packs its tokens into p buffers, one for each of these devices, and into none
twice. One all-to-all sends them; each device computes its experts; another all-to-all brings back
one sum for each token and device, which are added at home. The backward pass sends the cotangents
the same way. No weights of experts are sent, and what is sorted is sorted on one device.

Shapes do not depend on the routing. A buffer has a row for each token of its device, which no
routing exceeds, so that none is dropped; with a factor it has at most factor·k·T/p rows for the T
tokens of the device, and drops what is beyond.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.linen.spmd import logical_to_mesh_axes
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from gelu_jax.nn.parameters import add, wide_dtype


class MeshAxes(NamedTuple):
    """Axes of the mesh in use, those of one device left out.

    Attributes:
      tokens: along which tokens are split.
      experts: the one of them along which experts are split, too; None where every device has all.
    """

    tokens: tuple[str, ...]
    experts: str | None


def mesh_axes(x: Float[Array, "... d"], num_experts: int) -> MeshAxes | None:
    """The axes that the rules in use split tokens ("b") and experts ("x") along.

    Args:
      x: tokens, of which the first axis is split.
      num_experts: experts in all.
    Returns:
      The axes. None where nothing is exchanged and XLA decides: without rules or mesh, where the
      mesh divides not the first axis of x or not the experts, or where experts are split along an
      axis that tokens are not split along.
    """
    tokens, experts = _axes_of("b"), _axes_of("x")
    sizes = jax.sharding.get_abstract_mesh().shape
    devices = math.prod(sizes[axis] for axis in tokens)
    if not tokens or x.ndim < 2 or x.shape[0] % devices:
        return None
    if len(experts) > 1 or not set(experts) <= set(tokens):
        return None
    if any(num_experts % sizes[axis] for axis in experts):
        return None
    return MeshAxes(tokens, next(iter(experts), None))


def _axes_of(name: str) -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    (place,) = logical_to_mesh_axes([name]) or (None,)
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = jax.tree.leaves(place)
    return tuple(a for a in axes if kinds.get(a) == AxisType.Auto and mesh.shape[a] > 1)


def of_each_token(
    function: Callable[[Array], tuple[Array, ...]], x: Float[Array, "... d"]
) -> tuple[Array, ...]:
    """A function of tokens, computed on each device for its own: XLA gathers all for a `top_k`.

    Args:
      function: of an array (..., d), whose results have the leading axes of that.
      x: tokens, (..., d).
    Returns:
      What the function returns.
    """
    axes = mesh_axes(x, num_experts=0)
    if axes is None:
        return function(x)
    split = PartitionSpec(axes.tokens)
    return jax.shard_map(function, in_specs=split, out_specs=split, axis_names=set(axes.tokens))(x)


class Buffers(NamedTuple):
    """Which tokens of a device go to which other, and where their results come back.

    Attributes:
      tokens: the token in each row of the buffer for each device, (p, c); T for none.
      rows: the row of each choice in all buffers, (k, t); p·c where it has none: an earlier choice
        of the token goes to the same device, or it was dropped, or it is nobody's.
    """

    tokens: Int[Array, "p c"]
    rows: Int[Array, "k t"]

    def packed(self, values: Array, fill: Any = 0) -> Array:
        """The values of the tokens in all rows.

        Args:
          values: one for each token, (t, ...).
          fill: the value of a row without a token.
        Returns:
          An array (p, c, ...).
        """
        return values.at[self.tokens].get(mode="fill", fill_value=fill)

    def sums(self, y: Float[Array, "p c e"]) -> Float[Array, "t e"]:
        """The sum of each token's rows.

        Args:
          y: what came back, (p, c, e).
        Returns:
          An array (t, e), summed in float32 (float64 stays).
        """
        wide = y.reshape(-1, y.shape[-1]).astype(wide_dtype(y.dtype))
        return reduce(add, (wide.at[row].get(mode="fill", fill_value=0) for row in self.rows))


def buffers(devices: Int[Array, "t k"], num_devices: int, size: int) -> Buffers:
    """Packs tokens into one buffer for each device, in their order.

    Args:
      devices: the number of the device of each choice, (t, k); `num_devices` for nobody's.
      num_devices: devices p.
      size: rows c of each buffer; what is beyond is dropped.
    Returns:
      The buffers.

    >>> packed = buffers(jnp.array([[1, 1], [0, 1]]), num_devices=2, size=2)
    >>> packed.tokens.tolist(), packed.rows.tolist()
    ([[1, 2], [0, 1]], [[2, 0], [4, 3]])
    """
    t, k = devices.shape
    seen = [(devices[:, :j] == devices[:, j, None]).any(-1) for j in range(k)]
    first = jnp.where(jnp.stack(seen, -1), num_devices, devices)
    goes = (first[..., None] == jnp.arange(num_devices)).any(1)
    place = jnp.where(goes, jnp.cumsum(goes, 0, dtype=jnp.int32) - 1, size)
    row = place + size * jnp.arange(num_devices, dtype=jnp.int32)
    fits, none = place < size, num_devices * size
    number = jnp.broadcast_to(jnp.arange(t, dtype=jnp.int32)[:, None], row.shape)
    tokens = jnp.full(none, t, jnp.int32).at[jnp.where(fits, row, none)].set(number, mode="drop")
    row = jnp.where(fits, row, none)
    rows = jnp.take_along_axis(row, first.clip(max=num_devices - 1), 1)
    rows = jnp.where(first < num_devices, rows, none)
    return Buffers(tokens.reshape(num_devices, size), rows.T)


def buffer_size(num_tokens: int, k: int, num_devices: int, factor: float | None) -> int:
    """Rows of the buffer from one device to another.

    Args:
      num_tokens: of one device, T.
      k: experts of a token.
      num_devices: that hold the experts, p.
      factor: how many times its equal share, k·T/p, a device can be sent; None for any routing.
    Returns:
      T, or ⌈factor·k·T/p⌉ where that is less.

    >>> buffer_size(1024, 2, 8, None), buffer_size(1024, 2, 8, 2.0)
    (1024, 512)
    """
    if factor is None:
        return num_tokens
    return min(num_tokens, math.ceil(factor * k * num_tokens / num_devices))


def on_mesh(
    mixture: Callable[..., Array],
    axes: MeshAxes,
    x: Float[Array, "b ... d"],
    experts: Int[Array, "b ... k"],
    gates: Float[Array, "b ... k"],
    weights: Any,
    dropout_key: Key[Array, ""] | None,
    *,
    num_experts: int,
    factor: float | None,
) -> Float[Array, "b ... e"]:
    """A mixture of experts whose tokens, and whose experts, are split over devices.

    Args:
      mixture: of tokens (t, d), experts (t, k), gates (t, k), weights and key, on one device;
        returns (t, e). To an expert with a number beyond the weights it sends no token.
      axes: of the mesh.
      x: tokens, (b, ..., d).
      experts: numbers of the experts of each token; `num_experts` for none.
      gates: of the experts.
      weights: a tree of arrays with a leading axis of experts.
      dropout_key: PRNG key, from which each device makes its own; or None.
      num_experts: experts in all.
      factor: as in `buffer_size`.
    Returns:
      An array (b, ..., e).
    """
    split, held = PartitionSpec(axes.tokens), PartitionSpec(axes.experts)

    @partial(
        jax.shard_map,
        in_specs=(split, split, split, held, PartitionSpec()),
        out_specs=split,
        axis_names=set(axes.tokens),
    )
    def on_device(x: Array, experts: Array, gates: Array, weights: Any, key: Any) -> Array:
        tokens, k = x.reshape(-1, x.shape[-1]), experts.shape[-1]
        key = None if key is None else jax.random.fold_in(key, jax.lax.axis_index(axes.tokens))
        given = tokens, experts.reshape(-1, k), gates.reshape(-1, k)
        if axes.experts is None:
            y = mixture(*given, weights, key)
        else:
            own = partial(mixture, weights=weights, key=key)
            y = _exchanged(own, axes.experts, *given, num_experts, factor)
        return y.reshape(*x.shape[:-1], -1)

    return on_device(x, experts, gates, weights, dropout_key)


def _exchanged(
    mixture: Callable[..., Array],
    axis: str,
    tokens: Array,
    experts: Array,
    gates: Array,
    num_experts: int,
    factor: float | None,
) -> Array:
    p, k = jax.lax.axis_size(axis), experts.shape[-1]
    own = num_experts // p
    size = buffer_size(len(tokens), k, p, factor)
    packed = buffers(experts // own, p, size)
    send = partial(jax.lax.all_to_all, axis_name=axis, split_axis=0, concat_axis=0, tiled=True)
    local = packed.packed(experts, num_experts) - own * jnp.arange(p)[:, None, None]
    local = jnp.where((local >= 0) & (local < own), local, own)
    received = (send(each) for each in (packed.packed(tokens), local, packed.packed(gates)))
    y = mixture(*(each.reshape(p * size, -1) for each in received))
    return packed.sums(send(y.reshape(p, size, -1))).astype(y.dtype)
