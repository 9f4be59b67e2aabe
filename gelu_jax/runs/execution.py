"""One run on disk: found by what it is, resumed where it stopped, loaded when it is done.

    <directory>/runs/<arm>/<purpose>-lr<rate>-seed<seed>-<address>/
        config.yaml     the TrainConfig, with this seed and learning rate
        run.json        the record so far (see `record`)
        metrics.jsonl   the same, one line for each step that has a point
        checkpoint/     the state to resume from, and in the end the trained model

The address is a hash of all that decides the result: the resolved config, the data, `versions()`,
and the own modules and weights that the config names (see `identity`).
"""

import glob
import hashlib
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import jax
from flax import nnx

from gelu_jax import signals
from gelu_jax.errors import ConfigError, Problem, check, nearest
from gelu_jax.files import is_primary
from gelu_jax.runs.identity import imported, versions
from gelu_jax.runs.record import Purpose, Run, read_run, write_run
from gelu_jax.training import checkpoint
from gelu_jax.training.config import read_config, to_dict, write_config
from gelu_jax.training.data import load_data
from gelu_jax.training.distributed import (
    broadcast_from_primary,
    received_anywhere,
    same_everywhere,
)
from gelu_jax.training.model import Model
from gelu_jax.training.optimizer import with_learning_rate
from gelu_jax.training.python_model import PythonModel
from gelu_jax.training.trainer import (
    Keys,
    Point,
    State,
    TrainConfig,
    Trainer,
    example_inputs,
    init,
)


@dataclass(frozen=True)
class Task:
    """A run to be done: what tells it from the other runs in a directory.

    Attributes:
      arm: the arm of a comparison, or the name of the config where there is only one.
      seed: of the initial values, the order of the data and dropout.
      learning_rate: the peak of the schedule.
      purpose: "tuning" for a run that chooses a learning rate, "report" for one that is reported.
    """

    arm: str
    seed: int
    learning_rate: float
    purpose: Purpose

    @property
    def name(self) -> str:
        """What people see of it: on the screen, and as the beginning of its folder's name."""
        return f"{self.purpose}-lr{self.learning_rate:g}-seed{self.seed}"


CHECKPOINT_SECONDS = 300.0
"""A state is saved at the first evaluation after so long, whatever `checkpoint_every` is."""

_LONG = 10.0  # seconds of training whose loss is worth a word

Callback = Callable[[Task, Run], None]
"""Called with a task and its record: first as it stands on disk, then after each evaluation."""


def execute(trainer: Trainer, task: Task, directory: Path, callback: Callback) -> Run:
    """Trains a run to its end, or reads its record if that has been done.

    Resumes from the newest checkpoint. The curve is the same, bit for bit, however often the run
    was stopped.

    Args:
      trainer: of the task's arm.
      task: what to train.
      directory: of the whole training or comparison.
      callback: called with the record as it stands, then after each evaluation.

    Returns:
      The record, with status "finished", "diverged" or "stopped".

    Raises:
      ConfigError: the processes of a distributed run do not agree on what to train.
      OSError: the disk is full or not writable.
      KeyboardInterrupt: interrupted; what had been trained is saved.
    """
    same_everywhere(_identity(trainer, task, versions()))
    home = folder(trainer, task, directory)
    run = broadcast_from_primary(partial(read_run, home / "run.json"))
    if run is not None and run.status != "interrupted":
        callback(task, run)
        return run
    home.mkdir(parents=True, exist_ok=True)
    write_config(resolved(trainer, task), home / "config.yaml")
    run, state = _resume(home, run or _empty(trainer, task), trainer.abstract_state)
    if state is None and trainer.config.start is not None:
        run, state = _started(trainer.config, run, trainer.abstract_state)
    callback(task, run)
    run = _train(trainer, task, home, run, state, callback)
    run = replace(run, status=_status(trainer.config, run))
    write_run(run, home)
    if run.status == "stopped":
        callback(task, run)  # what shows how far it is learns here that no step is missing
    if task.purpose == "tuning":
        for folder_name in ("checkpoint", "best"):
            shutil.rmtree(home / folder_name, ignore_errors=True)
    return run


