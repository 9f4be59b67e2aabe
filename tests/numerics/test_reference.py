"""The reference in float64 beside goldens that tests/golden/generate.py made with 160 bits."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from gelu_jax.numerics.reference import REFERENCES
from gelu_jax.numerics.sweep import DTYPES, inputs, rounded

pytestmark = pytest.mark.optimized

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rounded_16.json").read_text())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_it_rounds_to_what_160_bits_round_to(name: str, dtype: str):
    with np.errstate(all="ignore"):
        x = inputs(dtype).astype(np.float64)
        x = x[np.isfinite(x)]
        for what, function in zip(("value", "derivative"), REFERENCES[name], strict=True):
            results = rounded(function(x), dtype)
            digest = hashlib.sha256((results + results.dtype.type(0)).tobytes()).hexdigest()
            assert digest == GOLDEN[f"{name} {what} {dtype}"], what
