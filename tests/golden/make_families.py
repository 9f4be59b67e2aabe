"""Makes tests/golden/families: tiny random models of transformers, and what they compute.

And tests/golden/feed_forwards: models of which the feed-forward parts alone are read.

    python tests/golden/make_families.py [CASE ...]

Needs the `peers` extra (torch, transformers). Each case is a directory as transformers writes it
(config.json, model.safetensors) with golden.safetensors beside it: inputs, hidden states, logits,
greedy continuations. All of it in float32, from a fixed seed.
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "families"
Outputs = dict[str, torch.Tensor]

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "vocab_size": 56,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 4, "vocab_size": 56, "n_positions": 32} | SPECIAL
VISION = {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"image_size": 12, "patch_size": 4}
TEXT = SMALL | SPECIAL | {"max_position_embeddings": 32}


def causal(model: Any) -> Outputs:
    """Hidden states and logits of a batch padded on the left, and its greedy continuation."""
    tokens, mask = _tokens(56, left=True)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(tokens, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    greedy = model.generate(
        tokens, attention_mask=mask, max_new_tokens=9, do_sample=False, eos_token_id=-1
    )
    return {
        "tokens": tokens,
        "mask": mask,
        "hidden": out.hidden_states[-1],
        "logits": out.logits,
        "greedy": greedy[:, tokens.shape[1] :],
    }


def each_alone(model: Any) -> Outputs:
    """As `causal`, each row without padding and without the others, whose lengths would count."""
    tokens, mask = _tokens(56, left=True)
    rows = [row[real == 1][None] for row, real in zip(tokens, mask, strict=True)]
    outs = [model(row, output_hidden_states=True) for row in rows]
    # Of its decoders Phi-3 alone computes the cache anew where the rotation changes.
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": -1}
    options["use_cache"] = model.config.model_type == "phi3"
    greedy = [model.generate(row, **options)[:, row.shape[1] :] for row in rows]
    return {
        "tokens": tokens,
        "mask": mask,
        "hidden": torch.cat([_padded(out.hidden_states[-1], tokens) for out in outs]),
        "logits": torch.cat([_padded(out.logits, tokens) for out in outs]),
        "greedy": torch.cat(greedy),
    }


def _padded(row: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(row, (0, 0, tokens.shape[1] - row.shape[1], 0))


def encoder(model: Any) -> Outputs:
    """Hidden states, pooled state and head logits of a batch padded on the right."""
    pad = model.config.pad_token_id
    tokens, mask = _tokens(56, left=False, pad=pad if model.config.model_type != "mpnet" else 1)
    types = (torch.arange(tokens.shape[1]) >= 5).long().expand_as(tokens)
    types = types if getattr(model.config, "type_vocab_size", 1) > 1 else 0 * types
    inputs = {"attention_mask": mask}
    inputs |= {"token_type_ids": types} if hasattr(model.config, "type_vocab_size") else {}
    out = model(tokens, **inputs, output_hidden_states=True)
    hidden = out.hidden_states[-1]
    plain = model(tokens, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    mean = (plain * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    extra = {
        "pooled": getattr(out, "pooler_output", None),
        "masked_logits": getattr(out, "prediction_logits", None),
        "next_sentence_logits": getattr(out, "seq_relationship_logits", None),
    }
    if hasattr(out, "start_logits"):
        extra["span_logits"] = torch.stack([out.start_logits, out.end_logits], -1)
    if hasattr(out, "logits"):
        wide = out.logits.shape[-1] == model.config.vocab_size
        name = "masked_logits" if wide else _HEADS[out.logits.dim()]
        of_each = out.logits.shape == tokens.shape  # ELECTRA's
        extra["replaced_logits" if of_each else name] = out.logits
    if hasattr(out, "sop_logits"):
        extra["next_sentence_logits"] = out.sop_logits
    return {
        "tokens": tokens,
        "mask": mask,
        "token_types": types,
        "hidden": hidden,
        "sentence": torch.nn.functional.normalize(mean, dim=-1),
    } | {name: value for name, value in extra.items() if value is not None}


_HEADS = {2: "class_logits", 3: "token_logits"}


def states(model: Any) -> Outputs:
    """Hidden states of a decoder without head, or the scores of one with a head for texts."""
    tokens, mask = _tokens(56, left=False)
    out = model(tokens, attention_mask=mask, output_hidden_states=True)
    scores = {"class_logits": out.logits} if hasattr(out, "logits") else {}
    return {"tokens": tokens, "mask": mask, "hidden": out.hidden_states[-1]} | scores


def image(model: Any) -> Outputs:
    """Hidden states and class logits, or pooled states, of two images."""
    pixels = torch.randn(2, 3, 12, 12)
    out = model(pixels, output_hidden_states=True)
    base = getattr(model, model.config.model_type, model)
    outputs = {"pixels": pixels, "hidden": base(pixels).last_hidden_state}
    if hasattr(out, "logits"):
        return outputs | {"logits": out.logits}
    if getattr(base, "pooler", None) is None:
        return outputs
    return outputs | {"pooled": out.pooler_output}


def features(model: Any) -> Outputs:
    """EfficientNet's last feature map and class logits of two images."""
    pixels = torch.randn(2, 3, 20, 20)
    out = model(pixels, output_hidden_states=True)
    return {
        "pixels": pixels,
        "hidden": model.efficientnet(pixels).last_hidden_state,
        "logits": out.logits,
    }


