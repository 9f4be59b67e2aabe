"""Objects of a person's own that a config names: found by name, named, and what their source is.

`module:name` is an object that can be imported. What a notebook or a script defines cannot be
imported by another process, nor can a lambda or a closure: it is kept here under a name that ends
in a hash of all that it is made of, `module:name#hash`, so that the name stands for the content.
"""

import ast
import functools
import hashlib
import inspect
import json
import pkgutil
import sys
import textwrap
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_VERSIONED = {"gelu_jax", "jax"}  # their versions stand for their source
_MAIN = "__main__"
_KEPT: dict[str, Any] = {}
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def resolve(name: str) -> Any:
    """Finds the object that a config names.

    Args:
      name: ``module:name``, or what `reference` gave in this process.

    Returns:
      The object.

    Raises:
      ValueError: it cannot be imported; the message has the file and line of the failure.

    >>> resolve("math:sqrt")(9.0)
    3.0
    """
    if "#" in name:
        if name not in _KEPT:
            raise ValueError("was defined in a notebook or script; run that again")
        return _KEPT[name]
    try:
        return pkgutil.resolve_name(name)
    except Exception as error:  # the module is a person's own, and may do anything
        reason = f"{place_of(error)}{type(error).__name__}: {error}"
        raise ValueError(f"cannot be imported as module:function ({reason})") from None


def place_of(error: BaseException) -> str:
    """Where in a person's own code an exception was raised.

    Args:
      error: with its traceback.

    Returns:
      Such as "my_model.py:12: "; nothing where no file of theirs took part.
    """
    if isinstance(error, SyntaxError):
        return ""  # its text has them
    installed = (sys.prefix, sys.base_prefix, "<frozen", str(Path(__file__).parent))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(installed)]
    return f"{own[-1].filename}:{own[-1].lineno}: " if own else ""


def reference(value: Any) -> str:
    """Names an object, so that `resolve` finds it.

    Args:
      value: a function, a class, or any other object; a string is returned as it is.

    Returns:
      ``module:name`` where every process can import it; otherwise ``module:name#hash``, which only
      this process resolves.

    >>> reference(Path)
    'pathlib:Path'
    >>> resolve(reference(lambda: 3))()
    3
    """
    if isinstance(value, str):
        return value
    of = value.func if isinstance(value, functools.partial) else value
    module = getattr(of, "__module__", None) or type(of).__module__
    name = f"{module}:{getattr(of, '__qualname__', type(of).__qualname__)}"
    if module != _MAIN and _is(name, value):
        return name
    kept = f"{name}#{fingerprint(value)}"
    _KEPT[kept] = value
    return kept


def _is(name: str, value: Any) -> bool:
    try:
        return pkgutil.resolve_name(name) is value
    except (ValueError, ImportError, AttributeError):
        return False


def is_own(name: str) -> bool:
    """Whether a module has been imported, from a file that no version stands for.

    Args:
      name: of the module.

    Returns:
      False for packages that are `installed`, too.
    """
    file = getattr(sys.modules.get(name), "__file__", None)
    return name.partition(".")[0] not in _VERSIONED and bool(file) and not installed(name)


def installed(name: str) -> str:
    """The version of the installed package that a module belongs to.

    Args:
      name: of the module.

    Returns:
      Such as "optax 0.2.5"; nothing for a person's own modules and those of `gelu_jax` and jax.
    """
    top = name.partition(".")[0]
    module = sys.modules.get(top)
    parts = Path(str(getattr(module, "__file__", ""))).parts
    if top in _VERSIONED or not {"site-packages", "dist-packages"}.intersection(parts):
        return ""
    return f"{top} {getattr(module, '__version__', '')}".strip()


@functools.cache
def source(name: str) -> str:
    """The hash of a module's file, and of what it imports from the folder of its package.

    Args:
      name: of a module that has been imported from a file.

    Returns:
      16 hexadecimal digits. Each file is read once in a process.
    """
    file = Path(str(sys.modules[name].__file__)).resolve()
    root = file.parents[name.count(".") + (file.name == "__init__.py")]
    found, waiting = dict[str, bytes](), [file]
    while waiting:
        path = waiting.pop()
        key = path.relative_to(root).as_posix()
        if key not in found:
            found[key] = path.read_bytes()
            waiting += _imports(path, root) if path.suffix == ".py" else []
    return digest(found)


