"""numerics: whether the activations keep their promise on this device, and a person's own."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from gelu_jax import importing
from gelu_jax.activations import ACTIVATIONS, activation
from gelu_jax.cli.configs import make_importable
from gelu_jax.cli.failures import check_backend
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.files import write_file
from gelu_jax.numerics import sweep as numerics
from gelu_jax.numerics.own import Examination, examine
from gelu_jax.report.figures import activation_figure, saved

_PICTURES = (".png", ".svg", ".pdf")


def numerics_command(
    dtype: Literal["bf16", "f16", "bfloat16", "float16"] | None = None,
    function: str | None = None,
    reference: str | None = None,
    plot: Path | None = None,
) -> None:
    """Try every 16-bit input of every activation on the device at hand, beside jax.nn's.

    Or of one of your own, my_module:f, beside what it should give. Exit code 1 when a promise of
    ours is broken.

    Args:
        dtype: bf16 or f16 alone; both by default.
        function: one activation alone, by any of its names, or module:function; all by default.
        reference: module:function of one mpmath number, what your function should give; by default
            your function in float64.
        plot: where to write a picture of your function and its derivatives, such as f.png.
    """
    names = {"bf16": "bfloat16", "f16": "float16"}
    dtypes = numerics.DTYPES if dtype is None else [names.get(dtype, dtype)]
    console = Console(width=None if sys.stdout.isatty() else 132)
    if function is not None and ":" in function:
        _own(function, reference, plot, dtypes, console)
        return
    check(
        Problem(option, str(value), "only with --function module:function")
        for option, value in (("reference", reference), ("plot", plot))
        if value is not None
    )
    try:
        functions = ACTIVATIONS if function is None else [activation(function).__name__]
    except ValueError as error:
        raise ConfigError([Problem("function", function, str(error).partition(": ")[2])]) from None
    check_backend()
    rows = numerics.sweep(functions, dtypes)
    numerics.report(rows, console)
    if not numerics.promise_kept(rows):
        sys.exit(1)


def _own(
    name: str, reference: str | None, plot: Path | None, dtypes: Iterable[str], console: Console
) -> None:
    if plot is not None and plot.suffix not in _PICTURES:
        raise ConfigError([Problem("plot", str(plot), f"must end in {', '.join(_PICTURES)}")])
    make_importable(Path())
    check_backend()
    fields = {"function": name, "reference": reference}
    found: dict[str, Any] = {}
    for field, value in fields.items():
        try:
            found[field] = None if value is None else importing.resolve(value)
        except ValueError as error:
            raise ConfigError([Problem(field, value, str(error))]) from None
    try:
        seen = examine(found["function"], name, found["reference"], dtypes)
    except (TypeError, ValueError) as error:
        raise ConfigError([Problem("function", name, str(error))]) from None
    console.print(numerics.table(seen.rows))
    for line in _lines(seen, reference):
        console.print(line)
    if plot is not None:
        write_file(plot, saved(activation_figure(name, *seen.curves))[plot.suffix[1:]])
        console.print(f"picture: {plot}")


def _lines(seen: Examination, reference: str | None) -> list[str]:
    (low, high), (left, right) = seen.limits, seen.slopes
    falling = ", ".join(f"[{a:g}, {b:g}]" for a, b in seen.falling)
    second = ", ".join(f"{count:,} in {dtype}" for dtype, count in seen.second_nans.items())
    return [
        f"compared with: {reference or 'itself in float64'}, rounded once",
        f"NaN in the second derivative: {second}",
        f"at -inf: {low:.6g}, slope {left:.6g}; at +inf: {high:.6g}, slope {right:.6g}",
        f"falls on: {falling}" if falling else "never falls between -12 and 12",
    ]
