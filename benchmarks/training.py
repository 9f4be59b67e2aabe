"""Training: time of a step, the host's share of it, and compile time against depth.

    python benchmarks/training.py

Writes benchmarks/results/training.json and .md. Step times are medians; the host's share compares,
in turn, fit with its evaluations left out (the loop as it is used) and one program of equal length
that never returns to the host.
"""

import json
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from gelu_jax.compare.matching import flops_per_step
from gelu_jax.runs.environment import environment
from gelu_jax.training.config import read_config
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import Keys, TrainConfig, Trainer, step

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "byte_lm.yaml"
DEPTHS = (2, 8, 32)
REPEATS = 5


def seconds(f):
    start = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - start


def step_times(config, data):
    """Seconds per step: through the loop's chunks, and in one program, in turn."""
    trainer = Trainer(config, data)
    keys, learning_rate = Keys.of(0), jnp.float32(config.optimizer.learning_rate)
    chunks = config.steps // config.eval_every

    def body(state, _):
        return step(config, state, data, keys, learning_rate)

    whole = jax.jit(lambda state: jax.lax.scan(body, state, length=config.steps))
    state = trainer.programs.init(keys)
    jax.block_until_ready(whole(state))

    def loop():
        s = state
        for _ in range(chunks):
            s, losses = trainer.programs.chunk(s, data, keys, learning_rate)
            float(losses.mean())  # what the host waits for and logs
        return s

    loop()
    pairs = [(seconds(loop), seconds(lambda: whole(state))) for _ in range(REPEATS)]
    looped, alone = (statistics.median(times) / config.steps for times in zip(*pairs, strict=True))
    share = statistics.median(1 - one / other for other, one in pairs)
    return looped, alone, share


def compile_seconds(config, data):
    """Seconds to trace and compile the chunk of training steps."""
    trainer = Trainer(config, data)
    arguments = trainer.abstract_state, data, Keys.of(0), jnp.zeros(())
    body = partial(_chunk, config)
    start = time.perf_counter()
    jax.jit(body).lower(*arguments).compile()
    return time.perf_counter() - start


def _chunk(config, state, data, keys, learning_rate):
    return jax.lax.scan(lambda s, _: step(config, s, data, keys, learning_rate), state, length=10)


def main():
    config = replace(read_config(CONFIG, TrainConfig), steps=100, eval_every=50)
    data = load_data(config.data, config.batch_size)
    looped, alone, share = step_times(config, data)
    deep = {n: replace(config, model=replace(config.model, num_layers=n)) for n in DEPTHS}
    compiled = {n: [] for n in DEPTHS}
    for _ in range(2):
        for n, c in deep.items():
            compiled[n].append(compile_seconds(c, data))
    compiled = {n: statistics.median(times) for n, times in compiled.items()}
    result = {
        "config": CONFIG.name,
        "milliseconds_per_step": 1e3 * looped,
        "milliseconds_per_step_in_one_program": 1e3 * alone,
        "host_share": share,
        "tokens_per_second": data.tokens_per_step / looped,
        "gflops_per_second": flops_per_step(config, data) / looped / 1e9,
        "compile_seconds_by_layers": compiled,
        "environment": environment(),
    }
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "training.json").write_text(json.dumps(result, indent=2) + "\n")
    (results / "training.md").write_text(table(result))
    print(table(result))


def table(r):
    compiled, where = r["compile_seconds_by_layers"], r["environment"]
    depths = ", ".join(f"{n} layers {s:.1f} s" for n, s in compiled.items())
    ratio = compiled[DEPTHS[-1]] / compiled[DEPTHS[0]]
    return (
        "| what | measured |\n|---|---|\n"
        f"| step of {r['config']} | {r['milliseconds_per_step']:.2f} ms |\n"
        f"| tokens per second | {r['tokens_per_second']:,.0f} |\n"
        f"| GFLOP/s | {r['gflops_per_second']:.0f} |\n"
        f"| host's share of a step | {100 * r['host_share']:.1f} % |\n"
        f"| compile time | {depths}; ratio {ratio:.2f} |\n\n"
        f"{where['device']}; Python {where['python']}, jax {where['jax']}, flax {where['flax']}; "
        f"commit {where['commit']}; {where['date']}. `python benchmarks/training.py` repeats it.\n"
    )


if __name__ == "__main__":
    main()
