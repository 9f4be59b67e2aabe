"""Train a language model from a config file, and let it continue a prompt.

python examples/04_train.py [steps]
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from gelu_jax.nn.decoding import generate
from gelu_jax.training.config import read_config
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import TrainConfig, Trainer

steps = sys.argv[1] if len(sys.argv) > 1 else "300"
path = Path(__file__).parent.parent / "configs" / "byte_lm.yaml"
changes = [f"steps={steps}", "eval_every=10", "optimizer.warmup_steps=10"]
config = read_config(path, TrainConfig, changes)

data = load_data(config.data, config.batch_size)
print(data.info.description)

# A run is a pure function of (config, seed); it yields its state at every evaluation.
trainer = Trainer(config, data)
for state, point in trainer.fit(seed=0, learning_rate=config.optimizer.learning_rate):
    if point.step % 50 == 0:
        print(f"step {point.step:4d}  validation loss {point.validation_loss:.3f} nats per byte")

prompt = b"def "
tokens = generate(state.model, jnp.asarray([list(prompt)]), 120, key=jax.random.key(0))
print((prompt + bytes(tokens[0].tolist())).decode(errors="replace"))
