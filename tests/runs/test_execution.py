"""When a state is saved, and that a resumed run has the bits of one that was never stopped."""

from pathlib import Path

import pytest

from gelu_jax.runs import execution
from gelu_jax.runs.execution import Task, execute, folder
from gelu_jax.runs.record import Run
from gelu_jax.training.config import from_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import TrainConfig, Trainer

TASK = Task("digits", 0, 1e-3, "report")
RUN = from_dict(
    {
        "data": {"kind": "digits"},
        "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 1, "d_ff": 4},
        "steps": 8,
        "batch_size": 32,
        "eval_every": 2,
    },
    TrainConfig,
)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(RUN, load_data(RUN.data, RUN.batch_size))


@pytest.mark.parametrize(("after", "kept"), [(0.0, {"6", "8"}), (300.0, {"8"})])
def test_states_are_saved_by_time(
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: float,
    kept: set[str],
):
    monkeypatch.setattr(execution, "CHECKPOINT_SECONDS", after)
    execute(trainer, TASK, tmp_path, lambda *_: None)
    home = folder(trainer, TASK, tmp_path)
    assert {path.name for path in (home / "checkpoint").iterdir()} == kept


def test_a_run_stopped_between_checkpoints_loses_no_bit(trainer: Trainer, tmp_path: Path):
    whole = execute(trainer, TASK, tmp_path / "whole", lambda *_: None)

    def stop(_: Task, run: Run) -> None:
        if run.eval_steps[-1:] == (4,):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(trainer, TASK, tmp_path / "stopped", stop)
    home = folder(trainer, TASK, tmp_path / "stopped")
    assert {path.name for path in (home / "checkpoint").iterdir()} == {"4"}
    resumed = execute(trainer, TASK, tmp_path / "stopped", lambda *_: None)
    assert resumed.validation_loss == whole.validation_loss
    assert resumed.train_loss == whole.train_loss
