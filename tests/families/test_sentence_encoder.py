"""Sentence encoders against sentence-transformers 6.2, from what golden/make_sentence.py wrote."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import gelu_jax as gj
from gelu_jax import families

SENTENCE = Path(__file__).parents[1] / "golden" / "sentence"
CASES = sorted(path.parent.name for path in SENTENCE.glob("*/vectors.json"))


def assembled(name, path, **files):
    """A case with its model; files are replaced by what a function makes of their JSON."""
    golden = json.loads((SENTENCE / name / "vectors.json").read_text())
    shutil.copytree(SENTENCE / golden["base"], path)
    shutil.copytree(SENTENCE / name, path, dirs_exist_ok=True)
    for file, change in files.items():
        target = next(path.rglob(file.replace("__", "/") + ".json"))
        target.write_text(json.dumps(change(json.loads(target.read_text()))))
    return golden


@pytest.mark.parametrize("name", CASES)
def test_the_vectors_are_those_of_sentence_transformers(name, tmp_path):
    golden = assembled(name, tmp_path / "model")
    encoder = families.load_sentence_encoder(tmp_path / "model")
    for prompt, expected in golden["vectors"].items():
        vectors = encoder.encode(golden["texts"], prompt_name=prompt or None)
        np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5, err_msg=prompt)


@pytest.fixture(scope="module")
def cls(tmp_path_factory):
    """The directory of a case, its golden values and its encoder."""
    path = tmp_path_factory.mktemp("sentence") / "model"
    golden = assembled("cls", path)
    return path, golden, families.load_sentence_encoder(path)


def test_one_text_is_no_list_of_letters(cls):
    _, golden, encoder = cls
    one = encoder.encode(golden["texts"][0])
    np.testing.assert_allclose(one, golden["vectors"][""][0], rtol=0, atol=1e-5)
    whole = families.sentence_embeddings(encoder.model, encoder.tokenizer, "w5 w6")
    assert whole.shape == (16,)


def test_no_texts_and_batches_of_one(cls):
    _, golden, encoder = cls
    assert encoder.encode([]).shape == (0, 16)
    one_by_one = encoder.encode(golden["texts"], batch_size=1)
    np.testing.assert_allclose(one_by_one, golden["vectors"][""], rtol=0, atol=1e-5)


def test_flags_of_old_files_and_names_of_old_modules(cls, tmp_path):
    path, golden, _ = cls
    shutil.copytree(path, tmp_path / "old")
    flags = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True}
    flags |= {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}
    (tmp_path / "old" / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    types = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{t}"}
        for i, (t, p) in enumerate(zip(types, paths, strict=True))
    ]
    (tmp_path / "old" / "modules.json").write_text(json.dumps(modules))
    vectors = families.load_sentence_encoder(tmp_path / "old").encode(golden["texts"])
    np.testing.assert_allclose(vectors, golden["vectors"][""], rtol=0, atol=1e-5)


def test_texts_are_cut_where_the_files_say(cls, tmp_path):
    path, golden, _ = cls
    limits = {}
    for name, setting in {"own": {"max_seq_length": 7}, "tokenizer": {}}.items():
        shutil.copytree(path, tmp_path / name)
        (tmp_path / name / "sentence_bert_config.json").write_text(json.dumps(setting))
        limits[name] = families.load_sentence_encoder(tmp_path / name)
    assert limits["own"].max_tokens == 7
    assert limits["tokenizer"].max_tokens == 24  # the tokenizer's; the model has 32 positions
    cut = limits["own"].encode([golden["texts"][2], "w5 w11 w40 w41 w42"])
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)


def test_lower_case(cls, tmp_path):
    path, golden, encoder = cls
    shutil.copytree(path, tmp_path / "lower")
    settings = tmp_path / "lower" / "sentence_bert_config.json"
    settings.write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    lower = families.load_sentence_encoder(tmp_path / "lower")
    expected = encoder.encode(golden["texts"][3].lower())
    np.testing.assert_allclose(lower.encode(golden["texts"][3]), expected, atol=1e-6)


def test_a_tokenizer_of_ones_own(cls):
    path, golden, _ = cls
    own = Tokenizer.from_file(str(path / "tokenizer.json"))
    own.enable_padding(length=20)
    before = own.to_str()
    encoder = families.load_sentence_encoder(path, tokenizer=own)
    np.testing.assert_allclose(
        encoder.encode(golden["texts"]), golden["vectors"][""], rtol=0, atol=1e-5
    )
    assert own.to_str() == before


def without(fields, name):
    return {k: v for k, v in fields.items() if k != name}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("1_Pooling__config", lambda v: v | {"pooling_mode": "median"}, "pooling_mode = 'median'"),
        ("1_Pooling__config", lambda v: v | {"weights": [1]}, r"weights = \[1\]: not supported"),
        ("2_Dense__config", lambda v: v | {"activation_function": "my.Act"}, "activation_function"),
        ("2_Dense__config", lambda v: v | {"out_features": 25}, r"linear\.weight = \(24, 16\)"),
        ("2_Dense__config", lambda v: v | {"module_input_name": "token_embeddings"}, "module_inp"),
        ("modules", lambda v: [v[0]], "the second module must be Pooling"),
        ("modules", lambda v: [*v, v[0]], r"modules\.json = 'Transformer': not supported"),
        ("modules", lambda v: [v[0] | {"path": "../other"}, *v[1:]], "must be a folder"),
        ("modules", lambda v: [v[0], v[1] | {"type": "own.Pooling"}], "own code"),
        (
            "sentence_bert_config",
            lambda v: v | {"transformer_task": "fill-mask"},
            "transformer_task = 'fill-mask'",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(file, change, message, tmp_path):
    assembled("dense", tmp_path / "model", **{file: change})
    with pytest.raises(gj.ConfigError, match=message) as caught:
        families.load_sentence_encoder(tmp_path / "model")
    assert len(str(caught.value).splitlines()) <= 2


def test_a_prompt_that_is_not_there(cls):
    with pytest.raises(gj.ConfigError, match=r"prompt_name = 'querry'.*did you mean query"):
        cls[2].encode(["w5"], prompt_name="querry")
    plain, named = (cls[2].encode(["w5"], prompt_name=name) for name in (None, "query"))
    np.testing.assert_array_equal(plain, named)  # in every encoder, and empty by default


def test_a_plain_model_is_no_sentence_encoder():
    with pytest.raises(gj.ConfigError, match=r"modules\.json.*sentence_embeddings"):
        families.load_sentence_encoder(SENTENCE / "encoder")
