"""How mkdocstrings reads docstrings: examples are code, activations what `elementwise` makes."""

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).*)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Puts the examples that doctest runs into code blocks, and completes the activations."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with every module, class, function and attribute once it has been read."""
        if isinstance(obj, griffe.Function) and _is_elementwise(obj):
            _complete(obj)
        if obj.docstring:
            obj.docstring.value = fenced(inspect.cleandoc(obj.docstring.value))


def fenced(docstring: str) -> str:
    """The docstring with each example in a block; one inside a section is indented, and stays."""
    return _EXAMPLE.sub(lambda example: f"```pycon\n{example[0].rstrip()}\n```", docstring)


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
