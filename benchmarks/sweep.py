"""How fast a sweep is: against a process for every run, and against torch.

    python benchmarks/sweep.py --torch ~/torch/bin/python
    python benchmarks/sweep.py --torch ~/torch/bin/python --quick

The first part trains `configs/compare_activations.yaml` at one learning rate, 3 arms × 8 seeds, as
one `gelu-jax compare` in one process and by a local worker for each core, and runs of it each in a
process of its own, which only imports, reads the data, compiles, trains and evaluates: it writes no
checkpoint and no report. Such processes are timed before and after the sweeps, as many of each arm;
their mean times 24 is the sum. All must end at the very same losses.

The second part is the tokens per second of `configs/byte_lm.yaml` beside nanoGPT's model in torch
(`sweep_torch.py`) of the same shape, batch and data, eager and compiled, each training a chunk of
steps in turn; medians of the chunks, and of the rounds' ratios.

Writes benchmarks/results/sweep.json and .md; --quick writes nothing.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import jax
import numpy as np
import tyro

from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import prepare
from gelu_jax.compare.matching import parameters
from gelu_jax.compare.records import read_results
from gelu_jax.runs.environment import environment
from gelu_jax.training.config import read_config, write_config
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import Keys, TrainConfig, Trainer

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
RATE = 6e-3
ALONE = """
import sys
from gelu_jax.training.config import read_config
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import TrainConfig, Trainer
config = read_config(sys.argv[1], TrainConfig)
trainer = Trainer(config, load_data(config.data, config.batch_size))
*_, (state, point) = trainer.fit(config.seed, config.optimizer.learning_rate)
print(point.validation_loss)
"""


class Size(NamedTuple):
    """How much is measured: seeds and steps of the sweep, runs of each arm that are timed alone
    (on either side of the sweep), rounds and steps of a chunk beside torch."""

    seeds: int
    steps: int
    alone: int
    rounds: int
    chunk: int


FULL, QUICK = Size(8, 300, 2, 7, 50), Size(2, 50, 1, 2, 10)


# --- A sweep against a process for every run --------------------------------------------------

SWEEPS = {"one process": [], "a worker for each core": ["--launcher", "local"]}


def seconds(*command):
    """Wall time of a process, and what it prints."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=HERE.parent, stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    return time.perf_counter() - start, done.stdout


def sweep(size, folder):
    """Seconds of each kind of sweep, and of each of its runs that was timed alone."""
    path = CONFIGS / "compare_activations.yaml"
    overrides = [f"learning_rates=[{RATE}]", f"seeds={size.seeds}", f"run.steps={size.steps}"]
    config = read_config(path, CompareConfig, overrides)
    files = {}
    for arm, trainer in prepare(config).items():
        optimizer = replace(trainer.config.optimizer, learning_rate=RATE)
        for seed in range(2 * size.alone):
            files[arm, seed] = folder / f"{arm}-{seed}.yaml"
            write_config(replace(trainer.config, seed=seed, optimizer=optimizer), files[arm, seed])
    before = [key for key in files if key[1] < size.alone]
    alone = {key: seconds("-c", ALONE, files[key]) for key in before}
    together = {}
    for how, flags in SWEEPS.items():
        command = ["-m", "gelu_jax", "compare", path, *overrides, *flags]
        together[how], _ = seconds(*command, "--output", folder / how)
    alone |= {key: seconds("-c", ALONE, files[key]) for key in files.keys() - before}
    for run in [run for how in SWEEPS for run in read_results(folder / how).runs]:
        if (run.arm, run.seed) in alone:
            assert float(alone[run.arm, run.seed][1]) == run.final_loss, run
    by_arm = {arm: [t for (a, _), (t, _) in alone.items() if a == arm] for arm in config.arms}
    total = size.seeds * sum(map(mean, by_arm.values()))
    return {
        "runs": size.seeds * len(config.arms),
        "sweep_seconds": together,
        "alone_seconds": by_arm,
        "alone_seconds_in_all": total,
        "ratio": {how: taken / total for how, taken in together.items()},
    }


# --- The default language model against torch -------------------------------------------------


