"""How bad input is reported: the place, the field, the value, and the nearest right one."""

import difflib
import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

ABSENT: Final = object()
"""The value of a problem that has none to show: a field that is missing, or an unknown key."""

_SHOWN = 80  # characters of a value: what is wrong stays on one line


@dataclass(frozen=True)
class Problem:
    """One wrong field of a config.

    `field` is relative to the dataclass that reports it. Who reads a config file puts the
    path of the section before it and the file and line into `where`.

    >>> print(Problem("d_ff", -1, "must be at least 1", where="configs/x.yaml:9"))
    configs/x.yaml:9: d_ff = -1: must be at least 1
    """

    field: str
    value: object
    reason: str
    where: str = ""

    def __str__(self) -> str:
        subject = self.field if self.value is ABSENT else f"{self.field} = {shown(self.value)}"
        return ": ".join(part for part in (self.where, subject, self.reason) if part)


class ConfigError(ValueError):
    """All that is wrong with one config, one line for each field."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def check(problems: Iterable[Problem]) -> None:
    """Raises `ConfigError` with every problem found; returns when there is none."""
    if found := tuple(problems):
        raise ConfigError(found)


def shown(value: object) -> str:
    """The value as Python writes it, cut to one short line; a path is whole, as one needs it."""
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint that lists the choices closest to a misspelt name.

    >>> nearest("swigle", ["gelu", "swiglu", "relu"])
    'did you mean swiglu?'
    >>> nearest("zzz", ["gelu", "relu"])
    'choose from gelu, relu'
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"choose from {', '.join(choices)}"


def no_such(what: str, path: str) -> str:
    """What to say of a path that leads nowhere: what has nearly the name of the part missing."""
    said = f"no such {what}"
    if glob.has_magic(path):
        return said
    folder, name = os.path.split(path)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
    neighbours = filter(os.path.exists, glob.glob(os.path.join(glob.escape(folder), "*")))
    hint = nearest(name, map(os.path.basename, neighbours))
    return f"{said}; {hint}" if hint.startswith("did you mean") else said
