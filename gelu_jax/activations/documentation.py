"""What `help` shows of an activation: the signature users call, and the contract all share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, update_wrapper
from typing import Any, TypeVar, get_type_hints

from jax import Array
from jax.typing import ArrayLike

Elementwise = Callable[[ArrayLike], Array]
_Function = TypeVar("_Function", bound=Callable[..., Array])

CONTRACT = """\
Args:
  x: floating-point array of any shape, or a Python float. float64 is computed in float64,
    everything else in float32.

Returns:
  An array of the shape and dtype of `x`. Value and derivative are correctly rounded in bfloat16
  and float16. Where input and result are normal numbers they are within 2 ulp in float32 and 4 ulp
  in float64, unless stated otherwise above. The backward pass keeps `x` and nothing else.

Raises:
  TypeError: `x` is not floating.
"""
"""What the docstring of an equation leaves out, because it holds for every activation."""

PLAIN_CONTRACT = """\
Args:
  x: floating-point array of any shape, or a Python float. float64 is computed in float64,
    everything else in float32.

Returns:
  An array of the shape and dtype of `x`, rounded once. The backward pass keeps `x` and nothing
  else.

Raises:
  TypeError: `x` is not floating.
"""
"""The same for an activation of a person's own, of which no exactness is known."""


class _Annotation(str):
    """An annotation that `help` shows as it is written, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def as_written(f: _Function) -> _Function:
    """Lets `help` show annotations as they are written: `(x: ArrayLike) -> Array`.

    Args:
      f: a function whose module has `from __future__ import annotations`.

    Returns:
      The same function.
    """
    signature = inspect.signature(f)
    parameters = signature.parameters.values()
    f.__signature__ = signature.replace(  # pyright: ignore[reportFunctionMemberAccess]
        parameters=[p.replace(annotation=_Annotation(p.annotation)) for p in parameters],
        return_annotation=_Annotation(signature.return_annotation),
    )
    return f


def documented_by(equation: Callable[..., Any]) -> Callable[[Elementwise], Elementwise]:
    """Gives a function the name, the source and the docstring of an equation, and the contract.

    Args:
      equation: its docstring says what is computed; the contract goes before its examples.

    Returns:
      A decorator for the function.
    """
    ours = equation.__module__.startswith("gelu_jax.")
    text, contract, examples = _parts(equation, CONTRACT if ours else PLAIN_CONTRACT)

    def decorate(f: Elementwise) -> Elementwise:
        as_written(f)
        update_wrapper(f, equation, ("__module__", "__name__", "__qualname__"), updated=())
        # as objects, because the module of the equation need not know these names
        f.__annotations__ = {"x": ArrayLike, "return": Array}
        f.__doc__ = f"{text}{contract}\n{examples}"
        return f

    return decorate


def parametric(make: Callable[..., Elementwise]) -> Callable[..., Array]:
    """Makes an activation with parameters of a function that makes one for their values.

    Args:
      make: takes the parameters, which have defaults, and returns the activation; its docstring
        says what is computed, with an entry for each parameter under "Args:".

    Returns:
      The function of x and the parameters, which are numbers or names, never arrays.
    """
    made = cache(make)  # one activation, and so one compiled program, for each value

    def call(x: ArrayLike, *args: Any, **kwargs: Any) -> Array:
        return made(*args, **kwargs)(x)

    text, contract, examples = _parts(make, CONTRACT)
    parameters = inspect.signature(make).parameters.values()
    first = inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    shown = [p.replace(annotation=_Annotation(p.annotation)) for p in parameters]
    call.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [first.replace(annotation=_Annotation("ArrayLike")), *shown],
        return_annotation=_Annotation("Array"),
    )
    update_wrapper(call, make, ("__module__", "__name__", "__qualname__"), updated=())
    call.__annotations__ = {"x": ArrayLike, **get_type_hints(make), "return": Array}
    call.__doc__ = f"{text}{contract}\n{examples}"
    return call


def _parts(equation: Callable[..., Any], contract: str) -> tuple[str, str, str]:
    """The docstring's text, the contract with the docstring's own arguments, and the examples."""
    text, heading, examples = inspect.cleandoc(equation.__doc__ or "").partition("Examples:")
    text, _, own = text.partition("Args:\n")
    text = f"{text.rstrip()}\n\n"
    ours, returns, rest = contract.partition("\n\nReturns:")
    own = f"\n{own.rstrip()}" if own else ""
    return text, f"{ours}{own}{returns}{rest}", f"{heading}{examples}"
