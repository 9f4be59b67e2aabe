"""What a comparison leaves behind: arms × seeds × learning rates, as data and as files."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError, WithJsonSchema

from gelu_jax.errors import ConfigError, Problem, check, no_such
from gelu_jax.files import write_file

SCHEMA_VERSION = 1

Metric = Literal["validation loss", "training loss"]
"""The loss that arms are held against each other by."""

# JSON has no NaN and no infinity: a diverged loss is written as a string, and read back as a float
Number = Annotated[
    float,
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}),
]
Curve = tuple[Number, ...]
_STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what it changes, and what that costs.

    `difference` maps the dotted paths of the config fields that this arm changes, against the
    first arm, to its values; `flops_per_step` counts forward and backward of one training step;
    `d_ff` is the hidden width after matching, None where there is no feed-forward block.
    """

    name: str
    difference: Mapping[str, Any]
    parameters: int
    flops_per_step: Number
    d_ff: int | None = None

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class Run:
    """One training: an arm, a seed and a learning rate, with its curves.

    `train_loss` is the mean over the steps since the previous point of `train_steps`; at each of
    `eval_steps` stand the validation loss (and accuracy, or nothing), the `seconds` of training up
    to there without compilation, and `health`: name → per evaluation → per layer.
    A run that finished has a finite validation loss at its end; one that has not is "diverged".
    Raises `ConfigError` where the lengths of the curves disagree or steps do not rise.
    """

    arm: str
    seed: int
    learning_rate: float
    purpose: Literal["tuning", "report"]
    status: Literal["finished", "diverged", "interrupted"]
    train_steps: tuple[int, ...]
    train_loss: Curve
    eval_steps: tuple[int, ...]
    validation_loss: Curve
    seconds: Curve
    validation_accuracy: Curve = ()
    compile_seconds: float = 0.0
    health: Mapping[str, tuple[Curve, ...]] = field(default_factory=dict[str, tuple[Curve, ...]])

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def __post_init__(self) -> None:
        check(_curve_problems(self))

    @property
    def final_loss(self) -> float:
        """The validation loss at the last evaluation; NaN where there was none."""
        return self.validation_loss[-1] if self.validation_loss else math.nan


@dataclass(frozen=True)
class Comparison:
    """Arms, their runs, and all that is needed to read and to repeat them.

    The first arm is the one that the others are compared with. The runs with purpose "report"
    have one learning rate per arm; those with purpose "tuning" chose it, on other seeds.
    Raises `ConfigError` where a run belongs to no arm, is there twice, or has a second rate.
    """

    name: str
    description: str
    unit: str
    tokens_per_step: int
    protocol: Literal["full", "smoke test"]
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...]
    config: Mapping[str, Any]
    environment: Mapping[str, str]
    data: Mapping[str, str]
    command: str
    metric: Metric = "validation loss"
    schema_version: Literal[1] = SCHEMA_VERSION

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def __post_init__(self) -> None:
        check(_comparison_problems(self))

    @property
    def first(self) -> Arm:
        """The arm that the others are compared with."""
        return self.arms[0]

    def runs_of(self, arm: str, purpose: str = "report") -> tuple[Run, ...]:
        """The runs of one arm and purpose, by learning rate and seed."""
        found = (run for run in self.runs if run.arm == arm and run.purpose == purpose)
        return tuple(sorted(found, key=lambda run: (run.learning_rate, run.seed)))


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
            yield Problem(f"{name}.{key}", steps, "steps rise from point to point")
    if run.status == "finished" and not math.isfinite(run.final_loss):
        reason = "a finished run ends at a finite validation loss; this one is diverged"
        yield Problem(f"{name}.status", run.status, reason)


