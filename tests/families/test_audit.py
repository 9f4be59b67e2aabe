"""What a checkpoint is, and where two of them first differ."""

import sys

import pytest
from damaged import changed, copied
from parity import FIXTURES

from gelu_jax import cli, families


def test_an_activation_by_its_exact_definition():
    lines = families.audit(FIXTURES / "gpt2")
    assert lines[0] == "model_type: gpt2; Transformer"
    assert "feed-forward: gelu_tanh, 16 → 64, bias: True" in lines
    assert any(line.startswith("  gelu_tanh: ") for line in lines)
    assert any("transformer.h.0.mlp.c_fc.weight (16, 64)" in line for line in lines)
    assert "odd: activation_function says gelu_new, which is gelu_tanh" in lines


@pytest.mark.parametrize(
    ("name", "config", "odd"),
    [
        ("gemma", {"hidden_act": "gelu"}, "hidden_act says gelu, which is gelu; computed is"),
        ("llama", {"made_by": "me"}, "made_by is not used, by transformers neither"),
    ],
)
def test_what_is_odd(name, config, odd, tmp_path):
    path = changed(copied(name, tmp_path / "odd"), config=config)
    assert any(line.startswith(f"odd: {odd}") for line in families.audit(path))
    assert not any("odd" in line for line in families.audit(FIXTURES / "llama"))


def test_where_two_first_differ(tmp_path, monkeypatch, capsys):
    name = "model.layers.1.mlp.up_proj.weight"
    path = changed(
        copied("llama", tmp_path / "other"),
        config={"rms_norm_eps": 1e-6, "use_cache": False},
        tensors=lambda ts: ts | {name: ts[name] * 1.5},
    )
    lines = families.differences(FIXTURES / "llama", path)
    assert "config.json: use_cache = True, and False" in lines
    assert any(line.startswith(f"{name}: differs by up to ") for line in lines)
    assert lines[-1].startswith("hidden states first differ after layer 1: by ")
    assert families.differences(path, path) == []
    monkeypatch.setattr(sys, "argv", ["gelu-jax", "audit", str(path), str(path)])
    cli.main()
    assert capsys.readouterr().out == "no difference\n"
