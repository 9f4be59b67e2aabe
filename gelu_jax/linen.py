"""Every module as a Linen module: the same config, the same parameter tree, the same bits.

They are classes as all of Linen's are: `flax.linen.remat`, ``scan`` and ``vmap`` take them, a
subclass adds to them, ``apply(..., method="decode")`` finds each method of the NNX module, and a
parameter that is missing raises. Dropout draws from ``rngs={"dropout": key}``.

Args:
  config: the module's config, such as `gelu_jax.FeedForwardConfig`.
  name: the module's name in its parent, as of every Linen module.
Returns:
  A Linen module: ``init(key, x)`` gives its variables, ``apply(variables, x)`` what the NNX module
  computes from the same parameters.

>>> import jax
>>> from gelu_jax import FeedForwardConfig, linen
>>> ffn, x = linen.FeedForward(FeedForwardConfig(d_model=4, d_ff=8)), jax.numpy.ones((2, 4))
>>> ffn.apply(ffn.init(jax.random.key(0), x), x).shape
(2, 4)
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial, wraps
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.core import Scope, meta
from flax.errors import ScopeParamShapeError
from flax.traverse_util import flatten_dict

from gelu_jax.nn import attention, block, experts, feed_forward, mlp, norm, transformer
from gelu_jax.nn.axes import (
    axis_names,
    have_rules,
    with_sharding_constraint,
    without_rules,
)
from gelu_jax.nn.parameters import current_names

_Path = tuple[str, ...]


class LinenModule(nn.Module):
    """A Linen module that computes what the NNX module of its ``nnx_class`` does.

    Attributes:
      config: the module's config.
    """

    config: Any
    nnx_class: ClassVar[Any] = None

    def __init_subclass__(cls, nnx_class: Any = None, **kwargs: Any):
        cls.nnx_class = nnx_class or cls.nnx_class  # a subclass of a subclass keeps its own
        for name, method in inspect.getmembers(nnx_class, inspect.isfunction):
            if name == "__call__" or not (name.startswith("_") or hasattr(nnx.Module, name)):
                setattr(cls, name, _linen_method(method))
        super().__init_subclass__(**kwargs)

    def setup(self) -> None:
        """Reads the parameters, or draws them where the module is initialised."""
        assert self.scope is not None
        skeleton = _skeleton(type(self).nnx_class, self.config)
        values = _of_lists(self.scope, skeleton) or _parameters(self, self.scope, skeleton)
        # past Linen's own __setattr__, which would look for Linen modules in it
        object.__setattr__(self, "_module", skeleton.filled(values))

    @nn.nowrap
    def axis_names(self) -> list[str]:
        """The axis names of each parameter, as `gelu_jax.nn.axes.axis_names` gives them.

        Returns:
          One string per parameter, in the order of ``jax.tree.leaves``.
        """
        return list(_skeleton(type(self).nnx_class, self.config).axes.values())


def _linen_method(method: Callable[..., Any]) -> Callable[..., Any]:
    drops = "dropout_key" in inspect.signature(method).parameters

    @wraps(method)
    def linen_method(self: LinenModule, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("dropout_key") is not None or kwargs.get("rngs") is not None
        # as in flax's Dropout, `init` needs no key of its own for it
        if drops and not given and (self.has_rng("dropout") or self.is_initializing()):
            kwargs["dropout_key"] = self.make_rng("dropout")
        return method(self._module, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    return linen_method


class _Skeleton(NamedTuple):
    """An NNX module without values: its structure, its parameters' shapes and axis names."""

    graph: Any
    state: Any
    axes: Mapping[_Path, str]

    @property
    def shapes(self) -> dict[_Path, Any]:
        flat: Any = nnx.to_flat_state(self.state)
        return {path: variable.get_value() for path, variable in flat}

    def filled(self, values: Mapping[_Path, jax.Array]) -> nnx.Module:
        state: Any = nnx.to_flat_state(self.state)
        flat = [(path, v.replace(_on_device(values[path]))) for path, v in state]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))


def _on_device(value: Any) -> Any:
    """What was read from a file as an array of jax; what stands for an array, as it is."""
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


