"""Logical axis names of parameters, for sharding over several devices.

A module class has a table ``axes`` from its parameters to one letter per axis: b batch, t time,
d model, f hidden, h heads, g key/value heads, k head size, v vocabulary. Which mesh axis each is
sharded along is decided in one place, `gelu_jax.training.mesh.RULES`; without it nothing here has
any effect.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
from flax import nnx
from flax.linen.spmd import with_logical_constraint
from flax.nnx.bridge import ToLinen
from jax.tree_util import DictKey, GetAttrKey, SequenceKey
from jaxtyping import Array

Axes = Mapping[str, str]


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
    if isinstance(tree, ToLinen):
        make = partial(tree.nnx_class, *tree.args, **tree.kwargs)
        return axis_names(jax.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
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


def with_sharding_constraint(x: Array, axes: str) -> Array:
    """Shards x along the mesh axes that its named axes map to; the values do not change.

    Args:
      x: array of any shape.
      axes: one name per axis of x, "-" for an axis that is not sharded.
    Returns:
      x, which is left as it is where no mesh is in use.

    >>> with_sharding_constraint(jax.numpy.ones((2, 3)), "b d").shape
    (2, 3)
    """
    return with_logical_constraint(x, tuple(axes.split()))
