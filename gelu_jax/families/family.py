"""What a family is: its config from a config.json, its model, its table of names."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flax import nnx

from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry


@dataclass(frozen=True)
class Family:
    """A model family.

    ``config`` maps the fields of a config.json, and the names of the tensors that are there (some
    families tell their parts by them), to a config of ours; ``model`` builds the module from it;
    ``rows`` is the config's table of names, in the spelling that transformers writes.
    ``aliases`` are others in use, as pairs (ours, other); ``ignored`` matches tensors that hold
    no parameters; ``tied`` names tensors that some files store twice, and what each repeats.
    """

    model_type: str
    config: Callable[[HFConfig, Collection[str]], Any]
    model: Callable[..., nnx.Module]
    rows: Callable[[Any], Sequence[Entry]]
    aliases: Sequence[tuple[str, str]] = ()
    ignored: str = r"(?!)"
    tied: Callable[[Any], Mapping[str, str]] = lambda _: {}
