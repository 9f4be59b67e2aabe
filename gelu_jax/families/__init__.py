"""Model families: BERT to LLaVA, loaded from the files in which their weights are published.

A family is one file: a function from the fields of a config.json to a config of ours, and a weight
map that says which tensor holds which parameter, and in which layout. The same map loads and saves.
To add one: write that file (`mistral.py` is 21 lines, `roberta.py` 57), list it in `registry.py`,
run tests/golden/make_defaults.py, add a case to tests/golden/make_families.py and run that script;
the tests of parity, of saving and live then find it by themselves. What a new family computes
differently is a field of a config in `gelu_jax.nn`, or a module there made of the same blocks.
"""

from gelu_jax.families.auditing import audit, differences, file_differences, state_differences
from gelu_jax.families.cross_encoder import CrossEncoder, load_cross_encoder
from gelu_jax.families.embeddings import SentenceEncoder, sentence_embeddings
from gelu_jax.families.files import WeightsError
from gelu_jax.families.load_plan import config
from gelu_jax.families.loading import load, load_feed_forward
from gelu_jax.families.registry import FAMILIES
from gelu_jax.families.saving import save
from gelu_jax.families.sentence_encoder import load_sentence_encoder

__all__ = [
    "FAMILIES",
    "CrossEncoder",
    "SentenceEncoder",
    "WeightsError",
    "audit",
    "config",
    "differences",
    "file_differences",
    "load",
    "load_cross_encoder",
    "load_feed_forward",
    "load_sentence_encoder",
    "save",
    "sentence_embeddings",
    "state_differences",
]
