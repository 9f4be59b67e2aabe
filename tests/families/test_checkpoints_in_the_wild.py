"""Files as they are found: dead tensors, tied ones under one name, formats that are not read."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damaged import changed, copied, same
from parity import FIXTURES
from safetensors.numpy import load_file

import gelu_jax as gj
from gelu_jax import families
from gelu_jax.families.embeddings import hidden_states
from gelu_jax.families.llama import LLAMA
from gelu_jax.families.load_plan import read_config
from gelu_jax.nn.attention import Attention
from gelu_jax.nn.decoding import generate
from gelu_jax.nn.stack import apply_layers
from gelu_jax.nn.transformer import Transformer

DEAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def test_a_table_that_t5_never_used_is_passed_over_and_listed(tmp_path):
    table = np.ones((8, 4), np.float32)
    path = changed(copied("t5", tmp_path / "small"), tensors=lambda ts: ts | {DEAD: table})
    model = families.load(path)
    same(model, families.load(FIXTURES / "t5"))
    assert model.source.ignored == (DEAD,)
    assert families.load(FIXTURES / "t5").source.ignored == ()


@pytest.mark.parametrize(
    ("name", "copy", "original"),
    [
        ("t5", "lm_head.weight", "shared.weight"),
        ("gpt2", "lm_head.weight", "transformer.wte.weight"),
        ("llama3_tied", "lm_head.weight", "model.embed_tokens.weight"),
        ("bert", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("whisper", "proj_out.weight", "model.decoder.embed_tokens.weight"),
    ],
)
def test_a_tied_tensor_under_its_other_name_alone(name, copy, original, tmp_path):
    path = changed(
        copied(name, tmp_path / "other"),
        tensors=lambda ts: {copy if n == original else n: t for n, t in ts.items()},
    )
    model = families.load(path)
    same(model, families.load(FIXTURES / name))
    families.save(model, tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == load_file(path / "model.safetensors").keys()


def test_many_missing_tensors_are_one_line(tmp_path):
    path = changed(
        copied("t5", tmp_path / "half"),
        tensors=lambda ts: {n: t for n, t in ts.items() if not n.startswith("decoder.block")},
    )
    with pytest.raises(families.WeightsError, match=r"^decoder\S+: missing; .*and \d\d more\)$"):
        families.load(path)


def quantised(path):
    changed(path, config={"quantization_config": {"quant_method": "gptq", "bits": 4}})


def adapter(path):
    (path / "config.json").unlink()
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "a/base"}))


def other_format(name):
    def change(path):
        (path / "model.safetensors").rename(path / name)

    return change


def pointer(path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (path / "model.safetensors").write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (quantised, r"quant_method = 'gptq': quantised weights are not read"),
        (adapter, r"adapter_config\.json = .*LoRA\) of a/base"),
        (other_format("pytorch_model.bin"), r"pytorch_model\.bin is not read"),
        (other_format("tiny.Q4_0.gguf"), r"tiny\.Q4_0\.gguf is not read"),
        (pointer, r"model\.safetensors = .*git-lfs pointer"),
    ],
)
def test_what_is_there_instead_is_named(damage, message, tmp_path):
    path = copied("llama", tmp_path / "other")
    damage(path)
    with pytest.raises(gj.ConfigError, match=message) as caught:
        families.load(path)
    assert "\n" not in str(caught.value)


def test_a_family_of_ones_own(tmp_path, monkeypatch):
    """One that is LLaMA but for a field of another name."""

    def config(hf, tensors):
        return LLAMA.config(hf.with_values(hidden_size=hf.integer("breadth")), tensors)

    own = replace(LLAMA, model_type="made_up", config=config)
    monkeypatch.setattr("gelu_jax.families.load_plan.FAMILIES", {"made_up": own})
    fields = {"model_type": "made_up", "breadth": 16, "hidden_size": None}
    path = changed(copied("llama", tmp_path / "own"), config=fields)
    model = families.load(path)
    families.save(model, tmp_path / "saved")
    same(families.load(tmp_path / "saved"), model)


# --- tokens, positions and options of generation ---


@pytest.fixture(scope="module")
def gpt2():
    return families.load(FIXTURES / "gpt2")  # 56 tokens, 32 positions


@pytest.mark.parametrize("token", [56, -1, 2**31 - 1])
def test_tokens_beyond_the_vocabulary(token, gpt2):
    with pytest.raises(gj.ConfigError, match=rf"tokens = {token}: must lie in 0\.\.55"):
        generate(gpt2, jnp.array([[1, token, 3]]), 2)
    assert np.isnan(jax.jit(gpt2.embed)(jnp.array([[1, token]]))[0, 1]).all()


def test_positions_beyond_the_table(gpt2):
    with pytest.raises(gj.ConfigError, match="length = 33: this model has 32 positions"):
        generate(gpt2, jnp.ones((1, 30), int), 4)
    with pytest.raises(gj.ConfigError, match="length = 33: this model has 32 positions"):
        jax.eval_shape(gpt2, jnp.ones((1, 33), int))
    roberta = families.load(FIXTURES / "roberta")  # 34 rows, of which two are for padding
    assert roberta.config.transformer.max_tokens == 32
    with pytest.raises(gj.ConfigError, match="this model has 32 positions"):
        jax.eval_shape(roberta, jnp.ones((1, 33), int))


def test_what_whisper_has_no_positions_for():
    whisper = families.load(FIXTURES / "whisper")  # 12 frames of 5 bands, 16 positions
    features, prompt = jnp.ones((1, 5, 12)), jnp.ones((1, 4), int)
    with pytest.raises(gj.ConfigError, match="length = 17: this model has 16 positions"):
        whisper.start(features, 17)
    with pytest.raises(gj.ConfigError, match="length = 17: this model has 16 positions"):
        jax.eval_shape(whisper, features, jnp.ones((1, 17), int))
    with pytest.raises(gj.ConfigError, match=r"features = \(1, 5, 10\): must have the shape"):
        jax.eval_shape(whisper, features[..., :10], prompt)
    with pytest.raises(gj.ConfigError, match="model = 'EncoderDecoder': not a model of texts"):
        hidden_states(whisper, prompt, prompt == 1)


def test_the_fields_of_whisper_as_it_was_published():
    """Of the tiny one; what is of generation alone is passed over, and listed where unknown."""
    sizes = {"d_model": 384, "vocab_size": 51865, "num_mel_bins": 80, "max_source_positions": 1500}
    sizes |= {"max_target_positions": 448, "num_hidden_layers": 4, "is_encoder_decoder": True}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 4, f"{part}_attention_heads": 6, f"{part}_ffn_dim": 1536}
    generation = {"suppress_tokens": [1, 2, 7], "begin_suppress_tokens": [220, 50257]}
    generation |= {"forced_decoder_ids": [[1, 50259], [2, 50359], [3, 50363]], "max_length": 448}
    values = {"model_type": "whisper", "scale_embedding": False, "activation_function": "gelu"}
    made, unknown = read_config(values | sizes | generation, ())
    assert unknown == ["forced_decoder_ids", "max_length"]
    assert (made.max_positions, made.stem.num_frames) == (448, 3000)
    with pytest.raises(gj.ConfigError, match=r"num_hidden_layers = 5: not supported; only 4 is"):
        read_config(values | sizes | {"num_hidden_layers": 5}, ())


def test_prompts_padded_on_the_right_continue_as_those_on_the_left():
    for name in ("mistral", "gpt2", "gemma2"):
        golden = load_file(FIXTURES / name / "golden.safetensors")
        tokens, mask = jnp.asarray(golden["tokens"]), jnp.asarray(golden["mask"] == 1)
        right = [jnp.roll(x[1], 7) for x in (tokens, mask)]  # the second row: 4 of padding, then 7
        tokens, mask = tokens.at[1].set(right[0]), mask.at[1].set(right[1])
        assert not mask[1, -1]
        found = generate(families.load(FIXTURES / name), tokens, 9, mask=mask)
        np.testing.assert_array_equal(found, golden["greedy"], err_msg=name)


def test_several_end_tokens(gpt2):
    golden = load_file(FIXTURES / "gpt2" / "golden.safetensors")
    tokens, mask = jnp.asarray(golden["tokens"]), jnp.asarray(golden["mask"] == 1)
    plain = golden["greedy"]
    ends = [int(plain[0, 2]), int(plain[1, 4])]
    found = np.asarray(generate(gpt2, tokens, 9, mask=mask, end_token=ends))
    for row, expected in zip(found, plain, strict=True):
        first = next(i for i, token in enumerate(expected) if token in ends)
        np.testing.assert_array_equal(row[: first + 1], expected[: first + 1])
        assert set(row[first:].tolist()) == {int(expected[first])}


@pytest.mark.parametrize("option", [{"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.9}])
def test_options_of_sampling_need_a_key(option, gpt2):
    with pytest.raises(gj.ConfigError, match=f"{next(iter(option))} = .*needs a key"):
        generate(gpt2, jnp.ones((1, 3), int), 2, **option)
    drawn = generate(gpt2, jnp.ones((1, 3), int), 2, key=jax.random.key(0), **option)
    assert drawn.shape == (1, 2)


def test_a_model_that_sees_ahead_does_not_generate(tmp_path):
    path = changed(copied("llama", tmp_path / "both"), config={"is_causal": False})
    model = families.load(path)
    assert not model.config.block.attention.causal
    with pytest.raises(gj.ConfigError, match="causal = False"):
        generate(model, jnp.ones((1, 3), int), 2)


# --- compiled once ---


@pytest.mark.parametrize("call", [lambda m, t: generate(m, t, 3), lambda m, t: m(t)])
def test_compiled_once_per_shape_with_weights_as_arguments(call, monkeypatch):
    traced = []
    attend = Attention.attend

    def counted(self, *args, **options):
        traced.append(self)
        return attend(self, *args, **options)

    monkeypatch.setattr(Attention, "attend", counted)
    model, tokens = families.load(FIXTURES / "llama3_tied"), jnp.array([[3, 4, 5, 6, 7]])
    first = call(model, tokens)
    assert traced
    traced.clear()
    again = call(families.load(FIXTURES / "llama3_tied"), tokens + 1)
    other = jax.tree.map(lambda leaf: -leaf, model)
    changed_weights = call(other, tokens)
    assert traced == []
    assert not np.array_equal(first, again)
    assert not np.array_equal(first, changed_weights)


# --- float16 ---


def test_t5_in_float16_stays_finite(tmp_path):
    """Weights with which the stream and the feed-forward exceed 65504."""

    def large(tensors):
        return {n: 30_000 * t if n.endswith("wo.weight") else t for n, t in tensors.items()}

    path = changed(copied("t5_v1_1", tmp_path / "large"), tensors=large)
    golden = load_file(FIXTURES / "t5_v1_1" / "golden.safetensors")
    tokens, targets = jnp.asarray(golden["tokens"]), jnp.asarray(golden["targets"])
    wide = families.load(path)
    narrow = families.load(path, dtype=jnp.float16)
    assert float(jnp.abs(stream(wide, tokens)).max()) > 65504
    assert narrow.encoder.layers.feed_forward.w_out.dtype == jnp.float32
    assert narrow.encoder.layers.feed_forward.w_in_0.dtype == jnp.float16
    logits, expected = narrow(tokens, targets), wide(tokens, targets)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=0.05 * np.abs(expected).max())


def test_whisper_in_float16_stays_finite(tmp_path):
    """Weights with which the stream exceeds 65504, where transformers clips the encoder's."""

    def large(tensors):
        return {n: 30_000 * t if n.endswith("fc2.weight") else t for n, t in tensors.items()}

    path = changed(copied("whisper", tmp_path / "large"), tensors=large)
    golden = load_file(FIXTURES / "whisper" / "golden.safetensors")
    features, targets = jnp.asarray(golden["features"]), jnp.asarray(golden["targets"])
    wide, narrow = families.load(path), families.load(path, dtype=jnp.float16)
    states, _ = apply_layers(wide.encoder.layers, wide.stem(features))
    assert float(jnp.abs(states).max()) > 65504
    logits, expected = narrow(features, targets), wide(features, targets)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=0.05 * np.abs(expected).max())


def stream(model, tokens):
    """The encoder's last states before its final norm."""
    positions = jnp.arange(tokens.shape[1])
    bias = model.encoder.bias(positions, positions, causal=False)
    return apply_layers(model.encoder.layers, model._embed(tokens), bias=bias)[0]


def test_states_of_every_layer():
    model = families.load(FIXTURES / "gemma2")
    golden = load_file(FIXTURES / "gemma2" / "golden.safetensors")
    tokens, mask = jnp.asarray(golden["tokens"]), jnp.asarray(golden["mask"] == 1)
    states = model.states(tokens, mask=mask)
    assert len(states) == 4
    assert isinstance(model, Transformer)
    found = model.final_hidden(states[-1])[mask]
    np.testing.assert_allclose(found, golden["hidden"][golden["mask"] == 1], rtol=0, atol=2e-5)
