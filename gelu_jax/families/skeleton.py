"""A model's skeleton: its parameters by path, its config with other dtypes."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
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
    return _changed(config, {"dtype": dtype, "param_dtype": dtype})


# What a config.json does not say, or says for training only.
_UNSAID: Mapping[str, Any] = {
    "dtype": "float32",
    "param_dtype": "float32",
    "dropout_rate": 0.0,
    "init_std": None,
    "output_init_scale": 1.0,
    "scan_layers": True,
}


def essence(config: T) -> T:
    return _changed(config, _UNSAID)


def _changed(config: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(config, tuple):
        return tuple(_changed(part, values) for part in config)
    if not is_dataclass(config) or isinstance(config, type):
        return config
    parts = {f.name: _changed(getattr(config, f.name), values) for f in fields(config)}
    return replace(config, **{n: values.get(n, part) for n, part in parts.items()})


def most_common(sizes: Mapping[str, int]) -> str:
    return max(sizes, key=lambda name: sizes[name], default="float32")
