"""The families that can be loaded, by the model_type of their config.json."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gelu_jax.families.albert import ALBERT
from gelu_jax.families.bert import BERT
from gelu_jax.families.clip import CLIP, CLIP_TEXT, CLIP_VISION
from gelu_jax.families.deepseek import DEEPSEEK_V3
from gelu_jax.families.deit import DEIT
from gelu_jax.families.dinov2 import DINOV2
from gelu_jax.families.distilbert import DISTILBERT
from gelu_jax.families.efficientnet import EFFICIENTNET
from gelu_jax.families.electra import ELECTRA
from gelu_jax.families.family import Family
from gelu_jax.families.gemma import GEMMA, GEMMA2, GEMMA3
from gelu_jax.families.gpt2 import GPT2
from gelu_jax.families.gpt_neox import GPT_NEOX
from gelu_jax.families.gpt_oss import GPT_OSS
from gelu_jax.families.llama import LLAMA
from gelu_jax.families.llava import LLAVA
from gelu_jax.families.llava_next import LLAVA_NEXT
from gelu_jax.families.mistral import MISTRAL
from gelu_jax.families.mixtral import MIXTRAL
from gelu_jax.families.modernbert import MODERNBERT
from gelu_jax.families.mpnet import MPNET
from gelu_jax.families.mt5 import MT5
from gelu_jax.families.nomic_bert import NOMIC_BERT
from gelu_jax.families.olmo2 import OLMO2
from gelu_jax.families.olmoe import OLMOE
from gelu_jax.families.opt import OPT
from gelu_jax.families.palm import PALM
from gelu_jax.families.phi3 import PHI3
from gelu_jax.families.qwen import QWEN2, QWEN3
from gelu_jax.families.qwen_moe import QWEN2_MOE, QWEN3_MOE
from gelu_jax.families.roberta import ROBERTA, XLM_ROBERTA
from gelu_jax.families.siglip import SIGLIP, SIGLIP_TEXT, SIGLIP_VISION
from gelu_jax.families.smollm3 import SMOLLM3
from gelu_jax.families.starcoder2 import STARCODER2
from gelu_jax.families.t5 import T5
from gelu_jax.families.vit import VIT
from gelu_jax.families.whisper import WHISPER

_ALL = (
    *(ALBERT, BERT, CLIP, CLIP_TEXT, CLIP_VISION, DEIT, DINOV2, DISTILBERT, EFFICIENTNET),
    *(ELECTRA, GEMMA, GEMMA2, GEMMA3, GPT2, GPT_NEOX, GPT_OSS, LLAMA, LLAVA, LLAVA_NEXT, MISTRAL),
    *(MIXTRAL, MODERNBERT, MPNET, MT5, NOMIC_BERT, OLMO2, OLMOE, OPT, PALM, PHI3, QWEN2, QWEN2_MOE),
    *(QWEN3, QWEN3_MOE, ROBERTA, SMOLLM3),
    *(SIGLIP, SIGLIP_TEXT, SIGLIP_VISION, STARCODER2, T5, VIT, WHISPER, XLM_ROBERTA),
)

FAMILIES: Mapping[str, Family[Any]] = MappingProxyType(
    {family.model_type: family for family in _ALL}
)

FEED_FORWARD_FAMILIES: Mapping[str, Family[Any]] = MappingProxyType({"deepseek_v3": DEEPSEEK_V3})
"""Those of which the feed-forward parts alone can be loaded."""
