"""What is to be read, found out and checked before any weight is."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gelu_jax.errors import ABSENT, ConfigError, Problem, check
from gelu_jax.families.family import Family
from gelu_jax.families.fields import unknown_fields, unsupported_fields
from gelu_jax.families.files import FLOATS, TensorInfo, WeightsError, read_tensor, tensor_infos
from gelu_jax.families.hf_config import HFConfig, read_json
from gelu_jax.families.registry import FAMILIES, FEED_FORWARD_FAMILIES
from gelu_jax.families.tree import in_dtype, leaves_of, most_common
from gelu_jax.families.weight_map import (
    Aliases,
    Array,
    Part,
    WeightMap,
    renamed,
    tensor_parts,
    tied_names,
    whole_shape,
    with_kept,
)
from gelu_jax.nn import checks
from gelu_jax.nn.layouts import Shape


@dataclass(frozen=True)
class Source:
    """Where a loaded model came from, kept on it as `source` so that it can be saved again.

    Attributes:
      config_json: the text of its config.json.
      aliases: of the family's, those that its tensors' names have.
      kept: of tensors that are alike, the one that it had, where that is not the usual one.
      ignored: its tensors, and the fields of its config.json, that transformers passes over too.
    """

    config_json: str
    aliases: Aliases
    kept: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class LoadPlan(NamedTuple):
    """What is to be read.

    Attributes:
      model: the module, with shapes and dtypes for parameters.
      tensors: what the files hold, by name.
      parts: what the model needs of each tensor, by name.
      tied: tensors that repeat others, and which.
      float32: a regular expression of parameters that stay in float32 where float16 is asked for.
    """

    model: Any
    tensors: Mapping[str, TensorInfo]
    parts: Mapping[str, list[Part]]
    tied: Mapping[str, str]
    float32: str

    def dtype_of(self, path: str, dtype: DTypeLike | None) -> DTypeLike | None:
        """The dtype that a parameter is converted to.

        Args:
          path: of the parameter.
          dtype: what is asked for; None for that of the file.

        Returns:
          The dtype; None for that of the file.
        """
        narrow = dtype is not None and jnp.dtype(dtype) == jnp.float16
        return jnp.float32 if narrow and re.fullmatch(self.float32, path) else dtype


def plan_load(folder: Path, dtype: DTypeLike | None, *, feed_forward: bool = False) -> LoadPlan:
    """Reads the config and the headers, and checks each tensor against the model that they make.

    Args:
      folder: of config.json and safetensors files.
      dtype: of parameters and computation; None for those of the files.
      feed_forward: whether families will do of which the feed-forward parts alone are read.

    Returns:
      The plan.

    Raises:
      ConfigError: the config is wrong, or asks for what is not supported.
      WeightsError: tensors are missing, unexpected or misshapen, or a file is not whole.
    """
    check(checks.floating(dtype=dtype) if dtype is not None else ())
    values = _config_json(folder)
    family = family_of(values, feed_forward=feed_forward)
    tensors = tensor_infos(folder)
    config, unknown = read_config(values, tensors, family)
    config = in_dtype(config, _compute_dtype(tensors, dtype))
    model: Any = nnx.eval_shape(lambda: family.model(config, rngs=nnx.Rngs(0)))
    aliases = _aliases(family, family.weight_map(config), tensors)
    weight_map = renamed(family.weight_map(config), aliases)
    kept = tuple(
        copy
        for copy, name in tied_names(weight_map).items()
        if copy in tensors and name not in tensors
    )
    weight_map = with_kept(weight_map, kept)
    ignored = tuple(sorted(name for name in tensors if re.fullmatch(family.ignored, name)))
    text = (folder / "config.json").read_text(encoding="utf-8")
    model.source = Source(text, aliases, kept, (*ignored, *unknown))
    shapes = {path: leaf.shape for path, leaf in leaves_of(model)[0]}
    # One name beyond what the files can hold is enough to tell a wrong number of layers.
    parts = tensor_parts(weight_map, shapes, most_layers=len(tensors) + 1)
    tied = {
        copy: name
        for copy, name in tied_names(weight_map).items()
        if copy in tensors and name in tensors and copy not in parts
    }
    plan = LoadPlan(model, tensors, parts, tied, family.float32)
    if problems := list(_tensor_problems(plan, shapes, family.ignored)):
        raise WeightsError(_counted(problems))
    return plan


def _config_json(folder: Path) -> dict[str, Any]:
    """The fields of the config.json, which is of a whole model with plain weights."""
    adapter = folder / "adapter_config.json"
    if adapter.exists() and not (folder / "config.json").exists():
        base = read_json(adapter).get("base_model_name_or_path")
        reason = f"an adapter (LoRA) of {base}, not a model: merge it into that model first"
        raise ConfigError([Problem("adapter_config.json", folder, reason)])
    values = read_json(folder / "config.json")
    if (quantised := values.get("quantization_config")) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        reason = "quantised weights are not read; take the model that they were made from"
        raise ConfigError([Problem("quantization_config.quant_method", method, reason)])
    return values


def _counted(problems: list[Problem]) -> list[Problem]:
    """One line for each kind of problem: the first such tensor, and the number of the others."""
    kinds: dict[str, list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: problem.field):
        kinds.setdefault(re.split("[;:]", problem.reason)[0], []).append(problem)
    return [
        replace(first, reason=first.reason + (f" (and {len(others)} more)" if others else ""))
        for first, *others in kinds.values()
    ]


def check_tied(plan: LoadPlan) -> None:
    """Reads the tensors that files store twice, and compares them.

    Args:
      plan: what is to be loaded.

    Raises:
      WeightsError: a tensor is not the same both times.
    """
    problems = [
        Problem(copy, ABSENT, f"must equal {name}, and does not")
        for copy, name in plan.tied.items()
        if not _same(*(read_tensor(plan.tensors[n], n) for n in (copy, name)))
    ]
    if problems:
        raise WeightsError(problems)


def family_of(values: Mapping[str, Any], *, feed_forward: bool = False) -> Family[Any]:
    """The family that a config.json names.

    Args:
      values: its fields.
      feed_forward: as in `plan_load`.

    Returns:
      The family.

    Raises:
      ConfigError: it is none of those in `FAMILIES`.
    """
    name = HFConfig(values).string("model_type")
    if name in FAMILIES:
        return FAMILIES[name]
    if name in FEED_FORWARD_FAMILIES and feed_forward:
        return FEED_FORWARD_FAMILIES[name]
    if name in FEED_FORWARD_FAMILIES:
        reason = "only its feed-forward parts are supported: load_feed_forward reads them"
        raise ConfigError([Problem("model_type", name, reason)])
    reason = f"unknown; supported: {', '.join(FAMILIES)}"
    raise ConfigError([Problem("model_type", name, reason)])


def config(values: Mapping[str, Any], tensors: Collection[str] = ()) -> Any:
    """The content of a config.json as a config of ours, to build a fresh model of that family.

    Args:
      values: the fields of the config.json.
      tensors: the names of the tensors that there would be, where the parts that a model has depend
        on them (BERT's heads, ViT's classifier).

    Returns:
      A `TransformerConfig`, or what the family's module takes.

    Raises:
      ConfigError: a field is missing or wrong, or asks for what is not supported.

    >>> values = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 4}
    >>> config(values | {"vocab_size": 16}).block.feed_forward.d_ff
    32
    """
    return read_config(values, tensors)[0]


def read_config(
    values: Mapping[str, Any], tensors: Collection[str], family: Family[Any] | None = None
) -> tuple[Any, list[str]]:
    """The content of a config.json as a config of ours, every field of it accounted for.

    Args:
      values: the fields.
      tensors: the names of the tensors that there are.
      family: of the model; None for the one that the fields name.

    Returns:
      The config, and the fields that transformers does not know and passes over.

    Raises:
      ConfigError: a field is missing or wrong, or asks for what is not supported.
    """
    family = family or family_of(values)
    hf = HFConfig(values, model_type=family.model_type)
    made = family.config(hf, tensors)
    check(unsupported_fields(hf, family.without_effect))
    return made, unknown_fields(hf)


def _compute_dtype(tensors: Mapping[str, TensorInfo], dtype: DTypeLike | None) -> DTypeLike:
    """The dtype that is asked for, or that of most weights."""
    floats = [tensor for tensor in tensors.values() if tensor.dtype in FLOATS]
    stored = [(FLOATS[tensor.dtype], prod(tensor.shape)) for tensor in floats]
    for needed in [name for name, _ in stored] if dtype is None else [dtype]:
        if jax.dtypes.canonicalize_dtype(needed) != jnp.dtype(needed):
            reason = "needs jax_enable_x64, unless another dtype is asked for"
            raise ConfigError([Problem("dtype", jnp.dtype(needed).name, reason)])
    return dtype or most_common(stored)


def _aliases(family: Family[Any], weight_map: WeightMap, tensors: Collection[str]) -> Aliases:
    """Of the family's aliases those with which more of the tensors are found."""

    def found(aliases: Aliases) -> int:
        return sum(entry.tensor_name() in tensors for entry in renamed(weight_map, aliases))

    chosen: Aliases = ()
    for alias in family.aliases:
        chosen = max(chosen, (*chosen, alias), key=found)
    return chosen


def _tensor_problems(
    plan: LoadPlan, shapes: Mapping[str, Shape], ignored: str
) -> Iterator[Problem]:
    """Every tensor that is missing, unexpected or misshapen."""
    for name, parts in plan.parts.items():
        expected, tensor = whole_shape(parts), plan.tensors.get(name)
        if tensor is None:
            yield Problem(name, ABSENT, f"missing; expected shape {expected}")
        elif tensor.shape != expected:
            yield Problem(name, tensor.shape, f"wrong shape; expected {expected}")
        elif tensor.dtype not in FLOATS:
            yield Problem(name, tensor.dtype, f"wrong dtype; expected {', '.join(FLOATS)}")
    held = {part.entry.path for parts in plan.parts.values() for part in parts}
    for path in shapes.keys() - held:
        yield Problem(path, shapes[path], "no tensor of this family's files holds it")
    for name in plan.tensors.keys() - plan.parts.keys() - plan.tied.keys():
        if not re.fullmatch(ignored, name):
            yield Problem(name, plan.tensors[name].shape, "unexpected: the model does not use it")


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()
