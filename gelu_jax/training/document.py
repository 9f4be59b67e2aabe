"""YAML text to plain data, with the file and line of every key; the only place that knows YAML.

The text is composed by PyYAML into nodes and turned into dicts, lists and scalars here: no
constructor runs and no tag makes an object. What differs from PyYAML's own `safe_load`:

- scalars are those of YAML 1.2 (core schema): `1e-3` is a number, `010` is ten, `on`, `off`,
  `yes`, `no`, dates and `1_000` are strings, only `true` and `false` are booleans;
- a key written twice is an error, and so are tags; an alias stands for what its anchor marks, and
  `<<: *name` gives a section the keys of another one that it does not set itself;
- `extends: base.yaml` at the top begins with another file, whose sections are merged key by key;
  a section of another `kind` replaces that of the base;
- `.nan` is a string: a NaN would not equal itself when the config of a run is read back.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias, cast

import yaml

from gelu_jax.errors import ABSENT, ConfigError, Problem, check, no_such

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way from the root of a document to one of its values."""

_Place: TypeAlias = Callable[[yaml.Mark | None], str]


class _Loader(yaml.SafeLoader):
    """Composes nodes of plain data; its constructors never run."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(
                problem="tags are not read; write the value out", problem_mark=event.start_mark
            )
        if re.search("[\ud800-\udfff]", getattr(event, "value", "")):
            raise yaml.MarkedYAMLError(
                problem="half of a surrogate pair is not text", problem_mark=event.start_mark
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
_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"<<\Z"), ["<"])  # is quoted as a name


def dump(data: Any) -> str:
    """Writes plain data as YAML that `load` reads back to the same data.

    Args:
      data: dicts, lists, strings, numbers, booleans and None.

    Returns:
      The text.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


@dataclasses.dataclass
class Document:
    """The plain data of a config, where each of its keys was written, and what is wrong with it.

    Attributes:
      data: dicts, lists and scalars.
      places: `file:line` or `override ...` of every key, in the order in which they were read.
      problems: what was found, each with its rank in that order.
    """

    data: Any = None
    places: dict[KeyPath, str] = dataclasses.field(default_factory=lambda: {(): ""})
    problems: list[tuple[int, Problem]] = dataclasses.field(
        default_factory=list[tuple[int, Problem]]
    )

    def add_problem(self, at: KeyPath, value: object, reason: str) -> None:
        """Adds what is wrong with a value, once, however many parts of a config meet it.

        Args:
          at: the path of the value; where it was not written, the nearest section above it counts.
          value: what was written, or `ABSENT`.
          reason: what is wrong with it.
        """
        known = at
        while known not in self.places:
            known = known[:-1]
        problem = Problem(dotted(at), value, reason, self.places[known])
        if all(str(problem) != str(other) for _, other in self.problems):
            self.problems.append((list(self.places).index(known), problem))

    def check(self) -> None:
        """Raises what was found in the order of the file.

        Raises:
          ConfigError: there are problems.
        """
        check(problem for _, problem in sorted(self.problems, key=lambda found: found[0]))

    def override(self, text: str) -> None:
        """Sets one key; sections on the way are made as needed. What is wrong becomes a problem.

        Args:
          text: `section.key=value`, the value in YAML.
        """
        try:
            self._set(text)
        except ConfigError as error:
            self.problems += [(len(self.places), problem) for problem in error.problems]

    def _set(self, text: str) -> None:
        source = f"override {text if text.isprintable() else repr(text)}"
        name, equals, value = text.partition("=")
        at = tuple(name.strip().split("."))
        if not equals or not all(at):
            check([Problem("", ABSENT, "write it as section.key=value", source)])
        section = self.data
        for depth, key in enumerate(at[:-1], start=1):
            if section.get(key) is None:
                self.places[at[:depth]] = source
                section[key] = {}
            section = section[key]
            if not isinstance(section, dict):
                check([Problem("", ABSENT, f"{dotted(at[:depth])} is not a section", source)])
        self.places = {k: p for k, p in self.places.items() if k[: len(at)] != at} | {at: source}
        is_pattern = value.lstrip().startswith("*")  # no alias: it could name nothing here
        section[at[-1]] = value.strip() if is_pattern else self.compose(value, at, lambda _: source)

    def compose(self, text: str, at: KeyPath, place: _Place) -> Any:
        """Reads a YAML text.

        Args:
          text: the YAML.
          at: the path of its value in the document.
          place: names a position in the text as `file:line`; None is the whole text.

        Returns:
          Its plain data; None if it is empty.

        Raises:
          ConfigError: it is not YAML, or holds what is not read.
        """
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
        raise ConfigError([Problem("", ABSENT, reason, where)])

    def _plain(self, node: yaml.Node, at: KeyPath, place: _Place) -> Any:
        if len(self.places) > _MOST:  # aliases of aliases multiply
            raise yaml.MarkedYAMLError(
                problem="holds too many values", problem_mark=node.start_mark
            )
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
        pairs = [(key, item) for key, item in pairs if not _is_merge(key)] + [
            pair
            for key, item in pairs
            if _is_merge(key)
            for pair in _merged(item, {getattr(other, "value", None) for other, _ in pairs})
        ]
        for key_node, item in pairs:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a plain name", problem_mark=key_node.start_mark
                )
            key = key_node.value
            value = self._entry(key_node, item, (*at, key), place)
            if key in result:
                self.add_problem((*at, key), ABSENT, "written twice")
            result[key] = value
        return result

    def _entry(self, marked: yaml.Node, item: yaml.Node, at: KeyPath, place: _Place) -> Any:
        self.places[at] = place(marked.start_mark)
        return self._plain(item, at, place)


