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
- **Unions** of dataclasses, such as `data: StdlibCorpus | Digits`, are told apart by the field
  `kind: Literal["..."]` that each of them has.
- **Overrides** `section.key=value` are read after the file, and like it.

What a scalar means is said in `document`.
"""

import dataclasses
import functools
import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gelu_jax.errors import ABSENT, ConfigError, nearest
from gelu_jax.files import write_file
from gelu_jax.training.document import WRONG, Document, KeyPath, dump, load

T = TypeVar("T")
Given: TypeAlias = Mapping[str, tuple[KeyPath, Any]]
"""Keys and their values, each with the place where it was written."""

_INHERITING = "model"
_KIND = "kind"


def read_config(path: str | os.PathLike[str], cls: type[T], overrides: Sequence[str] = ()) -> T:
    """The dataclass `cls` that a YAML file describes, after the overrides `section.key=value`.

    Raises `ConfigError` with a line for everything that is wrong with the file, each beginning
    with `file:line` or `override ...`.
    """
    return _read(load(Path(path)), cls, overrides)


def from_dict(data: Mapping[str, Any], cls: type[T], overrides: Sequence[str] = ()) -> T:
    """The dataclass `cls` from plain data, checked as a file is; the reverse of `to_dict`."""
    return _read(Document(to_dict(data)), cls, overrides)


def to_dict(config: Any) -> Any:
    """A config as plain data: dicts, lists, strings, numbers, booleans and None.

    A dtype becomes its name, a function `module:qualname`, a tuple a list.
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
            return f"{config.__module__}:{getattr(config, '__qualname__', config)}"


def write_config(config: Any, path: str | os.PathLike[str]) -> None:
    """Writes a config so that `read_config` gives an equal one; whole or not at all.

    Where several processes share a run, the first writes for all.
    """
    write_file(Path(path), dump(to_dict(config)))


def _read(document: Document, cls: type[T], overrides: Sequence[str]) -> T:
    for override in overrides:
        document.override(override)
    config = _Builder(document).value(cls, document.data, (), {}, None)
    document.check()
    return cast(T, config)


@dataclasses.dataclass(frozen=True)
class _Builder:
    """Values of annotated types out of plain data; notes what is wrong in the document, goes on.

    `at` is where a value stands, `given` what it inherits, `default` what it replaces.
    """

    document: Document

    def value(self, hint: Any, data: Any, at: KeyPath, given: Given, default: Any) -> Any:
        if data is WRONG:
            return WRONG
        if data is None and type(None) in _members(hint):
            return None
        if sections := _sections(hint):
            return self.section(sections, {} if data is None else data, at, given, default)
        if _dataclasses_in(hint):
            return self.collection(hint, data, at, given)
        return self.leaf(hint, data, at)

    def collection(self, hint: Any, data: Any, at: KeyPath, given: Given) -> Any:
        """A `tuple[Section, ...]`, or a mapping from names to sections."""
        hint = next(member for member in _members(hint) if _dataclasses_in(member))
        ordered = typing.get_origin(hint) is tuple
        if not isinstance(data, list | tuple if ordered else dict):
            expected = "a list of sections" if ordered else "named sections"
            return self.document.wrong(at, data, f"should be {expected}")
        item = typing.get_args(hint)[0 if ordered else 1]
        pairs = enumerate(data) if isinstance(data, list | tuple) else data.items()
        values = {k: self.value(item, part, (*at, k), given, None) for k, part in pairs}
        if any(value is WRONG for value in values.values()):
            return WRONG
        return tuple(values.values()) if ordered else values

    def section(
        self, choices: list[type], data: Any, at: KeyPath, given: Given, default: Any
    ) -> Any:
        if not isinstance(data, dict):
            return self.document.wrong(at, data, "should be a section of keys")
        own = {str(key): ((*at, str(key)), value) for key, value in data.items()}
        cls = self.choose(choices, own, at, default)
        if cls is None:
            return WRONG
        self.unknown_keys(cls, own, at)
        hints, defaults = _hints(cls), _defaults(cls, default)
        inherited = {k: v for k, v in given.items() if k in hints and not _dataclasses_in(hints[k])}
        written = {**inherited, **own}
        for name, hint in hints.items():
            if name not in written and defaults[name] is ABSENT and not _sections(hint):
                # the parts inherit it as WRONG, so that it is asked for once
                place = (*at, name)
                written[name] = place, self.document.wrong(place, ABSENT, "required")
        passed = {**given, **_leaves(hints, written)} if _INHERITING in at else {}
        fields: dict[str, tuple[KeyPath, Any]] = {}
        for name, hint in hints.items():
            place, data = written.get(name, ((*at, name), {}))
            fallback = defaults[name]
            rebuilt = fallback is ABSENT or (_INHERITING in at and _is_section(fallback))
            if name in written or rebuilt:
                fallback = self.value(hint, data, place, passed, fallback)
            fields[name] = place, fallback
        return self.construct(cls, fields, at)

    def construct(self, cls: type, fields: Given, at: KeyPath) -> Any:
        if any(value is WRONG for _, value in fields.values()):
            return WRONG
        try:
            return cls(**{name: value for name, (_, value) in fields.items()})
        except ConfigError as error:
            for problem in error.problems:
                name, *rest = problem.field.split(".")
                place = fields[name][0] if name in fields else (*at, name)
                self.document.wrong((*place, *rest), problem.value, problem.reason)
        except ValueError as error:
            self.document.wrong(at, ABSENT, str(error))
        return WRONG

    def choose(self, choices: list[type], own: Given, at: KeyPath, default: Any) -> type | None:
        """The one dataclass of a union that `kind` names."""
        if len(choices) == 1:
            return choices[0]
        kinds = {typing.get_args(_hints(cls)[_KIND])[0]: cls for cls in choices}
        if _KIND not in own and type(default) in choices:
            return type(default)
        listed = f"choose from {', '.join(sorted(kinds))}"
        place, kind = own.get(_KIND, ((*at, _KIND), ABSENT))
        if kind is ABSENT:
            self.document.wrong(place, ABSENT, f"required; {listed}")
        elif not isinstance(kind, str) or kind not in kinds:
            self.document.wrong(place, kind, f"unknown kind; {listed}")
        else:
            return kinds[kind]
        return None

    def unknown_keys(self, cls: type, own: Given, at: KeyPath) -> None:
        known = _hints(cls).keys() | (_names_below(cls) if _INHERITING in at else set())
        for key, (place, _) in own.items():
            if key not in known:
                self.document.wrong(place, ABSENT, f"unknown key; {nearest(key, known)}")

    def leaf(self, hint: Any, data: Any, at: KeyPath) -> Any:
        """Anything without dataclasses in it, as pydantic reads it strictly."""
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hint, config=_ANY_TYPE)
            return adapter.validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            if (names := _literals(hint)) and isinstance(data, str):
                return self.document.wrong(at, data, f"unknown {at[-1]}; {nearest(data, names)}")
            for keys, value, reason in _reasons(error, data):
                self.document.wrong((*at, *keys), value, reason)
            return WRONG


_ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)
_FROM_PYTHON_ONLY = {"callable_type", "needs_python_object", "is_type"}


def _reasons(error: ValidationError, data: Any) -> list[tuple[KeyPath, Any, str]]:
    """One reason for each wrong value inside `data`; what a union's other types say of a value
    around it is left out."""
    messages: dict[KeyPath, list[str]] = {}
    for detail in error.errors(include_url=False):
        message = "has too few items" if detail["type"] == "missing" else detail["msg"]
        kept = messages.setdefault(_path_in(data, detail["loc"]), [])
        if detail["type"] not in _FROM_PYTHON_ONLY and message not in kept:
            kept.append(message)
    inner = [k for k in messages if not any(k == o[: len(k)] and k != o for o in messages)]
    return [
        (keys, functools.reduce(lambda d, k: d[k], keys, data), _sentence(messages[keys]))
        for keys in inner
    ]


def _path_in(data: Any, location: Sequence[str | int]) -> KeyPath:
    """The keys of a pydantic location that are keys of the data, not names of types."""
    path: KeyPath = ()
    for key in location:
        if (isinstance(data, dict) and key in data) or (
            isinstance(data, list) and isinstance(key, int) and key < len(data)
        ):
            data, path = cast(Any, data)[key], (*path, key)
    return path


def _sentence(messages: Sequence[str]) -> str:
    """Pydantic's messages about one value as one reason in the words of YAML."""
    text = " or ".join(messages).replace(" or Input should be", " or")
    return text.removeprefix("Input ").replace("valid array", "list")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotation of every field that can be given."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _defaults(cls: type, section: Any) -> dict[str, Any]:
    """The fields' values in a section's own default, if it is of this class, or in the class;
    `ABSENT` where there is none."""
    if type(section) is cls:
        return {name: getattr(section, name) for name in _hints(cls)}
    fields = {f.name: (f.default, f.default_factory) for f in dataclasses.fields(cls) if f.init}
    return {
        name: make()
        if make is not dataclasses.MISSING
        else ABSENT
        if value is dataclasses.MISSING
        else value
        for name, (value, make) in fields.items()
    }


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    if typing.get_origin(hint) is typing.Annotated:
        return _members(typing.get_args(hint)[0])
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _sections(hint: Any) -> list[type]:
    """The dataclasses that a field of this type may hold."""
    return [m for m in _members(hint) if isinstance(m, type) and dataclasses.is_dataclass(m)]


def _dataclasses_in(hint: Any) -> list[type]:
    """The dataclasses that a field of this type may hold, by itself or in a collection."""
    return _sections(hint) or [c for part in typing.get_args(hint) for c in _dataclasses_in(part)]


def _literals(hint: Any) -> list[str]:
    """The names that a `Literal[...]` allows."""
    literals = [m for m in _members(hint) if typing.get_origin(m) is typing.Literal]
    return [str(name) for literal in literals for name in typing.get_args(literal)]


def _leaves(hints: Mapping[str, Any], written: Given) -> Given:
    """The keys of a section that its parts inherit."""
    return {k: v for k, v in written.items() if k != _KIND and not _dataclasses_in(hints.get(k))}


@functools.cache
def _names_below(cls: type) -> frozenset[str]:
    """The names that the parts of a dataclass, and theirs, can inherit."""
    parts = [part for hint in _hints(cls).values() for part in _dataclasses_in(hint)]
    names = {n for part in parts for n, h in _hints(part).items() if not _dataclasses_in(h)}
    return frozenset(names - {_KIND}).union(*map(_names_below, parts))


def _is_section(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
