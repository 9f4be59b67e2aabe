"""Puts our feed-forward block into a model that somebody else wrote."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from flax import nnx

from gelu_jax.errors import Problem, check
from gelu_jax.nn.feed_forward import FeedForward, FeedForwardConfig

Where = type[nnx.Module] | Callable[[str, nnx.Module], bool]


class Replaced(NamedTuple):
    """One block that was replaced.

    Attributes:
      path: of the block in the model, dotted.
      kept: parameters of the new block whose values come from the old one.
      initialised: parameters of the new block with new initial values.
    """

    path: str
    kept: tuple[str, ...]
    initialised: tuple[str, ...]

    def __str__(self) -> str:
        kept, new = (", ".join(names) or "nothing" for names in (self.kept, self.initialised))
        return f"{self.path}: kept {kept}; initialised {new}"


def replace_feed_forward(
    model: nnx.Module,
    *,
    where: Where,
    w_in: Sequence[str],
    w_out: str,
    rngs: nnx.Rngs,
    **config: Any,
) -> tuple[Replaced, ...]:
    """Puts a `FeedForward` in place of every feed-forward block of an NNX model.

    The model is changed in place, and not at all where this raises. A new block is called as
    ``block(x)`` or ``block(x, dropout_key=key)``; it keeps every tensor whose shape it keeps.

    Args:
      model: the model.
      where: the class of the old blocks, or a function of a module's path and the module that says
        whether it is one.
      w_in: where an old block holds the linear layers of its branches, in order, as dotted paths
        ("gate", "layers.0"): anything with a ``kernel`` (d, f) and a ``bias``, which may be None.
      w_out: where it holds its output layer, with a ``kernel`` (f, d).
      rngs: source of new initial values.
      **config: fields of `FeedForwardConfig`; d_model, d_ff, use_bias, dtype and param_dtype stay
        as they were unless given.
    Returns:
      What was replaced, one entry per block.
    Raises:
      ValueError: nothing matches, or a block has no such layers.
      ConfigError: a field has a wrong value.

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
    found = list(_matching(model, where))
    if not found:
        raise ValueError(f"where = {where!r}: no module of the model matches")
    made = [(path, *_replacement(path, old, w_in, w_out, rngs, config)) for path, old in found]
    for path, block, _ in made:
        *parents, last = path.split(".")
        parent = _part(model, parents)
        if last.isdigit():
            parent[int(last)] = block
        else:
            setattr(parent, last, block)
    return tuple(replaced for _, _, replaced in made)


def _matching(model: nnx.Module, where: Where) -> Iterator[tuple[str, nnx.Module]]:
    for steps, module in nnx.iter_modules(model):
        path = ".".join(map(str, steps))
        if isinstance(module, where) if isinstance(where, type) else where(path, module):
            if not path:
                raise ValueError("where: the model itself matches; only its parts can be replaced")
            yield path, module


def _replacement(
    path: str,
    old: nnx.Module,
    w_in: Sequence[str],
    w_out: str,
    rngs: nnx.Rngs,
    config: dict[str, Any],
) -> tuple[FeedForward, Replaced]:
    inputs = [_linear(path, old, name) for name in w_in]
    output = _linear(path, old, w_out)
    block = FeedForward(FeedForwardConfig(**(_fields(inputs[0], output) | config)), rngs=rngs)
    theirs = {f"w_in_{i}": layer.kernel for i, layer in enumerate(inputs)}
    theirs |= {f"b_in_{i}": layer.bias for i, layer in enumerate(inputs)}
    theirs |= {"w_out": output.kernel, "b_out": output.bias}
    kept, initialised = list[str](), list[str]()
    for steps, _ in nnx.to_flat_state(nnx.state(block)):
        name = ".".join(map(str, steps))
        ours = _part(block, steps)
        if fits := getattr(theirs.get(name), "shape", None) == ours.shape:
            ours[...] = theirs[name][...].astype(ours.dtype)
        (kept if fits else initialised).append(name)
    return block, Replaced(path, tuple(kept), tuple(initialised))


def _fields(branch: Any, output: Any) -> dict[str, Any]:
    """The fields of `FeedForwardConfig` that the old block's layers show."""
    kernel, out = branch.kernel, output.kernel
    if kernel.ndim != 2 or out.shape != kernel.shape[::-1]:
        shapes = tuple(kernel.shape), tuple(out.shape)
        check([Problem("w_in, w_out", shapes, "must be kernels of shape (d, f) and (f, d)")])
    d_model, d_ff = kernel.shape
    return {
        "d_model": d_model,
        "d_ff": d_ff,
        "use_bias": branch.bias is not None,
        "dtype": getattr(branch, "dtype", None) or kernel.dtype,
        "param_dtype": kernel.dtype,
    }


def _linear(path: str, block: nnx.Module, name: str) -> Any:
    try:
        layer = _part(block, name.split("."))
    except (AttributeError, IndexError, KeyError, TypeError):
        layer = None
    if not hasattr(layer, "kernel") or not hasattr(layer, "bias"):
        raise ValueError(f"{path}: {type(block).__name__} has no linear layer {name!r}")
    return layer


def _part(module: Any, steps: Sequence[Any]) -> Any:
    for step in map(str, steps):
        module = module[int(step)] if step.isdigit() else getattr(module, step)
    return module