def _comparison_problems(comparison: Comparison) -> Iterator[Problem]:
    names = [arm.name for arm in comparison.arms]
    if not names:
        yield Problem("arms", (), "a comparison has at least one arm")
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("arms", name, "two arms have this name")
    seen = set[tuple[object, ...]]()
    rates: dict[str, float] = {}
    for run in comparison.runs:
        if run.arm not in names:
            yield Problem("runs.arm", run.arm, f"no such arm; the arms are {', '.join(names)}")
        key = (run.arm, run.seed, run.learning_rate, run.purpose)
        if key in seen:
            yield Problem("runs", key, "this run is there twice")
        seen.add(key)
        rate = rates.setdefault(run.arm, run.learning_rate) if run.purpose == "report" else None
        if rate not in (None, run.learning_rate):
            reason = f"the reported runs of {run.arm} already have {rate}; one rate for each arm"
            yield Problem("runs.learning_rate", run.learning_rate, reason)


_ADAPTER = TypeAdapter(Comparison)


def json_schema() -> dict[str, Any]:
    """The JSON schema of `results.json`, as committed in `assets/results.schema.json`."""
    return _ADAPTER.json_schema(mode="serialization")


def write_results(comparison: Comparison, directory: Path) -> None:
    """Writes `results.json`: all of the comparison, in JSON that every reader accepts."""
    plain = _plain(_ADAPTER.dump_python(comparison))
    write_file(directory / "results.json", json.dumps(plain, allow_nan=False) + "\n")


def read_results(directory: Path) -> Comparison:
    """Reads `results.json` back, equal to what was written.

    Raises `ConfigError` where the file is missing, damaged or of another schema version.
    """
    path = directory / "results.json"
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError([Problem("results.json", path, no_such("file", str(path)))]) from None
    except OSError as error:
        problem = Problem("results.json", path, (error.strerror or str(error)).lower())
        raise ConfigError([problem]) from None
    except ValidationError as error:
        raise ConfigError(_invalid(path, error)) from None


def _invalid(path: Path, error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        where = ".".join(map(str, detail["loc"])) or "file"
        value = "nothing" if detail["type"] == "missing" else repr(detail["input"])
        yield Problem(f"{path}: {where}", value[:60], detail["msg"])


CSV_COLUMNS = (
    "arm", "seed", "learning_rate", "purpose", "status", "step", "tokens", "flops", "seconds",
    "train_loss", "validation_loss", "validation_accuracy",
)  # fmt: skip


def write_csv(comparison: Comparison, directory: Path) -> None:
    """Writes `results.csv`: a row for every evaluation of every run, numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    flops = {arm.name: arm.flops_per_step for arm in comparison.arms}
    for run in comparison.runs:
        train = dict(zip(run.train_steps, run.train_loss, strict=True))
        accuracy = run.validation_accuracy or ("",) * len(run.eval_steps)
        for step, seconds, loss, share in zip(
            run.eval_steps, run.seconds, run.validation_loss, accuracy, strict=True
        ):
            writer.writerow((
                run.arm, run.seed, run.learning_rate, run.purpose, run.status,
                step, step * comparison.tokens_per_step, step * flops[run.arm], seconds,
                train.get(step, ""), loss, share,
            ))  # fmt: skip
    write_file(directory / "results.csv", text.getvalue())


def points(run: Run) -> list[dict[str, Any]]:
    """All that is known at each step of a run that has a point; health has a value a layer."""
    found: dict[int, dict[str, Any]] = {}
    for step, loss in zip(run.train_steps, run.train_loss, strict=True):
        found.setdefault(step, {"step": step})["train_loss"] = loss
    for index, step in enumerate(run.eval_steps):
        point = found.setdefault(step, {"step": step})
        point["validation_loss"] = run.validation_loss[index]
        if run.validation_accuracy:
            point["validation_accuracy"] = run.validation_accuracy[index]
        point["seconds"] = run.seconds[index]
        point |= {name: values[index] for name, values in run.health.items()}
    return [found[step] for step in sorted(found)]


def write_metrics(run: Run, path: Path) -> None:
    """Writes one run's `metrics.jsonl`: an object for every step that has a point."""
    lines = (json.dumps(_plain(point), allow_nan=False) for point in points(run))
    write_file(path, "".join(f"{line}\n" for line in lines))


def _plain(value: Any) -> Any:
    """The same value with every NaN and infinity as a string, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in cast(Sequence[Any], value)]
    return value
