"""Weak scaling, counted: what each of 1, 2, 4 and 8 devices computes, holds and sends in a step.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/scaling.py

The batch grows with the devices, the model stays. All figures are of the compiled program of one
virtual CPU device, whose cores are shared: times would say nothing. Writes results/scaling.json
and results/scaling.md.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests/training")]

from mesh_checks import LARGER, sent  # noqa: E402

from gelu_jax.runs.environment import environment  # noqa: E402
from gelu_jax.training.chips import CHIPS  # noqa: E402
from gelu_jax.training.config import from_dict  # noqa: E402
from gelu_jax.training.data import load_data  # noqa: E402
from gelu_jax.training.memory_plan import plan_memory, total_memory  # noqa: E402
from gelu_jax.training.mesh import MeshConfig  # noqa: E402
from gelu_jax.training.trainer import TrainConfig, Trainer  # noqa: E402

ROWS_A_DEVICE = 8
AXES = ("data", "fsdp", "tensor")


def measure(axis: str, devices: int) -> dict[str, float]:
    """One step on so many devices along one axis."""
    mesh = MeshConfig(**{name: devices if name == axis else 1 for name in AXES})
    run = from_dict(LARGER, TrainConfig)
    run = replace(run, mesh=mesh, batch_size=ROWS_A_DEVICE * devices, eval_every=1)
    trainer = Trainer(run, load_data(run.data, run.batch_size))
    program = trainer.programs.chunk
    memory, made = program.memory_analysis(), plan_memory(run, CHIPS["h100"], devices)
    return {
        "flops": program.cost_analysis()["flops"],
        "state": memory.output_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "sent": sent(program.as_text()) if devices > 1 else 0.0,
        "planned": total_memory(made, "preactivation"),
    }


def table(rows: dict[str, dict[int, dict[str, float]]]) -> list[str]:
    lines = [
        "| axis | devices | FLOPs of one | to 1 device | state, MB | temporary, MB | sent, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for axis, by_devices in rows.items():
        alone = by_devices[1]["flops"]
        for devices, row in by_devices.items():
            lines.append(
                f"| {axis} | {devices} | {row['flops'] / 1e9:.3f} G | {row['flops'] / alone:.3f} | "
                f"{row['state'] / 1e6:.2f} | {row['temporary'] / 1e6:.1f} | "
                f"{row['sent'] / 1e6:.2f} |"
            )
    return lines


def main() -> None:
    alone = measure(AXES[0], 1)
    rows = {axis: {1: alone} | {n: measure(axis, n) for n in (2, 4, 8)} for axis in AXES}
    where = environment()
    text = [
        "# Weak scaling on virtual devices, counted in the compiled program",
        "",
        "`python benchmarks/scaling.py`: a transformer of 4 layers, d_model 128, d_ff 512",
        f"(swiglu), float32, {ROWS_A_DEVICE} rows of 128 tokens for each device, a step.",
        "XLA counts the body of a loop once, so that the FLOPs are those of one layer; ideal is",
        "1.000. Along `tensor` every device meets all rows with its share of the model.",
        "",
        *table(rows),
        "",
        "A CPU has no reduce-scatter: along `fsdp` its all-reduce sends the gradients twice.",
        "",
        f"jax {where['jax']}, {jax.device_count()} virtual devices, commit {where['commit']}.",
    ]
    (HERE / "results" / "scaling.md").write_text("\n".join(text) + "\n")
    result = {"environment": where, "rows": rows}
    (HERE / "results" / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
