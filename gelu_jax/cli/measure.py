"""plan and numerics: what a run needs, and what the activations keep."""

import sys
from typing import Literal

from rich.console import Console

from gelu_jax.activations import ACTIVATIONS, activation
from gelu_jax.cli.arguments import ConfigFile, Overrides
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.nn import checks
from gelu_jax.numerics import sweep as numerics
from gelu_jax.training import memory_plan as planning
from gelu_jax.training.config import read_config
from gelu_jax.training.trainer import TrainConfig


def plan_command(
    config: ConfigFile,
    overrides: Overrides = (),
    chip: str = "h100",
    devices: int = 1,
) -> None:
    """Print what a config would need on chips that are not here; nothing is run.

    Args:
        config: a YAML file such as configs/llama_small.yaml.
        overrides: section.key=value for any field, such as mesh.fsdp=8.
        chip: one of a100, h100, h200, b200, mi300x.
        devices: how many of them.
    """
    check(checks.positive(devices=devices))
    run, found = read_config(config, TrainConfig, overrides), planning.chip(chip)
    report = planning.describe(planning.plan_memory(run, found, devices), found, chip)
    print(report)


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
    names = {"bf16": "bfloat16", "f16": "float16"}
    dtypes = numerics.DTYPES if dtype is None else [names.get(dtype, dtype)]
    rows = numerics.sweep(functions, dtypes)
    numerics.report(rows, Console(width=None if sys.stdout.isatty() else 132))
    if not numerics.promise_kept(rows):
        sys.exit(1)
