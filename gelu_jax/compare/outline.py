"""What a comparison or a training takes, known before it starts."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gelu_jax.compare import matching
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import planned_runs
from gelu_jax.compare.unfinished import runs_left
from gelu_jax.training.footprint import footprint
from gelu_jax.training.trainer import Trainer


class ArmOutline(NamedTuple):
    """What an arm takes.

    Attributes:
      name: of the arm.
      runs: how many it has, tuning and reported, if its grid is not extended.
      steps: of each.
      parameters: of its model.
      d_ff: its hidden width; None if there is no feed-forward block.
      flops_per_step: of the matrix products.
      memory: bytes on a device while a run is trained, without what a compiler adds.
    """

    name: str
    runs: int
    steps: int
    parameters: int
    d_ff: int | None
    flops_per_step: float
    memory: int

    @property
    def flops(self) -> float:
        """Of all runs."""
        return self.runs * self.steps * self.flops_per_step


def outline(config: CompareConfig, trainers: Mapping[str, Trainer]) -> list[ArmOutline]:
    """Counts what each arm takes; nothing is compiled or run.

    Args:
      config: of the comparison; a training is one of a single arm.
      trainers: the trainer of each arm.

    Returns:
      One for each arm, in their order.
    """
    return [
        ArmOutline(
            name,
            planned_runs(config, name),
            trainer.config.steps,
            matching.parameters(trainer.config, trainer.data),
            matching.width(trainer.config),
            matching.flops_per_step(trainer.config, trainer.data),
            footprint(trainer).total,
        )
        for name, trainer in trainers.items()
    ]


class Expense(NamedTuple):
    """What the missing runs of a comparison take on this device.

    Attributes:
      runs: how many are missing, if no grid is extended.
      seconds: of training, evaluating and compiling, one run after another.
      memory: bytes of the device that a run takes, of the largest arm.
      measured: the arm of which steps were timed; the others follow by their FLOPs.
      steps: how many were timed.
    """

    runs: int
    seconds: float
    memory: int
    measured: str
    steps: int


def measure(
    config: CompareConfig, trainers: Mapping[str, Trainer], directory: Path
) -> Expense | None:
    """Times the first arm from one evaluation to the next, and carries it to all missing runs.

    The program of that arm is compiled, as it has to be anyway; what was trained is thrown away.

    Args:
      config: of the comparison.
      trainers: the trainer of each arm.
      directory: of the comparison; runs that have ended there are not counted.

    Returns:
      The expense; None where no run is missing.
    """
    left = {name: runs for name, runs in runs_left(config, trainers, directory).items() if runs}
    if not left:
        return None
    name = next(iter(left))
    first = trainers[name]
    interval = _interval(first) / first.config.eval_every
    per_flop = interval / matching.flops_per_step(first.config, first.data)
    seconds = sum(
        runs * trainers[arm].config.steps * per_flop
        * matching.flops_per_step(trainers[arm].config, trainers[arm].data)
        for arm, runs in left.items()
    )  # fmt: skip
    memory = max(footprint(trainers[arm]).total for arm in left)
    compiling = len(left) * first.programs.seconds
    return Expense(sum(left.values()), seconds + compiling, memory, name, first.config.eval_every)


def _interval(trainer: Trainer) -> float:
    """Seconds from the evaluation at step 0 to the next one, with the latter."""
    config = trainer.config
    points = trainer.fit(config.seed, config.optimizer.peak)
    next(points)
    start = time.perf_counter()
    next(points)
    return time.perf_counter() - start
