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
      ignored: a regular expression of tensors that hold no parameters, or none that are used.
      float32: a regular expression of parameters that stay in float32 where float16 is asked for.
      without_effect: fields of its config.json that do not change what is computed, beside those
        of which that is true in every family.
    """

    model_type: str
    config: Callable[[HFConfig, Collection[str]], C]
    model: Callable[..., nnx.Module]
    weight_map: Callable[[C], WeightMap]
    aliases: Aliases = ()
    ignored: str = r"(?!)"
    float32: str = r"(?!)"
    without_effect: frozenset[str] = frozenset()
