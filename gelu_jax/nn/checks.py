"""Checks of config fields: each function yields one `Problem` for every field that fails it.

The checks of arrays at the end raise.

>>> [str(problem) for problem in positive(d_model=0, d_ff=8, window=None)]
['d_model = 0: must be above 0']
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim
from jax.typing import DTypeLike
from jaxtyping import Array

from gelu_jax.errors import Problem, check, nearest, shown

_PRECISIONS = ("default", "high", "highest")
_FLOATS = ("float32", "bfloat16", "float16", "float64")
_TYPES: Mapping[Any, tuple[Any, str]] = {
    int: (Integral, "an integer"),
    float: (Real, "a number"),
    bool: (bool | np.bool, "True or False"),
}
_TRIALS = 100_000  # distances tried in the search for the nearest divisor: some 10 ms


def field_types(config: Any) -> None:
    """Checks numbers and truth values of a config by their annotations, and normalises its dtypes.

    A dtype becomes a `numpy.dtype`, so that configs are equal whether they were given "float32" or
    `jnp.float32`.

    Args:
      config: a frozen dataclass; what is no dtype is left to `floating`.
    Raises:
      ConfigError: a field has a value of another type.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     width: int
    >>> field_types(Config(21.3))
    Traceback (most recent call last):
      ...
    gelu_jax.errors.ConfigError: width = 21.3: must be an integer
    """
    check(_type_problems(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("dtype") and value is not None and _is_dtype(value):
            object.__setattr__(config, field.name, jnp.dtype(value))


def _type_problems(config: Any) -> Iterator[Problem]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for kind, (types, words) in _TYPES.items():
            may_be_none = field.type == kind | None
            if (field.type == kind or may_be_none) and not (value is None and may_be_none):
                is_truth = isinstance(value, bool | np.bool)
                if not isinstance(value, types) or is_truth != (kind is bool):
                    yield Problem(field.name, value, f"must be {words}")


def _is_dtype(value: object) -> bool:
    try:
        jnp.dtype(cast(Any, value))
    except TypeError:
        return False
    return True


def positive(**fields: int | float | None) -> Iterator[Problem]:
    """Every number must be above 0.

    Args:
      **fields: numbers by field name; None stands for a default and passes.
    Returns:
      The problems found.
    """
    for field, value in fields.items():
        if value is not None and not value > 0:
            yield Problem(field, value, "must be above 0")


def small(**fields: float) -> Iterator[Problem]:
    """What is added to a variance must be above 0 and below 1.

    Args:
      **fields: numbers by field name.
    Returns:
      The problems found.
    """
    yield from positive(**fields)
    for field, value in fields.items():
        if value >= 1:
            yield Problem(field, value, "must be below 1")


def finite(**fields: int | float | None) -> Iterator[Problem]:
    """No number may be infinite.

    Args:
      **fields: numbers by field name; None stands for a default and passes. NaN is left to the
        other checks.
    Returns:
      The problems found.
    """
    for field, value in fields.items():
        if value is not None and math.isinf(value):
            yield Problem(field, value, "must be finite")


def not_negative(**fields: int | float) -> Iterator[Problem]:
    """No number may be below 0.

    Args:
      **fields: numbers by field name.
    Returns:
      The problems found.
    """
    for field, value in fields.items():
        if not value >= 0:
            yield Problem(field, value, "must not be below 0")


def below_one(**fields: float) -> Iterator[Problem]:
    """Every dropout rate, moment decay or the like must lie in [0, 1).

    Args:
      **fields: numbers by field name.
    Returns:
      The problems found.
    """
    for field, value in fields.items():
        if not 0 <= value < 1:
            yield Problem(field, value, "must lie in [0, 1)")


def one_of(choices: tuple[str, ...], **fields: str) -> Iterator[Problem]:
    """Every name must be among the choices.

    Args:
      choices: the names allowed.
      **fields: names by field name.
    Returns:
      The problems found, each with the choices nearest to the name.
    """
    for field, value in fields.items():
        if value not in choices:
            yield Problem(field, value, f"unknown; {nearest(str(value), choices)}")


def precision(value: str | None) -> Iterator[Problem]:
    """The precision of matrix products must have a name that JAX knows.

    Args:
      value: "default", "high" or "highest"; None stands for JAX's own choice and passes.
    Returns:
      The problems found.
    """
    if value is not None:
        yield from one_of(_PRECISIONS, precision=value)


def floating(**fields: DTypeLike | None) -> Iterator[Problem]:
    """Every dtype must be float32, bfloat16, float16 or float64.

    Args:
      **fields: dtypes by field name, as types or names.
    Returns:
      The problems found, each with the dtypes nearest to the name.
    """
    for field, value in fields.items():
        name = "None" if value is None else dtype_name(value)  # for numpy, None is float64
        if name not in _FLOATS:
            yield Problem(field, value, f"not a floating dtype; {nearest(name, _FLOATS)}")


def dtype_name(dtype: DTypeLike) -> str:
    """The name of a dtype, or what was given in its place.

    Args:
      dtype: a dtype, or anything else that a config may hold by mistake.
    Returns:
      Such as "bfloat16".
    """
    try:
        return jnp.dtype(dtype).name
    except TypeError:
        return str(dtype)


def divides(whole: int, whole_name: str, **fields: int | None) -> Iterator[Problem]:
    """Every number must divide the whole.

    Args:
      whole: the number to divide.
      whole_name: the field that holds it.
      **fields: divisors by field name; None stands for a default and passes. A whole or a divisor
        that is not above 0 is left to `positive`.
    Returns:
      The problems found, each with the nearest divisor where one is found in bounded time.

    >>> [str(problem) for problem in divides(16, "d_model", num_heads=5)]
    ['num_heads = 5: must divide d_model = 16; nearest: 4']
    """
    for field, value in fields.items():
        if value is not None and value > 0 and whole > 0 and whole % value:
            found = _nearest_divisor(whole, value)
            hint = "" if found is None else f"; nearest: {found}"
            yield Problem(field, value, f"must divide {whole_name} = {whole}{hint}")


def _nearest_divisor(whole: int, value: int) -> int | None:
    """Tried outward from the value; None where there is none within `_TRIALS` of it."""
    start = min(value, whole)  # no divisor lies beyond the whole
    for distance in range(_TRIALS):
        for candidate in (start - distance, start + distance):
            if candidate > 0 and whole % candidate == 0:
                return candidate
    return None


def equal(expected: object, source: str, fields: Mapping[str, object]) -> Iterator[Problem]:
    """Every field must equal another.

    Args:
      expected: the value of the other field.
      source: the other field's name.
      fields: values by field name; a name may be dotted.
    Returns:
      The problems found.
    """
    for field, value in fields.items():
        if value != expected:
            yield Problem(field, value, f"must equal {source} = {expected}")


def within_positions(length: int, most: int | None) -> Iterator[Problem]:
    """There must not be more tokens than a model has positions for.

    Args:
      length: number of tokens; one that only `jax.export` knows passes.
      most: number of positions; None for no limit.
    Returns:
      The problem found.
    """
    if most is not None and not is_symbolic_dim(length) and length > most:
        yield Problem("length", length, f"this model has {most} positions")


def mask(mask: Array | None, axes: str, shape: Sequence[int] | None = None) -> None:
    """A mask must be of bool, for nothing else says which of its entries are seen.

    Args:
      mask: the array, or None.
      axes: its axes, as in a shape annotation.
      shape: the shape that it must have; None leaves it at the number of axes.
    Raises:
      TypeError: the mask is not of bool.
      ValueError: it has another shape.

    >>> mask(jnp.ones((2, 3)), "b t")
    Traceback (most recent call last):
      ...
    TypeError: mask = float32[2,3]: must be bool, True at what is seen
    """
    if mask is None:
        return
    if getattr(mask, "dtype", None) != jnp.dtype("bool"):
        raise TypeError(f"mask = {_shaped(mask)}: must be bool, True at what is seen")
    num_axes(axes, mask=mask)
    if shape is not None and tuple(mask.shape) != tuple(shape):
        expected = ", ".join(map(str, shape))
        raise ValueError(f"mask = {_shaped(mask)}: must have the shape ({axes}) = ({expected})")


def num_axes(axes: str, **arrays: Array | None) -> None:
    """Every array must have as many axes as named.

    Args:
      axes: names of axes, as in a shape annotation.
      **arrays: by argument name; None passes.
    Raises:
      ValueError: an array has more or fewer.

    >>> num_axes("b h t s", bias=jnp.ones((2, 3)))
    Traceback (most recent call last):
      ...
    ValueError: bias = float32[2,3]: must have the 4 axes (b h t s)
    """
    number = len(axes.split())
    for name, array in arrays.items():
        if array is not None and array.ndim != number:
            raise ValueError(f"{name} = {_shaped(array)}: must have the {number} axes ({axes})")


def _shaped(array: Any) -> str:
    if not hasattr(array, "dtype"):
        return shown(array)
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"
