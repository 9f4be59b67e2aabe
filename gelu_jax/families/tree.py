"""A model as a tree: its parameters by path, its config with other dtypes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, TypeVar

import jax
from jax.typing import DTypeLike

T = TypeVar("T")


def leaves_of(model: object) -> tuple[list[tuple[str, Any]], Any]:
    """The parameters of a model.

    Args:
      model: an NNX module, or one of shapes and dtypes.

    Returns:
      Pairs of a path such as "layers.attention.w_query" and its parameter, and the tree that they
      are the leaves of.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(model)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    leaves = [leaf for _, leaf in leaves]
    return [(n.removesuffix(".value"), leaf) for n, leaf in zip(names, leaves, strict=True)], tree


def with_values(model: T, values: Mapping[str, jax.Array]) -> T:
    """The model with other parameters.

    Args:
      model: an NNX module, or one of shapes and dtypes.
      values: each parameter by its path.

    Returns:
      A module of the same class and config.
    """
    leaves, tree = leaves_of(model)
    return jax.tree_util.tree_unflatten(tree, [values[path] for path, _ in leaves])


def most_common(sizes: Iterable[tuple[str, int]]) -> str:
    """The dtype of most weights.

    Args:
      sizes: the dtype and the number of elements of each array.

    Returns:
      The dtype that has most elements; "float32" where there are none.

    >>> most_common([("float32", 6), ("bfloat16", 4), ("bfloat16", 3)])
    'bfloat16'
    """
    totals = Counter[str]()
    for dtype, size in sizes:
        totals[dtype] += size
    return max(totals, key=totals.__getitem__, default="float32")


def in_dtype(config: T, dtype: DTypeLike) -> T:
    """The config with every dtype in it set.

    Args:
      config: of a model.
      dtype: of its parameters and computation.

    Returns:
      The config with it.
    """
    return _changed(config, lambda f, value: dtype if f.name in _DTYPES else value)


def architecture_fields(config: T) -> T:
    """The config with everything at its default that a config.json does not say.

    Args:
      config: of a model.

    Returns:
      A config that is equal for models whose config.json and tensors are alike.
    """
    return _changed(config, lambda f, value: f.default if f.name in _NOT_IN_FILES else value)


def configs_in(config: object, kind: type[T]) -> Iterator[T]:
    """The configs of one kind in a config.

    Args:
      config: of a model.
      kind: the class.

    Returns:
      Each of them, the config itself among them.
    """
    if isinstance(config, kind):
        yield config
    parts = config if isinstance(config, tuple) else ()
    if is_dataclass(config) and not isinstance(config, type):
        parts = [getattr(config, f.name) for f in fields(config)]
    for part in parts:
        yield from configs_in(part, kind)


_DTYPES = ("dtype", "param_dtype")
_NOT_IN_FILES = (
    *(*_DTYPES, "dropout_rate", "init_std", "output_init_scale", "scan_layers"),
    *("residuals", "residual_dtype", "chunk_size", "rounding"),
    *("auxiliary_loss", "z_loss", "bias_update_rate"),
)


def _changed(config: Any, change: Callable[[Field[Any], Any], Any]) -> Any:
    if isinstance(config, tuple):
        return tuple(_changed(part, change) for part in config)
    if not is_dataclass(config) or isinstance(config, type):
        return config
    parts = {f.name: change(f, _changed(getattr(config, f.name), change)) for f in fields(config)}
    return replace(config, **parts)
