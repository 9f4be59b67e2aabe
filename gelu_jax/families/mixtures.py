"""What the configs and weight maps of families with mixtures of experts say alike."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from gelu_jax.families.common import with_pattern
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap
from gelu_jax.nn.experts import MoEConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.routers import RouterConfig
from gelu_jax.nn.stack import LayerKind
from gelu_jax.nn.transformer import TransformerConfig

# Of training alone, and what a call returns beside its logits.
OF_TRAINING = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})


def dense_block(config: TransformerConfig) -> FeedForwardConfig:
    """The block of a model without experts.

    Args:
      config: of the model.

    Returns:
      The block's config.
    """
    assert isinstance(config.block.feed_forward, FeedForwardConfig)
    return config.block.feed_forward


def num_experts(hf: HFConfig, name: str, alias: str, default: int) -> int:
    """The number of experts, which has two names.

    Args:
      hf: the fields.
      name: the field.
      alias: its other name.
      default: where the file has neither.

    Returns:
      The number.

    Raises:
      ConfigError: both are there, and differ.
    """
    if hf.given(name) is not None and hf.given(alias) is not None:
        hf.require(alias, hf.given(name))
    return hf.with_defaults(**{name: hf.values.get(alias, default)}).integer(name)


def mixture(
    hf: HFConfig, expert: FeedForwardConfig, number: int, router: RouterConfig, k: int
) -> MoEConfig:
    """The mixture of a layer.

    Args:
      hf: the fields.
      expert: of every expert.
      number: of experts.
      router: of the mixture.
      k: experts of a token, where the fields have none.

    Returns:
      The config.
    """
    chosen = hf.with_defaults(num_experts_per_tok=k).integer("num_experts_per_tok")
    return MoEConfig(expert, number, chosen, router)


def with_mixtures(
    config: TransformerConfig, mixture: MoEConfig, dense: Collection[int] = ()
) -> TransformerConfig:
    """The model with a mixture of experts in its layers.

    Args:
      config: of the model with a dense block in every layer.
      mixture: of the others.
      dense: the layers that keep the block.

    Returns:
      The config.
    """
    attention = config.block.attention
    pattern = config.pattern or (LayerKind(attention.window, attention.rotary),)
    kinds = (pattern[i % len(pattern)] for i in range(config.num_layers))
    return with_pattern(
        config,
        [k if i in dense else replace(k, feed_forward=mixture) for i, k in enumerate(kinds)],
    )


Parts = Sequence[FeedForwardConfig | MoEConfig]


def of_feed_forwards(parts: Parts, dense: WeightMap, sparse: WeightMap) -> WeightMap:
    """The entries of the feed-forward parts of a layer.

    Args:
      parts: that of each layer; one stands for all.
      dense: the entries of a block, in a layer that has one.
      sparse: those of a mixture.

    Returns:
      The entries, each with the layers that have it where they differ.
    """
    kinds = list(dict.fromkeys(parts))
    if len(kinds) == 1:
        return sparse if isinstance(kinds[0], MoEConfig) else dense
    return tuple(_of_kinds(parts, kinds, dense, sparse))


def _of_kinds(parts: Parts, kinds: Parts, dense: WeightMap, sparse: WeightMap) -> Iterator[Entry]:
    for i, kind in enumerate(kinds):
        layers = tuple(n for n, part in enumerate(parts) if part == kind)
        for entry in sparse if isinstance(kind, MoEConfig) else dense:
            path = entry.path.replace("feed_forward.", f"feed_forward.kind_{i}.", 1)
            yield replace(entry, path=path, layers=layers)
