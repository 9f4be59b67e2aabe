"""A model's directory: its tensors by name, read one at a time, and written whole or not at all."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gelu_jax.errors import ConfigError, Problem, no_such
from gelu_jax.families.hf_config import read_json
from gelu_jax.files import replacing, write_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class WeightsError(ConfigError):
    """All that is wrong with one model's tensors, one line for each."""


class Stored(NamedTuple):
    """What a file's header says of one tensor."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def library() -> Any:
    """The safetensors package, or one line that says how to get it."""
    try:
        import safetensors
    except ImportError:
        raise ImportError("safetensors is missing: pip install 'gelu-jax[families]'") from None
    return safetensors


def locate(path: str | os.PathLike[str]) -> Path:
    """A directory as it stands, or a hub repository's copy in the local cache: nothing is fetched.

    Raises ConfigError where there is neither.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    reason = no_such("directory", str(path))
    if str(path).count("/") == 1 and not folder.is_absolute():
        try:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
        except ImportError:
            reason += " (and no huggingface_hub, to look into the hub's local cache)"
        else:
            try:
                return Path(snapshot_download(str(path), local_files_only=True))
            except (LocalEntryNotFoundError, HFValidationError):
                reason += " (nor such a repository in the hub's local cache)"
    raise ConfigError([Problem("path", path, reason)])


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a directory, from the headers of its safetensors files.

    Raises WeightsError for files that are missing, truncated or malformed.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return _header(folder / WEIGHTS)
    names = _index(index)
    found: dict[str, Stored] = {}
    for file in sorted(set(names.values())):
        found |= _header(folder / file)
    problems = [
        *(
            Problem(name, file, f"{INDEX} lists the tensor in this file, where it is not")
            for name, file in names.items()
            if name not in found or found[name].file.name != file
        ),
        *(
            Problem(name, stored.file.name, f"the file holds a tensor that {INDEX} does not list")
            for name, stored in found.items()
            if name not in names
        ),
    ]
    _check(problems)
    return found


def _index(path: Path) -> dict[str, str]:
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        _check([Problem("weight_map", names, f"{INDEX} must map tensors to files")])
    assert isinstance(names, dict)
    for name, file in names.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]*", file):
            _check([Problem(f"weight_map.{name}", file, "must be a file of this directory")])
    return names


def _header(file: Path) -> dict[str, Stored]:
    try:
        with library().safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: Stored(file, s.get_dtype(), tuple(s.get_shape()))
                for name, s in slices.items()
            }
    except FileNotFoundError:
        raise WeightsError([Problem(file.name, file.parent, no_such("file", str(file)))]) from None
    except (library().SafetensorError, OSError) as error:
        reason = f"not a whole safetensors file ({error})"
        raise WeightsError([Problem(file.name, file.parent, reason)]) from None


def read_tensor(stored: Stored, name: str, index: tuple[slice, ...] = ()) -> NDArray[Any]:
    """A tensor, or the part of it that is asked for.

    The file is opened anew each time: a map that stays open keeps every page that was read.
    """
    with library().safe_open(stored.file, framework="np") as tensors:
        return tensors.get_slice(name)[index] if index else tensors.get_tensor(name)


def write_tensors(folder: Path, shards: Iterator[Mapping[str, NDArray[Any]]], count: int) -> None:
    """Writes shards of tensors, and an index where there are several."""
    from safetensors.numpy import save_file

    names: dict[str, str] = {}
    size = 0
    for number, tensors in enumerate(shards, 1):
        file = WEIGHTS if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
        whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
        with replacing(folder / file) as draft:
            save_file(whole, draft, metadata={"format": "pt"})
        names |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in whole.values())
    if count > 1:
        index = {"metadata": {"total_size": size}, "weight_map": names}
        write_file(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _check(problems: list[Problem]) -> None:
    if problems:
        raise WeightsError(problems)
