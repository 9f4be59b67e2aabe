"""Sentence encoders as sentence-transformers lays them out: modules.json and all that it names."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gelu_jax.errors import ABSENT, ConfigError, Problem, no_such
from gelu_jax.families.embeddings import Dense, Pooling, SentenceEncoder, Unit, max_positions
from gelu_jax.families.files import locate, read_tensor, tensor_infos
from gelu_jax.families.hf_config import HFConfig, read_json, read_json_objects
from gelu_jax.families.loading import Placement, load
from gelu_jax.families.text import tokenizer_of
from gelu_jax.families.tree import with_values
from gelu_jax.nn.linear import Linear, LinearConfig
from gelu_jax.nn.norm import Norm, NormConfig
from gelu_jax.nn.pooling import POOLINGS


def load_sentence_encoder(
    path: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    dtype: DTypeLike | None = None,
    sharding: Placement = None,
) -> SentenceEncoder:
    """The sentence encoder in a directory that sentence-transformers wrote, whole.

    Reads modules.json and what it names (pooling, dense layers, norms, normalisation or none), the
    prompts, and the length that texts are cut to. The vectors are those of sentence-transformers.

    Args:
      path: the directory, or a repository id of the model hub, which is looked up in the hub's
        local cache; nothing is fetched.
      tokenizer: a `tokenizers.Tokenizer`, one of transformers', or the path of a tokenizer.json;
        None for the directory's own.
      dtype: as in `load`.
      sharding: as in `load`.

    Returns:
      The encoder.

    Raises:
      ConfigError: there is no such directory, or it asks for what is not supported.
      WeightsError: as in `load`.
    """
    folder = locate(path)
    first, *others = _modules(folder)
    if first[0] != "Transformer":
        reason = "not supported; the first module must be Transformer"
        raise ConfigError([Problem("modules.json", first[0], reason)])
    model = load(folder / first[1], dtype=dtype, sharding=sharding)
    settings = _settings(folder / first[1])
    own = tokenizer_of(tokenizer_file(folder / first[1]) if tokenizer is None else tokenizer)
    if settings.flag("do_lower_case", False):
        own.normalizer = _lowercase(own.normalizer)
    pooling, stages = _stages(folder, others, dtype)
    prompts = optional_json(folder / "config_sentence_transformers.json")
    prompts.only("prompts", "default_prompt_name", *_NOT_OF_ENCODING)
    named = {"query": "", "document": ""} | (prompts.values.get("prompts") or {})
    default = prompts.values.get("default_prompt_name")
    if default is not None:
        prompts.one_of("default_prompt_name", named, "")
    return SentenceEncoder(
        model,
        own,
        pooling,
        stages,
        max_tokens=max_tokens_of(folder / first[1], settings, model),
        prompts=named,
        default_prompt=default,
    )


# Of config_sentence_transformers.json: versions, and how vectors are compared afterwards.
_NOT_OF_ENCODING = ("__version__", "similarity_fn_name", "model_type", "requirements")


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Class and directory of each module."""
    if not (folder / "modules.json").exists():
        reason = no_such("file", str(folder / "modules.json"))
        hint = "; for a plain model: load, and sentence_embeddings (mean, length 1)"
        raise ConfigError([Problem("modules.json", folder, reason + hint)])
    found: list[tuple[str, str]] = []
    for number, values in enumerate(read_json_objects(folder / "modules.json")):
        module = HFConfig(values, f"modules.json[{number}].")
        kind, where = module.string("type"), module.string("path", "")
        if not kind.startswith("sentence_transformers."):
            raise ConfigError([Problem(f"{module.prefix}type", kind, "not supported: own code")])
        if where and not re.fullmatch(r"[\w-][\w.-]*", where):
            reason = "must be a folder of this directory"
            raise ConfigError([Problem(f"{module.prefix}path", where, reason)])
        found.append((kind.rpartition(".")[2], where))
    if not found:
        raise ConfigError([Problem("modules.json", [], "must name at least one module")])
    return found


def _stages(
    folder: Path, modules: Sequence[tuple[str, str]], dtype: DTypeLike | None
) -> tuple[Pooling, tuple[nnx.Module, ...]]:
    """The pooling, which comes first, and what follows it."""
    if not modules or modules[0][0] != "Pooling":
        found = modules[0][0] if modules else None
        raise ConfigError([Problem("modules.json", found, "the second module must be Pooling")])
    stages: list[nnx.Module] = []
    for kind, where in modules[1:]:
        if kind not in _STAGES:
            reason = f"not supported; choose from {', '.join(_STAGES)}"
            raise ConfigError([Problem("modules.json", kind, reason)])
        if (stage := _STAGES[kind](folder / where, dtype)) is not None:
            stages.append(stage)
    return _pooling(folder / modules[0][1]), tuple(stages)


# What a config of old says in one flag for each kind, in the order in which they are concatenated.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _pooling(folder: Path) -> Pooling:
    hf = HFConfig(read_json(folder / "config.json"), f"{folder.name}/")
    width = ("word_embedding_dimension", "embedding_dimension")
    hf.only("pooling_mode", "include_prompt", *width, *_FLAGS)
    kinds = hf.values.get("pooling_mode")
    if kinds is None:
        kinds = [kind for flag, kind in _FLAGS.items() if hf.flag(flag, False)] or ["mean"]
    kinds = [kinds] if isinstance(kinds, str) else kinds
    for kind in kinds:
        HFConfig({"pooling_mode": kind}, hf.prefix).one_of("pooling_mode", POOLINGS, "mean")
    return Pooling(kinds, include_prompt=hf.flag("include_prompt", True))


