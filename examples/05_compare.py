"""Compare arms from Python: an activation of your own against ReLU and SwiGLU.

python examples/05_compare.py [steps] [seeds]
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from gelu_jax.compare.analysis import analyze
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import compare
from gelu_jax.report.verdict import verdict
from gelu_jax.report.write import write_report
from gelu_jax.training.config import read_config
from gelu_jax.training.trainer import TrainConfig

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 2

configs = Path(__file__).parent.parent / "configs"
run = replace(read_config(configs / "digits_mlp.yaml", TrainConfig), steps=steps, eval_every=10)

config = CompareConfig(
    run=run,
    arms={
        "relu": {"model.variant": "relu"},
        "swiglu": {"model.variant": "swiglu"},
        "sine": {"model.variant": ["jax.numpy:sin"]},  # any function, as module:function
    },
    description="The plain MLP on scikit-learn's digits.",
    seeds=seeds,
    protocol="smoke test",  # too few seeds for a conclusion, and the verdict says so
)

directory = Path(tempfile.mkdtemp()) / "digits"
comparison = compare(config, directory)
for arm in comparison.arms:
    losses = [run.final_loss for run in comparison.runs_of(arm.name)]
    print(f"{arm.name:8s}{arm.parameters:8d} parameters, d_ff {arm.d_ff}, losses {losses}")
print(verdict(analyze(comparison)))
print(*write_report(comparison, directory), sep="\n")
