"""Saving: a model of ours → a directory as model hubs lay it out."""

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.files import write_tensors
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.load_plan import Source, family_of
from gelu_jax.families.tree import architecture_fields, leaves_of, most_common
from gelu_jax.families.weight_map import Place, is_stacked, places, to_theirs, with_aliases
from gelu_jax.files import new_folder, write_file

Array = NDArray[Any]


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a directory that `load` reads, and transformers too: config.json and safetensors.

    A loaded model's tensors come out byte-equal to those that it was loaded from. ``config``: the
    content of the config.json, wanted for a model that was not loaded. The directory takes its
    name only when all of it is written.

    Raises ConfigError where the config is missing or describes another model, and where the path
    is taken.
    """
    source: Source | None = getattr(model, "source", None)
    if config is None and source is None:
        reason = "wanted: this model was not loaded, so what its config.json says is unknown"
        raise ConfigError([Problem("config", None, reason)])
    values: dict[str, Any] = json.loads(source.settings) if source else {}
    values |= config or {}
    family = family_of(values)
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_of(model)[0]}
    table = places(
        with_aliases(family.rows(model.config), source.aliases if source else ()),
        {path: leaf.shape for path, leaf in leaves.items()},
    )
    described = family.config(HFConfig(values), [name for place in table for name in place.names()])
    if architecture_fields(described) != architecture_fields(model.config):
        reason = "describes another model than the one to be saved"
        raise ConfigError([Problem("config", values.get("model_type"), reason)])
    key = "torch_dtype" if "torch_dtype" in values else "dtype"
    values[key] = most_common({leaf.dtype.name: leaf.nbytes for leaf in leaves.values()})
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError([Problem("path", target, "exists and is not an empty directory")])
    with new_folder(target) as folder:
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        unchanged = source is not None and json.loads(source.settings) == values
        write_file(folder / "config.json", source.settings if source and unchanged else text)
        _write_weights(folder, table, leaves, max_shard_bytes)


def _write_weights(
    folder: Path, table: list[Place], leaves: Mapping[str, Array], max_shard_bytes: int
) -> None:
    parts: dict[str, list[tuple[Place, int]]] = {}
    for place in table:
        for layer, name in enumerate(place.names()):
            parts.setdefault(name, []).append((place, layer))
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, ((place, _), *_) in parts.items():
        size = prod(place.whole) * leaves[place.row.path].dtype.itemsize
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    written = ({name: _tensor(parts[name], leaves) for name in shard} for shard in shards)
    write_tensors(folder, written, len(shards))


def _tensor(parts: list[tuple[Place, int]], leaves: Mapping[str, Array]) -> Array:
    pieces: list[Array] = []
    for place, layer in parts:
        leaf = leaves[place.row.path]
        pieces.append(to_theirs(leaf[layer] if is_stacked(place.row) else leaf, place.row))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, parts[0][0].row.fused)
