"""Logical axis names of parameters, for sharding over several devices.

A module class has a table ``axes`` from its parameters to one letter per axis: b batch, t time,
d model, f hidden, h heads, g key/value heads, k head size, v vocabulary. Which mesh axis each is
sharded along is decided elsewhere, by the rules of `flax.nnx.logical_axis_rules`; our own training
has one table of them, `gelu_jax.training.mesh.RULES`. Without rules the names have no effect.

On an explicit mesh (`jax.sharding.AxisType.Explicit`) the type of an array says how it is sharded,
and JAX refuses what it would have to guess: `einsum` and the functions after it decide it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from math import prod
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.linen import get_logical_axis_rules
from flax.linen.spmd import logical_to_mesh_axes, with_logical_constraint
from jax.sharding import AxisType, PartitionSpec
from jax.tree_util import DictKey, GetAttrKey, SequenceKey
from jax.typing import DTypeLike
from jaxtyping import Array

Axes = Mapping[str, str]
DotGeneral = Callable[..., Array]
Precision = Literal["default", "high", "highest"]


def axis_names(tree: Any) -> list[str]:
    """The axis names of each leaf of a tree with modules in it.

    Args:
      tree: any tree; a Linen module of `gelu_jax.linen` stands for the parameters that it makes.
    Returns:
      One string per leaf, in the order of `jax.tree.leaves`; "" for a leaf that no module names.
      Axes that a leaf has beyond its names, as in a stack of layers, come before the named ones.

    >>> import gelu_jax as gj
    >>> from flax import nnx
    >>> axis_names([gj.FeedForward(gj.FeedForwardConfig(d_model=4, d_ff=8), rngs=nnx.Rngs(0)), 1])
    ['d f', 'f d', '']
    """
    if isinstance(tree, linen.Module):
        return cast(Any, tree).axis_names()
    return [_names(tree, path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _names(node: Any, path: Any) -> str:
    """The entry of the innermost module on the path to a leaf that names its next step."""
    names = ""
    for key in path:
        match key:
            case _ if isinstance(node, nnx.Variable):
                return names
            case GetAttrKey():
                one_kind = re.sub(r"_\d+$", "", key.name)  # w_in for w_in_0 and w_in_1
                names = getattr(type(node), "axes", {}).get(one_kind, names)
                node = getattr(node, key.name)
            case SequenceKey():
                node = node[key.idx]
            case DictKey():
                node = node[key.key]
            case _:
                raise TypeError(f"{key!r}: not a key of a module, a sequence or a dict")
    return names


def have_rules(names: Iterable[str]) -> bool:
    """Whether the rules in use, `flax.nnx.logical_axis_rules`, place any of some axes.

    Args:
      names: of the axes.
    Returns:
      True where there is a rule for at least one of them.
    """
    return not {name for name, _ in get_logical_axis_rules()}.isdisjoint(names)


def without_rules() -> AbstractContextManager[None]:
    """A context in which parameters are made without metadata.

    Returns:
      The context.
    """
    return nnx.logical_axis_rules(())


def metadata(axes: str) -> dict[str, Any]:
    """flax's metadata of a parameter: the names of its axes that the rules in use place.

    Args:
      axes: one name per axis.
    Returns:
      ``out_sharding`` with None for an axis without a rule; nothing where none has one, as in the
      layers of flax that are told nothing.

    >>> with nnx.logical_axis_rules((("f", "tensor"),)):
    ...     print(metadata("d f"), metadata("d"))
    {'out_sharding': (None, 'f')} {}
    """
    names = axes.split()
    if not have_rules(names):
        return {}
    return {"out_sharding": tuple(name if have_rules([name]) else None for name in names)}


def with_sharding_constraint(x: Array, axes: str) -> Array:
    """Shards x along the mesh axes that its named axes map to; the values do not change.

    Args:
      x: array of any shape.
      axes: one name per axis of x, "-" for an axis that is not sharded.
    Returns:
      x, which is left as it is where no mesh is in use, or where it has a batch and no rule places
      the batch: the rules are those of parameters then, and x stays as the caller sharded it.

    >>> with_sharding_constraint(jax.numpy.ones((2, 3)), "b d").shape
    (2, 3)
    """
    if "b" in axes.split() and not have_rules("b"):
        return x
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        return with_logical_constraint(x, tuple(axes.split()))
    place = logical_to_mesh_axes(axes.split())
    return x if not get_logical_axis_rules() else jax.sharding.reshard(x, place)


def is_explicit(*arrays: Any) -> bool:
    """Whether the types of arrays say how they are sharded (`jax.sharding.AxisType.Explicit`).

    Args:
      *arrays: of any shape; what only stands for an array, such as a quantized one, says nothing.
    Returns:
      True where at least one is sharded along an explicit axis of the mesh in use.
    """
    typed = [jax.typeof(x) for x in arrays if isinstance(x, Array)]
    return any(place is not None for aval in typed for place in aval.sharding.spec)


def einsum(
    subscripts: str,
    x: Array,
    w: Array,
    *,
    out_sharding: Any = None,
    preferred_element_type: DTypeLike | None = None,
    precision: Any = None,
) -> Array:
    """`jnp.einsum` of two arrays, which on an explicit mesh also says how the result is sharded.

    There JAX refuses a sum over an axis that is sharded, as a tensor-parallel block has one, unless
    it is told. The result keeps the sharding of x's axes, and of w's axes along what is left of the
    mesh: with the same collectives as where XLA decides.

    Args:
      subscripts: as of `jnp.einsum`, "btd,df->btf"; "..." may stand for axes of x.
      x: an array.
      w: an array.
      out_sharding: a sharding or `PartitionSpec` of the result; None as above.
      preferred_element_type: dtype in which is summed, and of the result; None for that of x and w.
      precision: as of `jnp.einsum`.
    Returns:
      The sums of products.
    """
    if out_sharding is None and is_explicit(x, w):
        out_sharding = _place_of_product(subscripts, x, w)
    options: Any = {"preferred_element_type": preferred_element_type, "precision": precision}
    return jnp.einsum(subscripts, x, w, **options, out_sharding=out_sharding)


def flatten_tokens(x: Array, *, features: int = 1) -> Array:
    """(*tokens, *features) with all tokens along one axis.

    XLA's CPU compiler takes twice as long for the gradient of a kernel where that is a sum over two
    axes, batch and time. Over a mesh x stays as it is, because each axis may be sharded in its own
    way. Call it once for all kernels that read x: each call is another array that is kept.

    Args:
      x: array of at least `features` axes.
      features: how many of the last axes belong to one token.
    Returns:
      An array (n, *features), or x.

    >>> flatten_tokens(jnp.ones((2, 3, 4))).shape
    (6, 4)
    """
    at = x.ndim - features
    if at < 2 or not jax.sharding.get_abstract_mesh().empty:
        return x
    return x.reshape(prod(x.shape[:at]), *x.shape[at:])


def matmul(
    x: Array,
    w: Any,
    out_sharding: Any = None,
    *,
    features: int = 1,
    preferred_element_type: DTypeLike | None = None,
    precision: Any = None,
    dot_general: DotGeneral | None = None,
) -> Array:
    """``x @ w`` for a kernel w, the tokens of x flattened.

    Args:
      x: (..., d).
      w: (d, f); an array, or what `dot_general` knows as one, such as a quantized kernel.
      out_sharding: a sharding or `PartitionSpec` of the result; None as in `einsum`.
      features: how many of the last axes of x and of the first of w are summed over, as in
        `jnp.tensordot`.
      preferred_element_type: as in `einsum`.
      precision: of the product, as in `jax.lax.dot_general`.
      dot_general: called in the place of `jax.lax.dot_general`, as in flax's layers; None for that.
    Returns:
      An array (..., f); w may have any number of axes in the place of f, also none.

    >>> matmul(jnp.ones((2, 3, 4)), jnp.ones((4, 5))).shape
    (2, 3, 5)
    >>> matmul(jnp.ones((2, 3, 4, 5)), jnp.ones((4, 5, 6)), features=2).shape
    (2, 3, 6)
    """
    tokens, x = x.shape[: x.ndim - features], flatten_tokens(x, features=features)
    kernel: Any = w
    if x.dtype != w.dtype and isinstance(kernel, Array):
        wider = jnp.promote_types(x.dtype, w.dtype)
        x, w = x.astype(wider), w.astype(wider)
    if out_sharding is None and is_explicit(x, w):
        summed, kept = "abc"[:features], "fhk"[: w.ndim - features]
        out_sharding = _place_of_product(f"...{summed},{summed}{kept}->...{kept}", x, w)
    options: Any = {"out_sharding": out_sharding, "preferred_element_type": preferred_element_type}
    # those that flax's layers pass too, and only where they say something
    options = {name: value for name, value in options.items() if value is not None}
    summed = tuple(range(x.ndim - features, x.ndim)), tuple(range(features))
    product = dot_general or jax.lax.dot_general
    y = product(x, w, (summed, ((), ())), precision=precision, **options)
    return y.reshape(*tokens, *w.shape[features:])


def aligned(parameter: Array, x: Array) -> Array:
    """A bias or scale with as many axes as what it meets, for `jax.numpy_rank_promotion("raise")`.

    On an explicit mesh it is sharded as the last axes of that.

    Args:
      parameter: of the shape of the last axes of x.
      x: an array.
    Returns:
      The parameter, with axes of one before its own.
    """
    if is_explicit(parameter):
        places = jax.typeof(x).sharding.spec[x.ndim - parameter.ndim :]
        parameter = jax.sharding.reshard(parameter, PartitionSpec(*places))
    return jax.lax.broadcast_to_rank(parameter, x.ndim)


def gathered_along(x: Array, axis: int) -> Array:
    """x, on an explicit mesh not sharded along one of its axes.

    Args:
      x: an array.
      axis: the axis.
    Returns:
      The same array.
    """
    if not is_explicit(x):
        return x
    places = list(jax.typeof(x).sharding.spec)
    places[axis] = None
    return jax.sharding.reshard(x, PartitionSpec(*places))


def sharded_as(other: Array, x: Array) -> Array:
    """x, on an explicit mesh sharded as another array of as many axes.

    Args:
      other: the other array.
      x: an array.
    Returns:
      The same array as x.
    """
    if not is_explicit(other, x):
        return x
    return jax.sharding.reshard(x, PartitionSpec(*jax.typeof(other).sharding.spec))


def take_rows(table: Array, indices: Array) -> Array:
    """Rows of a table, NaN beyond it; on an explicit mesh they are sharded as the indices are.

    Args:
      table: (v, d).
      indices: (...), integers in [0, v).
    Returns:
      An array (..., d).
    """
    beyond: dict[str, Any] = {"mode": "fill", "fill_value": jnp.nan, "wrap_negative_indices": False}
    if not is_explicit(table, indices):
        return table.at[indices].get(**beyond)
    place = PartitionSpec(*jax.typeof(indices).sharding.spec, None)
    return table.at[indices].get(out_sharding=place, **beyond)


def _place_of_product(subscripts: str, x: Array, w: Array) -> PartitionSpec:
    inputs, _, output = subscripts.partition("->")
    of_x, _, of_w = inputs.partition(",")
    dots = "".join(map(str, range(x.ndim - len(of_x.replace("...", "")))))  # a digit for each
    of_x, output = (letters.replace("...", dots) for letters in (of_x, output))
    places = dict(zip(of_w, jax.typeof(w).sharding.spec, strict=True))
    places |= dict(zip(of_x, jax.typeof(x).sharding.spec, strict=True))
    taken = _mesh_axes(places[letter] for letter in output if letter in of_x)
    free = {k: v for k, v in places.items() if k in of_x or taken.isdisjoint(_mesh_axes([v]))}
    return PartitionSpec(*(free.get(letter) for letter in output))


def _mesh_axes(places: Iterable[Any]) -> set[str]:
    return {axis for place in places for axis in jax.tree.leaves(place)}
