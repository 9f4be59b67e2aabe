"""Model families: BERT to LLaVA, loaded from the files in which their weights are published."""

from gelu_jax.families.embeddings import sentence_embeddings
from gelu_jax.families.files import WeightsError
from gelu_jax.families.loading import load, load_feed_forward
from gelu_jax.families.plan import config
from gelu_jax.families.registry import FAMILIES
from gelu_jax.families.saving import save

__all__ = [
    "FAMILIES",
    "WeightsError",
    "config",
    "load",
    "load_feed_forward",
    "save",
    "sentence_embeddings",
]
