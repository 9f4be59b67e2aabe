"""Data that stay on disk: what reading them ahead costs a step, and how fast the host reads.

    python benchmarks/data.py

Writes benchmarks/results/data.json and .md. The run is that of byte_lm.yaml, its bytes once on the
device and once in a file of 16-bit tokens. In turn: the loop on resident data; the loop on the
file, read ahead as in a run that began long ago; the same program given the batches of one chunk
again and again, so that nothing is read; and the resident run as one program that never returns to
the host. Medians of the ratios within each round. Files are in the page cache: a disk would add to
this.
"""

import json
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gelu_jax.runs.environment import environment
from gelu_jax.training.config import read_config
from gelu_jax.training.data import TokenData, load_data
from gelu_jax.training.data.stream import Tokens
from gelu_jax.training.trainer import Keys, TrainConfig, Trainer, step

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "byte_lm.yaml"
ROUNDS = 5
READ = ((32, 64), (32, 1024), (512, 1024))  # batch size, context


def seconds(f):
    start = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - start


def on_disk(resident, folder):
    """The same bytes as 16-bit tokens in a file."""
    path = Path(folder) / "train.bin"
    np.asarray(resident.train).astype("<u2").tofile(path)
    tokens = Tokens([np.memmap(path, "<u2", mode="r")], 256, str(path))
    return TokenData(resident.held_out, tokens, resident.batch_size, resident.info)


def step_times(config, resident, streamed):
    """Seconds per step in each round, by name."""
    keys, learning_rate = Keys.of(0), jnp.float32(config.optimizer.learning_rate)
    trainers = {"resident": Trainer(config, resident), "streamed": Trainer(config, streamed)}
    state = trainers["resident"].programs.init(keys)
    chunks = {name: trainer.programs.chunk for name, trainer in trainers.items()}
    steps = range(0, config.steps, config.eval_every)

    def loop(name, batches):
        s = state
        for _ in steps:
            s, losses = chunks[name](s, next(batches), keys, learning_rate)
            float(losses.mean())  # what the host waits for and logs
        return s

    abstract = trainers["streamed"].abstract_batches
    read_ahead = streamed.batches(keys.data, range(0, 10**9, config.eval_every), abstract)

    def body(s, _):
        return step(config, s, resident, keys, learning_rate)

    whole = jax.jit(lambda s: jax.lax.scan(body, s, length=config.steps))
    batches = next(read_ahead)
    ways = {
        "streamed": lambda: loop("streamed", read_ahead),
        "streamed, nothing read": lambda: loop("streamed", repeat(batches)),
        "resident": lambda: loop("resident", repeat(resident)),
        "resident, one program": lambda: whole(state),
    }
    for way in ways.values():
        jax.block_until_ready(way())
    rounds = [{name: seconds(way) for name, way in ways.items()} for _ in range(ROUNDS)]
    return {name: [r[name] / config.steps for r in rounds] for name in ways}


def reading_seconds(folder, batch_size, context, steps=64):
    """Seconds to read and place one batch, of a file of 2**26 tokens, by one thread."""
    path = Path(folder) / "large.bin"
    if not path.exists():
        np.random.default_rng(0).integers(0, 50_000, 2**26, np.uint16).tofile(path)
    tokens = Tokens([np.memmap(path, "<u2", mode="r")], 50_257, str(path))
    held_out = jnp.zeros((1, context + 1), jnp.uint16)
    data = TokenData(held_out, tokens, batch_size, None)
    chunks = range(0, steps, 4)
    read_ahead = data.batches(jax.random.key(0), chunks, data.abstract_batches(4))
    jax.block_until_ready(next(read_ahead).tokens)
    start = time.process_time()  # of all threads: they take turns
    for batches in read_ahead:
        jax.block_until_ready(batches.tokens)
    return (time.process_time() - start) / (steps - 4)


def share(times, with_host, without):
    """The median part of a step that the second way of doing it saves."""
    pairs = zip(times[with_host], times[without], strict=True)
    return statistics.median(1 - less / more for more, less in pairs)


def main():
    config = replace(read_config(CONFIG, TrainConfig), steps=75, eval_every=25)
    resident = load_data(config.data, config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        times = step_times(config, resident, on_disk(resident, folder))
        read = {f"{b} × {t}": reading_seconds(folder, b, t) for b, t in READ}
    result = {
        "config": CONFIG.name,
        "milliseconds_per_step": {k: 1e3 * statistics.median(v) for k, v in times.items()},
        "rounds": times,
        "host_share_streamed": share(times, "streamed", "streamed, nothing read"),
        "host_share_resident": share(times, "resident", "resident, one program"),
        "streamed_over_resident": statistics.median(
            a / b for a, b in zip(times["streamed"], times["resident"], strict=True)
        ),
        "cpu_seconds_to_read_a_batch": read,
        "environment": environment(),
    }
    results = HERE / "results"
    (results / "data.json").write_text(json.dumps(result, indent=2) + "\n")
    (results / "data.md").write_text(table(result))
    print(table(result))


def table(r):
    where, per_step = r["environment"], r["milliseconds_per_step"]
    rows = [f"| step of {r['config']}, {name} | {ms:.2f} ms |" for name, ms in per_step.items()]
    rows += [
        f"| of a step, reading from disk | {100 * r['host_share_streamed']:.1f} % |",
        f"| of a step, the loop on resident data | {100 * r['host_share_resident']:.1f} % |",
        f"| streamed step ÷ resident step | {r['streamed_over_resident']:.3f} |",
    ]
    rows += [
        f"| reading a batch of {name} tokens | {1e3 * s:.2f} ms of one core |"
        for name, s in r["cpu_seconds_to_read_a_batch"].items()
    ]
    return (
        "| what | measured |\n|---|---|\n" + "\n".join(rows) + "\n\n"
        f"{where['device']}; Python {where['python']}, jax {where['jax']}; "
        f"commit {where['commit']}; {where['date']}. `python benchmarks/data.py` repeats it.\n"
    )


if __name__ == "__main__":
    main()
