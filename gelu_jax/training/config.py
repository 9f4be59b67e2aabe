"""From a YAML file to frozen dataclasses and back, with every mistake named at its line.

The configs are the plain frozen dataclasses that the modules take; none of them knows of YAML.
A section of the file is a dataclass and a key is one of its fields:

- **Nothing is coerced**, but an integer may stand for a float, a list for a tuple and an empty
  section for its defaults.
- **What a section leaves out** keeps its default in the dataclass that holds the section.
- **Inheritance in the model**: from a section named `model` downwards, a key is also the default
  for every part below it that has a field of that name and does not set it itself. So `d_model`
  and `dtype` are written once, and a part that needs nothing else is not written at all. Sections
  are not passed on, nor is `kind`.
- **Unions** of dataclasses are told apart by their field `kind: Literal["..."]`; they are annotated
  as pydantic wants it, `Annotated[StdlibCorpus | Digits, Field(discriminator="kind")]`.
- **Overrides** `section.key=value` are read after the file, and like it.

What a scalar means is said in `document`. pydantic checks the values and builds the dataclasses.
It does not know inheritance, nor the line of a value: `_Sections` adds the one before it reads, and
looks up the other in what it reports.
"""

import dataclasses
import functools
import json
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from gelu_jax.errors import ABSENT, Problem, nearest, same
from gelu_jax.files import write_file
from gelu_jax.importing import reference
from gelu_jax.training.document import Document, KeyPath, dump, load

T = TypeVar("T")
Written: TypeAlias = dict[str, tuple[KeyPath, Any]]
"""Keys and their values, each with the path where it was written."""

_INHERITING = "model"
_KIND = "kind"
_FROM_PYTHON_ONLY = {"callable_type", "needs_python_object", "is_type"}  # no YAML is one of these


def read_config(path: str | os.PathLike[str], cls: type[T], overrides: Sequence[str] = ()) -> T:
    """Reads the dataclass that a YAML file describes.

    Args:
      path: the file.
      cls: the dataclass.
      overrides: `section.key=value` each; read after the file, in this order.

    Returns:
      An instance of `cls`.

    Raises:
      ConfigError: with a line for everything that is wrong, each beginning with `file:line` or
        `override ...`.
    """
    return _read(load(Path(path)), cls, overrides)


def from_dict(data: Mapping[str, Any], cls: type[T], overrides: Sequence[str] = ()) -> T:
    """Makes a dataclass from plain data, checked as a file is; the reverse of `to_dict`.

    Args:
      data: the fields of `cls`; what has a default may be left out.
      cls: the dataclass.
      overrides: `section.key=value` each.

    Returns:
      An instance of `cls`.

    Raises:
      ConfigError: with a line for everything that is wrong.
    """
    return _read(Document(to_dict(data)), cls, overrides)


def to_dict(config: Any) -> Any:
    """Turns a config into plain data: dicts, lists, strings, numbers, booleans and None.

    Args:
      config: a dataclass, or a value of one of its fields.

    Returns:
      The same as plain data. A dtype becomes its name, a function `module:qualname`, a tuple a
      list.
    """
    match config:
        case Mapping():
            return {str(key): to_dict(value) for key, value in config.items()}
        case list() | tuple():
            return [to_dict(value) for value in config]
        case np.generic():
            return config.item()
        case os.PathLike():
            return os.fspath(config)
        case None | bool() | int() | float() | str():
            return config
        case _ if not isinstance(config, type) and dataclasses.is_dataclass(config):
            return {name: to_dict(getattr(config, name)) for name in _hints(type(config))}
        case _ if isinstance(config, np.dtype) or hasattr(config, "dtype"):
            return np.dtype(config).name
        case _:
            return reference(config)


def write_config(config: Any, path: str | os.PathLike[str]) -> None:
    """Writes a config so that `read_config` gives an equal one.

    Args:
      config: a dataclass.
      path: the file; written whole or not at all, and by the primary process only.

    Raises:
      OSError: the file cannot be written.
    """
    write_file(Path(path), dump(to_dict(config)))


class _Read(BaseModel, Generic[T]):
    """What pydantic reads."""

    config: T
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")


def _read(document: Document, cls: type[T], overrides: Sequence[str]) -> T:
    for override in overrides:
        document.override(override)
    sections = _Sections(document)
    data, config = sections.filled(cls, document.data, (), {}, None), None
    try:
        text = json.dumps({"config": data})
        config = _Read[cls].model_validate_json(text, strict=True).config
    except ValidationError as error:
        sections.report(error, data)
    document.check()
    return cast(T, config)