def _imports(path: Path, root: Path) -> Iterator[Path]:
    """The files below a folder that a Python file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names, folder = [alias.name for alias in node.names], root
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)]
            folder = path.parents[node.level - 1] if node.level else root
        else:
            continue
        for name in filter(None, names):
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                place = folder.joinpath(*parts[:depth])
                for file in (place.with_suffix(".py"), place / "__init__.py"):
                    if file.is_file() and file.is_relative_to(root):
                        yield file


def digest(contents: Mapping[str, bytes]) -> str:
    """The hash of several contents and their names.

    Args:
      contents: name → bytes.

    Returns:
      16 hexadecimal digits.
    """
    total = hashlib.sha256()
    for name in sorted(contents):
        total.update(json.dumps([name, len(contents[name])]).encode() + contents[name])
    return total.hexdigest()[:16]


def fingerprint(value: Any) -> str:
    """The hash of all that an object is made of: code, closure, defaults, and what they name.

    Args:
      value: a function, a class, a `functools.partial`, arrays, or any other object.

    Returns:
      12 hexadecimal digits, the same in every process that defines the same.

    >>> twice, thrice = (functools.partial(pow, exp=n) for n in (2, 3))
    >>> fingerprint(twice) == fingerprint(thrice)
    False
    """
    total = hashlib.sha256()
    for part in _parts(value, set()):
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:12]


def _parts(value: Any, seen: set[int]) -> Iterator[bytes]:
    if isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}".encode()
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    inside: Iterable[Any] = ()
    match value:
        case tuple() | list():
            yield f"{len(value)}".encode()
            inside = value
        case Mapping():
            inside = [part for item in value.items() for part in item]
        case functools.partial():
            inside = (value.func, value.args, value.keywords)
        case types.ModuleType():
            yield _module(value.__name__)
        case types.MethodType():
            inside = (value.__func__, value.__self__)
        case staticmethod() | classmethod():
            inside = (value.__func__,)
        case property():
            inside = (value.fget,)
        case types.FunctionType():
            yield f"{value.__module__}:{value.__qualname__}".encode() + _module(value.__module__)
            inside = _of_function(value)
        case type():
            yield f"{value.__module__}:{value.__qualname__}".encode() + _module(value.__module__)
            inside = _of_class(value)
        case _ if hasattr(value, "dtype") and hasattr(value, "shape"):
            yield _array(value)
        case _:
            inside = (type(value), getattr(value, "__wrapped__", None), _fields(value))
    for part in inside:
        yield from _parts(part, seen)


def _module(name: str) -> bytes:
    return (source(name) if name != _MAIN and is_own(name) else installed(name)).encode()


def _fields(value: Any) -> Any:
    """What an object holds, where it is of a class of the person's own; else its name, if any."""
    of = type(value).__module__
    own = of == _MAIN or is_own(of)
    return getattr(value, "__dict__", None) if own else getattr(value, "__qualname__", None)


def _array(value: Any) -> bytes:
    try:
        array = np.asarray(value)
        return f"{array.dtype} {array.shape}".encode() + array.tobytes()
    except TypeError:  # a PRNG key
        return str(value).encode()


def _of_function(function: types.FunctionType) -> list[Any]:
    bound: list[Any] = [function.__defaults__, function.__kwdefaults__]
    bound += inspect.getclosurevars(function).nonlocals.values()
    if function.__module__ != _MAIN:  # of a module, the whole source counts
        return bound
    names = sorted(set(_names(function.__code__)))
    space = function.__globals__
    return [_text(function), *bound, *(space[name] for name in names if name in space)]


def _of_class(cls: type) -> list[Any]:
    if cls.__module__ != _MAIN:
        return []
    members = vars(cls).values()
    code = (types.FunctionType, staticmethod, classmethod, property)
    return [_text(cls), *cls.__bases__, *(m for m in members if isinstance(m, code))]


def _text(code: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError):  # typed at a prompt
        compiled = getattr(code, "__code__", None)
        return "" if compiled is None else repr(list(_bytecode(compiled)))


def _bytecode(code: types.CodeType) -> Iterator[Any]:
    yield code.co_code, code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _bytecode(constant)
        else:
            yield constant


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names that code may look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
