"""Saving: a model of ours → a directory as model hubs lay it out."""

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gelu_jax.errors import ABSENT, ConfigError, Problem
from gelu_jax.families.files import write_tensors
from gelu_jax.families.load_plan import Source, family_of, read_config
from gelu_jax.families.tree import architecture_fields, leaves_of, most_common
from gelu_jax.families.weight_map import (
    Array,
    Part,
    renamed,
    tensor_parts,
    to_tensor,
    whole_shape,
    with_kept,
)
from gelu_jax.files import new_folder, write_file


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a directory that `load` reads, and transformers too: config.json and safetensors.

    A loaded model's tensors come out byte-equal to those that it was loaded from. The directory
    takes its name only when all of it is written.

    Args:
      model: of a class that a family has.
      path: the directory to be made; it may be there already if it is empty.
      config: fields of the config.json. A loaded model has them; these are added or replace them.
      max_shard_bytes: the size above which tensors go to several files. No tensor is split.

    Raises:
      ConfigError: the config is missing or describes another model, or the path is taken.
      OSError: the disk is full; nothing is then left behind.
    """
    source: Source | None = getattr(model, "source", None)
    if config is None and source is None:
        reason = "needed for a model that was not loaded: the fields of its config.json"
        raise ConfigError([Problem("config", None, reason)])
    text = source.config_json if source else "{}"
    values: dict[str, Any] = json.loads(text) | dict(config or {})
    family = family_of(values)
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_of(model)[0]}
    weight_map = renamed(family.weight_map(model.config), source.aliases if source else ())
    weight_map = with_kept(weight_map, source.kept if source else ())
    parts = tensor_parts(weight_map, {path: leaf.shape for path, leaf in leaves.items()})
    described, _ = read_config(values, parts)
    if architecture_fields(described) != architecture_fields(model.config):
        raise ConfigError([Problem("config", ABSENT, "describes another model than this one")])
    key = "torch_dtype" if "torch_dtype" in values else "dtype"
    values[key] = most_common((leaf.dtype.name, leaf.size) for leaf in leaves.values())
    if json.loads(text) != values:  # else it is written as it was read
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError([Problem("path", target, "exists and is not an empty directory")])
    with new_folder(target) as folder:
        write_file(folder / "config.json", text)
        shards = _shards(parts, leaves, max_shard_bytes)
        contents = ({name: _tensor(parts[name], leaves) for name in shard} for shard in shards)
        write_tensors(folder, contents, len(shards))


def _shards(
    tensors: Mapping[str, list[Part]], leaves: Mapping[str, Array], max_shard_bytes: int
) -> list[list[str]]:
    """The names of the tensors of each file, filled one after another."""
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, parts in tensors.items():
        size = prod(whole_shape(parts)) * leaves[parts[0].entry.path].dtype.itemsize
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _tensor(parts: list[Part], leaves: Mapping[str, Array]) -> Array:
    values = [leaves[part.entry.path][(*part.place, ...)] for part in parts]
    return to_tensor(values, parts)
