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
      model_type: whose fields these are; None where transformers knows no such fields.

    Attributes `read` and `sections` remember what was asked for: see `unsupported_fields`.

    >>> HFConfig({"hidden_size": 16}).integer("hidden_size")
    16
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = "", model_type: str | None = None):
        self.values = values
        self.prefix = prefix
        self.model_type = model_type
        self.read = set[str]()
        self.sections = dict[str, HFConfig]()

    def integer(self, name: str, default: D = _REQUIRED) -> int | D:
        """A whole number above zero.

        Args:
          name: the field.
          default: its value where it is absent; where that is None, the file may also say null.
        """
        if default is None and self.given(name) is None:
            return default
        value = self._read(name, int, "a whole number", default)
        if 0 < value < _LIMIT:
            return value
        return self._fail(name, value, "must lie in 1..2³¹−1")

    def given(self, name: str) -> Any:
        """What the file says, of any kind; None where it says nothing.

        Args:
          name: the field.
        """
        self.read.add(name)
        return self.values.get(name)

    def integers(self, name: str, default: list[int]) -> list[int]:
        """A list of whole numbers above zero.

        Args:
          name: the field.
          default: its value where it is absent.
        """
        values = self._read(name, list, "a list of whole numbers", default)
        return [HFConfig({name: value}, self.prefix).integer(name) for value in values]

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers above zero.

        Args:
          name: the field.
        """
        values = self._read(name, list, "a list of numbers", _REQUIRED)
        return tuple(HFConfig({name: value}, self.prefix).number(name) for value in values)

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
        value = self._read(name, str, "a string", default)
        try:
            return activation(value.removeprefix(prefix)).__name__
        except ValueError as error:
            return self._fail(name, value, str(error).partition(": ")[2])

    def num_labels(self) -> int:
        """How many classes there are: those of ``id2label``, else ``num_labels``, else 2."""
        if self.given("id2label") is None:
            return self.integer("num_labels", 2)
        return len(self.section("id2label").values)

    def section(self, name: str, model_type: str | None = None) -> "HFConfig":
        """A part of the file with fields of its own.

        Args:
          name: the field.
          model_type: whose fields these are; None where transformers knows no such fields.
        """
        values = self._read(name, dict, "a section", _REQUIRED)
        self.sections[name] = HFConfig(values, f"{self.prefix}{name}.", model_type)
        return self.sections[name]

    def with_values(self, **values: object) -> "HFConfig":
        """The same fields with other values for some; what is read of them counts as read here.

        Args:
          **values: the others.
        """
        other = HFConfig(dict(self.values) | values, self.prefix, self.model_type)
        other.read, other.sections = self.read, self.sections
        return other

    def with_defaults(self, **values: object) -> "HFConfig":
        """The same fields, and others where the file does not have them.

        Args:
          **values: the others.
        """
        return self.with_values(**(values | dict(self.values)))

    def only(self, *names: str) -> None:
        """Refuses every field but some.

        Args:
          *names: those that are known.

        Raises:
          ConfigError: there is another.
        """
        for name in self.values.keys() - set(names):
            self._fail(name, self.values[name], "not supported")

    def require(self, name: str, value: object) -> None:
        """Refuses a field of which only one value, its default, is supported.

        Args:
          name: the field.
          value: what it must be where it is there.

        Raises:
          ConfigError: it is something else.
        """
        self.read.add(name)
        found = self.values.get(name, value)
        if found != value:
            self._fail(name, found, f"not supported; only {json.dumps(value)} is")

    def _read(self, name: str, kind: Any, expected: str, default: Any) -> Any:
        self.read.add(name)
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
    return cast(dict[str, Any], _json(path, dict, "object"))


def read_json_objects(path: Path) -> list[dict[str, Any]]:
    """The objects in a JSON file that holds a list of them.

    Args:
      path: the file.

    Returns:
      The fields of each.

    Raises:
      ConfigError: the file is missing, unreadable, or holds something else.
    """
    found = _json(path, list, "list of objects")
    if not all(isinstance(item, dict) for item in found):
        raise ConfigError([Problem("path", path, "must hold a JSON list of objects")])
    return cast(list[dict[str, Any]], found)


def _json(path: Path, kind: type, expected: str) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([Problem("path", path, no_such("file", str(path)))]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([Problem("path", path, f"not readable JSON ({error})")]) from None
    if not isinstance(value, kind):
        raise ConfigError([Problem("path", path, f"must hold a JSON {expected}")])
    return value
