"""A model's directory: its tensors by name, read one at a time, and written whole or not at all."""

import json
import os
import re
from collections.abc import Iterable, Mapping
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


class TensorInfo(NamedTuple):
    """What a file's header says of one tensor.

    Attributes:
      file: where it is.
      dtype: as safetensors names it.
      shape: as it is stored.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]


def safetensors_package() -> Any:
    """Imports safetensors, which the core does without.

    Returns:
      The package.

    Raises:
      ImportError: it is not installed; the message says how to get it.
    """
    try:
        import safetensors
    except ImportError:
        raise ImportError("safetensors is missing: pip install 'gelu-jax[families]'") from None
    return safetensors


def locate(path: str | os.PathLike[str]) -> Path:
    """The directory of a model: nothing is fetched.

    Args:
      path: the directory, or the id of a hub repository that is in the local cache.

    Returns:
      The directory.

    Raises:
      ConfigError: there is neither.
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
            reason += " (and the hub's local cache cannot be searched without huggingface_hub)"
        else:
            try:
                return Path(snapshot_download(str(path), local_files_only=True))
            except (LocalEntryNotFoundError, HFValidationError):
                reason += " (and no such repository in the hub's local cache)"
    raise ConfigError([Problem("path", path, reason)])


def tensor_infos(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a directory, from the headers of its safetensors files.

    Args:
      folder: of one file of weights, or of several and their index.

    Returns:
      Where each tensor is, by its name.

    Raises:
      WeightsError: a file is missing, truncated or malformed, or the index is wrong.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return _header(folder / WEIGHTS)
    files = _index(index)
    found: dict[str, TensorInfo] = {}
    for file in sorted(set(files.values())):
        found |= _header(folder / file)
    problems = [
        Problem(name, file, f"{INDEX} lists the tensor in this file, which does not hold it")
        for name, file in files.items()
        if name not in found or found[name].file.name != file
    ]
    problems += [
        Problem(name, found[name].file.name, f"the file holds a tensor that {INDEX} does not list")
        for name in found.keys() - files.keys()
    ]
    if problems:
        raise WeightsError(problems)
    return found


def _index(path: Path) -> dict[str, str]:
    """The file of each tensor."""
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise WeightsError([Problem("weight_map", files, f"{INDEX} must map tensors to files")])
    for name, file in files.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]*", file):
            reason = "must be a file of this directory"
            raise WeightsError([Problem(f"weight_map.{name}", file, reason)])
    return files


def _header(file: Path) -> dict[str, TensorInfo]:
    try:
        with safetensors_package().safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: TensorInfo(file, s.get_dtype(), tuple(s.get_shape()))
                for name, s in slices.items()
            }
    except FileNotFoundError:
        reason = no_such("file", str(file)) + _other_formats(file.parent)
        raise WeightsError([Problem(file.name, file.parent, reason)]) from None
    except (safetensors_package().SafetensorError, OSError) as error:
        reason = f"not a whole safetensors file ({error})"
        if _is_pointer(file):
            reason = "a git-lfs pointer, not the file that it stands for: run git lfs pull"
        raise WeightsError([Problem(file.name, file.parent, reason)]) from None


_LFS = b"version https://git-lfs.github.com"


def _is_pointer(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(_LFS)) == _LFS


_FORMATS = ("gguf", "bin", "pt", "pth", "ckpt", "h5", "msgpack", "onnx")


def _other_formats(folder: Path) -> str:
    """Weights that are there in a format that is not read."""
    found = [f for kind in _FORMATS for f in sorted(folder.glob(f"*.{kind}")) if f.is_file()]
    if not found:
        return ""
    return f"; {found[0].name} is not read: convert it with save_pretrained of transformers"


def read_tensor(info: TensorInfo, name: str) -> NDArray[Any]:
    """A tensor of a file, which is opened anew: a map that stays open keeps every page in memory.

    Args:
      info: where the tensor is.
      name: its name.

    Returns:
      The tensor as it is stored.
    """
    with safetensors_package().safe_open(info.file, framework="np") as tensors:
        return tensors.get_tensor(name)


def write_tensors(folder: Path, shards: Iterable[Mapping[str, NDArray[Any]]], count: int) -> None:
    """Writes tensors to one file, or to several with an index.

    Args:
      folder: where to.
      shards: the tensors of each file by name; one file's at a time are in memory.
      count: how many files there are.
    """
    safetensors_package()
    from safetensors.numpy import save_file

    files: dict[str, str] = {}
    size = 0
    for number, tensors in enumerate(shards, 1):
        file = WEIGHTS if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
        whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
        with replacing(folder / file) as draft:
            save_file(whole, draft, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in whole.values())
    if count > 1:
        index = {"metadata": {"total_size": size}, "weight_map": files}
        write_file(folder / INDEX, json.dumps(index, indent=2) + "\n")
