"""Every config in the repository is read and trains; the large ones compile at their width."""

import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelu_jax.cli.configs import kind_of
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import matched_arms
from gelu_jax.compare.matching import active_parameters, parameters
from gelu_jax.training import trainer as training
from gelu_jax.training.config import from_dict, read_config, to_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import Keys, State, TrainConfig, Trainer, init

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
LARGE = {"gpt2_small": 124_439_808, "llama_small": 123_551_232}
ELSEWHERE = ("byte_lm", "text_file_lm", "token_lm", "digits_mlp")
SMALL = ["steps=2", "eval_every=1", "batch_size=2"]


def read(name: str, *overrides: str) -> TrainConfig:
    return read_config(
        Path(__file__).parents[2] / "configs" / f"{name}.yaml", TrainConfig, overrides
    )


RUNS = [path.stem for path in CONFIGS if kind_of(path) == "train"]
COMPARISONS = [path.stem for path in CONFIGS if kind_of(path) == "compare"]


def test_they_are_there():
    assert {"byte_lm", "digits_mlp", "mnist_mlp", "text_file_lm", *LARGE} <= set(RUNS)
    assert {"compare_activations", "scaling_under_muon"} <= set(COMPARISONS)
    assert len(CONFIGS) == len(RUNS) + len(COMPARISONS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_is_read_and_written_back(path: Path):
    config: Any = read_config(path, CompareConfig if path.stem in COMPARISONS else TrainConfig)
    plain = to_dict(config)
    assert to_dict(from_dict(plain, type(config))) == plain


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Four IDX files of random images, as MNIST's are laid out."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, n in (("train", 20), ("t10k", 6)):
        images = rng.integers(0, 256, (n, 28, 28), np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        header = struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">4BI", 0, 0, 8, 1, n)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return folder


# What the pages train, the default comparison too, tests/docs/test_commands.py trains; and
# digits_mlp is the run of examples/05_compare.py.
@pytest.mark.parametrize("name", [name for name in RUNS if name not in {*LARGE, *ELSEWHERE}])
def test_it_trains(name: str, request: pytest.FixtureRequest):
    """Two steps of its own model, on its own data (MNIST is written here)."""
    mnist = [f"data.path={request.getfixturevalue('mnist')}"] if "mnist" in name else []
    config = read(name, *SMALL, *mnist)
    trainer = Trainer(config, load_data(config.data, config.batch_size))
    points = [point for _, point in trainer.fit(0, config.optimizer.learning_rate)]
    assert [point.step for point in points] == [0, 1, 2]
    assert not any(point.diverged for point in points)


@pytest.mark.parametrize("name", COMPARISONS)
def test_its_arms_are_matched(name: str, tmp_path: Path):
    """Within the nearest multiple: half of what one more multiple of the width costs."""
    path = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    config = read_config(path, CompareConfig)
    assert config.seeds >= 3
    data = load_data(config.run.data, config.run.batch_size)
    arms = matched_arms(config, data)
    size = active_parameters if config.match == "active_parameters" else parameters
    sizes = {name: size(arm) for name, arm in arms.items()}
    first = next(iter(sizes.values()))
    assert max(abs(size / first - 1) for size in sizes.values()) < 0.03


# --- The ones for an accelerator --------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE)
def test_the_large_models_have_their_size(name: str):
    """GPT-2 small's count is that of the released model (124,439,808)."""
    config = read(name)
    assert parameters(config) == LARGE[name]
    abstract: State = jax.eval_shape(lambda: init(config, Keys.of(0)))
    arrays = jax.tree.leaves(abstract.optimizer)
    assert sum(leaf.size for leaf in arrays) >= 2 * LARGE[name]  # AdamW's two moments


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_step_of_the_large_models_compiles(name: str):
    """At a batch and a context that a CPU can plan for; the parameters are never allocated."""
    config = read(name, "batch_size=1", "data.context=16", "data.validation_windows=1")
    data = load_data(config.data, config.batch_size)
    state = Trainer(config, data).abstract_state
    step = jax.jit(lambda *arguments: training.step(config, *arguments))
    compiled = step.lower(state, data, Keys.of(0), jnp.zeros(())).compile()
    after, loss = compiled.out_info
    shapes = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (after, state)]
    assert shapes[0] == shapes[1]
    assert (loss.shape, loss.dtype) == ((), jnp.float32)


@pytest.mark.parametrize("name", LARGE)
def test_the_step_of_the_large_models_has_its_full_shape(name: str):
    """Batch 32 and context 1,024 are traced and lowered as they stand in the file."""
    config = read(name)
    data = load_data(config.data, config.batch_size)
    state = Trainer(config, data).abstract_state
    step = jax.jit(lambda *arguments: training.step(config, *arguments))
    text = step.lower(state, data, Keys.of(0), jnp.zeros(())).as_text()
    assert "tensor<32x1024x768xbf16>" in text
    assert "tensor<32x1024x50257x" in text
