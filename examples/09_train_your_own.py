"""Train a model, an optimizer and a data pipeline of your own: Linen, optax and grain.

python examples/09_train_your_own.py [steps]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from gelu_jax.lab import train
from gelu_jax.training.optimizer import PythonOptimizer

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200


class Mixer(nn.Module):
    """Convolutions and batch normalisation; `train` is passed to every module that takes it."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(16, (2, 2), strides=2)(images)
        for _ in range(2):
            y = nn.Conv(16, (3, 3), feature_group_count=16)(x)
            y = nn.BatchNorm(use_running_average=not train)(nn.gelu(y))
            x = x + nn.Dropout(0.1, deterministic=not train)(nn.Dense(16)(y))
        return nn.Dense(10)(x.mean((1, 2)))


def data(batch_size: int) -> Any:
    """Pairs (training, validation); training is a grain dataset of batches, in any order."""
    digits: Any = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    examples = list(zip(images[:1440], digits.target[:1440], strict=True))

    def batches(seed: int) -> Any:  # each seed has an order of its own
        shuffled = grain.MapDataset.source(examples).shuffle(seed=seed % 2**32).repeat()
        return shuffled.batch(
            batch_size, batch_fn=lambda pairs: tuple(map(np.stack, zip(*pairs, strict=True)))
        )

    return batches, (images[1440:], digits.target[1440:])


def optimizer(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Any optax transformation; the learning rate is the schedule of the config."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adabelief(learning_rate))


result = train(
    Mixer,
    data,
    steps=steps,
    batch_size=32,
    optimizer=PythonOptimizer(factory=optimizer, learning_rate=3e-3, warmup_steps=steps // 10),
    ema_decay=0.9,  # evaluate an average of the weights
    directory=Path(tempfile.mkdtemp()) / "mixer",
)
print(result)
print(f"accuracy {result.comparison.runs[0].validation_accuracy[-1]:.3f}")
