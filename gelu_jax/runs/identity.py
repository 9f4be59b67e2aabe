"""What decides the result of a run beside its config: data, versions, own modules, weights.

It is part of the address of every run (see `execution`) and stands in `identity.json` of every
directory, so that a person is told what has changed there.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax

from gelu_jax.families.files import locate
from gelu_jax.files import write_file
from gelu_jax.importing import digest, installed, is_own, source
from gelu_jax.runs.environment import processor
from gelu_jax.training.config import to_dict
from gelu_jax.training.model import PretrainedConfig
from gelu_jax.training.trainer import TrainConfig, Trainer
from gelu_jax.version import NUMERICS_VERSION

FILE = "identity.json"
_ONLY_HERE = re.compile(r"([\w.]+:[\w.<>]+)#[0-9a-f]{12}")
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_][\w.]*")


def versions() -> list[str]:
    """What decides a result beside config and data: jax, its backend, `NUMERICS_VERSION`."""
    x64 = ["x64"] if jax.config.read("jax_enable_x64") else []
    return [jax.__version__, jax.default_backend(), NUMERICS_VERSION, *x64]


def imported(config: TrainConfig) -> dict[str, dict[str, str]]:
    """What a config takes from files that are no part of it.

    Args:
      config: of a run.

    Returns:
      "modules": module → the hash of its source and of what it imports from its own folder, or the
      version of the installed package, for every ``module:function`` that the config names;
      "weights": path → SHA-256 of their files. A key is there only if it holds something. Each file
      is read once in a process.
    """
    names = {name for text in _texts(to_dict(config)) for name in _FUNCTION.findall(text)}
    modules = {name: source(name) for name in sorted(names) if is_own(name)}
    modules |= {name: version for name in sorted(names) if (version := installed(name))}
    paths = [config.model.path] if isinstance(config.model, PretrainedConfig) else []
    weights = {path: _content(path) for path in paths}
    if config.start is not None:
        weights[config.start] = _state_of(config.start)
    found = {"modules": modules, "weights": weights}
    return {key: hashes for key, hashes in found.items() if hashes}


def only_here(config: Any) -> list[str]:
    """What a config names that no other process can find: parts of a notebook or a script.

    Args:
      config: of a run or a comparison.

    Returns:
      Their names.
    """
    plain = list(_strings(to_dict(config)))
    return sorted({name for text in plain for name in _ONLY_HERE.findall(text)})


def command_to_repeat(command: str, directory: Path, config: Any) -> str:
    """What a person types to do a run or comparison again.

    Args:
      command: train or compare.
      directory: where it is written.
      config: of the run or comparison.

    Returns:
      A line for a shell; or what is to be run, where parts of the config were made in Python.
    """
    if names := only_here(config):
        return f"run the notebook or script again that defines {', '.join(names)}"
    return f"gelu-jax {command} {shlex.quote((directory / 'config.yaml').as_posix())}"


def _texts(plain: Any) -> Iterator[str]:
    return (text for text in _strings(plain) if _FUNCTION.fullmatch(text))


def _strings(plain: Any) -> Iterator[str]:
    if isinstance(plain, Mapping):
        plain = list(plain.values())
    if isinstance(plain, list):
        for part in plain:
            yield from _strings(part)
    elif isinstance(plain, str):
        yield plain


def _state_of(directory: str) -> str:
    """The hash of the checkpoints of a finished run, by the sums that stand beside them."""
    sums = sorted(Path(directory).glob("runs/*/*/checkpoint/*/sums.json"))
    return digest({path.as_posix(): path.read_bytes() for path in sums})


@cache
def _content(path: str) -> str:
    """The SHA-256 of all weights, in full: tuned weights have the header and size of the others."""
    folder = Path(locate(path))
    files = [*folder.glob("*.safetensors"), *folder.glob("config.json")]
    digests = dict[str, bytes]()
    for file in files:
        with file.open("rb") as opened:
            digests[file.name] = hashlib.file_digest(opened, "sha256").digest()
    return digest(digests)


def identity(trainers: Mapping[str, Trainer]) -> dict[str, str]:
    """What decides the results of all runs of a directory beside their configs.

    Args:
      trainers: the trainer of each arm.

    Returns:
      Field → value, as it stands in `identity.json`.
    """
    first = next(iter(trainers.values()))
    version, backend, numerics, *x64 = versions()
    found = {
        "data": first.data.info.hash,
        "jax": version,
        "backend": backend,
        "JAX_ENABLE_X64": str(bool(x64)),
        "numerics version": numerics[:12],
    }
    for trainer in trainers.values():
        for kind, hashes in imported(trainer.config).items():
            found |= {f"{kind} {name}": digest for name, digest in hashes.items()}
    return found


def write_identity(directory: Path, trainers: Mapping[str, Trainer]) -> None:
    """Writes `identity.json`, with the processor, which is no part of the identity.

    Args:
      directory: of a training or comparison.
      trainers: the trainer of each arm.

    Raises:
      OSError: it cannot be written.
    """
    content = {"identity": identity(trainers), "processor": processor()}
    write_file(directory / FILE, json.dumps(content, indent=2) + "\n")


def read_identity(directory: Path) -> tuple[dict[str, str], str | None]:
    """What `write_identity` wrote.

    Args:
      directory: of a training or comparison.

    Returns:
      The identity and the processor; nothing and None where an earlier version wrote neither.
    """
    try:
        found = json.loads((directory / FILE).read_bytes())
        return dict(found["identity"]), str(found["processor"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, None
