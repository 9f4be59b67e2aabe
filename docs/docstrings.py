"""How mkdocstrings reads our docstrings: examples as code, activations as they are at run time."""

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?m)^( *)>>> .*(?:\n\1\S.*|\n\1 +\S.*)*")
_ACTIVATIONS = "gelu_jax.activations."


class Docstrings(griffe.Extension):
    """Fences the examples that doctest runs, and asks the activations for their own docstrings."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.is_function and obj.path.startswith(_ACTIVATIONS):
            _as_at_run_time(obj)
        if obj.docstring:
            obj.docstring.value = fenced(inspect.cleandoc(obj.docstring.value))


def fenced(docstring: str) -> str:
    """The docstring with every example in a code block, unless a section holds it."""
    return _EXAMPLE.sub(_fence, docstring)


def _fence(example: re.Match[str]) -> str:
    if example[1]:  # indented: in a section, which has examples of its own
        return example[0]
    return f"```pycon\n{example[0]}\n```"


def _as_at_run_time(function: griffe.Function) -> None:
    """The signature and docstring that `elementwise` gives to an activation."""
    module, _, name = function.path.rpartition(".")
    found = getattr(import_module(module), name)
    documented = inspect.getdoc(found)
    if documented is not None and function.docstring is not None:
        function.docstring.value = documented
