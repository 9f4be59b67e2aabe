"""The sweep finds what is wrong, and says so."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from gelu_jax.numerics.reference import REFERENCES
from gelu_jax.numerics.sweep import (
    DTYPES,
    assess,
    inputs,
    promise_kept,
    report,
    rounded,
    sweep,
)

pytestmark = pytest.mark.optimized


def reported(results):
    console = Console(width=200, file=io.StringIO())
    report(results, console)
    return console.file.getvalue()


def test_the_sweep_and_its_report():
    ours, theirs, *_ = results = sweep(["silu"], ["float16"])
    named = [(r.function, r.dtype, r.source) for r in (ours, theirs)]
    assert named == [("silu", "float16", "gelu_jax"), ("silu", "float16", "jax.nn")]
    assert promise_kept(results)
    assert not theirs.keeps_promise
    text = reported(results)
    assert text.endswith("promise kept\n")
    assert f"{theirs.wrong_values}" in text
    broken = replace(ours, wrong_values=1)
    assert not promise_kept([broken, theirs])
    assert reported([broken, theirs]).endswith("promise broken: silu float16\n")


def truth(dtype):
    """The correctly rounded results, which nothing can beat."""
    with np.errstate(all="ignore"):
        x = np.clip(inputs(dtype).astype(np.float64), -1e300, 1e300)
        return [rounded(function(x), dtype) for function in REFERENCES["silu"]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_truth_keeps_the_promise(dtype):
    found = assess(*truth(dtype), "silu", dtype, "gelu_jax")
    assert found.keeps_promise
    assert max(found.worst_value_ulp, found.worst_derivative_ulp) <= 0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_wrong_bit_and_one_nan_are_found(dtype):
    value, derivative = truth(dtype)
    one, two = (int(np.asarray(x, DTYPES[dtype]).view(np.uint16)) for x in (1.0, 2.0))
    value.view(np.uint16)[one] += 1
    derivative[two] = np.nan
    found = assess(value, derivative, "silu", dtype, "gelu_jax")
    assert (found.wrong_values, found.wrong_derivatives, found.nans) == (1, 1, 1)
    assert 0.5 < found.worst_value_ulp < 1.5
    assert found.worst_value_at == 1.0


def test_zero_is_accepted_for_what_is_subnormal_in_bfloat16_only():
    tiny = np.float32(2.0**-130)
    value, derivative = truth("bfloat16")
    value[int(tiny.astype(DTYPES["bfloat16"]).view(np.uint16))] = 0
    assert assess(value, derivative, "silu", "bfloat16", "gelu_jax").keeps_promise
    value, derivative = truth("float16")
    value[int(np.float16(2.0**-20).view(np.uint16))] = 0
    assert assess(value, derivative, "silu", "float16", "gelu_jax").wrong_values == 1


def test_rounded_rounds_once():
    """Just above the middle between two float16, where float32 would round to the middle first."""
    middle = np.asarray([1 + 2.0**-11, -1 - 2.0**-11])
    np.testing.assert_array_equal(rounded(middle, "float16"), np.float16([1, -1]))
    above = middle * (1 + 2.0**-40)
    np.testing.assert_array_equal(
        rounded(above, "float16"), np.float16([1 + 2.0**-10, -1 - 2.0**-10])
    )
