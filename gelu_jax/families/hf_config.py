"""A config.json read field by field: each value has its kind, each mistake its line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from gelu_jax.activations import activation
from gelu_jax.errors import ConfigError, Problem, no_such

T = TypeVar("T")
_REQUIRED: Any = object()
_TOO_LARGE = 2**31


class HFConfig:
    """The fields of a config.json, or of a section of one.

    >>> HFConfig({"hidden_size": 16}).integer("hidden_size")
    16
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = ""):
        self.values = values
        self.prefix = prefix

    def integer(self, name: str, default: int = _REQUIRED) -> int:
        """A whole number above zero."""
        value = self._read(name, int, "a whole number", default)
        if 0 < value < _TOO_LARGE:
            return value
        nearest = "1" if value <= 0 else str(_TOO_LARGE - 1)
        return self._fail(name, value, f"must lie in 1..2³¹−1; nearest: {nearest}")

    def optional(self, name: str) -> int | None:
        """A whole number above zero, or nothing."""
        return None if self.values.get(name) is None else self.integer(name)

    def integers(self, name: str, default: list[int]) -> list[int]:
        """A list of whole numbers above zero."""
        values = self._read(name, list, "a list of whole numbers", default)
        return [HFConfig({name: value}, self.prefix).integer(name) for value in values]

    def number(self, name: str, default: float = _REQUIRED) -> float:
        """A number above zero."""
        value = self._read(name, (int, float), "a number", default)
        if 0 < value < 1e300:
            return float(value)
        return self._fail(name, value, "must be above 0 and finite")

    def flag(self, name: str, default: bool = _REQUIRED) -> bool:
        """True or false."""
        return self._read(name, bool, "true or false", default)

    def labels(self) -> int:
        """How many classes there are: those of ``id2label``, else ``num_labels``, else 2."""
        if self.values.get("id2label") is None:
            return self.integer("num_labels", 2)
        return len(self.section("id2label").values)

    def text(self, name: str, default: str = _REQUIRED) -> str:
        """A string."""
        return self._read(name, str, "a string", default)

    def activation(self, name: str, default: str = _REQUIRED) -> str:
        """The canonical name of an activation."""
        value = self.text(name, default)
        try:
            return activation(value).__name__
        except ValueError as error:
            return self._fail(name, value, str(error).partition(": ")[2])

    def section(self, name: str) -> "HFConfig":
        """A part of the file with fields of its own."""
        values = self._read(name, dict, "a section", _REQUIRED)
        return HFConfig(values, f"{self.prefix}{name}.")

    def with_defaults(self, **values: object) -> "HFConfig":
        """The same fields, and these where the file says nothing."""
        return HFConfig(values | dict(self.values), self.prefix)

    def only(self, name: str, allowed: object) -> None:
        """Refuses any other value of a field whose other values are not built here."""
        value = self.values.get(name, allowed)
        if value != allowed:
            self._fail(name, value, f"not supported; nearest: {json.dumps(allowed)}")

    def one_of(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of the choices."""
        choices = tuple(choices)
        value = self.text(name, default)
        if value in choices:
            return value
        return self._fail(name, value, f"not supported; choose from {', '.join(choices)}")

    def _read(self, name: str, kind: Any, wanted: str, default: Any) -> Any:
        value = self.values.get(name, default)
        if value is _REQUIRED:
            return self._fail(name, None, f"missing; must be {wanted}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return self._fail(name, value, f"must be {wanted}")
        return value

    def _fail(self, name: str, value: object, reason: str) -> Any:
        raise ConfigError([Problem(self.prefix + name, value, reason)])


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises ConfigError where the file is missing, unreadable, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([Problem("path", path, no_such("file", str(path)))]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([Problem("path", path, f"not readable JSON ({error})")]) from None
    if not isinstance(value, dict):
        raise ConfigError([Problem("path", path, "must hold a JSON object")])
    return cast(dict[str, Any], value)
