"""The curves of runs, and their mean and spread over seeds."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gelu_jax.compare.records import Metric
from gelu_jax.runs.record import Run


class CurvePoints(NamedTuple):
    """One curve of one run.

    Attributes:
      steps: the training steps, increasing.
      seconds: the seconds of training up to each step, without compilation.
      values: the value at each step.
    """

    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]


def validation_curve(run: Run) -> CurvePoints:
    """The validation loss of a run.

    Args:
      run: a run of any status.

    Returns:
      A point for each evaluation.
    """
    return CurvePoints(run.eval_steps, run.seconds, run.validation_loss)


def accuracy_curve(run: Run) -> CurvePoints:
    """The validation accuracy of a run.

    Args:
      run: a run of any status.

    Returns:
      A point for each evaluation, between 0 and 1; no point where accuracy was not measured.
    """
    steps = run.eval_steps if run.validation_accuracy else ()
    return CurvePoints(steps, run.seconds[: len(steps)], run.validation_accuracy)


def training_curve(run: Run) -> CurvePoints:
    """The training loss of a run.

    Args:
      run: a run of any status.

    Returns:
      A point for each logged step; its seconds are interpolated between evaluations.
    """
    known = ((0, *run.eval_steps), (0.0, *run.seconds))
    seconds = np.interp(run.train_steps, *known)
    return CurvePoints(run.train_steps, tuple(map(float, seconds)), run.train_loss)


LOSSES: Mapping[Metric, Callable[[Run], CurvePoints]] = {
    "validation loss": validation_curve,
    "training loss": training_curve,
}
"""The curve of each metric that arms can be compared by."""


def final_loss(run: Run, metric: Metric) -> float:
    """The last value of a metric's curve.

    Args:
      run: a run of any status.
      metric: which loss.

    Returns:
      The loss in the unit of the comparison; NaN where the curve has no point.
    """
    values = LOSSES[metric](run).values
    return values[-1] if values else math.nan


@dataclass(frozen=True)
class Band:
    """The mean and spread of several curves at the steps that they share.

    Attributes:
      steps: (t,) training steps.
      seconds: (t,) mean seconds of training up to each step.
      mean: (t,) mean over the curves.
      sd: (t,) standard deviation over the curves; NaN for a single curve.
    """

    steps: np.ndarray
    seconds: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def band(curves: Sequence[CurvePoints]) -> Band | None:
    """Averages the curves that share the most common steps, and leaves out the others.

    Args:
      curves: the curves of one arm, one per seed.

    Returns:
      Their mean and spread; None where there is no curve.
    """
    if not curves:
        return None
    steps, _ = Counter(curve.steps for curve in curves).most_common(1)[0]
    same = [curve for curve in curves if curve.steps == steps]
    values = np.array([curve.values for curve in same], float)
    sd = values.std(0, ddof=1) if len(same) > 1 else np.full(len(steps), math.nan)
    seconds = np.mean([curve.seconds for curve in same], axis=0)
    return Band(np.array(steps), seconds, values.mean(0), sd)
