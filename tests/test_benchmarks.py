"""Scripts that wait for an accelerator, by tiny models on the CPU: slow, half a minute each."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = [pytest.mark.slow, pytest.mark.optimized]


def measured(what: str) -> dict[str, Any]:
    script = runpy.run_path(str(BENCHMARKS / "accelerator.py"))
    return script["WHAT"][what](smoke=True)


def test_memory():
    found = measured("memory")["bytes"]
    assert len({choice["held"] for choice in found.values()}) == 1
    needed = {name: choice["temporary"] for name, choice in found.items()}
    assert needed["input"] < needed["preactivation"] < needed["all"] < needed["jax.nn code"]
    assert needed["preactivation, float8"] < needed["preactivation"]


def test_training():
    found = measured("training")
    assert set(found) == {"gpt2_small", "llama_small"}
    for figures in found.values():
        tokens = figures["tokens_per_second"] / figures["steps_per_second"]
        assert tokens == pytest.approx(2 * 32)
    figures = found["llama_small"]  # has no weights but in matmuls, and the embedding
    work = figures["flops_per_second"] / figures["tokens_per_second"]
    assert 5 <= work / figures["parameters"] <= 8


def test_a_sweep_at_once():
    found = measured("sweep")
    assert list(found["seconds_per_step"]) == ["relu", "gelu", "swiglu"]
    assert found["sweep_over_one_run"] > 0


def test_all_that_wants_a_gpu(tmp_path: Path):
    """The one script, with tiny shapes: every part ends well and leaves its results."""
    variables = os.environ | {"SMOKE": "1", "PYTHON": sys.executable}
    script = BENCHMARKS / "on_gpu.sh"
    subprocess.run([script, tmp_path / "out"], env=variables, check=True)
    parts = (tmp_path / "out/summary.txt").read_text().splitlines()
    assert len(parts) == 5
    failed = [part for part in parts if "exit 0" not in part]
    assert not failed, [(tmp_path / f"out/{p.partition(':')[0]}.log").read_text() for p in failed]
    for name in ("ffn.json", "ffn.md", "attention.json", "attention.md"):
        assert (tmp_path / "out" / name).stat().st_size