def dual_encoder(model: Any) -> Outputs:
    """CLIP's hidden states, embeddings and logits; texts end at different positions."""
    tokens = torch.randint(3, 50, (3, 7))
    end = model.config.text_config.eos_token_id
    end = 55 if end == 2 else end  # the old rule: the largest token is the end
    for row, position in enumerate((6, 4, 2)):
        tokens[row, position:] = 0
        tokens[row, position] = end
    pixels = torch.randn(2, 3, 12, 12)
    out = model(input_ids=tokens, pixel_values=pixels)
    return {
        "tokens": tokens,
        "pixels": pixels,
        "text_hidden": out.text_model_output.last_hidden_state,
        "image_hidden": out.vision_model_output.last_hidden_state,
        "text": out.text_embeds,
        "image": out.image_embeds,
        "logits": out.logits_per_image,
    }


def text_tower(model: Any) -> Outputs:
    """Final hidden states of CLIP's text tower alone."""
    tokens, mask = _tokens(56, left=False)
    out = model(tokens, attention_mask=mask)
    return {"tokens": tokens, "mask": mask, "hidden": out.last_hidden_state}


def unmasked_texts(model: Any) -> Outputs:
    """Final hidden states of SigLIP's text tower alone, and its vector of each text."""
    tokens, _ = _tokens(56, left=False)
    out = model(tokens)
    return {"tokens": tokens, "hidden": out.last_hidden_state, "pooled": out.pooler_output}


def image_tower(model: Any) -> Outputs:
    """States of CLIP's image tower alone before the final norm, the class token's after it."""
    pixels = torch.randn(2, 3, 12, 12)
    out = model(pixels)
    return {"pixels": pixels, "hidden": out.last_hidden_state, "pooled": out.pooler_output}


def text_encoder(model: Any) -> Outputs:
    """Hidden states of T5's encoder alone."""
    tokens, mask = _tokens(56, left=False)
    out = model(input_ids=tokens, attention_mask=mask)
    return {"tokens": tokens, "mask": mask, "hidden": out.last_hidden_state}


