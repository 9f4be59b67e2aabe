"""Cross-encoders against sentence-transformers 6.2, from what golden/make_cross.py wrote."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from parity import FIXTURES

import gelu_jax as gj
from gelu_jax import families

CROSS = Path(__file__).parents[1] / "golden" / "cross"
CASES = sorted(path.parent.name for path in CROSS.glob("*/scores.json"))


def assembled(name, path):
    """A case with its model."""
    golden = json.loads((CROSS / name / "scores.json").read_text())
    shutil.copytree(FIXTURES / golden["base"], path)
    shutil.copytree(CROSS / name, path, dirs_exist_ok=True)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | golden["config"]))
    return golden


@pytest.mark.parametrize("name", CASES)
def test_the_scores_are_those_of_sentence_transformers(name, tmp_path):
    golden = assembled(name, tmp_path / "model")
    encoder = families.load_cross_encoder(tmp_path / "model")
    pairs = [tuple(pair) for pair in golden["pairs"]]
    scores = encoder.predict(pairs)
    assert scores.shape == np.shape(golden["scores"])
    np.testing.assert_allclose(scores, golden["scores"], rtol=0, atol=1e-5)
    assert encoder.predict([]).shape == (0, *scores.shape[1:])


def test_a_model_without_such_a_head_is_refused(tmp_path):
    shutil.copytree(FIXTURES / "bert_model", tmp_path / "model")
    with pytest.raises(gj.ConfigError, match="has no head that scores texts"):
        families.load_cross_encoder(tmp_path / "model")


def test_an_activation_of_ones_own_is_refused(tmp_path):
    assembled("one", tmp_path / "model")
    settings = {"activation_fn": "my.own.Function"}
    (tmp_path / "model" / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(gj.ConfigError, match=r"activation_fn = 'my.own.Function': not supported"):
        families.load_cross_encoder(tmp_path / "model")
