"""Puts our feed-forward block, or a mixture of such, into a model that somebody else wrote."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from flax.nnx.spmd import add_axis

from gelu_jax.errors import Problem, check
from gelu_jax.nn.experts import MoE, MoEConfig, feed_forward_part
from gelu_jax.nn.feed_forward import FeedForward, FeedForwardConfig
from gelu_jax.nn.layouts import split
from gelu_jax.nn.variants import branches

Where = type[nnx.Module] | Callable[[str, nnx.Module], bool]

_CONTAINERS = (nnx.List, nnx.Dict, nnx.Sequential, nnx.Rngs, nnx.RngStream)
_SETTINGS: Mapping[str, Any] = {  # of a linear layer of flax, with the value that says nothing
    "precision": None,
    "dot_general": jax.lax.dot_general,
    "preferred_element_type": None,
    "promote_dtype": promote_dtype,
}


class Replaced(NamedTuple):
    """One block that was replaced.

    Attributes:
      path: of the block in the model, dotted.
      kept: parameters of the new block whose values come from the old one.
      initialised: parameters of the new block with new initial values; biases that only some of the
        old layers had are 0, which changes nothing.
      dropped: what the old block had and the new one has not: tensors, parts (with their class) and
        settings of its layers.
      shared_with: further paths of the same block, which now hold the same new one.
      copied: parameters of the experts that are each a copy of the old block's.
    """

    path: str
    kept: tuple[str, ...]
    initialised: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    shared_with: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept, new = (", ".join(names) or "nothing" for names in (self.kept, self.initialised))
        lost = f"; dropped {', '.join(self.dropped)}" if self.dropped else ""
        old = f"copied to every expert {', '.join(self.copied)}" if self.copied else f"kept {kept}"
        return f"{', '.join((self.path, *self.shared_with))}: {old}; initialised {new}{lost}"


def replace_feed_forward(
    model: nnx.Module,
    *,
    where: Where,
    w_in: Sequence[str],
    w_out: str,
    rngs: nnx.Rngs,
    layout: str | None = None,
    experts: Mapping[str, Any] | None = None,
    **config: Any,
) -> tuple[Replaced, ...]:
    """Puts a `FeedForward`, or a `MoE`, in place of every feed-forward block of an NNX model.

    The model is changed in place, and not at all where this raises. A new block is called as
    `FeedForward` is. It takes over every parameter whose shape it keeps: the Variable itself, with
    its class, its metadata and its sharding. Blocks with leading axes, as `flax.nnx.scan` stacks
    them, and abstract ones, of `flax.nnx.eval_shape`, become blocks of the same kind.

    Args:
      model: the model.
      where: the class of the old blocks, or a function of a module's path and the module that says
        whether it is one.
      w_in: where an old block holds the linear layers of its branches, in order, as dotted paths
        ("gate", "layers.0"): anything with a ``kernel`` (..., d, f) and a ``bias``, which may be
        None.
      w_out: where it holds its output layer, with a ``kernel`` (..., f, e).
      rngs: source of new initial values.
      layout: how one layer in w_in holds all branches, a name in `gelu_jax.nn.layouts.LAYOUTS`;
        None where each has a layer of its own.
      experts: fields of `MoEConfig` but feed_forward, such as num_experts and experts_per_token:
        every expert starts as a copy of the block, and the router anew (Komatsuzaki et al. 2022,
        section 2). While gates have the sum 1, the model computes what it did. None for no experts.
      **config: fields of `FeedForwardConfig`; d_model, d_ff, d_out, use_bias, dtype, param_dtype,
        precision and dot_general stay as they were unless given.
    Returns:
      What was replaced, one entry per block.
    Raises:
      ValueError: nothing matches, or a block has no such layers.
      ConfigError: a field has a wrong value, or the old layers do not say what it is.

    >>> class Theirs(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.mlp = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs))
    >>> model = Theirs(nnx.Rngs(0))
    >>> for replaced in replace_feed_forward(
    ...     model, where=nnx.Sequential, w_in=["layers.0"], w_out="layers.1",
    ...     variant="swiglu", rngs=nnx.Rngs(1),
    ... ):
    ...     print(replaced)
    mlp: kept b_in_0, b_out, w_in_0, w_out; initialised b_in_1, w_in_1
    """
    found = _matching(model, where)
    olds = {
        key: _Old(paths[0], block, w_in, w_out, layout) for key, (paths, block) in found.items()
    }
    made = {key: _replacement(old, config, experts) for key, old in olds.items()}
    blocks = {key: new.block(rngs) for key, new in made.items()}
    _assign(_changes(model, blocks))
    return tuple(
        made[key].report._replace(shared_with=tuple(paths[1:])) for key, (paths, _) in found.items()
    )


def _matching(model: nnx.Module, where: Where) -> dict[int, tuple[list[str], nnx.Module]]:
    """The blocks that match by their identity, each with all its paths."""
    found: dict[int, tuple[list[str], nnx.Module]] = {}
    for path, module in _walk(model, ""):
        if isinstance(module, nnx.Module):
            matches = isinstance(module, where) if isinstance(where, type) else where(path, module)
            if matches and not path:
                raise ValueError("where: the model itself matches; only its parts can be replaced")
            if matches or id(module) in found:
                found.setdefault(id(module), ([], module))[0].append(path)
    if not found:
        raise ValueError(f"where = {where!r}: no module of the model matches")
    return found


def _walk(node: Any, path: str, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Every module and Variable below a node, at each of its places; what is in it only once."""
    seen = set[int]() if seen is None else seen
    if isinstance(node, nnx.Module | nnx.Variable):
        yield path, node
        if id(node) in seen:
            return
        seen.add(id(node))
    for key, child in _children(node):
        yield from _walk(child, f"{path}.{key}" if path else str(key), seen)


