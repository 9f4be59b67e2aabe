"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020): BERT with positions from 2 on.

Their tables of positions begin with rows for padding. Which tokens are padding, the mask says:
transformers takes those that equal ``pad_token_id``.
"""

from collections.abc import Collection
from dataclasses import replace

from gelu_jax.families.bert import BERT, LAYER, OLD_NAMES, encoder_config, encoder_map
from gelu_jax.families.common import has_tensor
from gelu_jax.families.hf_config import HFConfig
from gelu_jax.families.weight_map import Entry, WeightMap, linear, norm
from gelu_jax.nn.encoder import EncoderConfig


def _config(hf: HFConfig, tensors: Collection[str]) -> EncoderConfig:
    """The head of texts is a pooler of its own and a classifier."""
    of_texts = has_tensor(tensors, "classifier.out_proj.weight")
    of_tokens = has_tensor(tensors, "classifier.weight")
    base = encoder_config(
        hf.with_defaults(type_vocab_size=2),
        tensors,
        pooler=of_texts or has_tensor(tensors, "pooler.dense.weight"),
        masked_head="gelu" if has_tensor(tensors, "lm_head.bias") else None,
        num_classes=hf.num_labels() if of_texts else None,
        num_token_classes=hf.num_labels() if of_tokens else None,
    )
    padding = hf.given("pad_token_id")
    offset = 2 if padding is None else 1 + (hf.integer("pad_token_id") if padding else 0)
    return replace(base, transformer=replace(base.transformer, position_offset=offset))


HEADS = (
    *linear("pooler.{}", "classifier.dense"),
    *linear("classifier.{}", "classifier.out_proj"),
    *linear("masked_head.dense.{}", "lm_head.dense"),
    *norm("masked_head.norm", "lm_head.layer_norm"),
    Entry("masked_head.bias", "lm_head.bias"),
    Entry("transformer.embedding", "lm_head.decoder.weight"),
    Entry("masked_head.bias", "lm_head.decoder.bias"),
)


def _weight_map(config: EncoderConfig) -> WeightMap:
    own_pooler = () if config.num_classes else linear("pooler.{}", "roberta.pooler.dense")
    return (*encoder_map("roberta", LAYER), *own_pooler, *HEADS)


ROBERTA = replace(
    BERT,
    model_type="roberta",
    config=_config,
    weight_map=_weight_map,
    aliases=((r"^roberta\.", ""), *OLD_NAMES),
)
XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta")
