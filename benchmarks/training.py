"""A whole training step: beside torch, beside flax's own layers, and over its matrix products.

    python benchmarks/training.py --torch ~/torch/bin/python
    python benchmarks/training.py --torch ~/torch/bin/python --quick

Two sizes: `configs/byte_lm.yaml`, and a decoder of 10 M parameters (d_model 320, 6 layers, context
256, batch 8). Each contender trains a chunk of steps in turn, round after round; the table gives
medians of the chunks, and of the rounds' ratios. torch is nanoGPT's model of the same shape
(`training_torch.py`), eager and compiled, flax is `training_nnx.py`, and the floor is the matrix
products of a step alone, of flattened tokens, forward and backward, attention's among them and
causal halves not left out.

For ours also: the share of each part in a profile (`training_profile.py`), the host's share of the
loop, and the time to compile against depth.

Writes benchmarks/results/training.json and .md; --quick writes nothing.
"""

import json
import subprocess
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import training_nnx
import training_profile
import tyro

from gelu_jax.compare.matching import flops_per_step, parameters
from gelu_jax.runs.environment import environment
from gelu_jax.training.config import read_config
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import Keys, TrainConfig, Trainer, step

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "byte_lm.yaml"
SIZES = {
    "byte_lm": (),
    "10 M parameters": (
        "model.d_model=320", "model.num_layers=6", "model.block.attention.num_heads=5",
        "model.block.feed_forward.d_ff=1024", "data.context=256", "batch_size=8",
    ),
}  # fmt: skip
CHUNKS = {"byte_lm": 50, "10 M parameters": 2}  # steps, about a second to five
DEPTHS = (2, 8, 32)
ROUNDS = 7


def shape_of(config):
    model, block = config.model, config.model.block
    return {
        "layers": model.num_layers,
        "heads": block.attention.num_heads,
        "d_model": block.d_model,
        "d_ff": 4 * block.d_model,
        "gated_d_ff": block.feed_forward.d_ff,
        "context": config.data.context,
        "vocab": model.vocab_size,
        "batch": config.batch_size,
        "learning_rate": config.optimizer.learning_rate,
    }


# --- Contenders: each trains so many steps, and says how long it took ---------------------------


class Ours:
    """The compiled chunk of the config, as `fit` runs it."""

    def __init__(self, config, data):
        self.trainer, self.keys = Trainer(config, data), Keys.of(0)
        self.state = self.trainer.programs.init(self.keys)
        self.rate = jnp.float32(config.optimizer.learning_rate)

    @property
    def arguments(self):
        return self.state, self.trainer.data, self.keys, self.rate

    def train(self, steps):
        assert steps == self.trainer.config.eval_every
        start = time.perf_counter()
        self.state, losses = self.trainer.programs.chunk(*self.arguments)
        return {"loss": float(losses[-1]), "seconds": time.perf_counter() - start}


