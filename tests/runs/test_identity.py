"""What a run takes from files of a person's own: each byte that is imported or loaded, no other."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gelu_jax import importing
from gelu_jax.runs import identity
from gelu_jax.runs.identity import imported, read_identity
from gelu_jax.training.config import from_dict
from gelu_jax.training.trainer import TrainConfig

RUN = {
    "data": {"kind": "digits"},
    "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 1, "d_ff": 4},
    "steps": 4,
    "batch_size": 32,
    "eval_every": 2,
}
FILES = {
    "own_gates/__init__.py": "",
    "own_gates/gates.py": "import math\nfrom . import low\nfrom own_top import two\ngate = low.f\n",
    "own_gates/low.py": "def f(x):\n    import own_late\n    return x\n",
    "own_top.py": "import own_gates.gates\ntwo = 2\n",  # in a circle
    "own_late.py": "",
    "own_other.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def found(variant: Any) -> dict[str, dict[str, str]]:
    importing.source.cache_clear()
    return imported(from_dict(RUN | {"model": RUN["model"] | {"variant": variant}}, TrainConfig))


def test_most_runs_have_none():
    assert found("swiglu") == {}
    assert found(["jax.nn:silu", "identity"]) == {}  # jax's version stands for it


def test_the_source_of_a_module_and_of_what_it_imports(folder: Path):
    before = found("own_gates.gates:gate")
    assert list(before) == ["modules"]
    assert list(before["modules"]) == ["own_gates.gates"]
    for name, text in FILES.items():
        (folder / name).write_text(f"{text}# edited\n")
        changed = found("own_gates.gates:gate") != before
        assert changed == (name != "own_other.py"), name
        (folder / name).write_text(text)
    assert found("own_gates.gates:gate") == before


def test_the_contents_of_weights(tmp_path: Path):
    content = identity._content  # pyright: ignore[reportPrivateUsage]
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_bytes(b"0" * 100)
    before = content(str(tmp_path))
    for name, counts in (("config.json", True), ("model.safetensors", True), ("README.md", False)):
        (tmp_path / name).write_bytes(b"0" * 99 + b"1")  # of the same size
        content.cache_clear()
        assert (content(str(tmp_path)) != before) == counts
        (tmp_path / name).write_bytes(b"0" * 100)


def test_what_is_not_on_record(tmp_path: Path):
    assert read_identity(tmp_path) == ({}, None)
    (tmp_path / "identity.json").write_text("[]")
    assert read_identity(tmp_path) == ({}, None)
