"""EfficientNet (Tan & Le 2019), named as in transformers. Images are (b, height, width, channels).

Strided convolutions pad as the original does, as the image at hand needs it, where transformers
pads as images of the config's size need it. The two agree at that size.
"""

import itertools
import math
from collections.abc import Collection, Iterator

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.common import has_tensor
from gelu_jax.families.family import Family
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, linear, norm, prefixed
from gelu_jax.nn.convolution import EfficientNet, EfficientNetConfig, MBConvConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EfficientNetConfig:
    """The base network, scaled."""
    hf.require("pooling_type", "mean")
    blocks = _blocks(hf, most=len(tensors) or None)
    padded = _padded_blocks(hf.integer("image_size", 600), blocks)
    hf.with_defaults(depthwise_padding=[]).require("depthwise_padding", padded)
    return EfficientNetConfig(
        d_stem=_width(hf, 32),
        blocks=blocks,
        d_top=hf.integer("hidden_dim", 2560),
        channels=hf.integer("num_channels", 3),
        num_classes=hf.num_labels() if has_tensor(tensors, "classifier.weight") else None,
        activation=hf.activation("hidden_act", "swish"),
        epsilon=hf.number("batch_norm_eps", 1e-3),
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


def _blocks(hf: HFConfig, most: int | None) -> tuple[MBConvConfig, ...]:
    """All blocks; a config that asks for more of them than there are tensors is not built."""
    blocks = tuple(itertools.islice(_all_blocks(hf), most and most + 1))
    if most and len(blocks) > most:
        repeats = hf.given("num_block_repeats")
        raise ConfigError([Problem("num_block_repeats", repeats, "more blocks than tensors")])
    return blocks


def _all_blocks(hf: HFConfig) -> Iterator[MBConvConfig]:
    stages = {name: hf.integers(name, default) for name, default in _STAGES.items()}
    lengths = {name: len(values) for name, values in stages.items()}
    if len(set(lengths.values())) != 1:
        reason = "must have as many numbers as the other lists of stages"
        raise ConfigError([Problem("in_channels", lengths, reason)])
    depth = hf.number("depth_coefficient", 3.1)
    for d_in, d_out, kernel_size, stride, repeats, expansion in zip(*stages.values(), strict=True):
        for repeat in range(math.ceil(depth * repeats)):
            width = _width(hf, d_in if repeat == 0 else d_out)
            yield MBConvConfig(
                width,
                _width(hf, d_out),
                d_squeeze=max(1, int(width * hf.number("squeeze_expansion_ratio", 0.25))),
                expansion=expansion,
                kernel_size=kernel_size,
                stride=stride if repeat == 0 else 1,
                skip=repeat > 0,
                activation=hf.activation("hidden_act", "swish"),
                epsilon=hf.number("batch_norm_eps", 1e-3),
            )


def _padded_blocks(size: int, blocks: tuple[MBConvConfig, ...]) -> list[int]:
    """The strided blocks that get an odd number of rows, for which transformers has a list."""
    size, found = -(-size // 2), list[int]()
    for number, block in enumerate(blocks):
        if block.stride > 1 and size % 2:
            found.append(number)
        size = -(-size // block.stride)
    return found


def _width(hf: HFConfig, channels: int) -> int:
    """A width scaled, to the nearest multiple, and never below nine tenths (their code's rule)."""
    multiple = hf.integer("depth_divisor", 8)
    exact = channels * hf.number("width_coefficient", 2.0)
    rounded = max(multiple, int(exact + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * exact else rounded


_CONV = "d c p q -> p q c d"


def _batch_norm(path: str, name: str) -> WeightMap:
    mean = Entry(f"{path}.mean", f"{name}.running_mean")
    return (*norm(path, name), mean, Entry(f"{path}.variance", f"{name}.running_var"))


_BLOCK = (
    Entry("expand.w", "expansion.expand_conv.weight", _CONV),
    *_batch_norm("expand", "expansion.expand_bn"),
    Entry("depthwise.w", "depthwise_conv.depthwise_conv.weight", "d 1 p q -> p q 1 d"),
    *_batch_norm("depthwise", "depthwise_conv.depthwise_norm"),
    *linear("squeeze.{}", "squeeze_excite.reduce", "s d 1 1 -> d s"),
    *linear("excite.{}", "squeeze_excite.expand", "d s 1 1 -> s d"),
    Entry("project.w", "projection.project_conv.weight", _CONV),
    *_batch_norm("project", "projection.project_bn"),
)


def _weight_map(config: EfficientNetConfig) -> WeightMap:
    """The blocks differ in width, so each has entries of its own."""
    blocks = (
        prefixed(_BLOCK, f"blocks_{i}.", f"efficientnet.encoder.blocks.{i}.")
        for i in range(len(config.blocks))
    )
    return (
        Entry("stem.w", "efficientnet.embeddings.convolution.weight", _CONV),
        *_batch_norm("stem", "efficientnet.embeddings.batchnorm"),
        *(entry for block in blocks for entry in block),
        Entry("top.w", "efficientnet.encoder.top_conv.weight", _CONV),
        *_batch_norm("top", "efficientnet.encoder.top_bn"),
        *linear("classifier.{}", "classifier"),
    )


EFFICIENTNET = Family(
    "efficientnet",
    _config,
    EfficientNet,
    _weight_map,
    aliases=((r"^efficientnet\.", ""),),
    ignored=r".*\.num_batches_tracked",
    without_effect=frozenset({"batch_norm_momentum", "num_hidden_layers"}),
)