def _children(node: Any) -> list[tuple[Any, Any]]:
    match node:
        case nnx.Module():
            return [(k, v) for k, v in vars(node).items() if not k.startswith("_pytree__")]
        case Mapping():
            return list(node.items())
        case list() | tuple():
            return list(enumerate(node))
        case _:
            return []


class _Old:
    """A block to be replaced, and the arrays that its layers hold under the names of ours."""

    def __init__(
        self, path: str, block: nnx.Module, w_in: Sequence[str], w_out: str, layout: str | None
    ):
        self.path, self.block = path, block
        self.inputs = {name: _linear(path, block, name) for name in w_in}
        self.outputs = {w_out: _linear(path, block, w_out)}
        self.layers = self.inputs | self.outputs
        self.layout = layout
        if layout is not None and len(w_in) != 1:
            check([Problem("w_in", tuple(w_in), f"layout = {layout!r} is that of a single layer")])

    def tensors(self, num_branches: int) -> dict[str, tuple[str, nnx.Variable[Any]]]:
        """Name in our block → (path in theirs, Variable)."""
        found: dict[str, tuple[str, nnx.Variable[Any]]] = {}
        for ours, layers in (("in", self.inputs), ("out", self.outputs)):
            for i, (name, layer) in enumerate(layers.items()):
                for letter, kind in (("w", "kernel"), ("b", "bias")):
                    if (theirs := getattr(layer, kind)) is None:
                        continue
                    parts = self._branches(theirs, num_branches) if ours == "in" else [theirs]
                    for j, part in enumerate(parts):
                        number = f"_{i + j}" if ours == "in" else ""
                        found[f"{letter}_{ours}{number}"] = f"{name}.{kind}", part
        return found

    def _branches(self, fused: nnx.Variable[Any], num_branches: int) -> list[nnx.Variable[Any]]:
        if self.layout is None:
            return [fused]
        cut = partial(split, layout=self.layout, num_branches=num_branches)
        return [fused.replace(part) for part in _apply(cut, fused.get_value())]


def _apply(function: Callable[[Any], Any], value: Any) -> Any:
    is_abstract = isinstance(value, jax.ShapeDtypeStruct)
    return jax.eval_shape(function, value) if is_abstract else function(value)


class _New(NamedTuple):
    """A block to be made, and what it takes over."""

    config: FeedForwardConfig | MoEConfig
    lead: tuple[int, ...]
    kept: Mapping[str, nnx.Variable[Any]]
    is_abstract: bool
    report: Replaced

    def block(self, rngs: nnx.Rngs) -> FeedForward | MoE:
        """Draws values only where some are needed."""
        empty = self.is_abstract or not self.report.initialised
        make = partial(_stacked, self.config, self.lead)
        block = nnx.eval_shape(lambda: make(nnx.Rngs(0))) if empty else make(rngs)
        for name, variable in self.kept.items():
            *owners, last = name.split(".")
            setattr(reduce(getattr, owners, block), last, variable)
        return block


