"""The call from Python: a person's own models compared, matched, resumed, and told from others."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gelu_jax import lab
from gelu_jax.cli import main
from gelu_jax.errors import ConfigError
from gelu_jax.runs import execution

_DRAW = np.random.default_rng(0)
X = _DRAW.normal(size=(60, 6)).astype(np.float32)
Y = np.abs(X @ _DRAW.normal(size=(6, 3))).argmax(-1)
DATA = (X[:40], Y[:40]), (X[40:], Y[40:])


class Net(nnx.Module):
    def __init__(self, gated: bool, width: int, rngs: nnx.Rngs):
        self.up = nnx.Linear(6, width, rngs=rngs)
        self.gate = nnx.Linear(6, width, rngs=rngs) if gated else None
        self.down = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = 1.0 if self.gate is None else nnx.silu(self.gate(x))
        return self.down(gate * nnx.relu(self.up(x)))


def compared(directory: Path, gated: bool = True, **options: Any) -> lab.Result:
    return lab.compare(
        arms={
            "plain": lambda width, rngs: Net(False, width, rngs),
            "mine": lambda width, rngs: Net(gated, width, rngs),
        },
        data=DATA,
        steps=10,
        batch_size=8,
        seeds=2,
        learning_rates=[1e-2],
        arguments={"width": 16},
        width="width",
        multiple_of=1,
        protocol="smoke test",
        directory=directory,
        **options,
    )


def test_models_are_compared_matched_and_trained_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    found = compared(tmp_path / "out")
    plain, mine = found.comparison.arms
    assert (plain.d_ff, plain.parameters) == (16, 6 * 16 + 16 + 16 * 3 + 3)
    assert (mine.d_ff, mine.parameters) == (9, 2 * (6 * 9 + 9) + 9 * 3 + 3)  # the nearest width
    assert "Smoke test" in found.verdict
    assert {path.suffix for path in found.files} >= {".html", ".json", ".csv", ".png"}
    assert found._repr_html_().startswith("<pre>")
    assert "defines" in found.comparison.command
    model = found.model("mine")
    assert model(jnp.asarray(X[:5])).shape == (5, 3)
    monkeypatch.setattr(execution, "_train", None)  # nothing is trained again
    again = compared(tmp_path / "out")
    assert again.comparison.runs == found.comparison.runs
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"holds another run or comparison .*data\.factory"):
        lab.compare(
            {"plain": lambda rngs: Net(False, 4, rngs)},
            ((X[:30], Y[:30]), DATA[1]),
            steps=10,
            batch_size=8,
            directory=tmp_path / "out",
        )
    with pytest.raises(ConfigError, match=r"arms\.mine.*there.*here"):
        compared(tmp_path / "out", gated=False)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["gelu-jax", "report", str(tmp_path / "out")])
    main()
    assert "Smoke test" in capsys.readouterr().out


MODULE = """
import numpy as np, optax
from flax import linen as nn

class Net(nn.Module):
    width: int
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.1, deterministic=not train)(nn.gelu(nn.Dense(self.width)(x)))
        return nn.Dense(3)(x)

def data(batch_size):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(40, 6)).astype(np.float32)
    y = np.abs(x @ draw.normal(size=(6, 3))).argmax(-1)
    return [(x[i : i + batch_size], y[i : i + batch_size]) for i in (0, 8, 16)], (x[24:], y[24:])

def optimizer(learning_rate):
    return optax.chain(optax.clip(1.0), optax.adabelief(learning_rate))
"""

RUN = """
data: {kind: python, factory: "my_parts:data", unit: nats per example}
model: {kind: python, factory: "my_parts:Net", arguments: {width: 8}, width: width}
optimizer: {kind: python, factory: "my_parts:optimizer", learning_rate: 1e-2}
steps: 6
batch_size: 8
eval_every: 3
"""
ARMS = """
arms:
  narrow: {}
  wide: {model.arguments.width: 24}
seeds: 1
protocol: smoke test
"""


def test_a_config_names_parts_that_stand_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.path", [*sys.path])
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_parts.py").write_text(MODULE)
    (folder / "own.yaml").write_text("run:" + textwrap.indent(RUN, "  ") + ARMS)
    (folder / "alone.yaml").write_text(RUN)
    monkeypatch.setattr("sys.argv", ["gelu-jax", "compare", "mine/own.yaml"])
    main()
    assert "Smoke test" in capsys.readouterr().out
    identity = (tmp_path / "runs/own/identity.json").read_text()
    assert '"modules my_parts"' in identity
    monkeypatch.setattr("sys.argv", ["gelu-jax", "train", "mine/alone.yaml"])
    main()
    assert "nats per example" in capsys.readouterr().out