_MOST = 100_000  # values in a config


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None


def _merged(item: yaml.Node, own: set[Any]) -> list[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a section that another one takes over."""
    if not isinstance(item, yaml.MappingNode):
        raise yaml.MarkedYAMLError(
            problem="<<: takes one section, such as *name", problem_mark=item.start_mark
        )
    return [(key, value) for key, value in item.value if getattr(key, "value", None) not in own]


def load(path: Path, _inner: tuple[Path, ...] = ()) -> Document:
    """Reads the document of a YAML file, and what it extends.

    Args:
      path: the file.

    Returns:
      Its data, a mapping of keys, and the line of each key.

    Raises:
      ConfigError: the file cannot be read, or holds something else.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise _unreadable(path, no_such("file", str(path))) from None
    except OSError as error:
        raise _unreadable(path, (error.strerror or str(error)).lower()) from None
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise _unreadable(path, f"not UTF-8 text: {byte}") from None
    document = Document(places={(): str(path)})
    document.data = document.compose(
        text, (), lambda mark: f"{path}:{mark.line + 1}" if mark else str(path)
    )
    if not isinstance(document.data, dict):
        found = "empty" if document.data is None else "not a section"
        raise _unreadable(path, f"{found}; expected lines of `key: value`")
    base = document.data.pop("extends", None)
    if base is None:
        return document
    chain = (*_inner, path.resolve())
    place = document.places.get(("extends",), str(path))
    if not isinstance(base, str):
        raise ConfigError([Problem("extends", base, "must be the path of a file", place)])
    if (other := path.parent / base).resolve() in chain:
        raise ConfigError([Problem("extends", base, "extends itself", place)])
    if not other.exists():
        raise ConfigError([Problem("extends", base, no_such("file", str(other)), place)])
    return _extended(load(other, chain), document)


def _extended(base: Document, own: Document) -> Document:
    """A document whose values come before those of the one that it extends."""
    places = {**base.places, **own.places}
    return Document(_over(base.data, own.data), places, [*base.problems, *own.problems])


def _over(base: Any, own: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    below, above = cast(dict[str, Any], base), cast(dict[str, Any], own)
    if "kind" in above and above["kind"] != below.get("kind"):
        return above
    merged = {key: _over(below[key], above[key]) if key in below else above[key] for key in above}
    return {**below, **merged}


def _unreadable(path: Path, reason: str) -> ConfigError:
    return ConfigError([Problem("", ABSENT, reason, str(path))])


def dotted(at: KeyPath) -> str:
    """Writes a path as people do.

    Args:
      at: keys and indices.

    Returns:
      The path, quoted where it could not be printed.

    >>> dotted(("arms", 0, "d_ff"))
    'arms[0].d_ff'
    """
    parts = (
        f"[{k}]" if isinstance(k, int) else f".{k if k.isprintable() else repr(k)}" for k in at
    )
    return "".join(parts).removeprefix(".")
