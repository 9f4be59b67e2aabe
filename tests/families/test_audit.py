"""What a checkpoint is, and where two of them first differ."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from damaged import changed, copied
from parity import FIXTURES, loaded
from safetensors.numpy import load_file, save_file

import gelu_jax as gj
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


@pytest.fixture(scope="module")
def states():
    """Tokens, mask and hidden states of the fixture; the last ones are what transformers gave."""
    golden = load_file(FIXTURES / "llama" / "golden.safetensors")
    tokens, mask = golden["tokens"], golden["mask"]
    found = loaded(FIXTURES / "llama").states(jnp.asarray(tokens), mask=jnp.asarray(mask) == 1)
    return tokens, mask, [*map(np.array, found[:-1]), golden["hidden"]]


def test_where_the_states_of_torch_first_differ(states, tmp_path, monkeypatch, capsys):
    tokens, mask, given = states
    path = FIXTURES / "llama"
    assert families.state_differences(path, tokens, given, mask=mask) == []
    wrong = [x.copy() for x in given]
    wrong[2][0, 3] *= 1.01
    wrong[3][0, 3] *= 1.5
    wrong[1][mask == 0] = np.nan  # padding is not compared
    lines = families.state_differences(path, tokens, wrong, mask=mask)
    assert [line.partition(": by")[0] for line in lines] == [
        "hidden states first differ after layer 1"
    ]
    held = {f"states.{i}": x for i, x in enumerate(wrong)} | {"tokens": tokens, "mask": mask}
    save_file(held, tmp_path / "theirs.safetensors")
    monkeypatch.setattr(
        sys, "argv", ["gelu-jax", "audit", str(path), f"{tmp_path}/theirs.safetensors"]
    )
    cli.main()
    assert capsys.readouterr().out == lines[0] + "\n"


class Tensor:
    """What a tensor of torch is asked for."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return self.array.astype(np.float32)


def test_tokens_and_states_may_be_of_torch(states):
    tokens, mask, given = states
    found = families.state_differences(
        FIXTURES / "llama", Tensor(tokens), list(map(Tensor, given)), mask=Tensor(mask)
    )
    assert found == []


def test_states_of_another_number_of_layers(states):
    tokens, _, given = states
    with pytest.raises(gj.ConfigError, match=r"states = 3: there must be 4"):
        families.state_differences(FIXTURES / "llama", tokens, given[:-1])


def test_a_file_of_other_things(tmp_path):
    save_file({"tokens": np.zeros((1, 2), np.int32)}, tmp_path / "x.safetensors")
    with pytest.raises(gj.ConfigError, match="must hold tokens, states"):
        families.file_differences(FIXTURES / "llama", tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(gj.ConfigError, match="no safetensors file"):
        families.file_differences(FIXTURES / "llama", tmp_path / "x.safetensors")