@dataclasses.dataclass
class _Sections:
    """What pydantic does not know of the sections of a document.

    `origins` maps the path of an inherited value to the one where it was written, `others` that of
    a section to the names of the classes that its keys do not speak of, where no kind says which.
    """

    document: Document
    origins: dict[KeyPath, KeyPath] = dataclasses.field(default_factory=dict[KeyPath, KeyPath])
    others: dict[KeyPath, set[str]] = dataclasses.field(default_factory=dict[KeyPath, set[str]])

    def filled(self, hint: Any, data: Any, at: KeyPath, given: Written, default: Any) -> Any:
        """The data of a field; those of a section with what it inherits, or keeps of `default`.

        What should be a section and is not one is left for pydantic to refuse.
        """
        choices = _sections(hint)
        if data is None and choices and not _may_be_none(hint):
            data = {}
        if not choices or not isinstance(data, dict):
            return data
        if len(choices) > 1 and not all(hasattr(cls, _KIND) for cls in choices):
            cls = _by_fields(choices, data, default)
            self.others[at] = {other.__name__ for other in choices if other is not cls}
            choices = [cls]
        kind = data.get(_KIND, getattr(default, _KIND, ""))
        for cls in choices:
            if len(choices) == 1 or getattr(cls, _KIND) == kind:
                return self.section(cls, data, at, given, default)
        if typing.get_origin(hint) is not typing.Annotated:  # and so pydantic tries each
            self.others[at] = {cls.__name__ for cls in choices}
            known = ", ".join(sorted(getattr(cls, _KIND) for cls in choices))
            self.document.add_problem((*at, _KIND), kind, f"unknown kind; choose from {known}")
        return {_KIND: "", **data}

    def section(
        self, cls: type, data: dict[str, Any], at: KeyPath, given: Written, default: Any
    ) -> dict[str, Any]:
        hints, inheriting = _hints(cls), _INHERITING in at
        known = hints.keys() | (_names_below(cls) if inheriting else set())
        for key in data:
            if key not in known:
                hint = _hint(key, cls, known)
                self.document.add_problem((*at, key), ABSENT, f"unknown key; {hint}")
        holder = default if type(default) is cls else cls
        kept = to_dict(default) if type(default) is cls else {}
        kept, own = (
            {key: ((*at, key), value) for key, value in values.items()} for values in (kept, data)
        )
        values = kept | given | own  # its own first, then what it inherits
        plain = {k for k in own if not _sections(hints.get(k)) and _item(hints.get(k)) is None}
        leaves = {k: own[k] for k in own if k in plain - {_KIND}}
        passed = given | leaves if inheriting else {}
        filled: dict[str, Any] = {}
        for name, hint in hints.items():
            part, item = getattr(holder, name, None), _item(hint)
            if item is not None and isinstance(data.get(name), list):
                filled[name] = [
                    self.filled(item, entry, (*at, name, i), passed, None)
                    for i, entry in enumerate(data[name])
                ]
            elif not _sections(hint):
                if name in values:
                    self.origins[*at, name], filled[name] = values[name]
            elif part is not None and name not in data and not dataclasses.is_dataclass(part):
                filled[name] = to_dict(part)  # a name, where a section would do as well
            elif name in data or part is not None or not _may_be_none(hint):
                filled[name] = self.filled(hint, data.get(name, {}), (*at, name), passed, part)
        return filled

    def report(self, error: ValidationError, data: Any) -> None:
        """Adds to the document what pydantic found, at the lines where it was written."""
        messages: dict[KeyPath, list[str]] = {}
        named: set[KeyPath] = set()
        for detail in error.errors(include_url=False):
            if self.is_of_another(data, detail["loc"][1:]):
                continue
            at, value = _found(data, detail["loc"][1:])
            problems = _problems(detail, at, value)
            for problem in problems:
                self.add(*problem)
                named.add(problem[0])
            if not problems:
                found = messages.setdefault(at, [])
                message = _message(detail)
                found += [message] if message and message not in found else []
        for at, found in messages.items():
            # what the other types of a union say of the value around a wrong one is left out
            inside = [inner for inner in messages if inner != at] + list(named)
            if not any(at == inner[: len(at)] for inner in inside):
                self.add(at, _found(data, at)[1] if at else ABSENT, _sentence(found))

    def is_of_another(self, data: Any, location: Sequence[str | int]) -> bool:
        """Whether a location runs through a class that its section was not read as."""
        at = [_found(data, location[:n])[0] for n in range(len(location))]
        return any(
            key in self.others.get(before, ()) for before, key in zip(at, location, strict=True)
        )

    def add(self, at: KeyPath, value: object, reason: str) -> None:
        """Adds a problem; that of an inherited value where the value was written."""
        origins = ((self.origins.get(at[:n]), at[n:]) for n in range(len(at), 0, -1))
        place = next(((*origin, *rest) for origin, rest in origins if origin), at)
        self.document.add_problem(place, value, reason)


