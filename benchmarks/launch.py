"""What workers gain on one machine: a comparison in one process, and by a worker for each core.

    python benchmarks/launch.py

`configs/compare_activations.yaml` at one learning rate, 3 arms × 8 seeds of 100 steps, by
`gelu-jax compare` and by `gelu-jax compare --launcher local`: wall time of the whole command from
an empty folder, with imports, compilation, training and report. Every run must end at the very same
loss.

Each call adds one round, in an order that alternates, to benchmarks/results/launch.json, and writes
the medians to launch.md; what another commit measured is dropped.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from gelu_jax.compare.experiment import environment
from gelu_jax.compare.records import read_results

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "launch.json"
CONFIG = HERE.parent / "configs" / "compare_activations.yaml"
SIZE = {"learning_rates": "[6e-3]", "seeds": "8", "run.steps": "100"}
HOW = {
    "one process": [],
    "workers": ["--launcher", "local"],
}


def measured(how, folder):
    """Seconds of a comparison, and the final loss of each run."""
    home = folder / how.replace(" ", "_")
    size = [f"{key}={value}" for key, value in SIZE.items()]
    command = ["-m", "gelu_jax", "compare", CONFIG, *size, "--output", home, *HOW[how]]
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    runs = read_results(home).runs
    compiling = sum({(run.arm, run.compile_seconds): run.compile_seconds for run in runs}.values())
    training = sum(run.seconds[-1] for run in runs)
    losses = {f"{run.arm}-{run.seed}": run.final_loss for run in runs}
    return {"seconds": seconds, "training": training, "compiling": compiling}, losses


def table(found):
    rows = ["| 24 runs of 100 steps | wall time, median | training, summed | compiling, summed |"]
    rows += ["|---|---|---|---|"]
    for how in HOW:
        columns = [median(r[how][k] for r in found["rounds"]) for k in found["rounds"][0][how]]
        rows.append(f"| {how} | " + " | ".join(f"{value:.0f} s" for value in columns) + " |")
    ratios = [r["workers"]["seconds"] / r["one process"]["seconds"] for r in found["rounds"]]
    where = found["environment"]
    return "\n".join(rows) + (
        f"\n\nWorkers to one process: {median(ratios):.2f} (median of {len(ratios)} rounds; "
        f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}). Every run ended at the same loss.\n\n"
        f"{os.cpu_count()} workers; {where['device']}; Python {where['python']}, "
        f"jax {where['jax']}; commit {where['commit']}; {where['date']}. "
        "`python benchmarks/launch.py` adds a round.\n"
    )


def main():
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"environment": {}}
    here = environment()
    if found["environment"].get("commit") != here["commit"]:
        found = {"rounds": []}
    found["environment"] = here
    order = list(HOW)[:: 1 if len(found["rounds"]) % 2 == 0 else -1]
    with tempfile.TemporaryDirectory() as folder:
        done = {how: measured(how, Path(folder)) for how in order}
    assert done["workers"][1] == done["one process"][1]
    found["rounds"].append({how: done[how][0] for how in HOW})
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    RESULTS.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
