"""plan: what a run or a comparison would need."""

from collections.abc import Iterator
from dataclasses import replace

from gelu_jax.cli.arguments import ConfigFile, Overrides
from gelu_jax.cli.compare import read_comparison
from gelu_jax.cli.configs import find_config, kind_of
from gelu_jax.cli.session import run_name
from gelu_jax.compare.climb import ladder_rungs
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import prepare
from gelu_jax.compare.outline import ArmOutline, outline
from gelu_jax.errors import check
from gelu_jax.nn import checks
from gelu_jax.nn.transformer import TransformerConfig
from gelu_jax.report.wording import counted, duration
from gelu_jax.training import memory_plan
from gelu_jax.training.chips import Chip
from gelu_jax.training.config import read_config
from gelu_jax.training.memory_plan import in_bytes
from gelu_jax.training.model import architecture
from gelu_jax.training.trainer import TrainConfig


def plan_command(
    config: ConfigFile,
    overrides: Overrides = (),
    chip: str = "h100",
    devices: int = 1,
) -> None:
    """Print what a config would need on chips that are not here; nothing is run.

    Of a transformer: its memory, communication and time by choice of residuals. Of a comparison, or
    of another model: runs, parameters, FLOPs and memory of each arm, for which the data are read.

    Args:
        config: a YAML file, or one of `gelu-jax configs` by name, such as llama_small.
        overrides: section.key=value for any field, such as mesh.fsdp=8.
        chip: one of a100, h100, h200, b200, mi300x.
        devices: how many of them.
    """
    check(checks.positive(devices=devices))
    file, found = find_config(config), memory_plan.chip(chip)
    if kind_of(file) == "compare":
        print(*_outlines(read_comparison(file, overrides), found, chip, devices), sep="\n")
        return
    run = read_config(file, TrainConfig, overrides)
    if isinstance(architecture(run.model), TransformerConfig):
        plan = memory_plan.plan_memory(run, found, devices)
        print(memory_plan.describe(plan, found, chip))
    else:
        alone = CompareConfig(run=run, arms={run_name(config): {}}, seeds=1)
        print(*_outlines(alone, found, chip, devices), sep="\n")


def _outlines(config: CompareConfig, chip: Chip, name: str, devices: int) -> Iterator[str]:
    """The outline of a comparison, or of each rung of a ladder."""
    if config.ladder is None:
        yield from _outline(config, chip, name, devices)
        return
    for number, rung in enumerate(ladder_rungs(config)):
        rates = config.learning_rates if number < config.ladder.tuned_rungs else ()
        yield f"rung {number + 1}: {rung.parameters:,} parameters, {rung.tokens:,} tokens a run"
        at = replace(config, run=rung.run, ladder=None, learning_rates=rates)
        yield from (*_outline(at, chip, name, devices), "")


def _outline(config: CompareConfig, chip: Chip, name: str, devices: int) -> Iterator[str]:
    trainers = prepare(config)
    arms, tokens = outline(config, trainers), next(iter(trainers.values())).data.tokens_per_step
    flops, runs = sum(arm.flops for arm in arms), sum(arm.runs for arm in arms)
    seconds = flops / (chip.flops * devices)
    least = f"at least {duration(seconds)}" if seconds >= 1 else "less than a second"
    trained = tokens * sum(arm.runs * arm.steps for arm in arms)
    yield from _table(arms)
    yield ""
    yield (
        f"{counted(runs, 'run')}, {trained:,} targets, {flops:.3g} FLOPs in matrix products: "
        f"{least} on {devices} × {name}, at its peak."
    )
    yield (
        "Memory is that of one run: its state twice, gradients, what is kept for the backward pass,"
    )
    yield "and the data. Small models stay far below a chip's peak; `compare` times a step first."


def _table(arms: list[ArmOutline]) -> Iterator[str]:
    rows = [("arm", "runs", "steps", "parameters", "hidden width", "FLOPs of a step", "memory")]
    for arm in arms:
        width = "none" if arm.d_ff is None else f"{arm.d_ff:,}"
        counts = (f"{arm.runs:,}", f"{arm.steps:,}", f"{arm.parameters:,}", width)
        rows.append((arm.name, *counts, f"{arm.flops_per_step:.3g}", in_bytes(arm.memory)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (f"{cell:>{n}}" for cell, n in zip(others, widths[1:], strict=True))
        yield "  ".join((f"{first:<{widths[0]}}", *cells))
