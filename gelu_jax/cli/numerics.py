"""numerics: whether the activations keep their promise on this device."""

import sys
from typing import Literal

from rich.console import Console

from gelu_jax.activations import ACTIVATIONS, activation
from gelu_jax.cli.failures import check_backend
from gelu_jax.errors import ConfigError, Problem
from gelu_jax.numerics import sweep as numerics


def numerics_command(
    dtype: Literal["bf16", "f16", "bfloat16", "float16"] | None = None,
    function: str | None = None,
) -> None:
    """Try every 16-bit input of every activation on the device at hand, beside jax.nn's.

    Exit code 1 when a promise is broken.

    Args:
        dtype: bf16 or f16 alone; both by default.
        function: one activation alone, by any of its names; all by default.
    """
    try:
        functions = ACTIVATIONS if function is None else [activation(function).__name__]
    except ValueError as error:
        raise ConfigError([Problem("function", function, str(error).partition(": ")[2])]) from None
    check_backend()
    names = {"bf16": "bfloat16", "f16": "float16"}
    dtypes = numerics.DTYPES if dtype is None else [names.get(dtype, dtype)]
    rows = numerics.sweep(functions, dtypes)
    numerics.report(rows, Console(width=None if sys.stdout.isatty() else 132))
    if not numerics.promise_kept(rows):
        sys.exit(1)
