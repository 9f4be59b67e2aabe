"""Fields of a config.json that a family neither honours nor may pass over.

`defaults.json` holds the released default of every field of transformers' config classes, and the
fields that its code looks for in any config; tests/golden/make_defaults.py writes it.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gelu_jax.errors import Problem
from gelu_jax.families.hf_config import HFConfig

# They say nothing about what is computed from given weights and tokens.
_WITHOUT_EFFECT = frozenset(
    {
        *("_name_or_path", "architectures", "auto_map", "model_type", "transformers_version"),
        *("dtype", "torch_dtype", "attn_implementation", "_attn_implementation", "use_cache"),
        *("output_attentions", "output_hidden_states", "return_dict", "gradient_checkpointing"),
        *("id2label", "label2id", "num_labels", "problem_type", "chunk_size_feed_forward"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id"),
        *("mask_token_id", "decoder_start_token_id", "initializer_range", "initializer_factor"),
        # of training alone
        *("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "classifier_dropout"),
        *("classifier_dropout_prob", "drop_connect_rate", "dropout", "dropout_rate", "embd_pdrop"),
        *("embedding_dropout", "hidden_dropout", "hidden_dropout_prob", "resid_pdrop"),
        *("qa_dropout", "seq_classif_dropout", "residual_dropout", "initializer_cutoff_factor"),
    }
)


def unsupported_fields(hf: HFConfig, without_effect: frozenset[str]) -> Iterator[Problem]:
    """The fields that transformers would honour, that were not read, and are not its defaults.

    Args:
      hf: the fields, after a family has read what it honours.
      without_effect: fields that do not matter to this family, beside those of all.

    Returns:
      A problem for each, in this section and those that were read.
    """
    for section in hf.sections.values():
        yield from unsupported_fields(section, without_effect)
    if hf.model_type is None:
        return
    known = _of_any_config() | _defaults().get(hf.model_type, {})
    for name in known.keys() & hf.values.keys() - hf.read - _WITHOUT_EFFECT - without_effect:
        default, found = known[name], hf.values[name]
        if isinstance(default, str) and default.startswith("="):  # another name of a field
            default = hf.values.get(default[1:], default)
        if found != default and found is not None:
            yield Problem(hf.prefix + name, found, f"not supported; only {json.dumps(default)} is")


def unknown_fields(hf: HFConfig) -> list[str]:
    """The fields that transformers does not know either, and passes over.

    Args:
      hf: the fields, after a family has read what it honours.

    Returns:
      Their names, those of sections with the section's before.
    """
    found = [name for section in hf.sections.values() for name in unknown_fields(section)]
    if hf.model_type is None:
        return found
    known = _of_any_config().keys() | _defaults().get(hf.model_type, {}).keys()
    own = hf.values.keys() - known - hf.read - _WITHOUT_EFFECT
    return sorted(found + [hf.prefix + name for name in own])


def default_fields(model_type: str) -> Mapping[str, Any]:
    """The released defaults of a config class of transformers.

    Args:
      model_type: as its config.json says it.

    Returns:
      Values by field; nothing for a class that is not in the data.
    """
    return _defaults().get(model_type, {})


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    return json.loads(Path(__file__).with_name("defaults.json").read_text(encoding="utf-8"))


def _of_any_config() -> dict[str, Any]:
    return _defaults()["*"]
