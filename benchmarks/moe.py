"""Mixtures of experts beside a dense block of the same active FLOPs, ragged_dot and every expert.

    taskset -c 0 python benchmarks/moe.py benchmarks/results/moe [rounds]

CPU milliseconds of swiglu experts in float32, the smallest of the rounds (30 by default), in
turns: 4096 tokens in two rows, width 128, 352 hidden units in each of 8 or 64 experts, two experts
for a token, and random routing. "gradient" is forward and gradient by tokens, gates and weights.
"dense" is our feed-forward block of width 2·352; "transformers" its loop over Mixtral's experts in
torch, eager, on one thread, where it is installed. "kept" is the growth of the compiled gradient's
temporary memory from a scan of 2 layers to one of 4, per layer, in tensors of 352 entries for each
of a token's two experts; the layer's input and the weights are not counted.
"""

import importlib.util
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
Run = Callable[[], object]
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


def rows() -> tuple[dict[str, tuple[Apply, tuple[Any, ...]]], tuple[Any, ...]]:
    """Programs with their arguments, and routing and arguments of 8 experts."""
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
            eight = experts, args
            found["ragged_dot, 8 experts"] = (ragged_dot(experts, e), args)
            found["every expert, 8 experts"] = (every_expert(experts, e), args)
    return found, eight


def with_gradient(apply: Apply) -> Callable[..., Any]:
    return jax.grad(lambda *args: jnp.square(apply(*args)).sum(), (0, 1, 2))


def compiled(cases: dict[str, tuple[Apply, tuple[Any, ...]]]) -> dict[str, Run]:
    def run(program: Callable[..., Any], args: tuple[Any, ...]) -> Run:
        return lambda: jax.block_until_ready(program(*args))

    return {name: run(jax.jit(apply), args) for name, (apply, args) in cases.items()}


def transformers_loop(experts: jax.Array, args: tuple[Any, ...]) -> tuple[Run, Run]:
    """Forward, and forward and gradient, of the same experts as transformers' Mixtral has them."""
    import torch
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    torch.set_num_threads(1)
    x, gates, (gate, up, out) = jax.tree.map(np.array, args)
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=len(gate))
    config._experts_implementation = "eager"
    block = MixtralExperts(config)
    fused = np.concatenate([gate, up], axis=-1).swapaxes(1, 2)
    block.gate_up_proj.data = torch.from_numpy(np.ascontiguousarray(fused))
    block.down_proj.data = torch.from_numpy(np.ascontiguousarray(out.swapaxes(1, 2)))
    tokens = torch.from_numpy(x.reshape(-1, D)).requires_grad_()
    weights = torch.from_numpy(gates.reshape(-1, K)).requires_grad_()
    index = torch.from_numpy(np.array(experts, np.int64).reshape(-1, K))
    ours = gj.mixture_of_experts(args[0], experts, args[1], args[2][:2], args[2][2])

    def forward() -> object:
        with torch.no_grad():
            return block(tokens, index, weights)

    def gradient() -> object:
        learned = (tokens, weights, *block.parameters())
        return torch.autograd.grad(block(tokens, index, weights).square().sum(), learned)

    np.testing.assert_allclose(forward().numpy(), ours.reshape(-1, D), atol=1e-4)
    return forward, gradient


def milliseconds(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    least = dict.fromkeys(runs, float("inf"))
    for i in range(rounds + 1):  # the first compiles
        for name, run in runs.items():
            start = time.process_time()
            run()
            least[name] = min(least[name], time.process_time() - start) if i else least[name]
    return {name: 1e3 * seconds for name, seconds in least.items()}


def kept(apply: Apply, args: tuple[Any, ...]) -> float:
    x, gates, w = args
    size = measured_bytes_kept(lambda x, w, _: x + apply(x, gates, w), x, w, depths=(2, 4))
    return size / (TOKENS * K * F * 4)


def main(out: Path, rounds: int) -> None:
    cases, eight = rows()
    gradients = {name: (with_gradient(apply), args) for name, (apply, args) in cases.items()}
    forward, gradient = compiled(cases), compiled(gradients)
    if importlib.util.find_spec("transformers"):
        loop = transformers_loop(*eight)
        forward["transformers, 8 experts"], gradient["transformers, 8 experts"] = loop
    figures = {
        "forward": milliseconds(forward, rounds),
        "gradient": milliseconds(gradient, rounds),
        "kept": {name: kept(*case) for name, case in cases.items()},
    }
    lines = ["| | forward, ms | ÷ dense | gradient, ms | ÷ dense | kept |", "|---" * 6 + "|"]
    for name in forward:
        cells = [name]
        for what in ("forward", "gradient"):
            value = figures[what][name]
            cells += [f"{value:.1f}", f"{value / figures[what]['dense']:.2f}"]
        cells.append(f"{figures['kept'][name]:.2f}" if name in cases else "")
        lines.append("| " + " | ".join(cells) + " |")
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    out.with_suffix(".md").write_text("\n".join([facts, "", *lines]) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"facts": machine(), **figures}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 30)
