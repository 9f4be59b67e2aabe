"""YAML text to plain data, with the file and line of every key; the only place that knows YAML.

The text is composed by PyYAML into nodes and turned into dicts, lists and scalars here: no
constructor runs and no tag makes an object. What differs from PyYAML's own `safe_load`:

- scalars are those of YAML 1.2 (core schema): `1e-3` is a number, `010` is ten, `on`, `off`,
  `yes`, `no`, dates and `1_000` are strings, only `true` and `false` are booleans;
- a key written twice is an error, and so are anchors, aliases and tags;
- `.nan` is a string: a NaN would not equal itself when the config of a run is read back.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import yaml

from gelu_jax.errors import ABSENT, Problem, check, no_such

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way from the root of a document to one of its values."""

WRONG: Final = object()
"""Stands for a value whose problem has been noted."""

_Place: TypeAlias = Callable[[yaml.Mark | None], str]


class _Loader(yaml.SafeLoader):
    """Composes nodes of plain data; its constructors are never run."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(
                problem="anchors, aliases and tags are not read; write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes a string exactly where `_Loader` would read something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


# tag -> (what a plain scalar of it looks like, the characters it begins with, its value). An
# integer of 100 digits is left to be a float: Python refuses to read very long ones.
_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"null|Null|NULL|~|", "nN~", lambda _: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "int": (
        r"[-+]?[0-9]{1,99}|0o[0-7]{1,99}|0x[0-9a-fA-F]{1,99}",
        "-+0123456789",
        lambda text: int(text, 0 if text[:2] in ("0o", "0x") else 10),
    ),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)",
        "-+.0123456789",
        lambda text: float(text.lower().replace(".inf", "inf")),
    ),
}
_TAG = "tag:yaml.org,2002:"
for _name, (_pattern, _first, _) in _SCALARS.items():
    _empty = [""] if _name == "null" else []
    _Loader.add_implicit_resolver(
        _TAG + _name, re.compile(rf"(?:{_pattern})\Z"), [*_first, *_empty]
    )


def dump(data: Any) -> str:
    """Plain data as YAML that `load` reads back to the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


@dataclasses.dataclass
class Document:
    """Plain data, the place of every key (`file:line` or `override ...`), and the problems."""

    data: Any = None
    places: dict[KeyPath, str] = dataclasses.field(default_factory=lambda: {(): ""})
    found: list[tuple[int, Problem]] = dataclasses.field(default_factory=list[tuple[int, Problem]])

    def wrong(self, at: KeyPath, value: object, reason: str) -> Any:
        """Notes a problem, once, however many parts of a config meet it; returns `WRONG`."""
        known = at
        while known not in self.places:
            known = known[:-1]
        rank = list(self.places).index(known)
        problem = Problem(dotted(at), value, reason, self.places[known])
        if all(str(problem) != str(other) for _, other in self.found):
            self.found.append((rank, problem))
        return WRONG

    def check(self) -> None:
        """Raises `ConfigError` with all problems, in the order of the file, if there are any."""
        check(problem for _, problem in sorted(self.found, key=lambda found: found[0]))

    def compose(self, text: str, at: KeyPath, place: _Place) -> Any:
        """The plain data of a YAML text whose value belongs at `at`; `WRONG` if it is no YAML."""
        try:
            node = yaml.compose(text, _Loader)
            return None if node is None else self._plain(node, at, place)
        except yaml.MarkedYAMLError as error:
            where, reason = place(error.problem_mark), error.problem or str(error)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, cast(int, error.position))
            where = place(yaml.Mark("", 0, line, 0, None, 0))
            reason = f"the character U+{cast(int, error.character):04X} is not allowed"
        except RecursionError:
            where, reason = place(None), "nested too deeply"
        self.found.append((0, Problem("", ABSENT, reason, where)))
        return WRONG

    def _plain(self, node: yaml.Node, at: KeyPath, place: _Place) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node.value, at, place)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._entry(item, item, (*at, index), place)
                for index, item in enumerate(node.value)
            ]
        tag = node.tag.removeprefix(_TAG)
        return _SCALARS[tag][2](node.value) if tag in _SCALARS else node.value

    def _mapping(
        self, pairs: Iterable[tuple[yaml.Node, yaml.Node]], at: KeyPath, place: _Place
    ) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, item in pairs:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a plain name", problem_mark=key_node.start_mark
                )
            key = key_node.value
            value = self._entry(key_node, item, (*at, key), place)
            if key in result:
                self.wrong((*at, key), ABSENT, "written twice")
            result[key] = value
        return result

    def _entry(self, marked: yaml.Node, item: yaml.Node, at: KeyPath, place: _Place) -> Any:
        self.places[at] = place(marked.start_mark)
        return self._plain(item, at, place)

    def override(self, text: str) -> None:
        """Sets one key from `section.key=value`; sections on the way are made as needed."""
        source = f"override {_printable(text)}"
        name, equals, value = text.partition("=")
        at = tuple(name.strip().split("."))
        if not equals or not all(at):
            self._refuse(source, "write it as section.key=value")
            return
        section = self.data
        for depth, key in enumerate(at[:-1], start=1):
            if section.get(key) is None:
                self.places[at[:depth]] = source
                section[key] = {}
            section = section[key]
            if not isinstance(section, dict):
                self._refuse(source, f"{dotted(at[:depth])} is no section")
                return
        self.places = {k: p for k, p in self.places.items() if k[: len(at)] != at} | {at: source}
        section[at[-1]] = self.compose(value, at, lambda _: source)

    def _refuse(self, where: str, reason: str) -> None:
        self.found.append((len(self.places), Problem("", ABSENT, reason, where)))


def load(path: Path) -> Document:
    """The document of a YAML file; raises `ConfigError` unless it is a mapping of keys."""
    document = Document(places={(): str(path)})
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        check([Problem("", ABSENT, no_such("file", str(path)), str(path))])
        raise
    except OSError as error:
        check([Problem("", ABSENT, (error.strerror or str(error)).lower(), str(path))])
        raise
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        check([Problem("", ABSENT, f"not UTF-8 text: {byte}", str(path))])
        raise
    document.data = document.compose(
        text, (), lambda mark: f"{path}:{mark.line + 1}" if mark else str(path)
    )
    if document.data is WRONG:
        document.check()
    if not isinstance(document.data, dict):
        reason = "empty" if document.data is None else "no section"
        check([Problem("", ABSENT, f"{reason}; expected lines of `key: value`", str(path))])
    return document


def dotted(at: KeyPath) -> str:
    """The keys as people write them.

    >>> dotted(("arms", 0, "d_ff"))
    'arms[0].d_ff'
    """
    parts = (
        f"[{k}]" if isinstance(k, int) else f".{k if k.isprintable() else repr(k)}" for k in at
    )
    return "".join(parts).removeprefix(".")


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)
