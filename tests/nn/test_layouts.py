"""Round trips of every layout lose nothing, and each layout is the one its users have."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gelu_jax.nn.layouts import LAYOUTS, fuse, split, transposed

dtypes = st.sampled_from([np.float32, np.float16, np.float64, np.int8, ml_dtypes.bfloat16])


@st.composite
def kernels(draw):
    n, d, f = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    lead = draw(st.sampled_from([(d,), (), (3, d)]))  # a kernel, a bias, a stack of experts
    bits = draw(arrays(np.int8, (n, *lead, f)))
    return list(bits.astype(draw(dtypes))), n


@given(kernels(), st.sampled_from(sorted(LAYOUTS)))
def test_round_trip(case, layout):
    branches, n = case
    back = split(fuse(branches, layout), layout, num_branches=n)
    assert len(back) == n
    for found, branch in zip(back, branches, strict=True):
        assert found.dtype == branch.dtype
        np.testing.assert_array_equal(found, branch)


@given(kernels(), st.sampled_from(sorted(LAYOUTS)))
def test_fuse_undoes_split(case, layout):
    fused = fuse(case[0], layout)
    np.testing.assert_array_equal(fuse(split(fused, layout, num_branches=case[1]), layout), fused)


gate, up = np.arange(6.0).reshape(2, 3), 10 + np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("layout", "held"),
    [
        ("gate_up", [[0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15]]),
        ("up_gate", [[10, 11, 12, 0, 1, 2], [13, 14, 15, 3, 4, 5]]),
        ("interleaved", [[0, 10, 1, 11, 2, 12], [3, 13, 4, 14, 5, 15]]),
        ("d2f", [[[0, 1, 2], [10, 11, 12]], [[3, 4, 5], [13, 14, 15]]]),
        ("2df", [[[0, 1, 2], [3, 4, 5]], [[10, 11, 12], [13, 14, 15]]]),
    ],
)
@pytest.mark.parametrize("xp", [np, jnp])
def test_is_the_layout_of_that_name(layout, held, xp):
    np.testing.assert_array_equal(fuse((xp.asarray(gate), xp.asarray(up)), layout), held)
    for found, want in zip(split(xp.asarray(held), layout), (gate, up), strict=True):
        np.testing.assert_array_equal(found, want)


def test_a_fused_torch_linear():
    # Phi-3's gate_up_proj.weight is (2f, d)
    weight = np.concatenate([gate.T, up.T])
    found = split(transposed(weight, "torch_linear"), "gate_up")
    np.testing.assert_array_equal(found, [gate, up])
    np.testing.assert_array_equal(transposed(fuse(found, "gate_up"), "torch_linear"), weight)


def test_square_kernels_are_turned_by_name_alone():
    square = np.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(transposed(square, "conv1d"), square)
    np.testing.assert_array_equal(transposed(square, "flax"), square)
    np.testing.assert_array_equal(transposed(square, "torch_linear"), square.T)


def test_wrong_names_and_shapes_are_named():
    with pytest.raises(ValueError, match=r"layout = 'gateup': unknown; did you mean gate_up"):
        split(gate, "gateup")
    with pytest.raises(ValueError, match=r"order = 'torch': unknown; did you mean torch_linear"):
        transposed(gate, "torch")
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match=r"\(5, 7\) does not hold 2 branches"):
            split(np.ones((5, 7)), layout)
