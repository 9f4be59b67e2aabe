"""Every example runs, short enough to read, and prints what it promises."""

import runpy
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(ROOT.glob("examples/*.py"))

ARGUMENTS = {
    "04_train.py": ["20"],
    "05_compare.py": ["20", "2"],
    "09_train_your_own.py": ["20"],
    "10_compare_your_own.py": ["20", "2"],
    "11_mixture_of_experts.py": ["20"],
}
PRINTS = {
    "01_activations.py": "gradient at 200 in float16: 1.0 and nan",
    "02_feed_forward_in_nnx.py": "swiglu",
    "03_feed_forward_in_linen.py": "equal to the NNX module, bit for bit: True",
    "04_train.py": "def ",
    "05_compare.py": "Smoke test: no conclusion is drawn.",
    "09_train_your_own.py": "accuracy 0.",
    "10_compare_your_own.py": "lstm: width ",
    "11_mixture_of_experts.py": "balanced: ",
}


def test_there_are_examples():
    assert {path.name for path in EXAMPLES} >= set(PRINTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path, tmp_path, monkeypatch, capsys):
    assert len(path.read_text().splitlines()) < 80
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(path), *ARGUMENTS.get(path.name, [])])
    runpy.run_path(str(path), run_name="__main__")
    assert PRINTS.get(path.name, "") in capsys.readouterr().out
