"""Live against the installed transformers: fresh random models, and files in both directions.

Run with `pytest -m live`; needs the `peers` extra.
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from safetensors.numpy import load_file

from gelu_jax import families
from gelu_jax.nn.position import (
    RelativeConfig,
    RotaryConfig,
    RotaryScaling,
    relative_bias,
    rotary,
    sinusoids,
)

pytestmark = [
    pytest.mark.live,
    pytest.mark.filterwarnings("default"),  # of transformers itself, which gives many
]
TOLERANCE = 2e-5
SEEDS = (1, 2)


@pytest.fixture(scope="module")
def maker():
    """tests/golden/make_families.py as a module."""
    file = Path(__file__).parents[1] / "golden" / "make_families.py"
    spec = importlib.util.spec_from_file_location("make_families", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", parity.CASES)
def test_fresh_models(case, seed, maker, tmp_path):
    """Other weights and inputs than the fixture's, and what we save they load and compute alike."""
    maker.make(case, seed=seed, folder=tmp_path)
    for field, ours, expected in parity.compared(tmp_path / case):
        tolerance = TOLERANCE if ours.dtype.kind == "f" else 0
        np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance, err_msg=field)
    families.save(parity.loaded(tmp_path / case), tmp_path / "saved")
    one, other = (type_of(maker, case).from_pretrained(tmp_path / n) for n in (case, "saved"))
    expected, ours = one.state_dict(), other.state_dict()
    assert expected.keys() == ours.keys()
    assert all((expected[name] == ours[name]).all() for name in expected)


def type_of(maker, case):
    build, _ = maker.CASES[case]
    return type(build())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["gpt2", "llama", "bert", "t5_v1_1", "whisper"])
def test_half_precision_files_load_byte_equal(case, dtype, maker, tmp_path):
    import torch

    model = maker.CASES[case][0]().to(getattr(torch, dtype))
    maker.randomise(model)
    model.save_pretrained(tmp_path / "expected")
    ours = families.load(tmp_path / "expected")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(ours)} == {dtype}
    families.save(ours, tmp_path / "ours")
    one, other = ((tmp_path / name / "model.safetensors") for name in ("expected", "ours"))
    again = type(model).from_pretrained(tmp_path / "ours", dtype=getattr(torch, dtype))
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert one.stat().st_size == other.stat().st_size


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 10), (64, 256), (32, 20)])
@pytest.mark.parametrize("causal", [True, False])
def test_buckets_of_every_distance(buckets, distance, causal):
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    positions = jnp.arange(3 * distance)
    table = jnp.arange(buckets, dtype=jnp.float32)[:, None]
    ours = relative_bias(
        table, positions, positions, RelativeConfig(buckets, distance), causal=causal
    )
    relative = torch.arange(3 * distance)[None, :] - torch.arange(3 * distance)[:, None]
    expected = T5Attention._relative_position_bucket(
        relative, bidirectional=not causal, num_buckets=buckets, max_distance=distance
    ).numpy()
    seen = np.tril(np.ones_like(expected)) if causal else 1
    np.testing.assert_array_equal(np.asarray(ours)[0, 0] * seen, expected * seen)


def test_sines_of_whisper():
    """At the sizes of the published models; float32 angles leave 1e-4 at position 1,499."""
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs

    np.testing.assert_allclose(sinusoids(1500, 384), theirs(1500, 384), rtol=0, atol=2e-4)


def test_whisper_in_float16_is_finite_where_that_of_torch_is(tmp_path):
    """An encoder whose stream exceeds 65504, which torch clips."""
    import torch
    from transformers import WhisperForConditionalGeneration

    path = parity.FIXTURES / "whisper"
    model = WhisperForConditionalGeneration.from_pretrained(path, dtype=torch.float16).eval()
    for layer in model.model.encoder.layers:
        layer.fc2.weight.data *= 30_000
    model.save_pretrained(tmp_path)
    golden = load_file(path / "golden.safetensors")
    inputs = [torch.tensor(golden[name]) for name in ("features", "targets")]
    with torch.no_grad():
        expected = model(inputs[0].half(), decoder_input_ids=inputs[1].long())
    assert torch.isfinite(expected.logits).all()
    ours = families.load(tmp_path)
    assert ours.config.dtype == jnp.float16
    logits = ours(*(jnp.asarray(golden[name]) for name in ("features", "targets")))
    assert jnp.isfinite(logits).all()


def test_stretched_rotary_positions_of_llama_3():
    """At the sizes of the published model; float32 angles leave 1e-3 at position 10,000."""
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    positions = np.array([[0, 1, 17, 1000, 10_000]])
    x = np.random.default_rng(0).normal(size=(1, 5, 2, 128)).astype(np.float32)
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, head_dim=128, rope_parameters=rope)
    cos, sin = LlamaRotaryEmbedding(config)(torch.tensor(x), torch.tensor(positions))
    heads = torch.tensor(x).transpose(1, 2)
    expected = apply_rotary_pos_emb(heads, heads, cos, sin)[0].transpose(1, 2).numpy()
    ours = rotary(
        jnp.asarray(x), jnp.asarray(positions), RotaryConfig(500000.0, scaling=RotaryScaling())
    )
    np.testing.assert_allclose(ours[:, :4], expected[:, :4], rtol=0, atol=2e-4)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("case", ["llama", "bert_model", "modernbert_model", "gpt_neox"])
def test_no_state_differs_from_those_of_torch(case):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel

    path = parity.FIXTURES / case
    tokens = load_file(path / "golden.safetensors")["tokens"].long()
    model = AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
    assert families.state_differences(path, tokens, states) == []
