"""One run of a comparison on disk: found by what it is, continued where it stopped.

    <directory>/runs/<arm>/<purpose>-lr<rate>-seed<seed>-<address>/
        config.yaml     what is trained: a TrainConfig with this seed and rate
        run.json        the record so far, replaced at every evaluation
        metrics.jsonl   the same, a line for each step that has a point
        checkpoint/     the state to continue from, and the model in the end

The address is a hash of all that decides the result: resolved config, data, versions, and this
package's own source.
"""

import hashlib
import json
import math
import shutil
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, cast

import jax
from pydantic import TypeAdapter

from gelu_jax.compare.records import Run, write_metrics
from gelu_jax.errors import Problem, check
from gelu_jax.files import is_primary, write_file
from gelu_jax.training import checkpoint
from gelu_jax.training.config import read_config, to_dict, write_config
from gelu_jax.training.distributed import broadcast_from_primary, same_everywhere
from gelu_jax.training.trainer import Keys, Model, Point, State, TrainConfig, Trainer, init

_RUN = TypeAdapter(Run)


@dataclass(frozen=True)
class Task:
    """What tells one run of a comparison from the others."""

    arm: str
    seed: int
    learning_rate: float
    purpose: Literal["tuning", "report"]

    @property
    def name(self) -> str:
        """For people: on the screen and in the name of its folder."""
        return f"{self.purpose}-lr{self.learning_rate:g}-seed{self.seed}"


Watch = Callable[[Task, Run], None]
"""Called with a task and the record that it already has before it goes on, or in its stead if it
has been done; then with the record after each of its evaluations."""


def perform(trainer: Trainer, task: Task, directory: Path, watch: Watch) -> Run:
    """The record of a task: read if it has been done, else trained to the end.

    Goes on from the newest checkpoint, where there is one, and calls ``watch`` at every
    evaluation. The curve is the same, bit for bit, however often the run was stopped.
    """
    same_everywhere(_identity(trainer, task, code()))
    home = folder(trainer, task, directory)
    run = broadcast_from_primary(partial(read_run, home / "run.json"))
    if run is not None and run.status != "interrupted":
        watch(task, run)
        return run
    home.mkdir(parents=True, exist_ok=True)
    write_config(resolved(trainer, task), home / "config.yaml")
    run, state = _standing(home, run or _empty(trainer, task), trainer.abstract_state)
    watch(task, run)
    resume = None if state is None else (state, run.seconds[-1])
    kept = run, state  # one name, so that no interrupt comes between the two
    try:
        with checkpoint.Saver(home / "checkpoint") as saver:
            for state, point in trainer.fit(task.seed, task.learning_rate, resume):
                run = _extended(run, point)
                kept = run, state
                _write(home, run)  # before the state, so that a state is never ahead of its curve
                if _is_due(trainer.config, point):
                    saver.save(point.step, state)
                watch(task, run)
    except (KeyboardInterrupt, SystemExit):  # there is time to keep what has been trained
        run, state = kept
        if state is not None and int(state.step) > 0:
            _write(home, run)
            checkpoint.save(home / "checkpoint", int(state.step), state)
        raise
    run = replace(run, status="diverged" if _diverged(run) else "finished")
    _write(home, run)
    if task.purpose == "tuning":
        shutil.rmtree(home / "checkpoint", ignore_errors=True)
    return run


def load_model(home: Path) -> Model:
    """The trained model of a run, from its folder.

    Raises ConfigError where the folder holds no checkpoint that can be read.
    """
    config = read_config(home / "config.yaml", TrainConfig)
    like = jax.eval_shape(lambda: init(config, Keys.of(0)))
    state = checkpoint.restore(home / "checkpoint", like)
    check([Problem("run", home, "no checkpoint to read")] if state is None else [])
    return cast(State, state).model


def folder(
    trainer: Trainer, task: Task, directory: Path, trained_by: Sequence[str] | None = None
) -> Path:
    """Where the run of a task lives; ``trained_by`` is the `code` of another process."""
    address = _address(trainer, task, trained_by or code())
    return directory / "runs" / task.arm / f"{task.name}-{address[:12]}"