class Torch:
    """The process of `training_torch.py`."""

    def __init__(self, python, shape, data, folder):
        tokens = folder / "tokens"
        tokens.write_bytes(np.asarray(data.train).tobytes())
        self.process = subprocess.Popen(
            [python, HERE / "training_torch.py", json.dumps(shape), tokens],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def train(self, kind, steps):
        print(kind, steps, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Floor:
    """The matrix products of a step, with nothing between them: x @ w, dy @ wᵀ and xᵀ @ dy."""

    def __init__(self, shape):
        b, t, d, f, v = (shape[k] for k in ("batch", "context", "d_model", "gated_d_ff", "vocab"))
        self.layers, heads = shape["layers"], shape["heads"]
        draw = partial(jax.random.normal, jax.random.key(0))

        def products_of(rows, columns):
            return draw((b * t, rows)), draw((rows, columns)), draw((b * t, columns))

        layer = [products_of(*of) for of in (*[(d, d)] * 4, *[(d, f)] * 2, (f, d))]
        core = draw((b, heads, t, d // heads)), draw((b, heads, t, t))
        self.inputs = (layer, core), products_of(d, v)
        self.program = jax.jit(self._steps, static_argnums=0)

    def _steps(self, steps, inputs):
        def repeated(products, times, inputs):
            """Each time one entry of every input depends on the products before: none can be left
            out or moved out of the loop, and no more is computed."""

            def body(carry, _):
                inputs, before = carry
                a = 1e-30 * jax.tree.leaves(before)[0].ravel()[0]
                inputs = jax.tree.map(lambda x: x.at[(0,) * x.ndim].add(a), inputs)
                return (inputs, products(inputs)), None

            nothing = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(products, inputs)
            )
            return jax.lax.scan(body, (inputs, nothing), length=times)[0]

        layer, head = inputs
        return repeated(_layer_products, steps * self.layers, layer), repeated(
            _three_products, steps, head
        )

    def train(self, steps):
        start = time.perf_counter()
        jax.block_until_ready(self.program(steps, self.inputs))
        return {"loss": 0.0, "seconds": time.perf_counter() - start}


def _three_products(inputs):
    x, w, dy = inputs
    return x @ w, dy @ w.T, x.T @ dy


def _layer_products(inputs):
    kernels, (q, p) = inputs
    scores = jnp.einsum("bhtk,bhsk->bhts", q, q), jnp.einsum("bhtk,bhsk->bhts", 2 * q, q)
    values = [jnp.einsum("bhts,bhsk->bhtk", p, scale * q) for scale in (1, 2)]
    cotangents = [jnp.einsum("bhts,bhtk->bhsk", p, scale * q) for scale in (1, 2)]
    return [*map(_three_products, kernels)], scores, values, cotangents


# --- What is measured ---------------------------------------------------------------------------


def beside_others(config, chunk, rounds, torch, folder):
    """Seconds a step of every contender, and how many times ours is faster."""
    config = replace(config, steps=chunk * 1000, eval_every=chunk)
    data, shape = load_data(config.data, config.batch_size), shape_of(config)
    ours, flax, floor = Ours(config, data), training_nnx.Loop(shape, data.train), Floor(shape)
    runs = {"ours": ours.train, "flax nnx": flax.train, "floor": floor.train}
    process = torch and Torch(torch, shape, data, folder)
    if process:
        runs |= {f"torch {kind}": partial(process.train, kind) for kind in ("eager", "compiled")}
    taken = []
    for _ in range(rounds + 1):  # the first one warms up
        taken.append({name: run(chunk) for name, run in runs.items()})
    if process:
        process.close()
    times = {name: [r[name]["seconds"] / chunk for r in taken[1:]] for name in runs}
    profile, _ = training_profile.shares(ours.trainer.programs.chunk, *ours.arguments)
    return {
        "parameters": parameters(config),
        "shape": shape,
        "milliseconds_per_step": {name: 1e3 * median(t) for name, t in times.items()},
        "times_faster": {
            name: median(t / o for t, o in zip(times[name], times["ours"], strict=True))
            for name in times
            if name != "ours"
        },
        "loss_at_the_end": {name: answer["loss"] for name, answer in taken[-1].items()},
        "gflops_per_second": flops_per_step(config, data) / median(times["ours"]) / 1e9,
        "tokens_per_second": data.tokens_per_step / median(times["ours"]),
        "profile": profile,
        **({"torch": taken[-1]["torch eager"]["torch"]} if process else {}),
    }


def host_share(config, rounds):
    """What the loop's chunks take beside one program of as many steps that never returns."""
    config = replace(config, steps=100, eval_every=50)
    data, keys = load_data(config.data, config.batch_size), Keys.of(0)
    trainer, rate = Trainer(config, data), jnp.float32(config.optimizer.learning_rate)

    def body(state, _):
        return step(config, state, data, keys, rate)

    whole = jax.jit(lambda state: jax.lax.scan(body, state, length=config.steps))
    state = trainer.programs.init(keys)

    def loop():
        s = state
        for _ in range(config.steps // config.eval_every):
            s, losses = trainer.programs.chunk(s, data, keys, rate)
            float(losses.mean())  # what the host waits for and logs
        return s

    seconds(loop), seconds(lambda: whole(state))
    pairs = [(seconds(loop), seconds(lambda: whole(state))) for _ in range(rounds)]
    return median(1 - other / one for one, other in pairs)


def seconds(f):
    start = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - start


def compile_seconds(config):
    """Seconds to trace and compile a chunk of steps, by layers: medians of two."""
    found = {depth: [] for depth in DEPTHS}
    for depth in DEPTHS * 2:
        deep = replace(config, model=replace(config.model, num_layers=depth), eval_every=10)
        trainer = Trainer(deep, load_data(deep.data, deep.batch_size))
        start = time.perf_counter()
        trainer.programs  # noqa: B018 - compiled when first needed
        found[depth].append(time.perf_counter() - start)
    return {depth: median(times) for depth, times in found.items()}


def table(found):
    sizes, where = found["sizes"], found["environment"]
    names = list(next(iter(sizes.values()))["milliseconds_per_step"])
    rows = [f"| a step, ms | {' | '.join(sizes)} |", "|---|" + "---|" * len(sizes)]
    for name in names:
        times = [
            f"{s['milliseconds_per_step'][name]:.1f}"
            + (f" ({s['times_faster'][name]:.2f} × ours)" if name != "ours" else "")
            for s in sizes.values()
        ]
        rows.append(f"| {name} | {' | '.join(times)} |")
    parts = dict.fromkeys(part for s in sizes.values() for part in s["profile"])
    rows += ["", f"| share of a step | {' | '.join(sizes)} |", "|---|" + "---|" * len(sizes)]
    for part in parts:
        cells = [f"{100 * s['profile'].get(part, 0):.0f} %" for s in sizes.values()]
        rows.append(f"| {part} | {' | '.join(cells)} |")
    depths = ", ".join(f"{n} layers {s:.1f} s" for n, s in found["compile_seconds"].items())
    return "\n".join(rows) + (
        f"\n\nThe host's share of byte_lm's loop: {100 * found['host_share']:.1f} %. Compiling a "
        f"run: {depths}.\n\n{where['device']}; Python {where['python']}, jax {where['jax']}, flax "
        f"{where['flax']}; commit {where['commit']}; {where['date']}. "
        "`python benchmarks/training.py` repeats it.\n"
    )


def main(torch: Path | None = None, quick: bool = False):
    """Measures all of it; torch where there is one.

    Args:
        torch: a Python that has torch.
        quick: few steps, to see that it works; writes nothing.
    """
    rounds = 1 if quick else ROUNDS
    configs = {name: read_config(CONFIG, TrainConfig, more) for name, more in SIZES.items()}
    with tempfile.TemporaryDirectory() as folder:
        sizes = {
            name: beside_others(config, 2 if quick else CHUNKS[name], rounds, torch, Path(folder))
            for name, config in configs.items()
        }
    found = {
        "sizes": sizes,
        "host_share": host_share(configs["byte_lm"], rounds),
        "compile_seconds": compile_seconds(configs["byte_lm"]),
        "environment": environment(),
    }
    if not quick:
        (HERE / "results" / "training.json").write_text(json.dumps(found, indent=2) + "\n")
        (HERE / "results" / "training.md").write_text(table(found))
    print(json.dumps(found, indent=2), table(found), sep="\n")


if __name__ == "__main__":
    tyro.cli(main)
