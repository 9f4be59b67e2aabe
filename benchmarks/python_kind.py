"""What `kind: python` costs: steps of a module of a person's own, and of the built-in kind.

    python benchmarks/python_kind.py

Writes benchmarks/results/python_kind.json and .md. The module of the person is ours, made by a
factory, so both kinds compute the same and differ only in how the trainer holds and calls them. A
round is a chunk of steps of each, A B A B; the first loss of both is the same. The table has the
median over the rounds of the time of a step and of the ratio within a round, with its range.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp

from gelu_jax.nn.mlp import MLP
from gelu_jax.nn.transformer import Transformer
from gelu_jax.runs.environment import environment
from gelu_jax.training.config import from_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.python_model import PythonModel
from gelu_jax.training.trainer import Keys, TrainConfig, Trainer

RESULTS = Path(__file__).parent / "results"
ROUNDS = 20
LM = {
    "data": {"kind": "stdlib", "context": 64},
    "model": {
        "kind": "transformer",
        "vocab_size": 256,
        "num_layers": 2,
        "d_model": 64,
        "block": {
            "norm": {"kind": "rms"},
            "attention": {"num_heads": 4, "rotary": {}},
            "feed_forward": {"variant": "swiglu", "d_ff": 176},
        },
    },
    "batch_size": 32,
    "steps": 100_000,
    "eval_every": 20,
}
DIGITS = {
    "data": {"kind": "digits"},
    "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 8, "d_ff": 128},
    "batch_size": 64,
    "steps": 100_000,
    "eval_every": 200,
}


def decoder(rngs):
    """Our decoder, as a person's own factory would make it."""
    return Transformer(from_dict(LM, TrainConfig).model, rngs=rngs)


def classifier(rngs):
    """Our MLP, likewise."""
    return MLP(from_dict(DIGITS, TrainConfig).model, rngs=rngs)


SIZES = {
    "decoder, 2 layers of 64": (LM, decoder),
    "MLP, 8 layers of 128": (DIGITS, classifier),
}


class Kind:
    """One kind of model, trained a chunk at a time."""

    def __init__(self, config):
        self.trainer = Trainer(config, load_data(config.data, config.batch_size))
        self.state = self.trainer.programs.init(Keys.of(0))

    def chunk(self):
        """Trains a chunk; returns the seconds of a step and the first loss."""
        trainer, rate = self.trainer, jnp.asarray(1e-3, jnp.float32)
        start = time.perf_counter()
        self.state, losses = jax.block_until_ready(
            trainer.programs.chunk(self.state, trainer.data, Keys.of(0), rate)
        )
        return (time.perf_counter() - start) / len(losses), float(losses[0])


def measure(name, config, factory):
    built_in = from_dict(config, TrainConfig)
    ours, theirs = Kind(built_in), Kind(replace(built_in, model=PythonModel(factory=factory)))
    first = [kind.chunk()[1] for kind in (ours, theirs)]
    rounds = [(ours.chunk()[0], theirs.chunk()[0]) for _ in range(ROUNDS)]
    row = {"size": name, "first_losses": first, "rounds": rounds}
    print(name, first, median(b / a for a, b in rounds), flush=True)
    return row


def report(rows, where):
    yield f"{where['device']}; jax {where['jax']}, commit {where['commit']}, {where['date']}\n"
    yield "| model | built-in, ms a step | kind: python, ms a step | ratio |"
    yield "|---|---|---|---|"
    for row in rows:
        ours, theirs = (1e3 * median(times) for times in zip(*row["rounds"], strict=True))
        ratios = [b / a for a, b in row["rounds"]]
        ratio = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        yield f"| {row['size']} | {ours:.3f} | {theirs:.3f} | {ratio} |"


def main():
    rows = [measure(name, *size) for name, size in SIZES.items()]
    where = environment()
    result = {"environment": where, "rows": rows}
    (RESULTS / "python_kind.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "python_kind.md").write_text("\n".join(report(rows, where)) + "\n")


if __name__ == "__main__":
    main()
