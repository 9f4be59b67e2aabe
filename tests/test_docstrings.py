"""Every public docstring says what each argument, or each field, is."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gelu_jax"
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "__init__.py"]
FIELDS = ("dataclass", "NamedTuple", "register_dataclass")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if not isinstance(node, Function | ast.ClassDef):
            continue
        overload = any("overload" in ast.unparse(d) for d in node.decorator_list)
        if not overload and (node.name == "__call__" or not node.name.startswith("_")):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


def parameters(node: Function) -> list[str]:
    a = node.args
    names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if arg]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def is_record(node: ast.ClassDef) -> bool:
    text = " ".join(ast.unparse(part) for part in (*node.decorator_list, *node.bases))
    return any(word in text for word in FIELDS)


def fields(node: ast.ClassDef) -> list[str]:
    return [
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
        and not item.target.id.startswith("_")
        and item.target.id != "kind"  # the discriminator of a union
    ]


def expected(node: ast.AST) -> tuple[str, list[str]]:
    if isinstance(node, ast.ClassDef):
        if is_record(node):
            return "Attributes", fields(node)
        init = [n for n in node.body if isinstance(n, Function) and n.name == "__init__"]
        return "Args", parameters(init[0]) if init else []
    assert isinstance(node, Function)
    if any("property" in ast.unparse(d) for d in node.decorator_list):
        return "Args", []
    return "Args", parameters(node)


def documentation(path: Path, node: ast.AST) -> str:
    """The docstring; that of an activation as `elementwise` completes it."""
    assert isinstance(node, Function | ast.ClassDef)
    if any("elementwise" in ast.unparse(d) for d in node.decorator_list):
        module = import_module(f"gelu_jax.activations.{path.stem}")
        return inspect.getdoc(getattr(module, node.name)) or ""
    return ast.get_docstring(node) or ""


def missing(path: Path) -> Iterator[str]:
    for name, node in public(ast.parse(path.read_text()).body):
        docstring = documentation(path, node)
        section, names = expected(node)
        found = re.search(rf"^{section}:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
        listed = found[1] if found else ""
        # one entry may name several: "low, high: the bounds"
        entries = re.findall(r"^\s+([\w*, `]+):(?=\s)", listed, re.MULTILINE)
        said = {word for entry in entries for word in re.findall(r"\w+", entry)}
        if node.name == "__call__" and names == ["x"] and not docstring:
            continue  # the class says what becomes of x
        if not docstring:
            yield f"{name}: no docstring"
        elif absent := [n for n in names if n not in said]:
            yield f"{name}: {section} without {', '.join(absent)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_every_argument_is_described(path: Path):
    assert list(missing(path)) == []