def _status(config: TrainConfig, run: Run) -> Literal["finished", "diverged", "stopped"]:
    """How a run that trains no further has ended."""
    point = run.last_point
    if point is not None and point.diverged:
        return "diverged"
    return "stopped" if point is not None and point.step < config.steps else "finished"


def _is_out_of_patience(config: TrainConfig, run: Run) -> bool:
    """Whether so many evaluations have passed since the lowest validation loss."""
    patience, losses = config.early_stopping_patience, run.validation_loss
    if patience is None or not losses:
        return False
    return len(losses) - 1 - losses.index(min(losses)) >= patience


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


def _train(
    trainer: Trainer, task: Task, home: Path, run: Run, state: State | None, callback: Callback
) -> Run:
    resume = None if state is None else (state, run.seconds[-1])
    if state is not None and _is_out_of_patience(trainer.config, run):
        return run  # interrupted between its last evaluation and its end
    latest = _Latest(home, run, state)
    try:
        with (
            checkpoint.AsyncSaver(home / "checkpoint") as saver,
            checkpoint.AsyncSaver(home / "best") as best,
            latest.saved_on_signal(saver),
        ):
            for state, point in trainer.fit(task.seed, task.learning_rate, resume):
                run = latest.append(point, state)
                if trainer.config.keep_best and _is_best(run):
                    best.save(point.step, state)
                is_out = _is_out_of_patience(trainer.config, run)
                if is_out or latest.is_due(trainer.config, point):
                    latest.save(saver)
                callback(task, run)
                _stop_together(point)
                if is_out:
                    break
            saver.wait()  # here, where a signal waits as well
    except (KeyboardInterrupt, SystemExit):  # there is time to keep what has been trained
        run, state = latest.evaluated
        if state is not None and int(state.step) > 0:
            write_run(run, home)
            checkpoint.save(home / "checkpoint", int(state.step), state)
        raise
    return run


def _is_best(run: Run) -> bool:
    """Whether the newest evaluation of a run has the lowest validation loss so far."""
    return run.final_loss == min(filter(math.isfinite, run.validation_loss), default=None)


class _Latest:
    """The newest evaluation of a run, and whether its state is saved."""

    def __init__(self, home: Path, run: Run, state: State | None):
        self.home = home
        self.evaluated = run, state  # one name, so that nothing falls between the two
        self._saved_step = 0 if state is None else int(state.step)
        self._saved_at = self._evaluated_at = time.monotonic()
        self._lock = threading.Lock()

    def append(self, point: Point, state: State) -> Run:
        """Records an evaluation, unless a signal is about to save the one before it."""
        with self._lock:
            if not signals.ending():
                run = self.evaluated[0].append(point)
                self.evaluated, self._evaluated_at = (run, state), time.monotonic()
                write_run(run, self.home)  # before the state: no state is ahead of its curve
                return run
        return signals.wait_for_the_end()

    def is_due(self, config: TrainConfig, point: Point) -> bool:
        """Whether a state is to be saved: by the config, and after so many minutes."""
        if point.diverged or point.step == 0:
            return False
        if point.step % (config.checkpoint_every or config.steps) == 0:
            return True
        passed = broadcast_from_primary(lambda: time.monotonic() - self._saved_at)
        return passed >= CHECKPOINT_SECONDS

    def save(self, saver: checkpoint.AsyncSaver) -> None:
        """Saves the state in the background, unless that has been done."""
        with self._lock:
            run, state = self.evaluated
            point = run.last_point
            if state is None or point is None or point.diverged:
                return
            if int(state.step) > self._saved_step:
                saver.save(int(state.step), state)
                self._saved_step, self._saved_at = int(state.step), time.monotonic()

    def saved_on_signal(self, saver: checkpoint.AsyncSaver) -> AbstractContextManager[None]:
        """Saves the state when a signal ends the process, while the main thread trains on."""
        if jax.distributed.is_initialized():
            return signals.deferred()  # all processes save together, see `_stop_together`

        def save(_: int) -> str:
            lost = time.monotonic() - self._evaluated_at
            self.save(saver)
            saver.wait()
            also = f" (the {lost:.0f} seconds of training since then are lost)"
            said = f"at step {self._saved_step}; saved{also * (lost > _LONG)}"
            return said if self._saved_step else ""

        return signals.before_exit(save)


