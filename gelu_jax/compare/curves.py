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
    """One curve of one run: steps, the seconds of training at each, and the values."""

    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]


def validation_curve(run: Run) -> CurvePoints:
    """The validation loss of one run."""
    return CurvePoints(run.eval_steps, run.seconds, run.validation_loss)


def accuracy_curve(run: Run) -> CurvePoints:
    """The validation accuracy of one run; empty where none was measured."""
    steps = run.eval_steps if run.validation_accuracy else ()
    return CurvePoints(steps, run.seconds[: len(steps)], run.validation_accuracy)


def training_curve(run: Run) -> CurvePoints:
    """The training loss of one run; its seconds are interpolated between evaluations."""
    known = ((0, *run.eval_steps), (0.0, *run.seconds))
    seconds = np.interp(run.train_steps, *known)
    return CurvePoints(run.train_steps, tuple(map(float, seconds)), run.train_loss)


LOSSES: Mapping[Metric, Callable[[Run], CurvePoints]] = {
    "validation loss": validation_curve,
    "training loss": training_curve,
}


def final_loss(run: Run, metric: Metric) -> float:
    """The last value of the metric's curve; NaN where there is none."""
    values = LOSSES[metric](run).values
    return values[-1] if values else math.nan


@dataclass(frozen=True)
class Band:
    """The mean of several curves at shared steps, and their standard deviation (NaN for one)."""

    steps: np.ndarray
    seconds: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def band(curves: Sequence[CurvePoints]) -> Band | None:
    """The band of the curves that share the commonest steps; None for no curve."""
    if not curves:
        return None
    steps, _ = Counter(curve.steps for curve in curves).most_common(1)[0]
    same = [curve for curve in curves if curve.steps == steps]
    values = np.array([curve.values for curve in same], float)
    sd = values.std(0, ddof=1) if len(same) > 1 else np.full(len(steps), math.nan)
    seconds = np.mean([curve.seconds for curve in same], axis=0)
    return Band(np.array(steps), seconds, values.mean(0), sd)
