"""Parity with transformers 5.23, from fixtures: what golden/make_families.py wrote."""

import jax
import numpy as np
import parity
import pytest
import quickly
from parity import CASES, FIXTURES
from safetensors.numpy import load_file

from gelu_jax import families

TOLERANCE = 2e-5  # absolute, f32 on CPU; `python tests/parity.py` prints what is reached


def test_every_family_has_a_fixture():
    made = [(FIXTURES / name / "config.json").read_text() for name in CASES]
    found = {kind for kind in families.FAMILIES if any(f'"{kind}"' in text for text in made)}
    assert found == families.FAMILIES.keys() - {"palm"}  # see test_references.py


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [quickly.OPTIONS, pytest.param(None, marks=pytest.mark.slow)])
def test_outputs_are_those_of_transformers(name, options):
    for field, ours, expected in parity.compared(FIXTURES / name, compiler_options=options):
        tolerance = TOLERANCE if ours.dtype.kind == "f" else 0  # tokens are equal
        np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance, err_msg=field)


@pytest.mark.parametrize("name", CASES)
def test_saved_tensors_are_byte_equal_to_the_source(name, tmp_path):
    model = parity.loaded(FIXTURES / name)
    families.save(model, tmp_path / "saved")
    source, saved = FIXTURES / name, tmp_path / "saved"
    ours, expected = load_file(saved / "model.safetensors"), load_file(source / "model.safetensors")
    counts = {tensor for tensor in expected if tensor.endswith(".num_batches_tracked")}
    assert ours.keys() == expected.keys() - counts
    for tensor in ours:
        assert ours[tensor].shape == expected[tensor].shape
        assert ours[tensor].tobytes() == expected[tensor].tobytes(), tensor
    assert (saved / "config.json").read_bytes() == (source / "config.json").read_bytes()
    again, unsaved = families.load(saved), {*model.source.ignored} - counts
    assert {*again.source.ignored} == unsaved
    again.source = model.source
    assert jax.tree.structure(again) == jax.tree.structure(model)
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
