"""Round trips of every layout lose nothing, and each layout is the one its users have."""

import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gelu_jax.nn.layouts import LAYOUTS, fuse, inverse, rearrange, rearranged_shape, split

dtypes = st.sampled_from([np.float32, np.float16, np.float64, np.int8, ml_dtypes.bfloat16])
layouts = st.sampled_from(sorted(LAYOUTS))
KERNELS = {"conv1d", "torch_linear"}  # their patterns name both axes of a kernel: no biases


@st.composite
def cases(draw):
    """A layout, and n branches: kernels, biases or stacks of experts."""
    layout, n, d, f = draw(layouts), *(draw(st.integers(1, most)) for most in (4, 5, 6))
    lead = draw(st.sampled_from([(d,), (3, d), *([] if layout in KERNELS else [()])]))
    bits = draw(arrays(np.int8, (n, *lead, f)))
    return layout, list(bits.astype(draw(dtypes)))


@given(cases())
def test_round_trip(case):
    layout, branches = case
    back = split(fuse(branches, layout), layout, num_branches=len(branches))
    assert len(back) == len(branches)
    for found, branch in zip(back, branches, strict=True):
        assert found.dtype == branch.dtype
        np.testing.assert_array_equal(found, branch)


@given(cases())
def test_fuse_undoes_split(case):
    layout, branches = case
    fused = fuse(branches, layout)
    np.testing.assert_array_equal(
        fuse(split(fused, layout, num_branches=len(branches)), layout), fused
    )


gate, up = np.arange(6.0).reshape(2, 3), 10 + np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("layout", "held"),
    [
        ("gate_up", [[0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15]]),
        ("up_gate", [[10, 11, 12, 0, 1, 2], [13, 14, 15, 3, 4, 5]]),
        ("interleaved", [[0, 10, 1, 11, 2, 12], [3, 13, 4, 14, 5, 15]]),
        ("d2f", [[[0, 1, 2], [10, 11, 12]], [[3, 4, 5], [13, 14, 15]]]),
        ("2df", [[[0, 1, 2], [3, 4, 5]], [[10, 11, 12], [13, 14, 15]]]),
        ("conv1d", [[0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15]]),
        ("torch_linear", [[0, 3], [1, 4], [2, 5], [10, 13], [11, 14], [12, 15]]),
    ],
)
@pytest.mark.parametrize("xp", [np, jnp])
def test_is_the_layout_of_that_name(layout, held, xp):
    np.testing.assert_array_equal(fuse((xp.asarray(gate), xp.asarray(up)), layout), held)
    for found, want in zip(split(xp.asarray(held), layout), (gate, up), strict=True):
        np.testing.assert_array_equal(found, want)


def test_square_kernels_are_turned_by_name_alone():
    square = np.arange(4.0).reshape(2, 2)
    for layout, turned in (("conv1d", square), ("torch_linear", square.T)):
        (found,) = split(square, layout, num_branches=1)
        np.testing.assert_array_equal(found, turned)
        np.testing.assert_array_equal(fuse([found], layout), square)


@pytest.mark.parametrize(
    ("pattern", "ours", "stored"),
    [
        ("... -> ...", (), ()),
        ("... -> ...", (2, 3, 4), (2, 3, 4)),
        ("1 1 d -> d", (3,), (1, 1, 3)),
        ("d s 1 1 -> s d", (3, 2), (2, 3, 1, 1)),
        ("d 1 p q -> p q 1 d", (2, 3, 1, 4), (4, 1, 2, 3)),
        ("d c p q -> p q c d", (2, 3, 5, 4), (4, 5, 2, 3)),
        ("d (h k) -> h k d", (2, 3, 4), (4, 6)),
        ("(h n k) d -> n d h k", (3, 5, 2, 4), (24, 5)),  # GPT-NeoX: a head at a time
    ],
)
@pytest.mark.parametrize("xp", [np, jnp])
def test_rearrange_is_einsum_and_its_inverse_undoes_it(pattern, ours, stored, xp):
    array = xp.arange(int(np.prod(ours))).reshape(ours)
    tensor = rearrange(array, inverse(pattern))
    assert tensor.shape == rearranged_shape(ours, inverse(pattern)) == stored
    sizes = {"h": 2, "n": 3} if "n" in pattern else {"h": 2}
    np.testing.assert_array_equal(rearrange(tensor, pattern, **sizes), array)
    if pattern[0] != ".":  # the same in numpy's terms: reshape splits and merges, einsum permutes
        left, right = (re.sub("[()1 ]", "", side) for side in pattern.split(" -> "))
        axes = dict(zip(right, (n for n in ours if n != 1), strict=True))
        apart = np.asarray(tensor).reshape([axes[axis] for axis in left])
        np.testing.assert_array_equal(np.einsum(f"{left}->{right}", apart).reshape(ours), array)


@pytest.mark.parametrize(
    ("shape", "pattern", "sizes"),
    [
        ((6, 5), "(h k) d -> d h k", {}),  # which sizes h and k have is not to be guessed
        ((6, 5), "(h k) d -> d h k", {"h": 4}),
        ((6, 5), "(h k) d -> d h k", {"h": 0}),
        ((6, 5), "(h k) d -> d h k", {"h": 3, "k": 2, "d": 6}),
        ((5, 6), "d f -> f d", {"d": 6, "f": 5}),  # as many elements, in another order
        ((6,), "f d -> d f", {}),
        ((6, 5, 4), "f d -> d f", {}),
        ((6, 5), "1 d -> d", {}),
    ],
)
def test_a_shape_without_the_axes_of_the_pattern_is_refused(shape, pattern, sizes):
    with pytest.raises(ValueError, match=r"does not have the axes '.* in sizes"):
        rearrange(np.ones(shape), pattern, **sizes)


def test_wrong_names_and_shapes_are_named():
    with pytest.raises(ValueError, match=r"layout = 'gateup': unknown; did you mean gate_up"):
        split(gate, "gateup")
    with pytest.raises(ValueError, match=r"layout = 'torch': unknown; did you mean torch_linear"):
        fuse([gate, up], "torch")
    for layout in LAYOUTS:
        for shape in [(5, 7), (1, 5, 7), (3,), ()]:
            message = re.escape(f"{layout}: shape {shape} does not hold 2 branches")
            with pytest.raises(ValueError, match=message):
                split(np.ones(shape), layout)
        with pytest.raises(ValueError, match="does not hold 0 branches"):
            split(gate, layout, num_branches=0)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) does not have the axes"):
        fuse([np.ones(3), np.ones(3)], "torch_linear")