def encoder_decoder(model: Any) -> Outputs:
    """T5's hidden states and logits with a padded input, and its greedy output."""
    tokens, mask = _tokens(56, left=False)
    targets = torch.cat([torch.zeros(2, 1, dtype=torch.long), torch.randint(3, 56, (2, 6))], 1)
    inputs = {"attention_mask": mask, "decoder_input_ids": targets, "use_cache": False}
    out = model(input_ids=tokens, **inputs)
    # Its cache fails where the decoder has more layers than the encoder, so: without.
    greedy = model.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=-1,
        use_cache=False,
    )
    return {
        "tokens": tokens,
        "mask": mask,
        "targets": targets,
        "hidden": out.encoder_last_hidden_state,
        "logits": out.logits,
        "greedy": greedy[:, 1:],
    }


def speech(model: Any) -> Outputs:
    """Whisper's states and logits of two spectrograms, and its greedy output after given tokens."""
    features, targets = torch.randn(2, 5, 12), torch.randint(3, 56, (2, 7))
    out = model(input_features=features, decoder_input_ids=targets)
    found = {
        "features": features,
        "targets": targets,
        "hidden": out.encoder_last_hidden_state,
    }
    if not hasattr(out, "logits"):
        return found | {"decoded": out.last_hidden_state}
    # The decode of all models, not Whisper's own, which cuts recordings and suppresses tokens.
    greedy = hf.GenerationMixin.generate(
        model,
        features,
        decoder_input_ids=targets,
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=-1,
    )
    return found | {"logits": out.logits, "greedy": greedy[:, targets.shape[1] :]}


def vision_language(model: Any) -> Outputs:
    """LLaVA's logits for a prompt with an image in it, and its greedy continuation."""
    patches = 9 if model.config.vision_feature_select_strategy == "default" else 10
    words = torch.randint(3, 50, (2, 8))
    slots = torch.full((2, patches), model.config.image_token_index)
    tokens = torch.cat([words[:, :3], slots, words[:, 3:]], 1)
    inputs = {"input_ids": tokens, "pixel_values": torch.randn(2, 3, 12, 12)}
    greedy = model.generate(**inputs, max_new_tokens=9, do_sample=False, eos_token_id=-1)
    return {
        "tokens": tokens,
        "pixels": inputs["pixel_values"],
        "logits": model(**inputs).logits,
        "greedy": greedy[:, tokens.shape[1] :],
    }


def tiled_vision_language(model: Any) -> Outputs:
    """LLaVA-NeXT's logits for two prompts with an image each, and their greedy continuations.

    The images have other numbers of tiles and of tokens: padding stands after the tiles of the
    second, and before its prompt.
    """
    sizes = torch.tensor([[50, 60], [60, 15]])
    pixels = torch.randn(2, 5, 3, 12, 12)
    counts = [len(part) for part in model.get_image_features(pixels, sizes).pooler_output]
    words = torch.randint(3, 50, (2, 8))
    rows = [
        torch.cat([w[:3], torch.full((n,), model.config.image_token_index), w[3:]])
        for w, n in zip(words, counts, strict=True)
    ]
    length = max(map(len, rows))
    tokens = torch.stack([torch.nn.functional.pad(r, (length - len(r), 0)) for r in rows])
    mask = torch.stack([(torch.arange(length) >= length - len(r)).long() for r in rows])
    inputs = {"input_ids": tokens, "attention_mask": mask}
    inputs |= {"pixel_values": pixels, "image_sizes": sizes}
    greedy = model.generate(**inputs, max_new_tokens=9, do_sample=False, eos_token_id=-1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {
        "tokens": tokens,
        "mask": mask,
        "pixels": pixels,
        "image_sizes": sizes,
        "logits": model(**inputs, position_ids=positions).logits,
        "greedy": greedy[:, length:],
    }


def feed_forwards(model: Any) -> Outputs:
    """What the feed-forward part of each layer makes of given vectors."""
    x = torch.randn(2, 7, 16)
    return {"x": x} | {f"layer_{i}": layer.mlp(x) for i, layer in enumerate(model.model.layers)}


def _tokens(vocab_size: int, *, left: bool, pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(3, vocab_size, (2, 11))
    mask = torch.ones_like(tokens)
    mask[1, slice(4) if left else slice(7, None)] = 0
    return torch.where(mask == 1, tokens, pad), mask


def _clip(act: str, eos_token_id: int, width: int = 16) -> Any:
    text = TEXT | {"hidden_act": act, "eos_token_id": eos_token_id}
    vision = VISION | {"hidden_act": act, "hidden_size": width}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))


