"""Mixtures of experts beside a dense block of the same active FLOPs, ragged_dot and every expert.

    taskset -c 0 python benchmarks/moe.py benchmarks/results/moe [rounds]

CPU milliseconds of swiglu experts in float32, the smallest of the rounds (30 by default), in
turns: 4096 tokens in two rows, width 128, 352 hidden units in each of 8 or 64 experts, two experts
for a token, and random routing. "gradient" is forward and gradient by tokens, gates and weights.
"dense" is our feed-forward block of width 2·352. "kept" is the growth of the compiled gradient's
temporary memory from a scan of 2 layers to one of 4, per layer, in tensors of 352 entries for each
of a token's two experts; the layer's input and the weights are not counted.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ffn import machine

import gelu_jax as gj
from gelu_jax.nn.cost import measured_bytes_kept

TOKENS, D, F, K = 4096, 128, 352, 2
Apply = Callable[..., jax.Array]  # of x, gates and the kernels (gate, up, out)


def dense(x: jax.Array, gates: jax.Array, w: Any) -> jax.Array:
    del gates
    return gj.feed_forward(x, w[:2], w[2], variant="swiglu")


def ours(experts: jax.Array) -> Apply:
    def apply(x: jax.Array, gates: jax.Array, w: Any) -> jax.Array:
        return gj.mixture_of_experts(x, experts, gates, w[:2], w[2], variant="swiglu")

    return apply


def ragged_dot(experts: jax.Array, num_experts: int) -> Apply:
    """As jax.nn code: sorted, multiplied, gated, and added up by token."""

    def apply(x: jax.Array, gates: jax.Array, w: Any) -> jax.Array:
        flat = experts.ravel()
        order = jnp.argsort(flat)
        sizes = jnp.bincount(flat, length=num_experts)
        rows = x.reshape(-1, D)[order // K]
        gate, up = (jax.lax.ragged_dot(rows, kernel, sizes) for kernel in w[:2])
        y = jax.lax.ragged_dot(jax.nn.silu(gate) * up, w[2], sizes) * gates.ravel()[order, None]
        return jnp.zeros((TOKENS, D)).at[order // K].add(y).reshape(x.shape)

    return apply


def every_expert(experts: jax.Array, num_experts: int) -> Apply:
    """As flax users write it: all experts on all tokens, weighted by gates that are mostly 0."""

    def apply(x: jax.Array, gates: jax.Array, w: Any) -> jax.Array:
        share = (jax.nn.one_hot(experts, num_experts) * gates[..., None]).sum(-2)
        gate, up = (jnp.einsum("btd,edf->btef", x, kernel) for kernel in w[:2])
        return jnp.einsum("btef,efd,bte->btd", jax.nn.silu(gate) * up, w[2], share)

    return apply


def kernels(rng: np.random.Generator, *lead: int, f: int = F) -> list[jax.Array]:
    shapes = [(*lead, D, f), (*lead, D, f), (*lead, f, D)]
    return [jnp.asarray(rng.normal(size=s) * s[-2] ** -0.5, jnp.float32) for s in shapes]


def rows() -> dict[str, tuple[Apply, tuple[Any, ...]]]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, TOKENS // 2, D)), jnp.float32)
    gates = jnp.asarray(rng.random((2, TOKENS // 2, K)), jnp.float32)
    found: dict[str, Any] = {"dense": (dense, (x, gates, kernels(rng, f=K * F)))}
    for e in (8, 64):
        each = rng.permuted(np.tile(np.arange(e), (TOKENS, 1)), axis=1)[:, :K]
        experts = jnp.asarray(each.reshape(2, -1, K), jnp.int32)
        args = (x, gates, kernels(rng, e))
        found[f"ours, {e} experts"] = (ours(experts), args)
        if e == 8:
            found["ragged_dot, 8 experts"] = (ragged_dot(experts, e), args)
            found["every expert, 8 experts"] = (every_expert(experts, e), args)
    return found


def with_gradient(apply: Apply) -> Callable[..., Any]:
    return jax.grad(lambda *args: jnp.square(apply(*args)).sum(), (0, 1, 2))


def milliseconds(cases: dict[str, tuple[Apply, tuple[Any, ...]]], rounds: int) -> dict[str, float]:
    programs = {name: (jax.jit(apply), args) for name, (apply, args) in cases.items()}
    least = dict.fromkeys(programs, float("inf"))
    for i in range(rounds + 1):  # the first compiles
        for name, (program, args) in programs.items():
            start = time.process_time()
            jax.block_until_ready(program(*args))
            least[name] = min(least[name], time.process_time() - start) if i else least[name]
    return {name: 1e3 * seconds for name, seconds in least.items()}


def kept(apply: Apply, args: tuple[Any, ...]) -> float:
    x, gates, w = args
    size = measured_bytes_kept(lambda x, w, _: x + apply(x, gates, w), x, w, depths=(2, 4))
    return size / (TOKENS * K * F * 4)


def main(out: Path, rounds: int) -> None:
    cases = rows()
    gradients = {name: (with_gradient(apply), args) for name, (apply, args) in cases.items()}
    figures = {
        "forward": milliseconds(cases, rounds),
        "gradient": milliseconds(gradients, rounds),
        "kept": {name: kept(*case) for name, case in cases.items()},
    }
    lines = ["| | forward, ms | ÷ dense | gradient, ms | ÷ dense | kept |", "|---" * 6 + "|"]
    for name in cases:
        cells = [name]
        for what in ("forward", "gradient"):
            value = figures[what][name]
            cells += [f"{value:.1f}", f"{value / figures[what]['dense']:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{figures['kept'][name]:.2f}"]) + " |")
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    out.with_suffix(".md").write_text("\n".join([facts, "", *lines]) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"facts": machine(), **figures}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 30)