@cache
def _skeleton(nnx_class: Any, config: Any) -> _Skeleton:
    with without_rules():
        module = nnx.eval_shape(lambda: nnx_class(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(module)
    paths: Any = [path for path, _ in nnx.to_flat_state(state)]
    return _Skeleton(graph, state, dict(zip(paths, axis_names(module), strict=True)))


def _parameters(module: LinenModule, scope: Scope, skeleton: _Skeleton) -> dict[_Path, Any]:
    """The parameters in a scope, new ones where they are missing and may be initialised."""
    places = {path: _inner(scope, path[:-1]) for path in skeleton.axes}
    missing = [path for path in places if not places[path].has_variable("params", path[-1])]
    may_draw = missing and scope.is_mutable_collection("params")
    drawn = _drawn(module) if may_draw else {}

    def initial(path: _Path) -> Callable[[Any], Any]:
        like, axes = skeleton.shapes[path], skeleton.axes[path]
        # of what there is, only the shape is compared with that of the zeros
        make = partial(jnp.zeros, like.shape, like.dtype)
        return lambda _: _with_axis_names(drawn[path] if path in drawn else make(), axes)

    return {
        path: _unboxed(place.param(path[-1], initial(path), unbox=False))
        for path, place in places.items()
    }


def _unboxed(value: Any) -> Any:
    """Without its box, sharded as it says: flax's own unboxing cannot on explicit axes."""
    if not isinstance(value, nn.LogicallyPartitioned):
        return meta.unbox(value)
    return with_sharding_constraint(value.value, " ".join(name or "-" for name in value.names))


def _inner(scope: Scope, path: _Path) -> Scope:
    for name in path:
        scope = scope.push(name, reuse=True)
    return scope


def _drawn(module: LinenModule) -> dict[_Path, jax.Array]:
    with without_rules():
        rngs = nnx.Rngs(params=module.make_rng("params"))
        state = nnx.state(type(module).nnx_class(module.config, rngs=rngs))
    values: Any = {path: variable[...] for path, variable in nnx.to_flat_state(state)}
    return values


def _with_axis_names(value: jax.Array, axes: str) -> Any:
    """In a box with its axis names, where `flax.linen.logical_axis_rules` place any of them."""
    names = axes.split()
    if not have_rules(names):
        return value
    return nn.LogicallyPartitioned(value, (*[None] * (value.ndim - len(names)), *names))


def _of_lists(scope: Scope, skeleton: _Skeleton) -> dict[_Path, Any] | None:
    """The parameters of a tree with lists, as an earlier version made it; None if it is none."""
    like = nnx.to_pure_dict(skeleton.state)
    given = meta.unbox(scope.variables().get("params", {}))
    try:
        found: Any = flatten_dict(current_names(given, like))
    except KeyError:
        return None
    if found.keys() <= flatten_dict(given).keys():
        return None
    for path, like in skeleton.shapes.items():
        if found[path].shape != like.shape:
            raise ScopeParamShapeError(path[-1], scope.path_text, found[path].shape, like.shape)
    return found


class FeedForward(LinenModule, nnx_class=feed_forward.FeedForward):
    """`gelu_jax.FeedForward` in Linen."""

    config: feed_forward.FeedForwardConfig


class MoE(LinenModule, nnx_class=experts.MoE):
    """`gelu_jax.MoE` in Linen."""

    config: experts.MoEConfig


class Norm(LinenModule, nnx_class=norm.Norm):
    """`gelu_jax.Norm` in Linen."""

    config: norm.NormConfig


class Attention(LinenModule, nnx_class=attention.Attention):
    """`gelu_jax.Attention` in Linen."""

    config: attention.AttentionConfig


class Block(LinenModule, nnx_class=block.Block):
    """`gelu_jax.Block` in Linen."""

    config: block.BlockConfig


class Transformer(LinenModule, nnx_class=transformer.Transformer):
    """`gelu_jax.Transformer` in Linen."""

    config: transformer.TransformerConfig


class MLP(LinenModule, nnx_class=mlp.MLP):
    """`gelu_jax.MLP` in Linen."""

    config: mlp.MLPConfig
