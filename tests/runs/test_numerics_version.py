"""Runs of the same `NUMERICS_VERSION` have the same results: a change of one needs the other.

The losses of two steps of each kind of run, as they were when the version was set. Processors and
versions of XLA round differently: jax 0.10 and 0.12 are 2.5e-7 apart, in bfloat16 1.4e-4. Whoever
makes a change below the tolerances has to notice it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gelu_jax.runs.execution import Task, folder
from gelu_jax.training.config import from_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import TrainConfig, Trainer
from gelu_jax.version import NUMERICS_VERSION

pytestmark = pytest.mark.optimized

RUN = {"steps": 2, "batch_size": 4, "eval_every": 1, "seed": 7}
MLP = {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 2, "d_ff": 16}


def language_model(style: str, norm: str, variant: str, **model: Any) -> dict[str, Any]:
    return RUN | {
        "data": {"kind": "files", "path": "text.txt", "context": 16, "validation_windows": 4},
        "model": {
            "kind": "transformer", "vocab_size": 256, "num_layers": 2, "d_model": 16,
            "scan_layers": True,
            "block": {
                "style": style,
                "norm": {"kind": norm},
                "attention": {"num_heads": 2},
                "feed_forward": {"variant": variant, "d_ff": 24},
            },
            **model,
        },
    }  # fmt: skip


KINDS = {
    "swiglu": language_model("pre_norm", "rms", "swiglu"),
    "gelu": language_model("post_norm", "layer", "gelu", max_positions=16, tie_embeddings=False),
    "parallel": language_model("parallel", "rms", "xielu", dtype="bfloat16"),
    "dropout": RUN | {"data": {"kind": "digits"}, "model": MLP | {"dropout_rate": 0.5}},
}
VERSION = "3"
LOSSES = {
    "swiglu": (6.311252593994141, 6.310303211212158, 5.443110942840576, 5.191064357757568),
    "gelu": (5.967482566833496, 6.139411449432373, 5.6485724449157715, 5.33706521987915),
    "parallel": (6.439985275268555, 6.333418846130371, 5.318084716796875, 4.986557960510254),
    "dropout": (2.302142381668091, 2.1848840713500977, 2.4647364616394043, 2.297154426574707),
}


FIRST = "ce216d89edfff73abfc62b55a76901d68acf38bfa8a28823b170bb467cefe12c"
"""Before there was a version: the hash of the source."""

ADDRESSES = {  # as commit 4cfbdb2 made them
    "swiglu": "report-lr0.01-seed7-4563d9436638",
    "gelu": "report-lr0.01-seed7-2f05e32a5ee2",
    "parallel": "report-lr0.01-seed7-820591a7d393",
    "dropout": "report-lr0.01-seed7-58bd85186037",
}


def trainer_of(kind: str) -> Trainer:
    Path("text.txt").write_text("to be, or not to be, that is the question\n" * 30)
    run = from_dict(KINDS[kind], TrainConfig)
    return Trainer(run, load_data(run.data, run.batch_size))


@pytest.mark.parametrize("kind", KINDS)
def test_old_runs_are_found(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    task, versions = Task("a", 7, 1e-2, "report"), ["0.10.2", "cpu", FIRST]
    assert folder(trainer_of(kind), task, Path(), versions).name == ADDRESSES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_the_version(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    points = [point for _, point in trainer_of(kind).fit(7, 1e-2)]
    losses = [points[0].validation_loss, *(p.train_loss for p in points[1:])]
    losses.append(points[-1].validation_loss)
    print(kind, tuple(map(float, losses)))
    assert NUMERICS_VERSION == VERSION, "a new version has new losses; they are printed"
    tolerance = 1e-3 if kind == "parallel" else 1e-5
    np.testing.assert_allclose(losses, LOSSES[kind], rtol=tolerance)
