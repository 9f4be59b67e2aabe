"""What a family is: its config from a config.json, its model, its weight map."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from flax import nnx

from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Aliases, WeightMap

C = TypeVar("C")


@dataclass(frozen=True)
class Family(Generic[C]):
    """A model family of transformers.

    Attributes:
      model_type: as its config.json says it.
      config: from the fields of a config.json, and the names of the tensors that are there (which
        tell what parts some models have), to a config of ours.
      model: from that config to a module, as ``model(config, rngs=...)``.
      weight_map: from that config to the tensors of the parameters, as transformers names them.
      aliases: what other files have in these names, as regular expressions and replacements.
      ignored: a regular expression of tensors that hold no parameters.
    """

    model_type: str
    config: Callable[[HFConfig, Collection[str]], C]
    model: Callable[..., nnx.Module]
    weight_map: Callable[[C], WeightMap]
    aliases: Aliases = ()
    ignored: str = r"(?!)"
