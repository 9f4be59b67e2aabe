"""A training on disk: one config, one run, in a directory of its own."""

from pathlib import Path

from gelu_jax.runs.execution import Callback, Task, execute
from gelu_jax.runs.record import Run
from gelu_jax.training.config import write_config
from gelu_jax.training.trainer import Trainer


def train(trainer: Trainer, name: str, directory: Path, callback: Callback) -> Run:
    """Trains a config to its end; does only what is missing in the directory.

    Args:
      trainer: of the config.
      name: of the run.
      directory: where everything is written.
      callback: called with the record as it stands, then after each evaluation.

    Returns:
      The record, with status "finished", "diverged" or "stopped".

    Raises:
      OSError: the disk is full or not writable.
      KeyboardInterrupt: interrupted; the same call resumes.
    """
    config = trainer.config
    write_config(config, directory / "config.yaml")
    task = Task(name, config.seed, config.optimizer.peak, "report")
    return execute(trainer, task, directory, callback)
