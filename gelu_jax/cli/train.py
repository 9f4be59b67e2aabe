"""train: one config."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from gelu_jax.cli.arguments import ConfigFile, Overrides
from gelu_jax.cli.configs import check_kind, find_config
from gelu_jax.cli.failures import check_backend
from gelu_jax.cli.session import (
    Log,
    claimed,
    command_to_repeat,
    progress,
    run_directory,
    run_name,
    show,
)
from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import record
from gelu_jax.compare.records import Comparison, write_results
from gelu_jax.files import is_primary
from gelu_jax.report.verdict import verdict
from gelu_jax.report.write import write_report
from gelu_jax.runs.environment import environment
from gelu_jax.runs.identity import write_identity
from gelu_jax.runs.trackers import Tracker, trackers
from gelu_jax.runs.training import train
from gelu_jax.training.checkpoint import latest_step
from gelu_jax.training.config import read_config
from gelu_jax.training.data import load_data
from gelu_jax.training.distributed import DistributedConfig, process_group
from gelu_jax.training.trainer import TrainConfig, Trainer

Several = Annotated[DistributedConfig, tyro.conf.OmitArgPrefixes]

ONE_PROCESS = DistributedConfig()


def train_command(
    config: ConfigFile,
    overrides: Overrides = (),
    output: Path | None = None,
    overwrite: bool = False,
    log: Log = (),
    several: Several = ONE_PROCESS,
) -> None:
    """Train one config and draw its curves. Resumes if it was interrupted.

    Args:
        config: a YAML file, or one of `gelu-jax configs` by name, such as byte_lm.
        overrides: section.key=value for any field, such as steps=200.
        output: where to write; runs/<name of the config> by default.
        overwrite: delete another run that stands in the output directory.
        log: also write to a tracker while training; may be given twice.
        several: whether several processes share the run, and how they find each other.
    """
    file, name = find_config(config), run_name(config)
    check_kind(file, "train")
    run = read_config(file, TrainConfig, overrides)
    directory = run_directory(config, output)
    with process_group(several, partial(latest_step, directory)):
        check_backend()  # only now, as the processes are connected first
        trainer = Trainer(run, load_data(run.data, run.batch_size))
        tracked = trackers(log, directory, {name: trainer}) if is_primary() else ()
        with claimed(directory, run, {name: trainer}, overwrite=overwrite):
            write_identity(directory, {name: trainer})
            found = _train(trainer, name, directory, tracked)
            if is_primary():
                write_results(found, directory)
                show(verdict(analyze(found)), write_report(found, directory))


def _train(trainer: Trainer, name: str, directory: Path, tracked: Sequence[Tracker]) -> Comparison:
    """Trains, and puts it on record as a comparison of one arm, which a report is drawn from."""
    alone = CompareConfig(run=trainer.config, arms={name: {}}, seeds=1)
    with progress(alone, tracked) as callback:
        run = train(trainer, name, directory, callback)
    where = environment() | {"runs": "one after another, in one process"}
    command = command_to_repeat("train", directory)
    return record(directory.name, alone, {name: trainer}, [run], where, command)
