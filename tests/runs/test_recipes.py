"""Recipes of training: large batches in parts, averaged weights, the best state, a longer run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelu_jax import lab
from gelu_jax.errors import ConfigError
from gelu_jax.nn.mlp import MLPConfig
from gelu_jax.runs.execution import Task, execute, find_model, load_model
from gelu_jax.runs.record import Run
from gelu_jax.training.data import PythonData, load_data
from gelu_jax.training.optimizer import OptimizerConfig
from gelu_jax.training.trainer import TrainConfig, Trainer

_DRAW = np.random.default_rng(0)
ARRAYS = _DRAW.normal(size=(40, 6)).astype(np.float32), _DRAW.integers(0, 3, 40)
MODEL = MLPConfig(d_in=6, num_classes=3, num_layers=1, d_ff=8)
OPTIMIZER = OptimizerConfig(schedule="constant", learning_rate=1e-2)


def data() -> Any:
    return ARRAYS, tuple(x[:10] for x in ARRAYS)


def trainer_of(**fields: Any) -> Trainer:
    plain: dict[str, Any] = {"steps": 4, "batch_size": 8, "eval_every": 2, "optimizer": OPTIMIZER}
    config = TrainConfig(data=PythonData(factory=data), model=MODEL, **{**plain, **fields})
    return Trainer(config, load_data(config.data, config.batch_size))


def test_a_batch_in_parts_is_the_whole_batch_within_rounding():
    ends = [
        list(trainer_of(gradient_accumulation_steps=parts).fit(0, 1e-2))[-1] for parts in (1, 4)
    ]
    chex.assert_trees_all_close(ends[0][0].model, ends[1][0].model, atol=2e-6)
    assert ends[0][1].train_loss == pytest.approx(ends[1][1].train_loss, abs=1e-6)
    with pytest.raises(
        ConfigError, match="gradient_accumulation_steps = 3: must divide batch_size"
    ):
        trainer_of(gradient_accumulation_steps=3)


def test_the_average_of_the_weights_is_what_is_evaluated():
    """Averaged by hand over the states of a run without it; its parameters stay the same."""
    plain = [state for state, _ in trainer_of(eval_every=1).fit(0, 1e-2)]
    *_, (state, point) = trainer_of(ema_decay=0.3).fit(0, 1e-2)
    average = plain[0].model
    for step, after in enumerate(plain[1:]):
        decay = min(0.3, (1 + step) / (10 + step))
        parts = jax.tree.map(lambda x, c=decay: c * x, average), after.model
        average = jax.tree.map(lambda a, p, c=decay: a + (1 - c) * p, *parts)
    chex.assert_trees_all_equal(state.model, plain[-1].model)
    chex.assert_trees_all_close(state.average, average, atol=1e-6)
    logits = average(jnp.asarray(ARRAYS[0][:10]))
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), ARRAYS[1][:10, None], 1).mean()
    assert point.validation_loss == pytest.approx(float(expected), abs=1e-5)


def trained(directory: Path, **options: Any) -> lab.Result:
    given = {"steps": 4, "eval_every": 2, "optimizer": OPTIMIZER, **options}
    return lab.train(MODEL, data, batch_size=8, directory=directory, **given)


def test_a_run_trained_longer_is_the_long_run_and_keeps_its_best_state(tmp_path: Path):
    """The same curve, bit for bit, as one that was as long from the start; the model of its best
    evaluation, whichever that was."""
    rate = replace(OPTIMIZER, learning_rate=0.5)  # so much that the loss rises again
    whole = trained(tmp_path / "whole", steps=12, optimizer=rate, keep_best=True)
    trained(tmp_path / "short", optimizer=rate)
    longer = trained(tmp_path / "long", steps=12, optimizer=rate, start=str(tmp_path / "short"))
    (one,), (two,) = whole.comparison.runs, longer.comparison.runs
    assert (one.validation_loss, one.train_loss) == (two.validation_loss, two.train_loss)
    assert two.eval_steps == (0, 2, 4, 6, 8, 10, 12)
    best = load_model(find_model(tmp_path / "whole"), best=True)
    held = tuple(jnp.asarray(x[:10]) for x in ARRAYS)
    logits = jax.nn.log_softmax(best(held[0]))  # type: ignore[operator]
    loss = -jnp.take_along_axis(logits, held[1][:, None], 1).mean()
    assert float(loss) == pytest.approx(min(one.validation_loss), rel=1e-4)
    assert min(one.validation_loss) < one.final_loss


def test_a_run_stops_after_so_many_evaluations_without_a_new_lowest_loss(tmp_path: Path):
    """Wherever it is interrupted."""
    rate = replace(OPTIMIZER, learning_rate=0.5)  # so much that the loss rises again
    fields: dict[str, Any] = {"steps": 40, "optimizer": rate, "early_stopping_patience": 2}
    trainer, task = trainer_of(**fields), Task("model", 0, 0.5, "report")
    run = execute(trainer, task, tmp_path / "once", lambda *_: None)
    losses = run.validation_loss
    assert (run.status, run.eval_steps[-1]) == ("stopped", 2 * (len(losses) - 1))
    assert losses.index(min(losses)) == len(losses) - 3
    assert run.eval_steps[-1] < 40
    seen: set[int] = set()

    def interrupt(_: Task, found: Run) -> None:
        point = found.last_point
        if point is not None and point.step not in seen:
            seen.add(point.step)
            raise KeyboardInterrupt

    for _ in losses:
        with pytest.raises(KeyboardInterrupt):
            execute(trainer, task, tmp_path / "often", interrupt)
    again = execute(trainer, task, tmp_path / "often", interrupt)
    assert (again.status, again.validation_loss) == ("stopped", losses)
    assert newest_state(tmp_path / "often") == newest_state(tmp_path / "once") == run.eval_steps[-1]


def newest_state(directory: Path) -> int:
    return max(int(path.name) for path in directory.glob("runs/model/*/checkpoint/[0-9]*"))


def test_patience_is_a_number_above_zero():
    with pytest.raises(ConfigError, match="early_stopping_patience = 0: must be above 0"):
        trainer_of(early_stopping_patience=0)


def test_what_cannot_be_trained_longer_is_one_line(tmp_path: Path):
    trained(tmp_path / "short")
    start = str(tmp_path / "short")
    for options, message in (
        ({"steps": 4}, "steps = 4: must be above the 4 of"),
        ({"steps": 8, "optimizer": replace(OPTIMIZER, name="sgd")}, "its state does not fit"),
        ({"steps": 8, "start": "nowhere"}, "run = .*nowhere.*: there is no finished run in it"),
    ):
        with pytest.raises(ConfigError, match=message):
            trained(tmp_path / "long", overwrite=True, **{"start": start, **options})