def _address(trainer: Trainer, task: Task, trained_by: Sequence[str]) -> str:
    identity = list(_identity(trainer, task, trained_by).values())
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _identity(trainer: Trainer, task: Task, trained_by: Sequence[str]) -> dict[str, object]:
    """All that decides the result of a run."""
    return {
        "config": to_dict(resolved(trainer, task)),
        "data": trainer.data.facts.hash,
        "versions": trained_by,
    }


def resolved(trainer: Trainer, task: Task) -> TrainConfig:
    """What is trained: the arm's config with the seed and rate of a task."""
    optimizer = replace(trainer.config.optimizer, learning_rate=task.learning_rate)
    return replace(trainer.config, optimizer=optimizer, seed=task.seed)


@cache
def code() -> list[str]:
    """The versions that decide a result: jax, and a hash of this package's own source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return [jax.__version__, jax.default_backend(), digest.hexdigest()]


def read_run(path: Path) -> Run | None:
    """A record, or None where there is none that can be read: the run is then done anew."""
    try:
        return _RUN.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{path}: damaged record, the run is done anew ({error})", stacklevel=2)
        return None


def _empty(trainer: Trainer, task: Task) -> Run:
    return Run(
        **vars(task),
        status="interrupted",
        train_steps=(),
        train_loss=(),
        eval_steps=(),
        validation_loss=(),
        seconds=(),
        compile_seconds=trainer.programs.seconds,
    )


def _standing(home: Path, run: Run, like: State) -> tuple[Run, State | None]:
    """The newest state that can be read, and the record up to it; both empty where there is none.

    A state that the record does not know (it was damaged, say) is no use: its curve is lost.
    """
    state = checkpoint.restore(home / "checkpoint", like)
    if state is None or int(state.step) not in run.eval_steps:
        if is_primary():
            shutil.rmtree(home / "checkpoint", ignore_errors=True)
        return until(run, -1), None
    return until(run, int(state.step)), state


def _write(home: Path, run: Run) -> None:
    write_file(home / "run.json", _RUN.dump_json(run))
    write_metrics(run, home / "metrics.jsonl")


def until(run: Run, step: int) -> Run:
    """The record up to and with a step: what came after it was not saved."""
    n, m = bisect_right(run.train_steps, step), bisect_right(run.eval_steps, step)
    return replace(
        run,
        train_steps=run.train_steps[:n],
        train_loss=run.train_loss[:n],
        eval_steps=run.eval_steps[:m],
        validation_loss=run.validation_loss[:m],
        validation_accuracy=run.validation_accuracy[:m],
        seconds=run.seconds[:m],
        health={name: values[:m] for name, values in run.health.items()},
    )


def _extended(run: Run, point: Point) -> Run:
    trained = point.step > 0
    return replace(
        run,
        train_steps=run.train_steps + (point.step,) * trained,
        train_loss=run.train_loss + (point.train_loss,) * trained,
        eval_steps=(*run.eval_steps, point.step),
        validation_loss=(*run.validation_loss, point.validation_loss),
        validation_accuracy=(*run.validation_accuracy, point.validation_accuracy),
        seconds=(*run.seconds, point.seconds),
        health={k: (*run.health.get(k, ()), layers) for k, layers in point.health.items()},
    )


def last_point(run: Run) -> Point | None:
    """The newest point of a record, but for its health; None where there is none."""
    if not run.eval_steps:
        return None
    loss = run.train_loss[-1] if run.train_loss else math.nan
    return Point(
        run.eval_steps[-1],
        loss,
        run.validation_loss[-1],
        run.validation_accuracy[-1],
        run.seconds[-1],
    )


def _diverged(run: Run) -> bool:
    point = last_point(run)
    return point is not None and point.diverged


def _is_due(config: TrainConfig, point: Point) -> bool:
    every = config.checkpoint_every or config.steps
    return not point.diverged and point.step > 0 and point.step % every == 0
