"""Training on an accelerator: the memory of a step, the share of the chip's peak, a sweep at once.

    python benchmarks/accelerator.py memory
    python benchmarks/accelerator.py training
    python benchmarks/accelerator.py sweep

Each is meant to take minutes; no accelerator has run them yet. What else is measured on one:
`gelu-jax numerics`, and for each of its shapes
`python benchmarks/ffn.py --shapes accelerator_4096 --only bfloat16 --out …/ffn_h100_4096`.

memory is what the compiled training step of a 24-layer decoder needs at once, state, gradients and
temporaries, for each choice of residuals and for the same model in `jax.nn` code: of 8,192 tokens,
d_model 2048, bfloat16. training is `configs/gpt2_small.yaml` and `llama_small.yaml`: steps a second
and the matrix products' FLOP/s over the chip's published peak. sweep is a step of
`configs/compare_activations.yaml`, 3 arms × 8 seeds with the seeds of an arm in one vmapped
program, over that of a single run.

Writes benchmarks/results/accelerator_<what>_<device>.json; --smoke takes tiny models and writes
nothing.
"""

import json
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import prepare
from gelu_jax.compare.matching import flops_per_step, parameters
from gelu_jax.runs.environment import environment
from gelu_jax.training.chips import CHIPS
from gelu_jax.training.config import from_dict, read_config
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import Keys, TrainConfig, Trainer, init, step

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
CHOICES = {
    "preactivation": {},
    "preactivation, float8": {"residual_dtype": "float8_e4m3fn"},
    "input": {"residuals": "input"},
    "all": {"residuals": "all"},
    "jax.nn code": {"residuals": "all", "variant": ["jax.nn:silu", "identity"]},
}
SEEDS = 8
ROUNDS = 5
SMALL = (
    "model.num_layers=2", "model.d_model=32", "model.vocab_size=256", "batch_size=2",
    "model.block.attention.num_heads=2", "model.block.feed_forward.d_ff=64", "data.context=32",
)  # fmt: skip


def chunk(config, steps, state, data, keys, learning_rate):
    """So many steps of training."""
    return jax.lax.scan(
        lambda s, _: step(config, s, data, keys, learning_rate), state, length=steps
    )


def seconds(f, *arguments):
    """The median time of a compiled program, after a run that does not count."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        jax.block_until_ready(f(*arguments))
        times.append(time.perf_counter() - start)
    return median(times[1:])


# --- Memory ---------------------------------------------------------------------------------------


def decoder(choice, smoke):
    layers, d_model, d_ff, context = (2, 64, 176, 32) if smoke else (24, 2048, 5632, 1024)
    feed_forward = {"variant": "swiglu", "d_ff": d_ff} | CHOICES[choice]
    block = {
        "norm": {"kind": "rms"},
        "attention": {"num_heads": d_model // 32 if smoke else d_model // 128, "rotary": {}},
        "feed_forward": feed_forward,
    }
    config = {
        "data": {"kind": "stdlib", "context": context, "validation_windows": 8},
        "model": {
            "kind": "transformer",
            "vocab_size": 256,
            "num_layers": layers,
            "d_model": d_model,
            "dtype": "bfloat16",
            "block": block,
        },
        "steps": 1,
        "eval_every": 1,
        "batch_size": 8,
    }
    return from_dict(config, TrainConfig)


def memory(smoke):
    """Bytes that the compiled step takes, its state given up to the next."""
    found = {}
    for choice in CHOICES:
        config = decoder(choice, smoke)
        trainer = Trainer(config, load_data(config.data, config.batch_size))
        arguments = (
            trainer.abstract_state,
            trainer.data.abstract_batches(1),
            Keys.of(0),
            jnp.zeros(()),
        )
        program = jax.jit(partial(step, config), donate_argnums=0).lower(*arguments).compile()
        needed = program.memory_analysis()
        held = needed.argument_size_in_bytes + needed.output_size_in_bytes
        held -= needed.alias_size_in_bytes
        found[choice] = {"held": held, "temporary": needed.temp_size_in_bytes}
        print(f"{choice:24}{(held + needed.temp_size_in_bytes) / 1e9:8.2f} GB", flush=True)
    return {"parameters": parameters(config), "bytes": found}


# --- Training -------------------------------------------------------------------------------------


def peak():
    """Published FLOP/s of the device at hand, or None."""
    kind = jax.devices()[0].device_kind.lower()
    return next((chip.flops for name, chip in CHIPS.items() if name in kind), None)


def training(smoke):
    """Steps a second, and the share of the chip's peak."""
    found = {}
    for name in ("gpt2_small", "llama_small"):
        config = read_config(CONFIGS / f"{name}.yaml", TrainConfig, SMALL if smoke else ())
        data, steps = load_data(config.data, config.batch_size), 2 if smoke else 20
        trainer = Trainer(config, data)
        keys, learning_rate = Keys.of(0), jnp.float32(config.optimizer.learning_rate)
        state = trainer.programs.init(keys)
        program = jax.jit(partial(chunk, config, steps))
        taken = seconds(program, state, data, keys, learning_rate) / steps
        rate_of_work = flops_per_step(config, data) / taken
        found[name] = {
            "parameters": parameters(config),
            "steps_per_second": 1 / taken,
            "tokens_per_second": data.tokens_per_step / taken,
            "flops_per_second": rate_of_work,
            "share_of_peak": rate_of_work / peak() if peak() else None,
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


# --- A sweep --------------------------------------------------------------------------------------


def sweep(smoke):
    """Seconds for a step of one run, and of all seeds of an arm in one program."""
    steps, found = 2 if smoke else 50, {}
    config = read_config(CONFIGS / "compare_activations.yaml", CompareConfig)
    keys = jax.tree.map(lambda *seeds: jnp.stack(seeds), *map(Keys.of, range(SEEDS)))
    learning_rate = jnp.float32(6e-3)
    for arm, trainer in prepare(config).items():
        states = jax.jit(jax.vmap(partial(init, trainer.config)))(keys)
        one_state, one_key = jax.tree.map(lambda leaf: leaf[0], (states, keys))
        alone = partial(chunk, trainer.config, steps)
        all_seeds = jax.vmap(alone, in_axes=(0, None, 0, None))
        found[arm] = {
            "one_run": seconds(jax.jit(alone), one_state, trainer.data, one_key, learning_rate)
            / steps,
            "all_seeds": seconds(jax.jit(all_seeds), states, trainer.data, keys, learning_rate)
            / steps,
        }
        print(arm, json.dumps(found[arm]), flush=True)
    sums = {name: sum(times[name] for times in found.values()) for name in found[arm]}
    ratio = sums["all_seeds"] / (sums["one_run"] / len(found))
    return {"seeds": SEEDS, "seconds_per_step": found, "sweep_over_one_run": ratio}


# --------------------------------------------------------------------------------------------------

WHAT = {"memory": memory, "training": training, "sweep": sweep}


def main(what: Literal["memory", "training", "sweep"], /, smoke: bool = False):
    """Measures one of them on the device at hand.

    Args:
        smoke: tiny models, to see that it works; writes nothing.
    """
    found = WHAT[what](smoke) | {"environment": environment()}
    print(json.dumps(found, indent=2))
    if not smoke:
        device = jax.devices()[0].device_kind.lower().replace(" ", "_")
        path = HERE / "results" / f"accelerator_{what}_{device}.json"
        path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
