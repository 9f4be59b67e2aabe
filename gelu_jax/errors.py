"""How bad input is reported: the field, the value, and the nearest right one."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One wrong field of a config."""

    field: str
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value!r}: {self.reason}"


class ConfigError(ValueError):
    """All that is wrong with one config, one line for each field."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def check(problems: Iterable[Problem]) -> None:
    """Raises `ConfigError` with every problem found; returns when there is none."""
    if found := tuple(problems):
        raise ConfigError(found)


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
