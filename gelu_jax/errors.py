"""Errors in what a user gives: each names the place, the field, the value and what is wrong."""

import difflib
import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

ABSENT: Final = object()
"""The value of a problem that has none to show: a missing field, or an unknown key."""

_MAX_LENGTH = 80  # characters of a value in a message, so that a problem stays on one line


@dataclass(frozen=True)
class Problem:
    """One wrong field of a config.

    Attributes:
      field: name of the field, relative to the dataclass that reports it; a reader of config files
        puts the path of the section before it.
      value: the value found, or `ABSENT`.
      reason: what is wrong with it, and the nearest right value where one was computed.
      where: file and line, where the config came from a file.

    >>> print(Problem("d_ff", -1, "must be above 0", where="configs/x.yaml:9"))
    configs/x.yaml:9: d_ff = -1: must be above 0
    """

    field: str
    value: object
    reason: str
    where: str = ""

    def __str__(self) -> str:
        subject = self.field if self.value is ABSENT else f"{self.field} = {shown(self.value)}"
        return ": ".join(part for part in (self.where, subject, self.reason) if part)


class ConfigError(ValueError):
    """Everything that is wrong with one config, one line per field.

    Args:
      problems: what was found, at least one.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def check(problems: Iterable[Problem]) -> None:
    """Raises one error for all problems.

    Args:
      problems: what was found, possibly nothing.
    Raises:
      ConfigError: there is at least one problem.
    """
    if found := tuple(problems):
        raise ConfigError(found)


def shown(value: object) -> str:
    """A value as a message shows it: its `repr`, cut to 80 characters.

    Args:
      value: anything; a path is shown whole, because its end matters.
    Returns:
      One line.
    """
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    text = repr(value)
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 3] + "..."


def printable(text: str) -> str:
    """A name as a message shows it.

    Args:
      text: a name that a user or a file gave.
    Returns:
      The name, quoted where it could not be printed on one line.

    >>> print(printable("x_train"), printable("x\\ntrain"))
    x_train 'x\\ntrain'
    """
    return text if text.isprintable() else repr(text)


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint with the choices closest to a misspelt name, or all of them if none is close.

    Args:
      name: what was given.
      choices: what is allowed.
    Returns:
      The end of a message.

    >>> nearest("swigle", ["gelu", "swiglu", "relu"])
    'did you mean swiglu?'
    >>> nearest("SwiGLU", ["gelu", "swiglu", "relu"])
    'did you mean swiglu?'
    >>> nearest("lr", ["name", "learning_rate"])
    'did you mean learning_rate?'
    >>> nearest("zzz", ["gelu", "relu"])
    'choose from gelu, relu'
    """
    choices = sorted(choices)
    meant = _ABBREVIATIONS.get(name.lower(), name).lower()
    close = same(name, choices) or difflib.get_close_matches(meant, choices, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"choose from {', '.join(choices)}"


def same(name: str, choices: Iterable[str]) -> list[str]:
    """The choices that a name stands for: in another spelling, or as an abbreviation.

    Args:
      name: what was given.
      choices: what is allowed.
    Returns:
      Those of them that are meant, most often one or none.

    >>> same("Learning-Rate", ["learning_rate", "name"]), same("lr", ["learning_rate"])
    (['learning_rate'], ['learning_rate'])
    """
    meant = _ABBREVIATIONS.get(name.lower(), name)
    return [choice for choice in choices if _letters(choice) == _letters(meant)]


_ABBREVIATIONS = {
    "lr": "learning_rate",
    "min_lr": "min_learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "eps": "epsilon",
    "betas": "b1",
    "relu^2": "relu_squared",
    "relu**2": "relu_squared",
    "relu²": "relu_squared",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "n_layer": "num_layers",
    "n_layers": "num_layers",
    "n_head": "num_heads",
    "n_heads": "num_heads",
    "warmup": "warmup_steps",
    "max_steps": "steps",
    "seq_len": "context",
}


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def no_such(what: str, path: str) -> str:
    """The message for a path that does not exist, with existing names close to the missing part.

    Args:
      what: "file" or "directory".
      path: the path; a pattern (`*.txt`) gets no hint.
    Returns:
      Such as "no such file; did you mean texts?".
    """
    message = f"no such {what}"
    if glob.has_magic(path):
        return message
    folder, name = os.path.split(path)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
    neighbours = filter(os.path.exists, glob.glob(os.path.join(glob.escape(folder), "*")))
    hint = nearest(name, map(os.path.basename, neighbours))
    return f"{message}; {hint}" if hint.startswith("did you mean") else message