def _siglip() -> Any:
    vision = VISION | {"hidden_size": 20}
    return hf.SiglipModel(
        hf.SiglipConfig(text_config=TEXT | {"projection_size": 20}, vision_config=vision)
    )


def _t5(proj: str, *, tied: bool, encoder: bool = False, kind: str = "T5") -> Any:
    config = getattr(hf, f"{kind}Config")(
        d_model=16,
        d_kv=6,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        vocab_size=56,
        num_decoder_layers=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=10,
        decoder_start_token_id=0,
        feed_forward_proj=proj,
        tie_word_embeddings=tied,
    )
    if encoder:
        return getattr(hf, f"{kind}EncoderModel")(config)
    model = getattr(hf, f"{kind}ForConditionalGeneration")(config)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(56, 16))
    return model


def _llava(strategy: str, layer: int, text: Mapping[str, Any]) -> Any:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**TEXT, **text),
        image_token_index=55,
        vision_feature_select_strategy=strategy,
        vision_feature_layer=layer,
    )
    return hf.LlavaForConditionalGeneration(config)


def _llava_next(text: Any) -> Any:
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION | {"num_hidden_layers": 2}),
        text_config=text,
        image_token_index=55,
        image_grid_pinpoints=[[12, 24], [24, 12], [24, 24]],
    )
    return hf.LlavaNextForConditionalGeneration(config)


def _efficientnet() -> Any:
    config = hf.EfficientNetConfig(
        image_size=20,
        width_coefficient=0.25,
        depth_coefficient=1.2,
        hidden_dim=320,
        depth_divisor=8,
        depthwise_padding=[4],  # the block whose input has an odd size: 20, 10, 5, 3
        num_labels=4,
        in_channels=[32, 16, 40],
        out_channels=[16, 40, 48],
        kernel_sizes=[3, 5, 3],
        strides=[1, 2, 2],
        num_block_repeats=[1, 1, 1],
        expand_ratios=[1, 4, 3],
    )
    return hf.EfficientNetForImageClassification(config)


ROBERTA = {"pad_token_id": 1, "max_position_embeddings": 34, "type_vocab_size": 1}
DISTILBERT = {
    "dim": 16,
    "hidden_dim": 40,
    "n_heads": 4,
    "n_layers": 3,
    "vocab_size": 56,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
GROUPED = TEXT | {"num_key_value_heads": 2}
SHALLOW = GROUPED | {"num_hidden_layers": 2, "max_position_embeddings": 128}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 8}
# between the lengths of the rows, so that one is long and the other becomes so
LONGROPE = {"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": 9}


def _model(name: str, config: str, fields: Mapping[str, Any], **more: Any) -> Callable[[], Any]:
    return lambda: getattr(hf, name)(getattr(hf, config)(**{**fields, **more}))


