"""How fast a sweep is, against a process for every run.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --quick

It trains `configs/compare_activations.yaml` at one learning rate, 3 arms × 8 seeds, as
one `gelu-jax compare` in one process and by a local worker for each core, and runs of it each in a
process of its own, which only imports, reads the data, compiles, trains and evaluates: it writes no
checkpoint and no report. Such processes are timed before and after the sweeps, as many of each arm;
their mean times 24 is the sum. All must end at the very same losses.

Writes benchmarks/results/sweep.json and .md; --quick writes nothing.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import tyro

from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import prepare
from gelu_jax.compare.records import read_results
from gelu_jax.runs.environment import environment
from gelu_jax.training.config import read_config, write_config

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
    (on either side of the sweep)."""

    seeds: int
    steps: int
    alone: int


FULL, QUICK = Size(8, 300, 2), Size(2, 50, 1)


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


def table(found):
    rows, where = ["| what | measured |", "|---|---|"], found["environment"]
    swept = found["sweep"]
    rows += [
        f"| {swept['runs']} runs, a process each | {swept['alone_seconds_in_all']:.0f} s |",
        *(
            f"| one sweep, {how} | {taken:.0f} s, {swept['ratio'][how]:.2f} of that |"
            for how, taken in swept["sweep_seconds"].items()
        ),
    ]
    return "\n".join(rows) + (
        f"\n\n{where['device']}; Python {where['python']}, jax {where['jax']}; commit "
        f"{where['commit']}; {where['date']}. `python benchmarks/sweep.py` repeats it.\n"
    )


def main(quick: bool = False):
    """Measures it.

    Args:
        quick: small numbers, to see that it works; writes nothing.
    """
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        swept = sweep(size, Path(folder))
    found = {"size": size._asdict(), "sweep": swept, "environment": environment()}
    if not quick:
        (HERE / "results" / "sweep.json").write_text(json.dumps(found, indent=2) + "\n")
        (HERE / "results" / "sweep.md").write_text(table(found))
    print(json.dumps(found, indent=2), table(found), sep="\n")


if __name__ == "__main__":
    tyro.cli(main)
