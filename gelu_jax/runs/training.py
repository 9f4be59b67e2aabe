"""A training on disk: one config, one run, in a directory of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gelu_jax.runs.execution import Callback, Task, execute
from gelu_jax.runs.record import Run
from gelu_jax.training.config import from_dict, to_dict, write_config
from gelu_jax.training.trainer import TrainConfig, Trainer


def train(trainer: Trainer, name: str, directory: Path, callback: Callback) -> Run:
    """Trains a config to its end; does only what is missing in the directory.

    Args:
      trainer: of the config.
      name: of the run.
      directory: where everything is written.
      callback: called with the record as it stands, then after each evaluation.

    Returns:
      The record, with status "finished" or "diverged".

    Raises:
      OSError: the disk is full or not writable.
      KeyboardInterrupt: interrupted; the same call resumes.
    """
    config = trainer.config
    write_config(config, directory / "config.yaml")
    task = Task(name, config.seed, config.optimizer.learning_rate, "report")
    return execute(trainer, task, directory, callback)


def is_same_training(config: TrainConfig, data: Mapping[str, Any]) -> bool:
    """Whether a config file is of the same training.

    Args:
      config: of the training.
      data: of a config.yaml, as plain data. `train` used to leave that of a comparison with one
        arm, which changes nothing.

    Returns:
      True if it is.

    Raises:
      ConfigError: the file is not the config of a training.
    """
    alone = len(data.get("arms", ())) == 1 and not any(data["arms"].values())
    return to_dict(from_dict(data["run"] if alone else data, TrainConfig)) == to_dict(config)
