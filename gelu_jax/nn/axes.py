"""Axes by name: a module says which axis is which, for whoever spreads it over several devices.

A module class has a table ``axes`` from its parameters to letters of the axis alphabet: b batch,
t time, d model, f hidden, h heads, g key/value heads, k head size, v vocabulary. What lies where
is decided in one place, `gelu_jax.training.mesh.RULES`; without it nothing here has any effect.
"""

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
    """The axes of each leaf of a tree with modules in it; "" for what no module names.

    The parameters of a stack of layers have more axes, which come before the named ones. Of a
    Linen module (`gelu_jax.linen`), the axes of the parameters that it makes.

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
    """Those of the innermost module on the way to a leaf that names the next step."""
    names = ""
    for key in path:
        match key:
            case _ if isinstance(node, nnx.Variable):
                return names
            case GetAttrKey():
                names = getattr(type(node), "axes", {}).get(key.name, names)
                node = getattr(node, key.name)
            case SequenceKey():
                node = node[key.idx]
            case DictKey():
                node = node[key.key]
            case _:
                raise TypeError(f"{key!r}: no key of a module, a sequence or a dict")
    return names


def with_sharding_constraint(x: Array, axes: str) -> Array:
    """x itself; where the named axes have places on a mesh, x is spread out by them.

    >>> with_sharding_constraint(jax.numpy.ones((2, 3)), "b d").shape
    (2, 3)
    """
    return with_logical_constraint(x, tuple(axes.split()))