FACTORISED = TEXT | {"embedding_size": 12}
NEOX = SMALL | {"max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2}
NEOX |= {"num_attention_heads": 2}
OPT = {"hidden_size": 16, "ffn_dim": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
OPT |= {"vocab_size": 56, "max_position_embeddings": 32} | SPECIAL
MODERN = TEXT | {"local_attention": 4, "cls_token_id": 1, "sep_token_id": 2}
NOMIC = {k: v for k, v in TEXT.items() if k not in ("bos_token_id", "eos_token_id")}
EXPERTS = GROUPED | {"intermediate_size": 12, "num_experts_per_tok": 2}
MIXTRAL = EXPERTS | {"num_local_experts": 4}
QWEN_MOE = EXPERTS | {"num_experts": 4, "moe_intermediate_size": 12}
QWEN_MIXED = QWEN_MOE | {"num_hidden_layers": 5, "decoder_sparse_step": 2, "intermediate_size": 20}
GPT_OSS = MIXTRAL | {"head_dim": 8, "sliding_window": 4, "swiglu_limit": 0.75}
DEEPSEEK = TEXT | {"intermediate_size": 20, "moe_intermediate_size": 12, "n_routed_experts": 8}
DEEPSEEK |= {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "n_shared_experts": 2}
DEEPSEEK |= {"first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "v_head_dim": 4}
DEEPSEEK |= {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "num_key_value_heads": 4}
WHISPER = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "vocab_size": 56}
WHISPER |= {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "num_mel_bins": 5}
WHISPER |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "max_source_positions": 6} | SPECIAL
WHISPER |= {"max_target_positions": 16, "decoder_start_token_id": 1}
WHISPER |= {"begin_suppress_tokens": None}  # of a vocabulary of 56
DINO = {k: v for k, v in VISION.items() if k != "intermediate_size"}


Make = Callable[[], Any]
CASES: Mapping[str, tuple[Make, Callable[[Any], Outputs]]] = {
    "gpt2": (lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)), causal),
    "gpt2_untied_gelu": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(**GPT2, n_inner=24, activation_function="gelu", tie_word_embeddings=False)
        ),
        causal,
    ),
    "llama": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, num_key_value_heads=2)),
        causal,
    ),
    "llama_bias_multi_query": (
        lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(
                **TEXT, num_key_value_heads=1, head_dim=6, attention_bias=True, mlp_bias=True
            )
        ),
        causal,
    ),
    "llama3_tied": (
        lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(
                **TEXT, head_dim=12, rope_parameters=dict(LLAMA3), tie_word_embeddings=True
            )
        ),
        causal,
    ),
    "mistral": (
        lambda: hf.MistralForCausalLM(
            hf.MistralConfig(**TEXT, num_key_value_heads=2, sliding_window=4)
        ),
        causal,
    ),
    "mistral_no_window": (
        lambda: hf.MistralForCausalLM(
            hf.MistralConfig(**TEXT, num_key_value_heads=1, sliding_window=None)
        ),
        causal,
    ),
    "bert": (lambda: hf.BertForPreTraining(hf.BertConfig(**TEXT)), encoder),
    "bert_model": (
        lambda: hf.BertModel(hf.BertConfig(**TEXT, hidden_act="gelu_new", type_vocab_size=3)),
        encoder,
    ),
    "gemma": (
        lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**TEXT, num_key_value_heads=1, head_dim=8)),
        causal,
    ),
    "gemma_grouped": (
        lambda: hf.GemmaForCausalLM(
            hf.GemmaConfig(**TEXT, num_key_value_heads=2, head_dim=4, hidden_act="gelu")
        ),
        causal,
    ),
    "bert_texts": (
        _model("BertForSequenceClassification", "BertConfig", TEXT, num_labels=3),
        encoder,
    ),
    "bert_tokens": (
        _model("BertForTokenClassification", "BertConfig", TEXT, num_labels=5),
        encoder,
    ),
    "bert_spans": (_model("BertForQuestionAnswering", "BertConfig", TEXT), encoder),
    "roberta": (_model("RobertaForMaskedLM", "RobertaConfig", TEXT | ROBERTA), encoder),
    "roberta_rank": (
        _model("RobertaForSequenceClassification", "RobertaConfig", TEXT | ROBERTA, num_labels=1),
        encoder,
    ),
    "xlm_roberta": (_model("XLMRobertaModel", "XLMRobertaConfig", TEXT | ROBERTA), encoder),
    "xlm_roberta_tokens": (
        _model("XLMRobertaForTokenClassification", "XLMRobertaConfig", TEXT | ROBERTA),
        encoder,
    ),
    "mpnet": (
        _model(
            "MPNetModel",
            "MPNetConfig",
            TEXT | {"max_position_embeddings": 34, "pad_token_id": 1},
        ),
        encoder,
    ),
    "mpnet_masked": (
        _model("MPNetForMaskedLM", "MPNetConfig", TEXT | {"pad_token_id": 1}),
        encoder,
    ),
    "distilbert": (_model("DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT), encoder),
    "distilbert_texts": (
        _model("DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT),
        encoder,
    ),
    "distilbert_spans": (
        _model("DistilBertForQuestionAnswering", "DistilBertConfig", DISTILBERT),
        encoder,
    ),
    "llama_yarn": (
        _model("LlamaForCausalLM", "LlamaConfig", GROUPED, rope_parameters=dict(YARN)),
        causal,
    ),
    "llama_longrope": (
        _model(
            "LlamaForCausalLM",
            "LlamaConfig",
            GROUPED,
            rope_parameters=LONGROPE
            | {"short_factor": [1.0, 1.5], "long_factor": [2, 6.5], "factor": 4.0},
        ),
        each_alone,
    ),
    "llama_linear": (
        _model(
            "LlamaForCausalLM",
            "LlamaConfig",
            TEXT,
            rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
        ),
        causal,
    ),
    "llama_reward": (
        _model("LlamaForSequenceClassification", "LlamaConfig", GROUPED, num_labels=1),
        states,
    ),
    "mistral_states": (
        _model("MistralModel", "MistralConfig", GROUPED, sliding_window=4),
        states,
    ),
    "qwen2": (_model("Qwen2ForCausalLM", "Qwen2Config", GROUPED), causal),
    "qwen2_windows": (
        _model(
            "Qwen2ForCausalLM",
            "Qwen2Config",
            GROUPED,
            use_sliding_window=True,
            sliding_window=4,
            max_window_layers=1,
            tie_word_embeddings=True,
        ),
        causal,
    ),
    "qwen3": (_model("Qwen3ForCausalLM", "Qwen3Config", GROUPED, head_dim=6), causal),
    "qwen3_states": (_model("Qwen3Model", "Qwen3Config", GROUPED, head_dim=8), states),
    "mixtral": (_model("MixtralForCausalLM", "MixtralConfig", MIXTRAL, sliding_window=4), causal),
    "mixtral_states": (_model("MixtralModel", "MixtralConfig", MIXTRAL, head_dim=6), states),
    "qwen2_moe": (
        _model(
            "Qwen2MoeForCausalLM",
            "Qwen2MoeConfig",
            QWEN_MOE,
            shared_expert_intermediate_size=20,
            norm_topk_prob=False,
        ),
        causal,
    ),
    "qwen2_moe_mixed": (
        _model(
            "Qwen2MoeForCausalLM",
            "Qwen2MoeConfig",
            QWEN_MIXED,
            shared_expert_intermediate_size=12,
            norm_topk_prob=True,
            mlp_only_layers=[1],
            use_sliding_window=True,
            sliding_window=4,
            max_window_layers=3,
        ),
        causal,
    ),
    "qwen3_moe": (
        _model("Qwen3MoeForCausalLM", "Qwen3MoeConfig", QWEN_MOE, norm_topk_prob=True, head_dim=6),
        causal,
    ),
    "qwen3_moe_mixed": (_model("Qwen3MoeForCausalLM", "Qwen3MoeConfig", QWEN_MIXED), causal),
    "olmoe": (_model("OlmoeForCausalLM", "OlmoeConfig", EXPERTS, num_experts=4), causal),
    "gpt_oss": (_model("GptOssForCausalLM", "GptOssConfig", GPT_OSS), causal),
    "phi3": (_model("Phi3ForCausalLM", "Phi3Config", GROUPED, sliding_window=4), causal),
    "phi3_longrope": (
        _model(
            "Phi3ForCausalLM",
            "Phi3Config",
            GROUPED | {"num_attention_heads": 2, "num_key_value_heads": 1},
            original_max_position_embeddings=9,
            rope_parameters=LONGROPE
            | {
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.25, 1.5],
                "long_factor": [2.0, 4.0, 6.5],
            },
        ),
        each_alone,
    ),
    "olmo2": (_model("Olmo2ForCausalLM", "Olmo2Config", GROUPED), causal),
    "smollm3": (
        _model("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED, no_rope_layer_interval=2),
        causal,
    ),
    "gemma2": (
        _model(
            "Gemma2ForCausalLM",
            "Gemma2Config",
            GROUPED,
            head_dim=8,
            query_pre_attn_scalar=12,
            sliding_window=4,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=5.0,
        ),
        causal,
    ),
    "gemma3": (
        _model(
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            GROUPED,
            head_dim=8,
            query_pre_attn_scalar=12,
            sliding_window=4,
            layer_types=list(WINDOWS),
        ),
        causal,
    ),
    "gemma3_both_ways": (
        _model(
            "Gemma3TextModel",
            "Gemma3TextConfig",
            GROUPED,
            head_dim=8,
            sliding_window=6,
            use_bidirectional_attention=True,
            layer_types=list(WINDOWS),
        ),
        states,
    ),
    "starcoder2": (
        _model("Starcoder2ForCausalLM", "Starcoder2Config", GROUPED, sliding_window=4),
        causal,
    ),
    "gpt_neox": (_model("GPTNeoXForCausalLM", "GPTNeoXConfig", NEOX), causal),
    "gpt_neox_in_turn": (
        _model(
            "GPTNeoXForCausalLM",
            "GPTNeoXConfig",
            NEOX,
            use_parallel_residual=False,
            attention_bias=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1},
        ),
        causal,
    ),
    "opt": (_model("OPTForCausalLM", "OPTConfig", OPT), causal),
    "opt_post_norm": (
        _model("OPTForCausalLM", "OPTConfig", OPT, do_layer_norm_before=False),
        causal,
    ),
    "electra": (_model("ElectraForPreTraining", "ElectraConfig", FACTORISED), encoder),
    "electra_generator": (_model("ElectraForMaskedLM", "ElectraConfig", FACTORISED), encoder),
    "electra_texts": (
        _model("ElectraForSequenceClassification", "ElectraConfig", TEXT, embedding_size=16),
        encoder,
    ),
    "albert": (_model("AlbertForPreTraining", "AlbertConfig", FACTORISED), encoder),
    "albert_model": (_model("AlbertModel", "AlbertConfig", TEXT, embedding_size=16), encoder),
    "albert_texts": (
        _model("AlbertForSequenceClassification", "AlbertConfig", FACTORISED, num_labels=3),
        encoder,
    ),
    "modernbert": (_model("ModernBertForMaskedLM", "ModernBertConfig", MODERN), encoder),
    "modernbert_model": (_model("ModernBertModel", "ModernBertConfig", MODERN), encoder),
    "modernbert_rank": (
        _model(
            "ModernBertForSequenceClassification",
            "ModernBertConfig",
            MODERN,
            num_labels=1,
            classifier_pooling="mean",
            classifier_bias=True,
        ),
        encoder,
    ),
    "modernbert_tokens": (
        _model("ModernBertForTokenClassification", "ModernBertConfig", MODERN),
        encoder,
    ),
    "nomic_bert": (_model("NomicBertForMaskedLM", "NomicBertConfig", NOMIC), encoder),
    "nomic_bert_model": (_model("NomicBertModel", "NomicBertConfig", NOMIC), encoder),
    "deit": (
        _model("DeiTForImageClassificationWithTeacher", "DeiTConfig", VISION, num_labels=5),
        image,
    ),
    "deit_model": (_model("DeiTModel", "DeiTConfig", VISION), image),
    "dinov2": (_model("Dinov2Model", "Dinov2Config", DINO), image),
    "dinov2_classes": (
        _model(
            "Dinov2ForImageClassification",
            "Dinov2Config",
            DINO,
            use_swiglu_ffn=True,
            use_mask_token=False,
            num_labels=5,
        ),
        image,
    ),
    "siglip": (_siglip, dual_encoder),
    "siglip_text": (_model("SiglipTextModel", "SiglipTextConfig", TEXT), unmasked_texts),
    "siglip_vision": (_model("SiglipVisionModel", "SiglipVisionConfig", VISION), image_tower),
    "vit": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=5)),
        image,
    ),
    "vit_model": (
        lambda: hf.ViTModel(hf.ViTConfig(**VISION, qkv_bias=False, hidden_act="gelu_new")),
        image,
    ),
    "clip": (lambda: _clip("quick_gelu", 2), dual_encoder),
    "clip_open": (lambda: _clip("gelu", 51, width=20), dual_encoder),
    "t5_v1_1": (lambda: _t5("gated-gelu", tied=False), encoder_decoder),
    "t5": (lambda: _t5("relu", tied=True), encoder_decoder),
    "mt5": (lambda: _t5("gated-gelu", tied=False, kind="MT5"), encoder_decoder),
    "mt5_encoder": (
        lambda: _t5("gated-gelu", tied=False, encoder=True, kind="MT5"),
        text_encoder,
    ),
    "t5_encoder": (lambda: _t5("gated-gelu", tied=False, encoder=True), text_encoder),
    "whisper": (_model("WhisperForConditionalGeneration", "WhisperConfig", WHISPER), speech),
    "whisper_untied": (
        _model(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            WHISPER,
            activation_function="relu",
            tie_word_embeddings=False,
        ),
        speech,
    ),
    "whisper_model": (_model("WhisperModel", "WhisperConfig", WHISPER), speech),
    "clip_text": (_model("CLIPTextModel", "CLIPTextConfig", TEXT), text_tower),
    "clip_vision": (_model("CLIPVisionModel", "CLIPVisionConfig", VISION), image_tower),
    "efficientnet": (_efficientnet, features),
    "llava": (lambda: _llava("default", -2, {}), vision_language),
    "llava_full": (
        lambda: _llava("full", -1, {"num_key_value_heads": 2, "tie_word_embeddings": False}),
        vision_language,
    ),
    "llava_next": (
        lambda: _llava_next(hf.MistralConfig(**SHALLOW, sliding_window=24)),
        tiled_vision_language,
    ),
    "llava_next_qwen2": (
        lambda: _llava_next(hf.Qwen2Config(**SHALLOW)),
        tiled_vision_language,
    ),
}


