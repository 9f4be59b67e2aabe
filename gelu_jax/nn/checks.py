"""What the configs of this floor check of their fields."""

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
from jax.typing import DTypeLike

from gelu_jax.errors import Problem, nearest

_FLOATS = ("float32", "bfloat16", "float16", "float64")
_TRIALS = 100_000  # distances tried in the search for the nearest divisor: some 10 ms


def positive(**fields: int | float | None) -> Iterator[Problem]:
    """Every number given must be above zero; None stands for a default and passes."""
    for field, value in fields.items():
        if value is not None and not value > 0:
            yield Problem(field, value, "must be above 0; nearest: 1")


def rate(**fields: float) -> Iterator[Problem]:
    """Every rate must lie in [0, 1)."""
    for field, value in fields.items():
        if not 0 <= value < 1:
            yield Problem(
                field, value, "must lie in [0, 1); nearest: " + ("0" if value < 0 else "0.9")
            )


def one_of(choices: tuple[str, ...], **fields: str) -> Iterator[Problem]:
    """Every name must be among the choices."""
    for field, value in fields.items():
        if value not in choices:
            yield Problem(field, value, f"unknown; {nearest(str(value), choices)}")


def floating(**fields: DTypeLike) -> Iterator[Problem]:
    """Every dtype must be a floating-point one that matrix products compute in."""
    for field, value in fields.items():
        try:
            name = jnp.dtype(value).name
        except TypeError:
            name = str(value)
        if name not in _FLOATS:
            yield Problem(field, value, f"not a floating dtype; {nearest(name, _FLOATS)}")


def divides(whole: int, whole_name: str, **fields: int | None) -> Iterator[Problem]:
    """Every number given must divide the whole; None stands for a default and passes."""
    for field, value in fields.items():
        if value is not None and value > 0 and whole % value:
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
    """Every field must agree with the one at source."""
    for field, value in fields.items():
        if value != expected:
            yield Problem(field, value, f"must equal {source} = {expected}")


def not_negative(**fields: int | float) -> Iterator[Problem]:
    """No number given may be below zero."""
    for field, value in fields.items():
        if not value >= 0:
            yield Problem(field, value, "must not be below 0; nearest: 0")
