"""plan: what a run would need."""

from gelu_jax.cli.arguments import ConfigFile, Overrides
from gelu_jax.cli.configs import find_config
from gelu_jax.errors import check
from gelu_jax.nn import checks
from gelu_jax.training import memory_plan
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
        config: a YAML file, or one of `gelu-jax configs` by name, such as llama_small.
        overrides: section.key=value for any field, such as mesh.fsdp=8.
        chip: one of a100, h100, h200, b200, mi300x.
        devices: how many of them.
    """
    check(checks.positive(devices=devices))
    run, found = read_config(find_config(config), TrainConfig, overrides), memory_plan.chip(chip)
    report = memory_plan.describe(memory_plan.plan_memory(run, found, devices), found, chip)
    print(report)
