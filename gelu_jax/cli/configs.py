"""configs: the ones that come with the package, and how a command finds them by name."""

import os
import shlex
import sys
from pathlib import Path

from gelu_jax.errors import ABSENT, ConfigError, Problem, nearest, no_such
from gelu_jax.training.document import load

_PACKAGE = Path(__file__).parents[1]
# in a wheel they are inside the package, in a checkout beside it
_PLACES = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
DIRECTORY = next((path for path in _PLACES if path.is_dir()), _PLACES[0])


def configs_command() -> None:
    """List the configs that come with the package, each with its first line."""
    paths = _bundled()
    width = max(len(path.stem) for path in paths)
    for path in paths:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        print(f"{path.stem:{width}}  {first.removeprefix('# ')}")


def find_config(path: Path) -> Path:
    """The config file that a person means.

    Args:
      path: a file, or the name of a config that comes with the package. A file wins.

    Returns:
      A file that exists.

    Raises:
      ConfigError: there is neither.
    """
    bundled = DIRECTORY / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.exists():
        make_importable(path.parent)
        return path
    if path.parent == Path() and bundled.exists():
        return bundled
    reason = no_such("file", str(path))
    if path.parent == Path():
        names = {found.stem for found in _bundled()} | {found.name for found in Path().glob("*")}
        hint = nearest(path.name.removesuffix(".yaml"), names)
        reason = f"no such file; {hint}" if hint.startswith("did you mean") else reason
    raise ConfigError([Problem(str(path), ABSENT, reason)])


def check_kind(path: Path, command: str) -> None:
    """Sends a person with a comparison to `compare`, and one with a training run to `train`.

    Args:
      path: a config file.
      command: the command that it was given to.

    Raises:
      ConfigError: it is for the other command.
    """
    kind = kind_of(path)
    if kind and kind != command:
        what = {"compare": "a comparison", "train": "a training run"}[kind]
        reason = f"is the config of {what}: gelu-jax {kind} {shlex.quote(str(path))}"
        raise ConfigError([Problem(str(path), ABSENT, reason)])


def kind_of(path: Path) -> str:
    """The command that a config is for.

    Args:
      path: a config file.

    Returns:
      "compare" or "train"; nothing where its keys are those of neither.
    """
    keys = load(path).data.keys()
    if "run" in keys and {"arms", "factors"} & keys:
        return "compare"
    return "train" if {"model", "steps"} <= keys else ""


def make_importable(folder: Path) -> None:
    """Lets ``module:function`` name modules beside a config and in the current folder.

    Args:
      folder: of the config. It comes first, for this process and for workers that it starts.
    """
    for place in (os.getcwd(), str(folder.resolve())):
        if place not in sys.path:
            sys.path.insert(0, place)
            paths = filter(None, (place, os.environ.get("PYTHONPATH")))
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def _bundled() -> list[Path]:
    return sorted(DIRECTORY.glob("*.yaml"))
