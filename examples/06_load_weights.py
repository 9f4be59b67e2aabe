"""Load a model from a directory as model hubs lay it out, use it, and save it again.

python examples/06_load_weights.py [directory]

Without a directory it makes a small LLaMA with random weights and uses that. A directory of yours
needs config.json and safetensors files, of a family that `families.FAMILIES` lists.
"""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

import gelu_jax as gj
from gelu_jax import families
from gelu_jax.nn.decoding import generate

CONFIG = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 168,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}

scratch = Path(tempfile.mkdtemp())
if len(sys.argv) > 1:
    path = Path(sys.argv[1])
else:
    path = scratch / "small-llama"
    fresh = gj.Transformer(families.config(CONFIG), rngs=nnx.Rngs(0))
    families.save(fresh, path, config=CONFIG)
print("files:", *sorted(file.name for file in path.iterdir()))

# The whole model: logits, and a continuation through the key/value cache.
model = families.load(path)
tokens = jnp.array([[1, 2, 3]])
print("logits:", model(tokens).shape)
continued = jax.jit(generate, static_argnames="num_tokens")(model, tokens, num_tokens=8)
print("continued with:", continued[0].tolist())

# One feed-forward block, for a model of your own: only its tensors are read.
block = families.load_feed_forward(path, layer=2)
print("block:", block.config.variant, block.config.d_model, "→", block.config.d_ff)
inside = jax.tree.map(lambda stacked: stacked[2], model.layers.feed_forward)
x = jnp.ones((1, block.config.d_model))
print("the same block inside the model:", bool((block(x) == inside(x)).all()))

# In another dtype, and back to files: the tensors of an unchanged model come out byte-equal.
half = families.load(path, dtype=jnp.bfloat16)
families.save(half, scratch / "half")
families.save(model, scratch / "again")
size = {name: (scratch / name / "model.safetensors").stat().st_size for name in ("again", "half")}
print(f"bfloat16 takes {size['half'] / size['again']:.2f} of the bytes")
again = (scratch / "again" / "model.safetensors").read_bytes()
print("saved again, byte-equal:", again == (path / "model.safetensors").read_bytes())
