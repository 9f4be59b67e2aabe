"""What saving costs a run: waiting for each checkpoint, against saving it in the background.

    python benchmarks/checkpointing.py

Writes benchmarks/results/checkpointing.json and .md. Each size trains a few intervals without
saving, with `checkpoint.save` and with an `AsyncSaver`, in turn, several rounds; the time of an arm
counts until its last checkpoint stands. The cost is what an interval takes longer than without
saving in the same round: median, and range over the rounds. ``waits`` is how long the call of
`save` held up the training. On a CPU the background shares its cores with the training.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp

from gelu_jax.runs.environment import environment
from gelu_jax.training import checkpoint
from gelu_jax.training.config import from_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import Keys, TrainConfig, Trainer

RESULTS = Path(__file__).parent / "results"
ROUNDS, INTERVALS = 5, 3
# name: (layers, width, hidden units, batch, steps in an interval)
SIZES = {"2 layers of 128": (2, 128, 352, 4, 20), "8 layers of 256": (8, 256, 704, 2, 4)}


def trainer(layers, d_model, d_ff, batch_size, steps):
    block = {
        "norm": {"kind": "rms"},
        "attention": {"num_heads": 4, "rotary": {}},
        "feed_forward": {"variant": "swiglu", "d_ff": d_ff},
    }
    model = {"num_layers": layers, "d_model": d_model, "vocab_size": 256, "block": block}
    config = {
        "data": {"kind": "stdlib", "context": 128, "validation_windows": 8},
        "model": {"kind": "transformer"} | model,
        "steps": 1000 * steps,
        "batch_size": batch_size,
        "eval_every": steps,
    }
    config = from_dict(config, TrainConfig)
    return Trainer(config, load_data(config.data, config.batch_size))


class Waiting:
    """`checkpoint.save` with the look of an `AsyncSaver`."""

    def __init__(self, directory):
        self.directory = directory

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def save(self, step, tree):
        checkpoint.save(self.directory, step, tree)


class Never(Waiting):
    def save(self, step, tree):
        pass


def seconds(trainer, state, saver):
    """Of an interval, and of the call that saves, in the mean."""
    keys, learning_rate, called = Keys.of(0), jnp.asarray(1e-3, jnp.float32), 0.0
    folder = Path(tempfile.mkdtemp())
    start = time.perf_counter()
    with saver(folder) as saver:
        for _ in range(INTERVALS):
            state, _ = jax.block_until_ready(
                trainer.programs.chunk(state, trainer.data, keys, learning_rate)
            )
            before = time.perf_counter()
            saver.save(int(state.step), state)
            called += time.perf_counter() - before
    total = time.perf_counter() - start
    shutil.rmtree(folder)
    return total / INTERVALS, called / INTERVALS


def measure(name, sizes):
    subject = trainer(*sizes)
    state = subject.programs.init(Keys.of(0))
    arms = {"never": Never, "waiting": Waiting, "in the background": checkpoint.AsyncSaver}
    for arm in arms.values():
        seconds(subject, state, arm)
    rounds = [{k: seconds(subject, state, arm) for k, arm in arms.items()} for _ in range(ROUNDS)]
    megabytes = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
    row = {"size": name, "megabytes": megabytes, "steps": sizes[-1], "rounds": rounds}
    print(row, flush=True)
    return row


def cells(row, arm):
    costs = [(r[arm][0] - r["never"][0]) * 1e3 for r in row["rounds"]]
    waits = median(r[arm][1] for r in row["rounds"]) * 1e3
    step = median(costs) / row["steps"]
    return f"{median(costs):.0f} ({min(costs):.0f} to {max(costs):.0f}) | {step:.2f} | {waits:.0f}"


def report(rows, where):
    yield f"{where['device']}; jax {where['jax']}, commit {where['commit']}, {where['date']}\n"
    yield "| state | MB | steps, ms each | saving | ms for a checkpoint | for a step | waits, ms |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        step = median(r["never"][0] for r in row["rounds"]) / row["steps"] * 1e3
        for arm in ("waiting", "in the background"):
            about = f"{row['size']} | {row['megabytes']:.1f} | {row['steps']} × {step:.1f}"
            yield f"| {about} | {arm} | {cells(row, arm)} |"


def main():
    rows = [measure(size, sizes) for size, sizes in SIZES.items()]
    where = environment()
    result = {"environment": where, "rows": rows}
    (RESULTS / "checkpointing.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "checkpointing.md").write_text("\n".join(report(rows, where)) + "\n")


if __name__ == "__main__":
    main()
