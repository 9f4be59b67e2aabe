"""Checkpoints: bit-equal when read back, and never half of one, whatever happens to the files."""

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelu_jax.training import checkpoint
from gelu_jax.training.config import from_dict
from gelu_jax.training.trainer import Keys, State, TrainConfig, init

LM = {
    "data": {"kind": "stdlib", "context": 8, "validation_windows": 4},
    "model": {
        "kind": "transformer",
        "vocab_size": 256,
        "num_layers": 2,
        "d_model": 8,
        "dtype": "bfloat16",
        "block": {
            "norm": {"kind": "rms"},
            "attention": {"num_heads": 2, "rotary": {}},
            "feed_forward": {"variant": "swiglu", "d_ff": 8},
        },
    },
    "steps": 2,
    "batch_size": 2,
    "eval_every": 1,
}


def tree(seed: int) -> dict[str, object]:
    """Leaves of the dtypes and shapes that a state has, with the values that are hard to keep."""
    rng = np.random.default_rng(seed)
    return {
        "model": {
            "w": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
            "b": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
            "odd": jnp.asarray([np.nan, np.inf, -0.0, 1e-45, 3.4e38], jnp.float32),
        },
        "optimizer": [jnp.asarray(rng.normal(size=(2, 2)), jnp.float16), ()],
        "step": jnp.asarray(seed, jnp.int32),
    }


def abstract() -> dict[str, object]:
    return jax.eval_shape(lambda: tree(0))


def assert_equal_bits(one: object, other: object) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_state_of_a_transformer_comes_back_bit_for_bit(tmp_path: Path):
    config = from_dict(LM, TrainConfig)
    state = jax.jit(partial(init, config))(Keys.of(3))
    checkpoint.save(tmp_path / "c", 0, state)
    abstract: State = jax.eval_shape(lambda: init(config, Keys.of(0)))
    back = checkpoint.restore(tmp_path / "c", abstract)
    assert isinstance(back, State)
    assert type(back.model) is type(state.model)
    assert_equal_bits(back, state)


def test_the_last_two_are_kept(tmp_path: Path):
    for step in range(5):
        checkpoint.save(tmp_path, step, tree(step))
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
            str(s) for s in (step - 1, step) if s >= 0
        )
        assert_equal_bits(checkpoint.restore(tmp_path, abstract()), tree(step))


