"""DINOv2 (Oquab et al. 2023): ViT with layer scales and, in its largest size, swiglu.

Images have the size that the table of positions was made for: it is not interpolated.
"""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.common import has_tensor
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.vit import ATTENTION, VIT, vision_encoder_config, vision_map
from gelu_jax.families.weight_map import Entry, WeightMap, feed_forward, linear, norm
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.vision import VisionEncoderConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> VisionEncoderConfig:
    """Swiglu has two thirds of the width, rounded up to a multiple of 8."""
    gated, width = hf.flag("use_swiglu_ffn", False), hf.integer("hidden_size")
    d_ff = int(width * hf.number("mlp_ratio", 4.0))
    d_ff = -(-(2 * d_ff // 3) // 8) * 8 if gated else d_ff
    hf = hf.with_values(intermediate_size=d_ff, pooler_act="tanh", pooler_output_size=width)
    hf = hf.with_defaults(layer_norm_eps=1e-6, patch_size=14)
    base = vision_encoder_config(hf, tensors)
    block, variant = base.vision.block, hf.activation("hidden_act", "gelu")
    variant = "swiglu" if gated else variant
    wide = FeedForwardConfig(width, d_ff=d_ff, variant=variant, use_bias=True)
    block = replace(block, feed_forward=wide, layer_scale=True)
    masked = has_tensor(tensors, "embeddings.mask_token")
    vision = replace(base.vision, block=block, mask_token=masked)
    return replace(base, vision=vision, patch_mean=base.num_classes is not None)


_SWIGLU = (
    Entry("feed_forward.w_in_0", "mlp.weights_in.weight", "f d -> d f"),
    Entry("feed_forward.w_in_1", "mlp.weights_in.weight", "f d -> d f"),
    Entry("feed_forward.b_in_0", "mlp.weights_in.bias"),
    Entry("feed_forward.b_in_1", "mlp.weights_in.bias"),
    *linear("feed_forward.{}_out", "mlp.weights_out"),
)


def _weight_map(config: VisionEncoderConfig) -> WeightMap:
    gated = config.vision.block.feed_forward.num_branches == 2
    layer = (
        *norm("attention_norm", "norm1"),
        *ATTENTION,
        Entry("attention_scale", "layer_scale1.lambda1"),
        *norm("feed_forward_norm", "norm2"),
        *(_SWIGLU if gated else feed_forward("feed_forward", ["mlp.fc1"], "mlp.fc2")),
        Entry("feed_forward_scale", "layer_scale2.lambda1"),
    )
    mask = Entry("vision.mask_token", "dinov2.embeddings.mask_token", "1 d -> d")
    return (*vision_map("dinov2", layer), mask)


DINOV2 = replace(
    VIT,
    model_type="dinov2",
    config=_config,
    weight_map=_weight_map,
    aliases=((r"^dinov2\.", ""),),
    without_effect=frozenset(
        {
            # the tensors tell
            "use_mask_token",
            # of training alone
            *("layerscale_value", "drop_path_rate"),
            # of its feature maps, which are not supported
            *("apply_layernorm", "reshape_hidden_states", "out_features", "out_indices"),
            "stage_names",
        }
    ),
)
