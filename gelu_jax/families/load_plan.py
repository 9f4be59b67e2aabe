"""What is to be read, found out and checked before any weight is."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.families.family import Family
from gelu_jax.families.files import FLOATS, Stored, WeightsError, read_tensor, stored_tensors
from gelu_jax.families.hf_config import HFConfig, read_json
from gelu_jax.families.registry import FAMILIES
from gelu_jax.families.tree import in_dtype, leaves_of, most_common
from gelu_jax.families.weight_map import Entry, Place, Shape, apply_aliases, places, with_aliases
from gelu_jax.nn import checks


@dataclass(frozen=True)
class Source:
    """Where a loaded model came from, kept on it as `source` so that it can be saved again."""

    settings: str
    aliases: tuple[tuple[str, str], ...]


class LoadPlan(NamedTuple):
    """What is to be read, before any weight is."""

    model: Any
    tensors: Mapping[str, Stored]
    places: list[Place]
    tied: Mapping[str, str]


def plan_load(folder: Path, dtype: DTypeLike | None) -> LoadPlan:
    """Reads the config and the headers, and checks each tensor against the model that they make.

    Raises ConfigError for a wrong config, WeightsError for all that is wrong with the tensors.
    """
    check(checks.floating(dtype=dtype) if dtype is not None else ())
    values = read_json(folder / "config.json")
    family = family_of(values)
    tensors = stored_tensors(folder)
    floats = {name: stored for name, stored in tensors.items() if stored.dtype in FLOATS}
    precision = dtype or most_common({FLOATS[s.dtype]: prod(s.shape) for s in floats.values()})
    wide = "float64" if dtype is None and any(s.dtype == "F64" for s in floats.values()) else dtype
    if wide is not None and jax.dtypes.canonicalize_dtype(wide) != jnp.dtype(wide):
        reason = "jax computes in it where jax_enable_x64 is set; nearest: float32"
        raise ConfigError([Problem("dtype", str(jnp.dtype(wide)), reason)])
    config = in_dtype(family.config(HFConfig(values), tensors.keys()), precision)
    model: Any = nnx.eval_shape(lambda: family.model(config, rngs=nnx.Rngs(0)))
    rows = family.rows(config)
    aliases = _spellings(family, rows, tensors)
    text = (folder / "config.json").read_text(encoding="utf-8")
    model.source = Source(text, aliases)
    shapes = {path: leaf.shape for path, leaf in leaves_of(model)[0]}
    table = places(with_aliases(rows, aliases), shapes)
    tied = {
        apply_aliases(copy, aliases): apply_aliases(name, aliases)
        for copy, name in family.tied(config).items()
    }
    tied = {copy: name for copy, name in tied.items() if copy in tensors and name in tensors}
    _check_tensors(table, shapes, tensors, tied, family.ignored)
    return LoadPlan(model, tensors, table, tied)


def check_tied(planned: LoadPlan) -> None:
    """Raises WeightsError where a tensor that is stored twice is not the same both times."""
    problems = [
        Problem(copy, None, f"must equal {name}, and does not")
        for copy, name in planned.tied.items()
        if copy not in {name for place in planned.places for name in place.names()}
        and not _same(copy, name, planned.tensors)
    ]
    if problems:
        raise WeightsError(problems)


def family_of(values: Mapping[str, Any]) -> Family:
    """The family that a config.json names; ConfigError lists them where it is none of them."""
    name = HFConfig(values).text("model_type")
    if name in FAMILIES:
        return FAMILIES[name]
    reason = f"unknown; supported: {', '.join(FAMILIES)}"
    raise ConfigError([Problem("model_type", name, reason)])


def config(values: Mapping[str, Any], tensors: Collection[str] = ()) -> Any:
    """The content of a config.json as a config of ours, to build a fresh model of that family.

    ``tensors`` are the names of the tensors that would be there, where the parts that a model has
    depend on them (BERT's heads, ViT's classifier).

    >>> values = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 4}
    >>> config(values | {"vocab_size": 16}).block.feed_forward.d_ff
    32
    """
    return family_of(values).config(HFConfig(values), tensors)


def _spellings(
    family: Family, rows: Sequence[Entry], tensors: Mapping[str, Stored]
) -> tuple[tuple[str, str], ...]:
    """Of the family's other aliases, those under which more of the tensors are found."""

    def hits(aliases: tuple[tuple[str, str], ...]) -> int:
        names = (apply_aliases(row.name, aliases).format(row.first_layer) for row in rows)
        return sum(name in tensors for name in names)

    chosen: tuple[tuple[str, str], ...] = ()
    for pair in family.aliases:
        chosen = max(chosen, (*chosen, pair), key=hits)
    return chosen


def _check_tensors(
    table: list[Place],
    shapes: Mapping[str, Shape],
    tensors: Mapping[str, Stored],
    tied: Mapping[str, str],
    ignored: str,
) -> None:
    """Raises WeightsError with every tensor that is missing, extra or misshapen."""
    problems: dict[str, Problem] = {}
    named: set[str] = set()
    for place in table:
        # One name beyond what the files can hold is enough to tell of a wrong number of layers.
        layers = range(min(place.shape[0], len(tensors) + 1)) if place.shape else None
        for name in place.names(layers):
            named.add(name)
            problems |= {p.field: p for p in _wrong(name, tensors.get(name), place)}
    for path in shapes.keys() - {place.row.path for place in table}:
        problems[path] = Problem(path, shapes[path], "no tensor of this family's files holds it")
    for name in tensors.keys() - named:
        if name not in tied and not re.fullmatch(ignored, name):
            problems[name] = Problem(
                name, tensors[name].shape, "extra: this model has no use for it"
            )
    if problems:
        raise WeightsError(problems[name] for name in sorted(problems))


def _wrong(name: str, stored: Stored | None, place: Place) -> Iterator[Problem]:
    if stored is None:
        yield Problem(name, None, f"missing; wanted: {place.whole}")
    elif stored.shape != place.whole:
        yield Problem(name, stored.shape, f"wrong shape; wanted: {place.whole}")
    elif stored.dtype not in FLOATS:
        yield Problem(name, stored.dtype, f"wrong dtype; choose from {', '.join(FLOATS)}")


def _same(one: str, other: str, tensors: Mapping[str, Stored]) -> bool:
    first, second = (read_tensor(tensors[name], name) for name in (one, other))
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()
