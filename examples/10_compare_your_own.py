"""Compare flax models of your own, on arrays of your own, in one call: also in a notebook.

python examples/10_compare_your_own.py [steps] [seeds]
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

from gelu_jax.lab import compare

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 2


class Recurrent(nnx.Module):
    """Reads an image row by row; nothing of it is a feed-forward block."""

    def __init__(self, cell: type[nnx.RNNCellBase], width: int, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(cell(8, width, rngs=rngs))
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(self.rnn(images)[:, -1])


def gru(width: int, rngs: nnx.Rngs) -> Recurrent:
    return Recurrent(nnx.GRUCell, width, rngs)


def lstm(width: int, rngs: nnx.Rngs) -> Recurrent:
    return Recurrent(nnx.OptimizedLSTMCell, width, rngs)


images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8) / 16).astype(np.float32)

result = compare(
    arms={"gru": gru, "lstm": lstm},
    data=((images[:1440], labels[:1440]), (images[1440:], labels[1440:])),
    steps=steps,
    batch_size=32,
    learning_rates=[3e-3],
    seeds=seeds,
    arguments={"width": 32},
    width="width",  # the argument that is matched, so that both have as many parameters
    protocol="smoke test",  # too few seeds for a conclusion
    directory=Path(tempfile.mkdtemp()) / "recurrent",
)
print(result)  # in a notebook the verdict and the curves show as the value of the cell
for arm in result.comparison.arms:
    print(f"{arm.name}: width {arm.d_ff}, {arm.parameters} parameters")
