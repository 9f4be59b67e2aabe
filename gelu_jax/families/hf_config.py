"""A config.json read field by field: each value has its kind, each mistake its line.

pydantic would not make this smaller: a family would declare its fields in a model, and name them
again in the function that maps them to a config of ours. Here that function is the declaration, and
loading weights needs no package but safetensors.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from gelu_jax.activations import activation
from gelu_jax.errors import ABSENT, ConfigError, Problem, no_such

D = TypeVar("D")
_REQUIRED: Any = object()
_LIMIT = 2**31


class HFConfig:
    """The fields of a config.json, or of a section of one.

    Every method raises ConfigError for a field that is not what the method returns, and for one
    that is missing and has no default.

    Args:
      values: the fields by name.
      prefix: what stands before the names in messages, such as "text_config.".

    >>> HFConfig({"hidden_size": 16}).integer("hidden_size")
    16
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = ""):
        self.values = values
        self.prefix = prefix

    def integer(self, name: str, default: D = _REQUIRED) -> int | D:
        """A whole number above zero.

        Args:
          name: the field.
          default: its value where it is absent; where that is None, the file may also say null.
        """
        if default is None and self.values.get(name) is None:
            return default
        value = self._read(name, int, "a whole number", default)
        if 0 < value < _LIMIT:
            return value
        return self._fail(name, value, "must lie in 1..2³¹−1")

    def integers(self, name: str, default: list[int]) -> list[int]:
        """A list of whole numbers above zero.

        Args:
          name: the field.
          default: its value where it is absent.
        """
        values = self._read(name, list, "a list of whole numbers", default)
        return [HFConfig({name: value}, self.prefix).integer(name) for value in values]

    def number(self, name: str, default: float = _REQUIRED) -> float:
        """A number above zero.

        Args:
          name: the field.
          default: its value where it is absent.
        """
        value = self._read(name, (int, float), "a number", default)
        if 0 < value < 1e300:
            return float(value)
        return self._fail(name, value, "must be above 0 and finite")

    def flag(self, name: str, default: bool = _REQUIRED) -> bool:
        """True or false.

        Args:
          name: the field.
          default: its value where it is absent.
        """
        return self._read(name, bool, "true or false", default)

    def string(self, name: str, default: str = _REQUIRED) -> str:
        """A string.

        Args:
          name: the field.
          default: its value where it is absent.
        """
        return self._read(name, str, "a string", default)

    def one_of(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of several strings.

        Args:
          name: the field.
          choices: what is supported.
          default: its value where it is absent.
        """
        choices = tuple(choices)
        value = self.string(name, default)
        if value in choices:
            return value
        return self._fail(name, value, f"not supported; choose from {', '.join(choices)}")

    def activation(self, name: str, default: str = _REQUIRED, *, prefix: str = "") -> str:
        """The canonical name of an activation.

        Args:
          name: the field.
          default: its value where it is absent.
          prefix: what may stand before the activation's name there.

        Returns:
          A name in `gelu_jax.activations`.
        """
        value = self.string(name, default)
        try:
            return activation(value.removeprefix(prefix)).__name__
        except ValueError as error:
            return self._fail(name, value, str(error).partition(": ")[2])

    def num_labels(self) -> int:
        """How many classes there are: those of ``id2label``, else ``num_labels``, else 2."""
        if self.values.get("id2label") is None:
            return self.integer("num_labels", 2)
        return len(self.section("id2label").values)

    def section(self, name: str) -> "HFConfig":
        """A part of the file with fields of its own.

        Args:
          name: the field.
        """
        values = self._read(name, dict, "a section", _REQUIRED)
        return HFConfig(values, f"{self.prefix}{name}.")

    def with_defaults(self, **values: object) -> "HFConfig":
        """The same fields, and others where the file does not have them.

        Args:
          **values: the others.
        """
        return HFConfig(values | dict(self.values), self.prefix)

    def require(self, name: str, value: object) -> None:
        """Refuses a field of which only one value, its default, is supported.

        Args:
          name: the field.
          value: what it must be where it is there.

        Raises:
          ConfigError: it is something else.
        """
        found = self.values.get(name, value)
        if found != value:
            self._fail(name, found, f"not supported; only {json.dumps(value)} is")

    def _read(self, name: str, kind: Any, expected: str, default: Any) -> Any:
        value = self.values.get(name, default)
        if value is _REQUIRED:
            return self._fail(name, ABSENT, f"missing; must be {expected}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return self._fail(name, value, f"must be {expected}")
        return value

    def _fail(self, name: str, value: object, reason: str) -> Any:
        raise ConfigError([Problem(self.prefix + name, value, reason)])


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      path: the file.

    Returns:
      Its fields.

    Raises:
      ConfigError: the file is missing, unreadable, or holds something else.
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
