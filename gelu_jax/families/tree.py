"""A model's skeleton: its parameters by path, its config with other dtypes."""

from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, TypeVar

import jax
from jax.typing import DTypeLike

T = TypeVar("T")


def leaves_of(model: object) -> tuple[list[tuple[str, Any]], Any]:
    """The parameters by path, and the tree that they are the leaves of."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(model)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    leaves = [leaf for _, leaf in leaves]
    return [(n.removesuffix(".value"), leaf) for n, leaf in zip(names, leaves, strict=True)], tree


def with_values(model: T, values: Mapping[str, jax.Array]) -> T:
    leaves, tree = leaves_of(model)
    return jax.tree_util.tree_unflatten(tree, [values[path] for path, _ in leaves])


def in_dtype(config: T, dtype: DTypeLike) -> T:
    """The config with every dtype in it set."""
    return _changed(config, lambda f, value: dtype if f.name in _DTYPES else value)


def architecture_fields(config: T) -> T:
    """The config with everything at its default that a config.json does not say of it."""
    return _changed(config, lambda f, value: f.default if f.name in _UNSAID else value)


_DTYPES = ("dtype", "param_dtype")
_UNSAID = (
    *(*_DTYPES, "dropout_rate", "init_std", "output_init_scale", "scan_layers"),
    *("residuals", "residual_dtype", "chunk_size", "rounding"),
)


def _changed(config: Any, change: Callable[[Field[Any], Any], Any]) -> Any:
    if isinstance(config, tuple):
        return tuple(_changed(part, change) for part in config)
    if not is_dataclass(config) or isinstance(config, type):
        return config
    parts = {f.name: change(f, _changed(getattr(config, f.name), change)) for f in fields(config)}
    return replace(config, **parts)


def most_common(sizes: Mapping[str, int]) -> str:
    return max(sizes, key=lambda name: sizes[name], default="float32")
