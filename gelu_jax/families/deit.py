"""DeiT (Touvron et al. 2021): ViT with a second learned token, which agrees with a teacher."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import has_tensor
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.vit import LAYER, VIT, vision_encoder_config, vision_map
from gelu_jax.families.weight_map import Entry, WeightMap, linear
from gelu_jax.nn.vision import VisionEncoderConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> VisionEncoderConfig:
    base = vision_encoder_config(hf, tensors)
    distilled = has_tensor(tensors, "cls_classifier.weight")
    return replace(
        base,
        vision=replace(base.vision, distillation_token=True),
        num_classes=hf.num_labels() if distilled else base.num_classes,
        distilled=distilled,
    )


def _weight_map(config: VisionEncoderConfig) -> WeightMap:
    """The first of two classifiers has another name than the only one."""
    token = "deit.embeddings.distillation_token"
    first = linear("classifier.{}", "cls_classifier") if config.distilled else ()
    return (
        *first,
        *(e for e in vision_map("deit", LAYER) if not (first and e.name.startswith("classifier"))),
        Entry("vision.distillation_token", token, "1 1 d -> d"),
        *linear("distillation_classifier.{}", "distillation_classifier"),
    )


DEIT = replace(
    VIT,
    model_type="deit",
    config=_config,
    weight_map=_weight_map,
    aliases=((r"^deit\.", ""),),
)
