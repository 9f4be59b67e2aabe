"""Sentence embeddings from a BERT encoder: masked mean pooling, vectors of length 1.

python examples/07_sentence_embeddings.py [directory]

Without a directory it makes a small encoder with random weights, so that texts are similar only
where they share words. A directory of yours needs config.json, model.safetensors and
tokenizer.json, of a sentence encoder of BERT's family.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gelu_jax import families
from gelu_jax.nn.encoder import Encoder

TEXTS = [
    "the cat sleeps on the warm roof",
    "a cat sleeps on a warm roof",
    "gradients flow through the network",
    "the network has many layers",
]


def make(path: Path) -> None:
    """A small encoder with random weights, and its tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({w for t in TEXTS for w in t.split()})]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    config = {
        "model_type": "bert",
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
    }
    families.save(Encoder(families.config(config), rngs=nnx.Rngs(0)), path, config=config)
    tokenizer.save(str(path / "tokenizer.json"))


if len(sys.argv) > 1:
    path = Path(sys.argv[1])
else:
    path = Path(tempfile.mkdtemp()) / "small-bert"
    make(path)

vectors = families.sentence_embeddings(families.load(path), path / "tokenizer.json", TEXTS)
print("vectors:", vectors.shape, "of length", np.linalg.norm(vectors, axis=1).round(6).tolist())

similarity = vectors @ vectors.T
for row, text in zip(similarity, TEXTS, strict=True):
    print(" ".join(f"{cosine:5.2f}" for cosine in row), " ", text)
nearest = int(np.argsort(similarity[0])[-2])
print("nearest to the first:", TEXTS[nearest])
