"""LLaVA-NeXT (Liu et al. 2024): LLaVA whose images are cut into tiles, whatever their size.

Images are `TiledImages`: transformers' ``pixel_values`` with the channels last, its ``image_sizes``
as pairs of integers.
"""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.errors import ConfigError, Problem
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.llava import LLAVA
from gelu_jax.families.weight_map import Entry, WeightMap
from gelu_jax.nn.tiles import Size
from gelu_jax.nn.vision_language import VisionLanguageConfig

_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _config(hf: HFConfig, tensors: Collection[str]) -> VisionLanguageConfig:
    hf.require("vision_feature_select_strategy", "default")  # a grid has no place for a class token
    base = LLAVA.config(hf, tensors)
    return replace(base, resolutions=_resolutions(hf, base.vision.image_size))


def _resolutions(hf: HFConfig, tile: int) -> tuple[Size, ...]:
    field = "image_grid_pinpoints"
    found = _PINPOINTS if hf.given(field) is None else hf.given(field)
    if not (isinstance(found, list) and found and all(_is_size(size, tile) for size in found)):
        reason = f"must be a list of pairs [height, width], multiples of the tower's {tile} pixels"
        raise ConfigError([Problem(f"{hf.prefix}{field}", found, reason)])
    return tuple((height, width) for height, width in found)


def _is_size(size: object, tile: int) -> bool:
    return (
        isinstance(size, list)
        and len(size) == 2
        and all(type(length) is int and length > 0 and length % tile == 0 for length in size)
    )


def _weight_map(config: VisionLanguageConfig) -> WeightMap:
    return (*LLAVA.weight_map(config), Entry("newline", "image_newline"))


LLAVA_NEXT = replace(LLAVA, model_type="llava_next", config=_config, weight_map=_weight_map)