def _stop_together(point: Point) -> None:
    """Stops all processes of a distributed run at the same evaluation if one got a signal."""
    if jax.distributed.is_initialized() and (number := received_anywhere()) is not None:
        if signals.received() is None:  # a second one would end this process at once
            signals.deliver(number)
        said = f"at step {point.step}; saved" if point.step else ""
        raise KeyboardInterrupt(said if is_primary() else None)  # the first prints for all


def _resume(home: Path, run: Run, like: State) -> tuple[Run, State | None]:
    """The newest readable state, and the record up to it; an empty record where there is none.

    A state that the record does not know of (it was damaged, say) is of no use: its curve is lost.
    """
    state = checkpoint.restore(home / "checkpoint", like)
    if state is None or int(state.step) not in run.eval_steps:
        if is_primary():
            shutil.rmtree(home / "checkpoint", ignore_errors=True)
        return run.until(-1), None
    return run.until(int(state.step)), state


def _started(config: TrainConfig, run: Run, like: State) -> tuple[Run, State]:
    """The state and the record of the finished run that this one begins with."""
    home = find_model(Path(str(config.start)))
    if _kept(read_config(home / "config.yaml", TrainConfig)) != _kept(config):
        reason = "its state does not fit: a run goes on with the same model and optimizer"
        raise ConfigError([Problem("start", config.start, reason)])
    state = checkpoint.restore(home / "checkpoint", like)
    before = read_run(home / "run.json")
    if state is None or before is None:
        raise ConfigError([Problem("start", config.start, "no readable checkpoint in it")])
    step = int(state.step)
    if step >= config.steps or (config.steps - step) % config.eval_every:
        reason = f"must be above the {step} of {config.start} by a multiple of eval_every"
        raise ConfigError([Problem("steps", config.steps, reason)])
    known = before.until(step)
    kept = {name: getattr(run, name) for name in ("arm", "seed", "learning_rate", "purpose")}
    return replace(known, status="interrupted", **kept), state


def _kept(config: TrainConfig) -> Any:
    """What decides the structure of a state: the model, the update rule, whether it is averaged."""
    optimizer = to_dict(config.optimizer)
    rule = [optimizer.get(key) for key in ("kind", "name", "factory")]
    return to_dict(config.model), rule, config.ema_decay is None


def resolved(trainer: Trainer, task: Task) -> TrainConfig:
    """What is trained: the trainer's config with the seed and learning rate of a task.

    Args:
      trainer: of the task's arm.
      task: what to train.

    Returns:
      The config that stands in the folder of the run.
    """
    optimizer = with_learning_rate(trainer.config.optimizer, task.learning_rate)
    return replace(trainer.config, optimizer=optimizer, seed=task.seed)


def folder(
    trainer: Trainer, task: Task, directory: Path, trained_by: Sequence[str] | None = None
) -> Path:
    """Where a run lives.

    Args:
      trainer: of the task's arm.
      task: what to train.
      directory: of the whole training or comparison.
      trained_by: the `versions()` of another process that trains it; this one's by default.

    Returns:
      A path, whether or not there is anything yet.
    """
    identity = list(_identity(trainer, task, trained_by or versions()).values())
    address = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return directory / "runs" / task.arm / f"{task.name}-{address[:12]}"


def _identity(trainer: Trainer, task: Task, trained_by: Sequence[str]) -> dict[str, object]:
    return {
        "config": _without_unused(to_dict(resolved(trainer, task))),
        "data": trainer.data.info.hash,
        "versions": trained_by,
        **imported(trainer.config),  # nothing, for most configs
    }


