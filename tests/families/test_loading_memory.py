"""The promise about memory: loading peaks at no more than 1.3 × the size of the weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.slow
def test_loading_a_gigabyte(tmp_path):
    file = Path(__file__).parents[2] / "benchmarks" / "loading.py"
    spec = importlib.util.spec_from_file_location("loading", file)
    loading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loading)
    loading.write(tmp_path, np.dtype("float32"), 2, 7)
    found = loading.run(tmp_path, None, 1)
    assert found["bytes"] > 1e9
    assert found["peak"] < 1.3 * found["bytes"]
