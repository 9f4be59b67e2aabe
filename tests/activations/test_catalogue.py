"""The table of names: what other libraries compute under them, and that all of them are found."""

import json
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest

from gelu_jax.activations import ACTIVATIONS, activation, fatrelu, prelu, xielu
from gelu_jax.activations.catalogue import CATALOGUE
from gelu_jax.activations.names import _PARAMETRIC

pytestmark = pytest.mark.optimized

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "adopted.json").read_text())
POINTS = np.float32(GOLDEN["points"])
LIBRARIES = ("torch", "hf", "flax", "keras", "mlx")
OF_PARAMETERS = {"prelu": prelu, "xielu": xielu, "fatrelu": fatrelu}


def elsewhere(library: str, name: str) -> np.ndarray:
    """What a library gives at the points; flax and jax.nn are here to be asked."""
    if library != "flax":
        return np.asarray(GOLDEN[library][name])
    flax, own = (getattr(import_module(m), name) for m in ("flax.nnx", "jax.nn"))
    assert flax is own
    return np.asarray(own(POINTS))


def test_every_activation_is_in_the_table():
    assert (
        {e.name for e in CATALOGUE}
        == {*ACTIVATIONS, *OF_PARAMETERS}
        == {*ACTIVATIONS, *_PARAMETRIC}
    )
    names = [name for entry in CATALOGUE for name in entry.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_every_name_in_the_table_is_found(entry):
    for name in entry.names:
        if entry.name in OF_PARAMETERS:
            with pytest.raises(ValueError, match=f"call gelu_jax.activations.{entry.name}"):
                activation(name)
        else:
            assert activation(name) is ACTIVATIONS[entry.name]


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_other_libraries_compute_the_same_under_these_names(entry):
    f = ACTIVATIONS.get(entry.name) or OF_PARAMETERS[entry.name]
    for library in LIBRARIES:
        for name in getattr(entry, library):
            want = elsewhere(library, name)
            # the parameters of xielu are bfloat16 there
            near = {"rtol": 1e-2, "atol": 2e-2} if name == "xielu" else {"rtol": 2e-5, "atol": 2e-6}
            np.testing.assert_allclose(f(POINTS), want, **near, err_msg=name)


def test_every_name_of_act2fn_is_in_the_table():
    """As of transformers 5.23."""
    assert GOLDEN["versions"]["transformers"] == "5.23.0"
    assert {name for entry in CATALOGUE for name in entry.hf} == set(GOLDEN["hf"])


@pytest.mark.parametrize("library", ["torch", "keras", "mlx"])
def test_no_function_of_ours_lacks_its_name_elsewhere(library):
    """A recorded function that computes what one of ours does is in that one's row."""
    ours = {name: np.asarray(f(POINTS)) for name, f in ACTIVATIONS.items()}
    for name, values in GOLDEN[library].items():
        same = {o for o, y in ours.items() if np.allclose(y, values, rtol=2e-5, atol=2e-6)}
        rows = {e.name for e in CATALOGUE if name in getattr(e, library)}
        assert rows <= same
        assert len(rows) == bool(same), name


def test_the_costs_are_those_that_were_measured():
    results = json.loads((ROOT / "benchmarks" / "results" / "activations.json").read_text())
    measured = {
        (r["function"], r["what"]): r["ratio"] for r in results["rows"] if r["dtype"] == "float32"
    }
    for entry in CATALOGUE:
        pair = [measured.get((entry.name, what)) for what in ("forward", "gradient")]
        want = None if None in pair else tuple(round(ratio, 2) for ratio in pair)
        assert entry.cost == want, entry.name


def test_a_name_that_two_libraries_give_different_functions():
    x = jax.numpy.float32(-2)
    assert activation("jax.nn.gelu")(x) != activation("torch.nn.functional.gelu")(x)