# Config fields that came after runs were first addressed, each with the values that change nothing.
# A field whose name was there before, with one of them, needs the field that it is in before it.
_ADDED: dict[str, tuple[object, ...]] = {
    # The parts of models
    "d_out": (None,),
    "kernel_init": (None,),
    "bias_init": (None,),
    "precision": (None,),
    "dot_general": (None,),
    "hidden_norm": (None,),
    "hidden_norm_epsilon": (1e-6,),
    "active_units": (None,),
    "qk_norm": (None,),
    "soft_cap": (None,),
    "value_head_dim": (None,),
    "cache_dtype": (None,),
    "sinks": (False,),
    "key_bias": (None,),
    "attention.dropout_rate": (0.0,),
    "cross_attention.dropout_rate": (0.0,),
    "valid_positions": (None,),
    "buffer_factor": (None,),
    # Blocks and transformers
    "layer_scale": (False,),
    "embedding_size": (None,),
    "shared_layers": (False,),
    "position_offset": (0,),
    "relative": (None,),
    "pattern": ([],),
    "has_head": (True,),
    "num_classes": (None,),
    "logit_soft_cap": (None,),
    # Optimizers, and the one stretch of rotary positions that there was
    "min_learning_rate": (0.0,),
    "decay_steps": (None,),
    "kind": ("optax", "llama3"),
    # Runs and their data
    "gradient_accumulation_steps": (1,),
    "ema_decay": (None,),
    "keep_best": (False,),
    "early_stopping_patience": (None,),
    "mesh.expert": (1,),
    "start": (None,),
    "documents": ("joined",),
    "validation_fraction": (None,),
}


def _without_unused(data: Any, within: str = "") -> Any:
    """A config as plain data, without the fields that older versions did not have or need."""
    if isinstance(data, dict):
        fields = cast(dict[str, Any], data).items()
        return {
            key: value
            if key == "arguments"
            else _without_unused(value, key)  # whose names are a person's
            for key, value in fields
            if value not in (*_ADDED.get(key, ()), *_ADDED.get(f"{within}.{key}", ()))
        }
    if isinstance(data, list):
        return [_without_unused(item) for item in cast(list[Any], data)]
    return data


def find_model(directory: Path, arm: str | None = None) -> Path:
    """The folder of a trained model: that of the first seed that `results.json` reports.

    Args:
      directory: of a training or a comparison.
      arm: whose model; None takes the first arm.

    Returns:
      The folder of a run that is on record there, never of an older or an unfinished one.

    Raises:
      ConfigError: nothing has been finished there, or there is no such arm.
    """
    try:
        results: Any = json.loads((directory / "results.json").read_bytes())
        arms = [each["name"] for each in results["arms"]]
        reported = [run for run in results["runs"] if run["purpose"] == "report"]
    except (OSError, ValueError, KeyError, TypeError):
        reason = "there is no finished run in it: no results.json that can be read"
        raise ConfigError([Problem("run", directory, reason)]) from None
    if arm is not None and arm not in arms:
        raise ConfigError([Problem("arm", arm, f"not in {directory}; {nearest(arm, arms)}")])
    for run in reported:
        if run["arm"] == (arm or arms[0]) and (home := _home(directory, run)) is not None:
            return home
    raise ConfigError([Problem("run", directory, "the model that results.json names is gone")])


def _home(directory: Path, run: Any) -> Path | None:
    """The folder that holds the model of a reported run, told by its whole curve."""
    name = Task(run["arm"], run["seed"], run["learning_rate"], run["purpose"]).name
    for home in directory.glob(f"runs/{glob.escape(run['arm'])}/{name}-*"):
        with suppress(OSError, ValueError):
            record = json.loads((home / "run.json").read_bytes())
            if all(record[key] == run[key] for key in _CURVE) and _has_state(home):
                return home
    return None


_CURVE = ("status", "eval_steps", "validation_loss", "seconds")


def _has_state(home: Path) -> bool:
    return any((home / "checkpoint").glob("[0-9]*"))


def load_model(home: Path, *, best: bool = False) -> Model:
    """The trained model of a run.

    Args:
      home: the folder of the run, as `find_model` finds it.
      best: the one with the lowest validation loss, which `keep_best` keeps.

    Returns:
      The module, in evaluation mode, with the weights of the newest checkpoint, or their average,
      if the run has one.

    Raises:
      ConfigError: the folder holds no checkpoint that can be read.
    """
    config = read_config(home / "config.yaml", TrainConfig)
    inputs = None
    if isinstance(config.model, PythonModel):  # whose shapes may follow from the data's
        inputs = example_inputs(load_data(config.data, config.batch_size))
    like = jax.eval_shape(lambda: init(config, Keys.of(0), inputs))
    state = checkpoint.restore(home / ("best" if best else "checkpoint"), like)
    reason = "keep_best was not set" if best else "no readable checkpoint in it"
    check([Problem("run", home, reason)] if state is None else [])
    model = cast(State, state).evaluated
    if isinstance(model, nnx.Module):
        model.eval()
    return model