def _stacked(
    config: FeedForwardConfig | MoEConfig, lead: tuple[int, ...], rngs: nnx.Rngs
) -> FeedForward | MoE:
    if not lead:
        return feed_forward_part(config, rngs=rngs)
    keys = jax.random.split(rngs.params(), lead)

    def one(key: Any) -> FeedForward | MoE:
        return feed_forward_part(config, rngs=nnx.Rngs(key))

    return reduce(lambda make, _: jax.vmap(make), lead, one)(keys)


def _upcycled(new: _New, expert: FeedForwardConfig, experts: Mapping[str, Any]) -> _New:
    """The mixture whose experts are each what a block would be."""
    config = MoEConfig(expert, **experts)
    axis, number = len(new.lead), config.num_experts
    kept = {f"experts.{name}": _copies(v, axis, number) for name, v in new.kept.items()}
    empty = nnx.eval_shape(lambda: _stacked(config, new.lead, nnx.Rngs(0)))
    names = (".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(empty)))
    report = new.report._replace(
        kept=(),
        copied=new.report.kept,
        initialised=tuple(name for name in names if name not in kept),
    )
    return new._replace(config=config, kept=kept, report=report)


def _copies(variable: nnx.Variable[Any], axis: int, number: int) -> nnx.Variable[Any]:
    """Equal values along a new axis, of experts."""

    def repeated(x: Any) -> Any:
        return jnp.repeat(jnp.expand_dims(x, axis), number, axis)

    copies = variable.replace(_apply(repeated, variable.get_value()))
    return add_axis(copies, axis, {nnx.PARTITION_NAME: None})


def _replacement(
    old: _Old, given: Mapping[str, Any], experts: Mapping[str, Any] | None = None
) -> _New:
    count = len(branches(given.get("variant", FeedForwardConfig.variant)))
    theirs = old.tensors(count)
    lead = _lead(theirs)
    config = FeedForwardConfig(**(_fields(old, theirs, given) | dict(given)))
    empty = nnx.eval_shape(lambda: _stacked(config, lead, nnx.Rngs(0)))
    names = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(empty))}
    kept = {
        name: _in_dtype(theirs[name][1], given.get("param_dtype"))
        for name, ours in names.items()
        if name in theirs and theirs[name][1].shape == ours.shape
    }
    report = Replaced(
        old.path,
        tuple(kept),
        tuple(name for name in names if name not in kept),
        tuple(
            _dropped(old, config, {name: theirs[name][0] for name in theirs if name not in kept})
        ),
    )
    value = theirs["w_out"][1].get_value()
    new = _New(config, lead, kept, isinstance(value, jax.ShapeDtypeStruct), report)
    return new if experts is None else _upcycled(new, config, experts)


def _in_dtype(variable: nnx.Variable[Any], dtype: Any) -> nnx.Variable[Any]:
    if dtype is None or variable.dtype == dtype:
        return variable
    return variable.replace(_apply(lambda x: x.astype(dtype), variable.get_value()))


def _lead(theirs: Mapping[str, tuple[str, nnx.Variable[Any]]]) -> tuple[int, ...]:
    """The axes before (d, f) and (f, e), which all tensors must have alike."""
    shapes = {theirs[name][0]: tuple(theirs[name][1].shape) for name in theirs}
    *lead, f, _ = theirs["w_out"][1].shape if theirs["w_out"][1].ndim > 1 else (0, 0)
    for name, (_, variable) in theirs.items():
        *axes, last = variable.shape
        before = axes[:-1] if name.startswith("w") else axes
        if before != lead or (name.startswith(("w_in", "b_in")) and last != f):
            found = ", ".join(f"{path} {shape}" for path, shape in shapes.items())
            reason = "must be kernels (..., d, f) and (..., f, e) and biases (..., f) and (..., e)"
            check([Problem("w_in, w_out", found, reason)])
    return tuple(lead)