class Torch:
    """The process of `sweep_torch.py`."""

    def __init__(self, python, config, data, folder):
        model, block = config.model, config.model.block
        shape = {
            "layers": model.num_layers,
            "heads": block.attention.num_heads,
            "d_model": block.d_model,
            "d_ff": 4 * block.d_model,
            "context": config.data.context,
            "vocab": model.vocab_size,
            "batch": config.batch_size,
            "learning_rate": config.optimizer.learning_rate,
        }
        tokens = folder / "tokens"
        tokens.write_bytes(np.asarray(data.train).tobytes())
        self.process = subprocess.Popen(
            [python, HERE / "sweep_torch.py", json.dumps(shape), tokens],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def train(self, kind, steps):
        print(kind, steps, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Ours:
    """The compiled chunk of the config, as `fit` runs it."""

    def __init__(self, config, data):
        self.trainer, self.keys = Trainer(config, data), Keys.of(0)
        self.state = self.trainer.programs.init(self.keys)
        self.rate = jax.numpy.float32(config.optimizer.learning_rate)

    def train(self):
        start = time.perf_counter()
        chunk = self.trainer.programs.chunk
        self.state, losses = chunk(self.state, self.trainer.data, self.keys, self.rate)
        loss = float(losses[-1])
        return {"seconds": time.perf_counter() - start, "loss": loss}


def beside_torch(size, python, folder):
    """Tokens per second of ours, torch eager and torch compiled, and the ratios of ours to them."""
    config = read_config(CONFIGS / "byte_lm.yaml", TrainConfig)
    config = replace(config, steps=size.chunk * 100, eval_every=size.chunk)
    data = load_data(config.data, config.batch_size)
    ours, torch = Ours(config, data), Torch(python, config, data, folder)
    rounds = []
    for _ in range(size.rounds + 1):
        answers = {kind: torch.train(kind, size.chunk) for kind in ("eager", "compiled")}
        rounds.append({"ours": ours.train(), **answers})
    torch.close()
    times = {name: [r[name]["seconds"] for r in rounds[1:]] for name in rounds[0]}  # first: warm-up
    tokens = size.chunk * data.tokens_per_step
    last = rounds[-1]
    return {
        "parameters": {"ours": parameters(config), "torch": last["eager"]["parameters"]},
        "torch": last["eager"]["torch"],
        "loss_at_the_end": {name: answer["loss"] for name, answer in last.items()},
        "tokens_per_second": {name: tokens / median(t) for name, t in times.items()},
        "times_faster": {
            name: median(t / o for t, o in zip(times[name], times["ours"], strict=True))
            for name in ("eager", "compiled")
        },
    }


def table(found):
    rows, where = ["| what | measured |", "|---|---|"], found["environment"]
    if swept := found["sweep"]:
        rows += [
            f"| {swept['runs']} runs, a process each | {swept['alone_seconds_in_all']:.0f} s |",
            *(
                f"| one sweep, {how} | {taken:.0f} s, {swept['ratio'][how]:.2f} of that |"
                for how, taken in swept["sweep_seconds"].items()
            ),
        ]
    if beside := found["beside_torch"]:
        speeds = beside["tokens_per_second"]
        rows += [f"| tokens per second, {name} | {speed:,.0f} |" for name, speed in speeds.items()]
        rows += [
            f"| ours to torch {name} | {ratio:.2f} × |"
            for name, ratio in beside["times_faster"].items()
        ]
    return "\n".join(rows) + (
        f"\n\n{where['device']}; Python {where['python']}, jax {where['jax']}; commit "
        f"{where['commit']}; {where['date']}. `python benchmarks/sweep.py` repeats it.\n"
    )


def main(torch: Path | None = None, quick: bool = False):
    """Measures both parts; the second one where there is a torch.

    Args:
        torch: a Python that has torch.
        quick: small numbers, to see that it works; writes nothing.
    """
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "size": size._asdict(),
            "beside_torch": beside_torch(size, torch, Path(folder)) if torch else None,
            "sweep": sweep(size, Path(folder)),
            "environment": environment(),
        }
    if not quick:
        (HERE / "results" / "sweep.json").write_text(json.dumps(found, indent=2) + "\n")
        (HERE / "results" / "sweep.md").write_text(table(found))
    print(json.dumps(found, indent=2), table(found), sep="\n")


if __name__ == "__main__":
    tyro.cli(main)
