"""Loading: peak memory and time of `families.load` on a synthetic LLaMA of about 1 GB.

    python benchmarks/loading.py

Writes benchmarks/results/loading.json and .md. Each case runs in a process of its own. The peak is
the most resident memory during the load (VmHWM, mapped pages of the files included) above what the
process held before it, as a multiple of the weights' size in the target dtype. Linux only.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from gelu_jax import families
from gelu_jax.families.tree import leaves_of
from gelu_jax.families.weight_map import tensor_parts, whole_shape
from gelu_jax.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
CONFIG = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 1536,
    "intermediate_size": 4096,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
# name: (stored dtype, files, layers, dtype asked for, devices that the weights are split over)
CASES = {
    "f32": ("float32", 1, 7, None, 1),
    "f32 in 4 files": ("float32", 4, 7, None, 1),
    "bf16": ("bfloat16", 1, 18, None, 1),
    "bf16 to f32": ("bfloat16", 1, 7, "float32", 1),
    "f32 to bf16": ("float32", 1, 18, "bfloat16", 1),
    "f32 over 4 devices": ("float32", 1, 7, None, 4),
}


def write(folder, dtype, files, layers):
    """A model whose weights are random, layer by layer."""
    config = CONFIG | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    ours = families.config(config)
    llama = families.FAMILIES["llama"]
    model = nnx.eval_shape(lambda: llama.model(ours, rngs=nnx.Rngs(0)))
    shapes = {path: leaf.shape for path, leaf in leaves_of(model)[0]}
    parts = tensor_parts(llama.weight_map(ours), shapes)
    names = sorted(parts)
    weight_map = {}
    for number in range(files):
        part = names[number::files]
        file = "model.safetensors" if files == 1 else f"part-{number}.safetensors"
        tensors = {n: rng.random(whole_shape(parts[n]), np.float32).astype(dtype) for n in part}
        save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if files > 1:
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))


def status(field):
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(folder, dtype, devices):
    """Loads, and prints the weights' bytes, the peak's, and the seconds."""
    families.load(Path(__file__).parent.parent / "tests" / "golden" / "families" / "llama")
    mesh = jax.make_mesh((devices,), ("x",))

    def split(path, shape):
        spec = [None] * (len(shape) - 1) + ["x" if shape[-1] % devices == 0 else None]
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    start = time.perf_counter()
    model = families.load(folder, dtype=dtype, sharding=None if devices == 1 else split)
    jax.block_until_ready(jax.tree.leaves(model))
    seconds = time.perf_counter() - start
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    print(json.dumps({"bytes": size, "peak": status("VmHWM") - before, "seconds": seconds}))


def run(folder, dtype, devices):
    """`measure` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder), str(dtype), str(devices)],
        env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    rows = {}
    for name, (stored, files, layers, dtype, devices) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            kind = ml_dtypes.bfloat16 if stored == "bfloat16" else np.dtype(stored)
            write(Path(folder), kind, files, layers)
            rows[name] = run(folder, dtype, devices)
        rows[name]["ratio"] = rows[name]["peak"] / rows[name]["bytes"]
        print(f"{name:20} {rows[name]['ratio']:.3f} × {rows[name]['bytes'] / 1e9:.2f} GB")
    RESULTS.mkdir(exist_ok=True)
    record = {"environment": environment(), "cases": rows}
    (RESULTS / "loading.json").write_text(json.dumps(record, indent=2) + "\n")
    table = "\n".join(
        f"| {name} | {row['bytes'] / 1e9:.2f} | {row['ratio']:.2f} | {row['seconds']:.1f} |"
        for name, row in rows.items()
    )
    head = "| stored → loaded | weights, GB | peak / weights | seconds |\n|---|---|---|---|\n"
    (RESULTS / "loading.md").write_text(head + table + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        folder, dtype, devices = sys.argv[1:]
        measure(folder, None if dtype == "None" else jnp.dtype(dtype), int(devices))
    else:
        main()
