"""MPNet (Song et al. 2020): RoBERTa with relative positions that all layers share."""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.bert import BERT, OLD_NAMES, encoder_map
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.roberta import HEADS, ROBERTA
from gelu_jax.families.weight_map import Entry, WeightMap, attention, feed_forward, linear, norm
from gelu_jax.nn.encoder import EncoderConfig
from gelu_jax.nn.position import RelativeConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    base = ROBERTA.config(hf.with_values(type_vocab_size=1, pad_token_id=1), tensors)
    hf.require("relative_attention_num_buckets", 32)  # its code knows no other number
    relative = RelativeConfig(32, 128)
    transformer = replace(base.transformer, token_types=None, relative=relative)
    return replace(base, transformer=transformer)


_LAYER = (
    *attention("attention", "attention.attn", "q", "k", "v", "o"),
    *norm("attention_norm", "attention.LayerNorm"),
    *feed_forward("feed_forward", ["intermediate.dense"], "output.dense"),
    *norm("feed_forward_norm", "output.LayerNorm"),
)


def _weight_map(config: EncoderConfig) -> WeightMap:
    own_pooler = () if config.num_classes else linear("pooler.{}", "mpnet.pooler.dense")
    table = Entry("transformer.relative", "mpnet.encoder.relative_attention_bias.weight")
    return (*encoder_map("mpnet", _LAYER), table, *own_pooler, *HEADS)


MPNET = replace(
    BERT,
    model_type="mpnet",
    config=_config,
    weight_map=_weight_map,
    aliases=((r"^mpnet\.", ""), *OLD_NAMES),
)
