"""Sentence embeddings against transformers, and what batching and cutting must not change."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gelu_jax import families

FIXTURES = Path(__file__).parents[1] / "golden" / "families"


def tokenizer(*, ends=False):
    """The word w17 is token 17; with ends, tokens 1 and 2 stand around each text."""
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(56)}, unk_token="w3"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        pair = [("w1", 1), ("w2", 2)]
        made.post_processor = processors.TemplateProcessing("w1 $A w2", None, pair)
    return made


@pytest.fixture(scope="module")
def model():
    return families.load(FIXTURES / "bert_model")


def test_the_vectors_are_those_of_transformers():
    for name in ("bert", "bert_model"):
        golden = load_file(FIXTURES / name / "golden.safetensors")
        real = zip(golden["tokens"], golden["mask"], strict=True)
        texts = [" ".join(f"w{t}" for t in row[mask == 1]) for row, mask in real]
        vectors = families.sentence_embeddings(
            families.load(FIXTURES / name), tokenizer(), texts, batch_size=1
        )
        np.testing.assert_allclose(vectors, golden["sentence"], rtol=0, atol=1e-5)


def test_batches_and_order_change_nothing(model):
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{t}" for t in rng.integers(3, 56, n)) for n in (3, 20, 1, 7, 7, 16)]
    together = families.sentence_embeddings(model, tokenizer(ends=True), texts)
    assert together.shape == (6, 16)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    apart = families.sentence_embeddings(model, tokenizer(ends=True), texts[::-1], batch_size=2)
    np.testing.assert_allclose(together, apart[::-1], atol=1e-6)


def test_long_texts_are_cut_and_keep_their_ends(model):
    words = [f"w{i % 50 + 4}" for i in range(100)]
    long, cut = " ".join(words), " ".join(words[:30])  # 32 positions, two of them for the ends
    vectors = families.sentence_embeddings(model, tokenizer(ends=True), [long, cut])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    short, cut = families.sentence_embeddings(
        model, tokenizer(ends=True), [long, " ".join(words[:6])], max_tokens=8
    )
    np.testing.assert_allclose(short, cut, atol=1e-6)


def test_the_callers_tokenizer_stays_as_it_is(model, tmp_path):
    made = tokenizer(ends=True)
    made.enable_padding(length=12)
    made.enable_truncation(max_length=3)
    before = made.to_str()
    one = families.sentence_embeddings(model, made, ["w5 w6 w7 w8"])
    assert made.to_str() == before
    made.save(str(tmp_path / "tokenizer.json"))
    other = families.sentence_embeddings(model, tmp_path / "tokenizer.json", ["w5 w6 w7 w8"])
    plain = families.sentence_embeddings(model, tokenizer(ends=True), ["w5 w6 w7 w8"])
    np.testing.assert_array_equal(one, plain)
    np.testing.assert_array_equal(one, other)


def test_nothing_to_embed(model):
    assert families.sentence_embeddings(model, tokenizer(), []).shape == (0, 16)
    assert np.isfinite(families.sentence_embeddings(model, tokenizer(), [""])).all()
