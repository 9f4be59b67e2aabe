"""EfficientNet (Tan & Le 2019), named as in transformers. Images are (b, height, width, channels).

Strided convolutions pad as the original does: as its places want for the image at hand, where
transformers pads as they want for images of the config's size. The two agree at that size.
"""

import itertools
import math
from collections.abc import Collection, Iterator

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.common import holds
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, within
from gelu_jax.nn.convolution import EfficientNet, EfficientNetConfig, MBConvConfig


def config(s: HFConfig, tensors: Collection[str]) -> EfficientNetConfig:
    """EfficientNet's config.json as a config of ours: the base network, scaled."""
    s.only("pooling_type", "mean")
    return EfficientNetConfig(
        d_stem=_width(s, 32),
        blocks=_blocks(s, most=len(tensors)),
        d_top=s.integer("hidden_dim", 2560),
        channels=s.integer("num_channels", 3),
        num_classes=s.labels() if holds(tensors, "classifier.weight") else None,
        activation=s.activation("hidden_act", "swish"),
        epsilon=s.number("batch_norm_eps", 1e-3),
    )


# The stages of the base network B0, which published configs may leave out.
_STAGES = {
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "strides": [1, 2, 2, 2, 1, 2, 1],
    "num_block_repeats": [1, 2, 2, 3, 3, 4, 1],
    "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
}


def _blocks(s: HFConfig, most: int) -> tuple[MBConvConfig, ...]:
    blocks = tuple(itertools.islice(_all_blocks(s), most + 1))
    if len(blocks) > most:
        repeats = s.values.get("num_block_repeats")
        raise ConfigError([Problem("num_block_repeats", repeats, "more blocks than tensors")])
    return blocks


def _all_blocks(s: HFConfig) -> Iterator[MBConvConfig]:
    stages = {name: s.integers(name, default) for name, default in _STAGES.items()}
    lengths = {name: len(values) for name, values in stages.items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError([Problem("in_channels", lengths, "all stages' lists must be as long")])
    depth = s.number("depth_coefficient", 3.1)
    for d_in, d_out, kernel_size, stride, repeats, expansion in zip(*stages.values(), strict=True):
        for repeat in range(math.ceil(depth * repeats)):
            width = _width(s, d_in if repeat == 0 else d_out)
            yield MBConvConfig(
                width,
                _width(s, d_out),
                d_squeeze=max(1, int(width * s.number("squeeze_expansion_ratio", 0.25))),
                expansion=expansion,
                kernel_size=kernel_size,
                stride=stride if repeat == 0 else 1,
                skip=repeat > 0,
                activation=s.activation("hidden_act", "swish"),
                epsilon=s.number("batch_norm_eps", 1e-3),
            )


def _width(s: HFConfig, channels: int) -> int:
    """A width scaled, to the nearest multiple, and never below nine tenths (their code's rule)."""
    multiple = s.integer("depth_divisor", 8)
    exact = channels * s.number("width_coefficient", 2.0)
    rounded = max(multiple, int(exact + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * exact else rounded


def _norm(name: str) -> tuple[Entry, ...]:
    return (
        Entry("scale", f"{name}.weight"),
        Entry("bias", f"{name}.bias"),
        Entry("mean", f"{name}.running_mean"),
        Entry("variance", f"{name}.running_var"),
    )


_CONV = "d c p q -> p q c d"

BLOCK = (
    Entry("expand.w", "expansion.expand_conv.weight", _CONV),
    *within(_norm("expansion.expand_bn"), "expand."),
    Entry("depthwise.w", "depthwise_conv.depthwise_conv.weight", "d 1 p q -> p q 1 d"),
    *within(_norm("depthwise_conv.depthwise_norm"), "depthwise."),
    Entry("squeeze.w", "squeeze_excite.reduce.weight", "s d 1 1 -> d s"),
    Entry("squeeze.b", "squeeze_excite.reduce.bias"),
    Entry("excite.w", "squeeze_excite.expand.weight", "d s 1 1 -> s d"),
    Entry("excite.b", "squeeze_excite.expand.bias"),
    Entry("project.w", "projection.project_conv.weight", _CONV),
    *within(_norm("projection.project_bn"), "project."),
)


def rows(config: EfficientNetConfig) -> tuple[Entry, ...]:
    """The table of names: the blocks differ in width, so each has rows of its own."""
    blocks = (
        row
        for i in range(len(config.blocks))
        for row in within(BLOCK, f"blocks.{i}.", f"efficientnet.encoder.blocks.{i}.")
    )
    return (
        Entry("stem.w", "efficientnet.embeddings.convolution.weight", _CONV),
        *within(_norm("efficientnet.embeddings.batchnorm"), "stem."),
        *blocks,
        Entry("top.w", "efficientnet.encoder.top_conv.weight", _CONV),
        *within(_norm("efficientnet.encoder.top_bn"), "top."),
        Entry("classifier.w", "classifier.weight", "e d -> d e"),
        Entry("classifier.b", "classifier.bias"),
    )


EFFICIENTNET = Family(
    "efficientnet",
    config,
    EfficientNet,
    rows,
    aliases=(("^efficientnet.", ""),),
    ignored=r".*\.num_batches_tracked",
)
