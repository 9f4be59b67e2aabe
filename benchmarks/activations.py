"""Times every activation and its gradient beside `jax.nn`, and torch where it is installed.

    python benchmarks/activations.py --out benchmarks/results/activations.json

The implementations take turns in one run, on four million elements, and the ratio is the median
over the turns, so that other load on the machine affects all of them alike. On a shared machine,
`--cpu-time` measures the processor time of the process instead of the wall clock.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import Array

from gelu_jax.activations import ACTIVATIONS
from gelu_jax.numerics.peers import JAX_NN, to_torch, torch_functions

SIZE, REPEATS = 1 << 22, 15
DTYPES = ("float32", "bfloat16", "float16")
LIMITS = {"float32": 1.25, "bfloat16": 1.0, "float16": 1.0}
Run = Callable[[], object]


def forward(f: Callable[[Array], Array], x: Array) -> Run:
    compiled = jax.jit(f).lower(x).compile()
    return lambda: compiled(x).block_until_ready()


def gradient(f: Callable[[Array], Array], x: Array) -> Run:
    compiled = jax.jit(lambda x, dy: jax.vjp(f, x)[1](dy)[0]).lower(x, x).compile()
    return lambda: compiled(x, x).block_until_ready()


def paired(runs: dict[str, Run], clock: Callable[[], float]) -> dict[str, np.ndarray]:
    """Milliseconds of every repetition, where the runs take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 2):
        for name, run in runs.items():
            start = clock()
            run()
            if repeat >= 2:
                times[name].append((clock() - start) * 1e3)
    return {name: np.asarray(t) for name, t in times.items()}


def torch_runs(name: str, x: Array, backward: bool) -> dict[str, Run]:
    """What torch offers, where it is installed."""
    if name not in (functions := torch_functions()):
        return {}
    import torch

    t = to_torch(np.array(x))
    if not backward:
        return {"torch": lambda: functions[name](t)}
    dy = t.clone()
    t.requires_grad_(True)

    def run() -> object:
        return torch.autograd.grad(functions[name](t), t, dy)

    return {"torch": run}


def measure(name: str, dtype: str, clock: Callable[[], float]) -> list[dict[str, object]]:
    """Times one activation in one dtype, forward and gradient."""
    x = (3 * jax.random.normal(jax.random.key(0), (SIZE,))).astype(dtype)
    rows: list[dict[str, object]] = []
    for what, make in (("forward", forward), ("gradient", gradient)):
        runs = {"gelu_jax": make(ACTIVATIONS[name], x), "jax.nn": make(JAX_NN[name], x)}
        times = paired(runs | torch_runs(name, x, what == "gradient"), clock)
        ratio = float(np.median(times["gelu_jax"] / times["jax.nn"]))
        rows.append(
            {
                "function": name,
                "dtype": dtype,
                "what": what,
                **{f"{who} ms": round(float(np.median(t)), 3) for who, t in times.items()},
                "ratio": round(ratio, 3),
                "limit": LIMITS[dtype],
            }
        )
        print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("functions", nargs="*", default=list(JAX_NN))
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rows = [row for f in arguments.functions for d in DTYPES for row in measure(f, d, clock)]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    result = {
        "elements": SIZE,
        "repeats": REPEATS,
        "clock": "processor time" if arguments.cpu_time else "wall clock",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "commit": commit.stdout.strip(),
        "rows": rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
