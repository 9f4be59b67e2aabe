"""What a comparison leaves behind: arms, their runs, and all that is needed to repeat them."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from gelu_jax.errors import ConfigError, Problem, check, no_such
from gelu_jax.files import write_file
from gelu_jax.runs.record import STRICT, Number, Run

SCHEMA_VERSION = 1

Metric = Literal["validation loss", "training loss"]
"""The loss by which arms are compared."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what it changes, and what that costs.

    Attributes:
      name: what it is called in the config.
      difference: dotted path → value, for the config fields that differ from the first arm's.
      parameters: entries of all parameters.
      flops_per_step: of the matmuls of one training step, forward and backward.
      d_ff: the hidden width after matching; None if there is no feed-forward block.
      active_parameters: entries of the parameters that one token meets; None in records from before
        there were mixtures of experts, where it meets all.
    """

    name: str
    difference: Mapping[str, Any]
    parameters: int
    flops_per_step: Number
    d_ff: int | None = None
    active_parameters: int | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True)
class Change:
    """A change of a comparison's config after it had been evaluated.

    Attributes:
      seeds: how many it had been evaluated with by then.
      differences: "field: value there, value here" for each field.
    """

    seeds: int
    differences: tuple[str, ...]

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True)
class Comparison:
    """Arms, their runs, and all that is needed to read and to repeat them: `results.json`.

    Attributes:
      name: of its directory.
      description: what the config says it is about.
      unit: of the losses, such as "nats per byte".
      tokens_per_step: predictions in one training step.
      protocol: "full"; "smoke test", or "unfinished" while runs are missing: no conclusion is drawn
        from either.
      arms: the first is the one that the others are compared with.
      runs: "report" runs have one learning rate per arm, which "tuning" runs on other seeds chose.
      config: the config that made it, as plain data.
      environment: versions, device, commit, date.
      data: "description" and "hash" of the dataset.
      command: what repeats it.
      metric: the loss by which arms are compared.
      looks: the numbers of seeds at which the comparison has been evaluated, ascending; nothing in
        files from before they were recorded, which have been looked at once.
      changes: those of its config since the first evaluation, in their order.
      schema_version: of this record.

    Raises:
      ConfigError: a run belongs to no arm, is there twice, or has a second learning rate.
    """

    name: str
    description: str
    unit: str
    tokens_per_step: int
    protocol: Literal["full", "smoke test", "unfinished"]
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...]
    config: Mapping[str, Any]
    environment: Mapping[str, str]
    data: Mapping[str, str]
    command: str
    metric: Metric = "validation loss"
    looks: tuple[int, ...] = ()
    changes: tuple[Change, ...] = ()
    schema_version: Literal[1] = SCHEMA_VERSION

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        check(_problems(self))

    @property
    def first(self) -> Arm:
        """The arm that the others are compared with."""
        return self.arms[0]

    def runs_of(self, arm: str, purpose: str = "report") -> tuple[Run, ...]:
        """The runs of one arm and purpose.

        Args:
          arm: its name.
          purpose: "report" or "tuning".

        Returns:
          Its runs, by learning rate and seed.
        """
        found = (run for run in self.runs if run.arm == arm and run.purpose == purpose)
        return tuple(sorted(found, key=lambda run: (run.learning_rate, run.seed)))


def _problems(comparison: Comparison) -> Iterator[Problem]:
    names = [arm.name for arm in comparison.arms]
    if not names:
        yield Problem("arms", (), "a comparison has at least one arm")
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("arms", name, "two arms have this name")
    seen = set[tuple[object, ...]]()
    learning_rates: dict[str, float] = {}
    for run in comparison.runs:
        if run.arm not in names:
            yield Problem("runs.arm", run.arm, f"no such arm; the arms are {', '.join(names)}")
        key = (run.arm, run.seed, run.learning_rate, run.purpose)
        if key in seen:
            yield Problem("runs", key, "this run is there twice")
        seen.add(key)
        if run.purpose == "report":
            first = learning_rates.setdefault(run.arm, run.learning_rate)
            if first != run.learning_rate:
                reason = f"the reported runs of {run.arm} have {first}; an arm has one rate"
                yield Problem("runs.learning_rate", run.learning_rate, reason)


_ADAPTER = TypeAdapter(Comparison)


def json_schema() -> dict[str, Any]:
    """The JSON schema of `results.json`, committed as `results.schema.json` beside this file."""
    return _ADAPTER.json_schema(mode="serialization")


def write_results(comparison: Comparison, directory: Path) -> None:
    """Writes `results.json`, in which null is a loss or time that is not finite.

    Data frames read null as NaN. In the config such numbers are the words that it may have them as.

    Args:
      comparison: what to write.
      directory: where the file goes.

    Raises:
      OSError: it cannot be written; a file that stood there is untouched.
    """
    config = from_json(to_json(comparison.config, inf_nan_mode="strings"))
    text = to_json(replace(comparison, config=config), inf_nan_mode="null")
    write_file(directory / "results.json", text + b"\n")


def read_results(directory: Path) -> Comparison:
    """Reads `results.json` back, equal to what was written, but for infinite losses, now NaN.

    Older files have the words "NaN", "Infinity" and "-Infinity" for them, which are read too.

    Args:
      directory: of a training or a comparison.

    Returns:
      The comparison.

    Raises:
      ConfigError: the file is missing, damaged or of another schema version.
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
    """Writes `results.csv`: a row for every evaluation of every run, numbers in full precision.

    Args:
      comparison: what to write.
      directory: where the file goes.

    Raises:
      OSError: it cannot be written; a file that stood there is untouched.
    """
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
