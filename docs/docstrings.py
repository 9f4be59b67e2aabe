"""How mkdocstrings reads docstrings: examples are code, activations what `elementwise` makes."""

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

import gelu_jax as gj

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).*)*", re.MULTILINE)  # in a section it is indented
_SECTION = re.compile(r"(?<!\n)\n(?=(?:Args|Attributes|Returns|Yields|Raises):\n)")
_CLASSES = "|".join(name for name in gj.__all__ if isinstance(getattr(gj, name), type))
_CLASS = re.compile(rf"(?<![`\[])`({_CLASSES})`(?!`)")


class Docstrings(griffe.Extension):
    """Makes our docstrings what Markdown and griffe expect, and completes the activations."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with every module, class, function and attribute once it has been read."""
        if isinstance(obj, griffe.Function) and _is_elementwise(obj):
            _complete(obj)
        if obj.docstring:
            obj.docstring.value = readable(inspect.cleandoc(obj.docstring.value))


def readable(docstring: str) -> str:
    """The docstring with its examples in blocks, a line before each section, links to classes."""
    fenced = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```", docstring)
    return _CLASS.sub(r"[`\1`][gelu_jax.\1]", _SECTION.sub("\n\n", fenced))


def _is_elementwise(function: griffe.Function) -> bool:
    return any(str(d.value).startswith("elementwise(") for d in function.decorators)


def _complete(function: griffe.Function) -> None:
    """The signature and the docstring that `elementwise` gives to an activation."""
    kind = griffe.ParameterKind.positional_or_keyword
    function.parameters = griffe.Parameters(
        griffe.Parameter("x", annotation="ArrayLike", kind=kind)
    )
    function.returns = "Array"
    module, _, name = function.path.rpartition(".")
    if function.docstring and (made := inspect.getdoc(getattr(import_module(module), name))):
        function.docstring.value = made
