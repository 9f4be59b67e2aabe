"""Every example runs, short enough to read, and prints what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(ROOT.glob("examples/*.py"))

ARGUMENTS = {"04_train.py": ["20"], "05_compare.py": ["20", "2"]}
PRINTS = {
    "01_activations.py": "gradient at 200 in float16: 1.0 and nan",
    "02_feed_forward_in_nnx.py": "swiglu",
    "03_feed_forward_in_linen.py": "equal to the NNX module, bit for bit: True",
    "04_train.py": "def ",
    "05_compare.py": "Smoke test: no conclusion is drawn.",
}


def test_there_are_examples():
    assert {path.name for path in EXAMPLES} >= set(PRINTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path, tmp_path):
    assert len(path.read_text().splitlines()) < 80
    done = subprocess.run(
        [sys.executable, path, *ARGUMENTS.get(path.name, [])],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert PRINTS.get(path.name, "") in done.stdout