def _dense(folder: Path, dtype: DTypeLike | None) -> Dense:
    hf = HFConfig(read_json(folder / "config.json"), f"{folder.name}/")
    hf.only("in_features", "out_features", "bias", "activation_function", "use_residual", *_NAMES)
    _of_sentences(hf)
    d_in, d_out = hf.integer("in_features"), hf.integer("out_features")
    residual = hf.flag("use_residual", False)
    name = hf.string("activation_function", "torch.nn.modules.activation.Tanh")
    if name not in TORCH_ACTIVATIONS:
        name = hf.one_of("activation_function", TORCH_ACTIVATIONS, name)
    return Dense(
        _linear(folder, "linear", d_in, d_out, hf.flag("bias", True), dtype),
        TORCH_ACTIVATIONS[name],
        residual=residual,
        projection=_linear(folder, "residual", d_in, d_out, False, dtype)
        if residual and d_in != d_out
        else None,
    )


TORCH_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}


def _linear(
    folder: Path, name: str, d_in: int, d_out: int, use_bias: bool, dtype: DTypeLike | None
) -> Linear:
    shapes = {f"{name}.weight": (d_out, d_in)} | ({f"{name}.bias": (d_out,)} if use_bias else {})
    tensors = _tensors(folder, shapes)
    kind = dtype or tensors[f"{name}.weight"].dtype
    config = LinearConfig(d_in, d_out, use_bias=use_bias, dtype=kind, param_dtype=kind)
    empty = nnx.eval_shape(lambda: Linear(config, rngs=nnx.Rngs(0)))
    values = {"w": tensors[f"{name}.weight"].T, "b": tensors.get(f"{name}.bias")}
    return with_values(empty, {k: jnp.asarray(v, kind) for k, v in values.items() if v is not None})


def _layer_norm(folder: Path, dtype: DTypeLike | None) -> Norm:
    hf = HFConfig(read_json(folder / "config.json"), f"{folder.name}/")
    hf.only("dimension")
    d = hf.integer("dimension")
    tensors = _tensors(folder, {"norm.weight": (d,), "norm.bias": (d,)})
    kind = dtype or tensors["norm.weight"].dtype
    config = NormConfig(d, use_bias=True, epsilon=1e-5, dtype=kind, param_dtype=kind)
    empty = nnx.eval_shape(lambda: Norm(config, rngs=nnx.Rngs(0)))
    values = {"scale": tensors["norm.weight"], "bias": tensors["norm.bias"]}
    return with_values(empty, {k: jnp.asarray(v, kind) for k, v in values.items()})


def _normalize(folder: Path, _: DTypeLike | None) -> Unit:
    hf = optional_json(folder / "config.json")
    hf.only(*_NAMES)
    _of_sentences(hf)
    return Unit()


_NAMES = ("module_input_name", "module_output_name")


def _of_sentences(hf: HFConfig) -> None:
    for name in _NAMES:
        if hf.values.get(name) is not None:
            hf.require(name, "sentence_embedding")


_STAGES = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": lambda folder, dtype: None,  # nothing is dropped where nothing is trained
}


def _tensors(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    infos = tensor_infos(folder)
    problems = [
        Problem(name, infos[name].shape if name in infos else ABSENT, f"expected shape {shape}")
        for name, shape in shapes.items()
        if name not in infos or infos[name].shape != shape
    ]
    if problems:
        raise ConfigError(problems)
    return {name: read_tensor(infos[name], name) for name in shapes}


def _settings(folder: Path) -> HFConfig:
    """sentence_bert_config.json: how texts reach the model."""
    hf = optional_json(folder / "sentence_bert_config.json")
    hf.only("max_seq_length", "do_lower_case", *_DEFAULTS)
    for name, value in _DEFAULTS.items():
        if hf.values.get(name) not in (None, {}):
            hf.require(name, value)
    return hf


_DEFAULTS: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {
        "text": {"method": "forward", "method_output_name": "last_hidden_state"},
    },
    **{f"{part}_args": {} for part in ("model", "tokenizer", "config")},
    **{f"{part}_kwargs": {} for part in ("model", "processor", "config", "processing")},
}


def max_tokens_of(folder: Path, settings: HFConfig, model: Any) -> int | None:
    """What sentence-transformers cuts texts to: as it is set, or as the tokenizer and model say.

    Args:
      folder: of the model.
      settings: of its sentence_bert_config.json.
      model: the model.

    Returns:
      The number of tokens; None for no limit.
    """
    if settings.values.get("max_seq_length") is not None:
        return settings.integer("max_seq_length")
    limits = [
        optional_json(folder / "tokenizer_config.json").values.get("model_max_length"),
        read_json(folder / "config.json").get("max_position_embeddings"),
        max_positions(model),
    ]
    known = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < 1e9]
    return min(known, default=None)


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer.json of a directory.

    Args:
      folder: the directory.

    Returns:
      The file.

    Raises:
      ConfigError: there is none.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        raise ConfigError([Problem("tokenizer.json", folder, no_such("file", str(file)))])
    return file


def _lowercase(normalizer: Any) -> Any:
    from tokenizers.normalizers import Lowercase, Sequence

    return Lowercase() if normalizer is None else Sequence([Lowercase(), normalizer])


def optional_json(file: Path) -> HFConfig:
    """The fields of a JSON file that need not be there.

    Args:
      file: the file.

    Returns:
      Its fields; none where it is not there.

    Raises:
      ConfigError: it is unreadable.
    """
    return HFConfig(read_json(file) if file.exists() else {}, f"{file.name}: ")