def _fields(
    old: _Old, theirs: Mapping[str, tuple[str, nnx.Variable[Any]]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of `FeedForwardConfig` that the old block's layers show."""
    (*_, d_model, d_ff), (*_, d_out) = theirs["w_in_0"][1].shape, theirs["w_out"][1].shape
    param_dtype = theirs["w_out"][1].dtype
    fields = {
        "d_model": d_model,
        "d_ff": d_ff,
        "d_out": None if d_out == d_model else d_out,
        "use_bias": any(name.startswith("b") for name in theirs),
        "param_dtype": param_dtype,
    }
    settings = [_own_settings(layer) for layer in old.layers.values()]
    for name in ("precision", "dot_general"):
        if all(settings[0].get(name) == other.get(name) for other in settings):
            fields[name] = settings[0].get(name)
    if "dtype" not in given:
        fields["dtype"] = _compute_dtype(old, param_dtype)
    return fields


def _compute_dtype(old: _Old, param_dtype: Any) -> Any:
    """With flax's ``dtype=None``, only float32 parameters tell: they are computed with as such."""
    found = {getattr(layer, "dtype", None) for layer in old.layers.values()}
    dtype = found.pop() if len(found) == 1 else None
    if dtype is None and (found or param_dtype not in ("float32", "float64")):
        reason = f"the old layers compute {param_dtype} parameters in a dtype that depends on x"
        check([Problem("dtype", dtype, f"{old.path}: {reason}; say in which")])
    return param_dtype if dtype is None else dtype


def _dropped(old: _Old, config: FeedForwardConfig, lost: Mapping[str, str]) -> Iterator[str]:
    used = {
        id(getattr(layer, kind)) for layer in old.layers.values() for kind in ("kernel", "bias")
    }
    layers = {id(layer) for layer in old.layers.values()}
    yield from dict.fromkeys(lost.values())
    for path, node in _walk(old.block, ""):
        if isinstance(node, nnx.Variable):
            if id(node) not in used and not isinstance(node, nnx.RngState):
                yield path
        elif not isinstance(node, _CONTAINERS) and not _holds(node, layers):
            yield f"{path} ({type(node).__name__})"
    for name, layer in old.layers.items():
        for setting, value in _own_settings(layer).items():
            if getattr(config, setting, None) != value:
                yield f"{name}.{setting}"


def _holds(node: nnx.Module, layers: set[int]) -> bool:
    return any(id(below) in layers for _, below in _walk(node, ""))


def _own_settings(layer: Any) -> dict[str, Any]:
    """What a layer was told beyond flax's defaults, in the words of our config."""
    found = {name: getattr(layer, name, usual) for name, usual in _SETTINGS.items()}
    found = {name: value for name, value in found.items() if value is not _SETTINGS[name]}
    if isinstance(precision := found.get("precision"), jax.lax.Precision):
        found["precision"] = precision.name.lower()
    return found


def _linear(path: str, block: nnx.Module, name: str) -> Any:
    layer = _find(block, name)
    if not hasattr(layer, "kernel") or not hasattr(layer, "bias"):
        raise ValueError(f"{path}: {type(block).__name__} has no linear layer {name!r}")
    return layer


def _find(node: Any, name: str) -> Any:
    """What stands at a dotted path; a key may have dots of its own."""
    for key, child in _children(node):
        if str(key) == name:
            return child
        if name.startswith(f"{key}.") and (found := _find(child, name[len(str(key)) + 1 :])):
            return found
    return None


def _changes(model: nnx.Module, blocks: Mapping[int, nnx.Module]) -> list[tuple[Any, str, Any]]:
    """(module, attribute, new value) where an old block stands, be it within a tuple or a dict."""
    modules = {id(node): node for _, node in _walk(model, "") if isinstance(node, nnx.Module)}
    return [
        (module, name, new)
        for key, module in modules.items()
        if key not in blocks
        for name, value in _children(module)
        if (new := _with_blocks(value, blocks)) is not value
    ]


def _with_blocks(value: Any, blocks: Mapping[int, nnx.Module]) -> Any:
    if isinstance(value, nnx.Module):
        return blocks.get(id(value), value)
    children = {key: _with_blocks(child, blocks) for key, child in _children(value)}
    if all(children[key] is child for key, child in _children(value)):
        return value
    if isinstance(value, Mapping):
        return type(value)(children)  # pyright: ignore[reportCallIssue]
    made = children.values()
    return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)


def _assign(changes: Sequence[tuple[Any, str, Any]]) -> None:
    """All changes, or none where one of them raises."""
    done: list[tuple[Any, str, Any]] = []
    try:
        for module, name, new in changes:
            done.append((module, name, getattr(module, name)))
            setattr(module, name, new)
    except BaseException:
        for module, name, old in reversed(done):
            setattr(module, name, old)
        raise
