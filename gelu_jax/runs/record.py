"""The record of one run: what was trained, and its curves, as data and as files.

run.json        the record, replaced at every evaluation
metrics.jsonl   the same curves, one object for each step that has a point
"""

import math
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, WithJsonSchema
from pydantic_core import to_json

from gelu_jax.errors import Problem, check
from gelu_jax.files import write_file
from gelu_jax.training.trainer import Point

Purpose = Literal["tuning", "report"]

# JSON has no NaN and no infinity: run.json has strings for them, results.json null, which is NaN
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    WithJsonSchema(
        {"anyOf": [{"type": ["number", "null"]}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    ),
]
Curve = tuple[Number, ...]
STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
"""How records are read and written: unknown fields are errors, NaN is a string."""


@dataclass(frozen=True)
class Run:
    """One training run: an arm, a seed and a learning rate, with its curves.

    A finished run has a finite validation loss at its end; one that has not is "diverged", and one
    that `early_stopping_patience` ended before its last step is "stopped": what its loss would have
    been at its end is not known.

    Attributes:
      arm: the arm of the comparison, or the name of the config where there is only one.
      seed: of the initial values, the order of the data and dropout.
      learning_rate: the peak of the schedule.
      purpose: "tuning" for the runs that chose a learning rate, "report" for those reported.
      status: "finished", "diverged", "stopped", or "interrupted" as long as steps are to be done.
      train_steps: the steps at which `train_loss` is given.
      train_loss: mean cross-entropy in nats over the steps since the previous point.
      eval_steps: the steps at which the model was evaluated.
      validation_loss: mean cross-entropy in nats, at each of `eval_steps`.
      seconds: of training, without compilation, up to each of `eval_steps`.
      validation_accuracy: at each of `eval_steps`, or nothing.
      compile_seconds: what compiling the programs took.
      health: name → for each evaluation → for each layer.

    Raises:
      ConfigError: the lengths of the curves disagree, or steps do not rise.
    """

    arm: str
    seed: int
    learning_rate: float
    purpose: Purpose
    status: Literal["finished", "diverged", "stopped", "interrupted"]
    train_steps: tuple[int, ...]
    train_loss: Curve
    eval_steps: tuple[int, ...]
    validation_loss: Curve
    seconds: Curve
    validation_accuracy: Curve = ()
    compile_seconds: float = 0.0
    health: Mapping[str, tuple[Curve, ...]] = field(default_factory=dict[str, tuple[Curve, ...]])

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        check(_curve_problems(self))

    @property
    def final_loss(self) -> float:
        """The validation loss at the last evaluation; NaN if there was none."""
        return self.validation_loss[-1] if self.validation_loss else math.nan

    @property
    def last_point(self) -> Point | None:
        """The newest evaluation without its health; None if there was none."""
        if not self.eval_steps:
            return None
        return Point(
            self.eval_steps[-1],
            self.train_loss[-1] if self.train_loss else math.nan,
            self.validation_loss[-1],
            self.validation_accuracy[-1],
            self.seconds[-1],
        )

    def append(self, point: Point) -> "Run":
        """The record with one more evaluation.

        Args:
          point: an evaluation at a later step; at step 0 there is no training loss yet.

        Returns:
          A new record.
        """
        trained = point.step > 0
        return replace(
            self,
            train_steps=self.train_steps + (point.step,) * trained,
            train_loss=self.train_loss + (point.train_loss,) * trained,
            eval_steps=(*self.eval_steps, point.step),
            validation_loss=(*self.validation_loss, point.validation_loss),
            validation_accuracy=(*self.validation_accuracy, point.validation_accuracy),
            seconds=(*self.seconds, point.seconds),
            health={k: (*self.health.get(k, ()), layers) for k, layers in point.health.items()},
        )

    def until(self, step: int) -> "Run":
        """The record without what came after a step.

        Args:
          step: the last step to keep; -1 keeps none.

        Returns:
          A new record.
        """
        n, m = bisect_right(self.train_steps, step), bisect_right(self.eval_steps, step)
        return replace(
            self,
            train_steps=self.train_steps[:n],
            train_loss=self.train_loss[:n],
            eval_steps=self.eval_steps[:m],
            validation_loss=self.validation_loss[:m],
            validation_accuracy=self.validation_accuracy[:m],
            seconds=self.seconds[:m],
            health={name: values[:m] for name, values in self.health.items()},
        )

    def points(self) -> list[dict[str, Any]]:
        """All that is known at each step that has a point, in the order of the steps.

        Returns:
          Dicts of "step" and, where they are known, "train_loss", "validation_loss",
          "validation_accuracy", "seconds", and each name of `health` with a value per layer.
        """
        found: dict[int, dict[str, Any]] = {}
        for step, loss in zip(self.train_steps, self.train_loss, strict=True):
            found.setdefault(step, {"step": step})["train_loss"] = loss
        for index, step in enumerate(self.eval_steps):
            point = found.setdefault(step, {"step": step})
            point["validation_loss"] = self.validation_loss[index]
            if self.validation_accuracy:
                point["validation_accuracy"] = self.validation_accuracy[index]
            point["seconds"] = self.seconds[index]
            point |= {name: values[index] for name, values in self.health.items()}
        return [found[step] for step in sorted(found)]


def _curve_problems(run: Run) -> Iterator[Problem]:
    name = f"runs.{run.arm}.seed {run.seed}"
    if len(run.train_steps) != len(run.train_loss):
        reason = f"has {len(run.train_loss)} values for {len(run.train_steps)} train_steps"
        yield Problem(f"{name}.train_loss", run.train_loss, reason)
    curves = {"validation_loss": run.validation_loss, "seconds": run.seconds, **run.health}
    if run.validation_accuracy:
        curves["validation_accuracy"] = run.validation_accuracy
    for key, curve in curves.items():
        if len(curve) != len(run.eval_steps):
            reason = f"has {len(curve)} values for {len(run.eval_steps)} eval_steps"
            yield Problem(f"{name}.{key}", curve, reason)
    for key, steps in (("train_steps", run.train_steps), ("eval_steps", run.eval_steps)):
        if any(after <= before for before, after in pairwise(steps)):
            yield Problem(f"{name}.{key}", steps, "steps must rise from point to point")
    if run.status == "finished" and not math.isfinite(run.final_loss):
        reason = "a finished run must end at a finite validation loss; this one diverged"
        yield Problem(f"{name}.status", run.status, reason)


_RUN = TypeAdapter(Run)


def write_run(run: Run, home: Path) -> None:
    """Writes `run.json` and `metrics.jsonl`.

    Args:
      run: the record so far.
      home: the folder of the run.

    Raises:
      OSError: the files cannot be written; those that stood there are untouched.
    """
    write_file(home / "run.json", _RUN.dump_json(run))
    lines = (to_json(point, inf_nan_mode="strings") + b"\n" for point in run.points())
    write_file(home / "metrics.jsonl", b"".join(lines))


def read_run(path: Path) -> Run | None:
    """Reads a record back.

    Args:
      path: a `run.json`.

    Returns:
      The record; None if the file is missing, or damaged (which is warned of): the run must then
      be trained again.
    """
    try:
        return _RUN.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{path}: damaged record; training again ({error})", stacklevel=2)
        return None