FEED_FORWARDS: Mapping[str, tuple[Make, Callable[[Any], Outputs]]] = {
    "deepseek_v3": (_model("DeepseekV3ForCausalLM", "DeepseekV3Config", DEEPSEEK), feed_forwards),
}


def randomise(model: torch.nn.Module) -> None:
    """Weights that leave nothing at its start: biases not 0, scales not 1."""
    for name, value in model.named_parameters():
        scale = value.dim() == 1 and "norm" in name.lower() and name.endswith("weight")
        value.data.normal_(0.0, 0.25)
        value.data += float(scale or ("ln_" in name and name.endswith("weight")))
    for name, value in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.data.uniform_(0.5, 1.5)
        if name.endswith("e_score_correction_bias"):
            value.data.normal_(0.0, 0.25)


def make(name: str, *, seed: int = 0, folder: Path = FOLDER) -> None:
    """Writes one case."""
    build, compute = {**CASES, **FEED_FORWARDS}[name]
    torch.manual_seed(sum(map(ord, name)) + 1000 * seed)
    model = build().eval()
    randomise(model)
    folder = (folder.with_name("feed_forwards") if name in FEED_FORWARDS else folder) / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    with torch.no_grad():
        golden = compute(model)
    golden = {key: value.contiguous() for key, value in golden.items()}
    save_file(
        {k: v.int() if v.dtype == torch.int64 else v for k, v in golden.items()},
        folder / "golden.safetensors",
    )


if __name__ == "__main__":
    for case in sys.argv[1:] or {**CASES, **FEED_FORWARDS}:
        make(case)
