"""The model of a run: its parameters drawn, or the weights of a released model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Key
from pydantic import Field

from gelu_jax import families
from gelu_jax.errors import ConfigError, Problem, check
from gelu_jax.families.files import locate
from gelu_jax.families.load_plan import plan_load
from gelu_jax.nn import checks
from gelu_jax.nn.axes import without_rules
from gelu_jax.nn.experts import MoE, MoEConfig
from gelu_jax.nn.mlp import MLP, MLPConfig
from gelu_jax.nn.transformer import Transformer, TransformerConfig
from gelu_jax.nn.variants import Variant, variant_problems
from gelu_jax.training.python_model import Network, PythonModel, make_network

Model = Transformer | MLP | Network


@dataclass(frozen=True)
class PretrainedConfig:
    """A decoder that starts from the weights in a directory as model hubs lay it out.

    Where `variant` or `d_ff` change the feed-forward blocks, every tensor that still has its shape
    keeps its values; the others are drawn.

    Attributes:
      path: the directory.
      variant: of the feed-forward blocks; None leaves it as it was.
      d_ff: hidden units of the feed-forward blocks; None leaves them as they were.
      dtype: that the model computes in.
      kind: always "pretrained".
    """

    path: str
    variant: Variant | None = None
    d_ff: int | None = None
    dtype: DTypeLike = jnp.float32
    kind: Literal["pretrained"] = "pretrained"

    def __post_init__(self):
        check(self._problems())

    def _problems(self) -> Iterator[Problem]:
        yield from checks.positive(d_ff=self.d_ff)
        yield from checks.floating(dtype=self.dtype)
        if self.variant is not None:
            yield from variant_problems(self.variant)

    @cached_property
    def transformer(self) -> TransformerConfig:
        """The config of the decoder in the directory, changed.

        Raises:
          ConfigError: the directory does not hold a decoder.
        """
        found = _decoder(self.path, jnp.dtype(self.dtype).name)
        given = {"variant": self.variant, "d_ff": self.d_ff}
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if changes and (found.feed_forwards or isinstance(found.block.feed_forward, MoEConfig)):
            name, value = next(iter(changes.items()))
            reason = "must be null for a decoder with experts"
            raise ConfigError([Problem(f"model.{name}", value, reason)])
        feed_forward = replace(found.block.feed_forward, **changes)
        return replace(found, block=replace(found.block, feed_forward=feed_forward))


@cache  # matching asks for one width after another
def _decoder(path: str, dtype: str) -> TransformerConfig:
    found = plan_load(locate(path), dtype).model.config
    if not isinstance(found, TransformerConfig):
        raise ConfigError([Problem("model.path", path, "does not hold a decoder")])
    return found


ModelConfig = Annotated[
    TransformerConfig | MLPConfig | PretrainedConfig | PythonModel, Field(discriminator="kind")
]


def architecture(config: ModelConfig) -> TransformerConfig | MLPConfig | PythonModel:
    """The network of a model config, wherever its weights come from.

    Args:
      config: the model.

    Returns:
      The config of the module that is built.
    """
    return config.transformer if isinstance(config, PretrainedConfig) else config


def make_model(config: ModelConfig, key: Key[Array, ""], inputs: Any = None) -> Model:
    """Builds the module that a model config describes; no weights are loaded.

    Args:
      config: the model.
      key: draws its parameters.
      inputs: shapes and dtypes of a batch's inputs, which models of a person's own may need.

    Returns:
      The module.
    """
    with without_rules():  # `training.mesh` places the parameters by itself
        match built := architecture(config):
            case MLPConfig():
                return MLP(built, rngs=nnx.Rngs(key))
            case TransformerConfig():
                return Transformer(built, rngs=nnx.Rngs(key))
            case PythonModel():
                return make_network(built, key, inputs)


def learned(model: Model) -> Any:
    """What the optimizer changes.

    Args:
      model: of a run.

    Returns:
      A pytree of floating arrays; of our modules the module itself.
    """
    return model.params if isinstance(model, Network) else model


def num_active_parameters(model: Any) -> int:
    """Entries of the parameters that one token meets: of each mixture's experts, k of e.

    Args:
      model: any tree of modules and arrays, or of their shapes.

    Returns:
      How many; all that are in no `gelu_jax.MoE` count.
    """
    parts = jax.tree.leaves(model, is_leaf=lambda part: isinstance(part, MoE))
    unused = sum(_unused(part) for part in parts if isinstance(part, MoE))
    return _entries(model) - unused


def _unused(moe: MoE) -> int:
    e, k = moe.config.num_experts, moe.config.experts_per_token
    return _entries(moe.experts) // e * (e - k)


def _entries(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def with_learned(model: Model, params: Any) -> Any:
    """The same model with other parameters.

    Args:
      model: of a run.
      params: as `learned` gives them.

    Returns:
      The model.
    """
    return replace(model, params=params) if isinstance(model, Network) else params


def with_weights(model: Model, config: ModelConfig) -> Model:
    """Loads the weights that a model's config names.

    Args:
      model: the module, its parameters drawn.
      config: its config.

    Returns:
      The model, with the loaded value of each parameter whose path and shape agree.
    """
    if not isinstance(config, PretrainedConfig):
        return model
    loaded = dict(_leaves(families.load(config.path, dtype=config.dtype)))

    def chosen(path: Any, leaf: jax.Array) -> jax.Array:
        found = loaded.get(jax.tree_util.keystr(path))
        return leaf if found is None or found.shape != leaf.shape else found.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(chosen, model)


def _leaves(model: Any) -> Iterator[tuple[str, jax.Array]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        yield jax.tree_util.keystr(path), leaf