def _by_fields(choices: Sequence[type], data: Mapping[str, Any], default: Any) -> type:
    """The last class with a field that no class before it has and the data does; else the first.

    A later class may hold an earlier one and inherit to it: experts of feed-forward blocks.
    """
    start = type(default) if type(default) in choices else choices[0]
    for i in range(len(choices) - 1, 0, -1):
        earlier = frozenset[str]().union(*map(_hints, choices[:i]))
        if any(key in _hints(choices[i]) and key not in earlier for key in data):
            return choices[i]
    return start


def _problems(detail: ErrorDetails, at: KeyPath, value: Any) -> list[tuple[KeyPath, Any, str]]:
    """Path, value and reason of what pydantic found in a section or a choice; else nothing."""
    context: Any = detail.get("ctx", {})
    match detail["type"], detail["loc"]:
        case "missing", (*_, str(name)):
            return [((*at, name), ABSENT, "required")]
        case "unexpected_keyword_argument", _:
            return [(at, ABSENT, "unknown key")]
        case "union_tag_invalid", _:
            absent = value[_KIND] == ""
            choices = ", ".join(sorted(_quoted(context["expected_tags"])))
            reason = f"{'required' if absent else 'unknown kind'}; choose from {choices}"
            return [((*at, _KIND), ABSENT if absent else value[_KIND], reason)]
        case "literal_error", _ if isinstance(value, str):
            hint = nearest(value, _quoted(context["expected"]))
            return [(at, value, f"unknown {at[-1]}; {hint}")]
        case "value_error", _:  # raised by a dataclass itself
            found = getattr(context["error"], "problems", None) or [
                Problem("", ABSENT, str(context["error"]))
            ]
            return [((*at, *filter(None, p.field.split("."))), p.value, p.reason) for p in found]
        case _:
            return []


def _message(detail: ErrorDetails) -> str:
    if detail["type"] in _FROM_PYTHON_ONLY:
        return ""
    return "has too few items" if detail["type"] == "missing" else detail["msg"]


def _found(data: Any, location: Sequence[str | int]) -> tuple[KeyPath, Any]:
    """The path of a pydantic location, without the names of types in it, and the value there."""
    path: KeyPath = ()
    for key in location:
        if (isinstance(data, dict) and key in data) or (
            isinstance(data, list) and isinstance(key, int) and key < len(data)
        ):
            data, path = cast(Any, data)[key], (*path, key)
    return path, data


def _quoted(text: str) -> list[str]:
    return re.findall("'([^']*)'", text)


def _sentence(messages: Sequence[str]) -> str:
    """Pydantic's messages about one value as one reason in the words of YAML."""
    text = " or ".join(messages).replace(" or Input should be", " or").removeprefix("Input ")
    return text.replace("valid array", "list").replace("an object", "a section of keys")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotation of every field that can be given."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    if typing.get_origin(hint) is typing.Annotated:
        return _members(typing.get_args(hint)[0])
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _may_be_none(hint: Any) -> bool:
    return type(None) in _members(hint)


def _sections(hint: Any) -> list[type]:
    """The dataclasses that a field of this type may hold."""
    return [m for m in _members(hint) if isinstance(m, type) and dataclasses.is_dataclass(m)]


def _item(hint: Any) -> Any:
    """The type of the entries of a list of sections; None of anything else."""
    entries: tuple[Any, ...] = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
    return entries[0] if entries[1:] == (Ellipsis,) and _sections(entries[0]) else None


def _hint(key: str, cls: type, known: Iterable[str]) -> str:
    """The field that an unknown key stands for, in its section or, most exactly, in one below."""
    below = [] if same(key, known) else [*_fields_below(key, cls)]
    return f"did you mean {below[0]}?" if below else nearest(key, known)


def _fields_below(key: str, cls: type) -> Iterator[str]:
    """The dotted paths below a section that a key stands for."""
    for name, hint in _hints(cls).items():
        for part in _sections(hint):
            inherited = _names_below(part) if name == _INHERITING else frozenset[str]()
            yield from (f"{name}.{field}" for field in same(key, _hints(part).keys() | inherited))
            if name != _INHERITING:
                yield from (f"{name}.{path}" for path in _fields_below(key, part))


@functools.cache
def _names_below(cls: type) -> frozenset[str]:
    """The names that the parts of a dataclass, and theirs, can inherit."""
    parts = [part for hint in _hints(cls).values() for part in _sections(hint)]
    names = {n for part in parts for n, h in _hints(part).items() if not _sections(h)}
    return frozenset(names - {_KIND}).union(*map(_names_below, parts))