def test_saving_goes_on_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A save returns before its checkpoint stands; the next one, and the end, wait for it."""
    slow = threading.Event()
    sums = checkpoint._checksums
    monkeypatch.setattr(checkpoint, "_checksums", lambda folder: (slow.wait(60), sums(folder))[1])
    with checkpoint.AsyncSaver(tmp_path) as saver:
        saver.save(1, tree(1))
        assert not (tmp_path / "1").exists()
        slow.set()
        saver.save(2, tree(2))
        assert (tmp_path / "1").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    assert_equal_bits(checkpoint.restore(tmp_path, abstract()), tree(2))


def test_what_goes_wrong_in_the_background_is_raised_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with checkpoint.AsyncSaver(tmp_path) as saver:
        saver.save(1, tree(1))
        saver.wait()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_checksums", lambda _: 1 / 0)
            saver.save(2, tree(2))
            with pytest.raises(ZeroDivisionError):
                saver.save(3, tree(3))
        saver.save(4, tree(4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "4"]


def test_a_run_that_goes_back_leaves_no_later_checkpoint(tmp_path: Path):
    """After damage a run resumes from an older state: the later ones are no longer its own."""
    for step in (2, 4):
        checkpoint.save(tmp_path, step, tree(step))
    checkpoint.save(tmp_path, 3, tree(33))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]
    assert_equal_bits(checkpoint.restore(tmp_path, abstract()), tree(33))


def test_a_step_is_written_again(tmp_path: Path):
    checkpoint.save(tmp_path, 2, tree(2))
    checkpoint.save(tmp_path, 2, tree(3))
    assert_equal_bits(checkpoint.restore(tmp_path, abstract()), tree(3))


def test_nothing_to_read(tmp_path: Path):
    assert checkpoint.restore(tmp_path / "none", abstract()) is None
    (tmp_path / "notes.txt").write_text("of somebody")
    assert checkpoint.restore(tmp_path, abstract()) is None


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        checkpoint.save(directory, step, tree(step))
    return directory


def damage(folder: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    content = bytearray(path.read_bytes())
    kind = rng.choice(["cut", "flip", "delete", "grow"])
    if kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif kind == "delete":
        path.unlink()
    else:
        path.write_bytes(content + b"\0")
    return f"{kind} {path.name}"


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_to_the_newest_falls_back_to_the_one_before(
    two: Path, tmp_path: Path, seed: int
):
    """A flipped bit anywhere, a file cut short, grown or gone: never another tree."""
    directory = tmp_path / "c"
    shutil.copytree(two, directory)
    what = damage(directory / "2", random.Random(seed))
    with pytest.warns(UserWarning, match=rf"{directory}/2: skipped a damaged checkpoint") as caught:
        back = checkpoint.restore(directory, abstract())
    assert_equal_bits(back, tree(1)), what
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


def test_all_damaged_is_none(two: Path, tmp_path: Path):
    shutil.copytree(two, tmp_path / "c")
    for step in "12":
        shutil.rmtree(tmp_path / "c" / step / "state")
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.restore(tmp_path / "c", abstract()) is None


def test_a_tree_of_another_shape_is_passed_over(two: Path):
    other = jax.eval_shape(lambda: {"model": jnp.zeros(3)})
    with pytest.warns(UserWarning, match="skipped a damaged checkpoint"):
        assert checkpoint.restore(two, other) is None


FULL = """
import os, resource, sys
from pathlib import Path
from gelu_jax.training import checkpoint
from test_checkpoint import tree
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for case in sys.argv[2:]:
    size, when = case.split()
    directory = Path(sys.argv[1], case)
    checkpoint.save(directory, 1, tree(1))
    if when == "late":
        checkpoint._check_space = lambda *_: None
    limit(int(size))
    try:
        checkpoint.save(directory, 2, tree(2))
    except OSError as error:
        print(error.strerror, sorted(os.listdir(directory)))
    limit(resource.RLIM_INFINITY)
    print("end of", case, file=sys.stderr, flush=True)
"""

SAVING = """
import itertools, sys
from pathlib import Path
from gelu_jax.training import checkpoint
from test_checkpoint import tree
for step in itertools.count():
    checkpoint.save(Path(sys.argv[1]), step, tree(step))
    print(step, flush=True)
"""


def python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    here = Path(__file__)
    prelude = f"import sys; sys.path[:0] = [{str(here.parent)!r}, {str(here.parents[2])!r}]\n"
    command = [sys.executable, "-c", prelude + code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_is_an_oserror_and_leaves_no_half(tmp_path: Path):
    """RLIMIT_FSIZE makes the operating system refuse what is longer, as a full disk would.

    Late: there was room when it began, and orbax is stopped half-way.
    """
    cases = "300 early", "40 late", "300 late"
    out, err = python(FULL, str(tmp_path), *cases).communicate(timeout=300)
    assert out == 3 * "File too large ['1']\n"
    assert err.startswith("end of 300 early\n")
    for case in cases:
        assert_equal_bits(checkpoint.restore(tmp_path / case, abstract()), tree(1))


def test_killed_while_it_saves(tmp_path: Path):
    """SIGKILL at random moments: what is there is whole, and at most one save old."""
    for seed in range(3):
        process = python(SAVING, str(tmp_path))
        assert process.stdout is not None
        try:
            last = int(process.stdout.readline())
            time.sleep(random.Random(seed).uniform(0, 0.5))
        finally:
            process.send_signal(signal.SIGKILL)
            rest, _ = process.communicate(timeout=60)
        last = max([last, *(int(line) for line in rest.split() if line.isdecimal())])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            back = checkpoint.restore(tmp_path, abstract())
        assert back is not None
        step = int(back["step"])  # type: ignore[call-overload]
        assert step >= last
        assert_equal_bits(back, tree(step))
        checkpoint.save(tmp_path, 0, tree(0))
        assert [p.name for p in tmp_path.iterdir()] == ["0"]
