"""The directory of a comparison: one process at a time, and what others wrote is never touched."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gelu_jax.cli.session import differences
from gelu_jax.compare.config import CompareConfig
from gelu_jax.errors import ConfigError
from gelu_jax.runs.directory import claim, locked
from gelu_jax.training.config import from_dict, to_dict, write_config

CONFIG = from_dict(
    {
        "arms": {"relu": {}},
        "run": {
            "data": {"kind": "digits"},
            "model": {"kind": "mlp", "d_in": 64, "num_classes": 10},
            "steps": 4,
            "batch_size": 32,
            "eval_every": 2,
        },
    },
    CompareConfig,
)
OTHER = replace(CONFIG, multiple_of=16)


def same(config: CompareConfig) -> Any:
    return partial(differences, config)


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def refusal(directory: Path, config: CompareConfig = CONFIG, **how: Any) -> str:
    before = files(directory)
    with pytest.raises(ConfigError) as caught:
        claim(directory, same(config), overwrite=how.get("overwrite", False))
    assert files(directory) == before
    return str(caught.value)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A directory as a comparison leaves it, half-written files and all."""
    directory = tmp_path / "runs" / "x"
    home = directory / "runs" / "relu" / "report-lr0.001-seed0-0123456789ab"
    (home / "checkpoint" / "4").mkdir(parents=True)
    write_config(CONFIG, directory / "config.yaml")
    for name in ("results.json", "report.html", ".results.json.123.tmp", ".config.yaml.99"):
        (directory / name).write_text(name)
    for name in ("run.json", ".run.json.123.tmp", "checkpoint/4/sums.json"):
        (home / name).write_text(name)
    return directory


def test_a_free_directory_is_claimed(tmp_path: Path):
    claim(tmp_path, same(CONFIG), overwrite=False)
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.123").write_text("a process was killed as it began")
    claim(tmp_path, same(CONFIG), overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_comparison_goes_on(finished: Path, overwrite: bool):
    """With other seeds too; only the half-written files of a killed process are cleared."""
    before = files(finished)
    claim(finished, same(replace(CONFIG, seeds=99)), overwrite=overwrite)
    halves = {name for name in before if name.rsplit("/", 1)[-1].startswith(".")}
    assert len(halves) == 3
    assert files(finished) == {k: v for k, v in before.items() if k not in halves}


def test_another_comparison_is_refused_unless_told(finished: Path):
    expected = (
        "holds another run or comparison (multiple_of: 8 there, 16 here); choose another --output, "
        "or --overwrite"
    )
    assert refusal(finished, OTHER) == f"output = '{finished}': {expected}"
    claim(finished, same(OTHER), overwrite=True)
    assert files(finished) == {}


def test_what_differs_is_listed_but_not_without_end():
    plain = to_dict(CONFIG)
    assert differences(CONFIG, plain) == []
    assert differences(CONFIG, to_dict(CONFIG.run)) == ["it is a training run"]
    assert differences(CONFIG.run, plain | {"arms": {"a": {}, "b": {}}}) == ["it is a comparison"]
    assert differences(CONFIG.run, plain) == []  # as `train` used to leave it
    (line,) = differences(CONFIG, plain | {"sedes": 3})
    assert line.startswith("its config is no longer valid: sedes: unknown key")
    run = replace(CONFIG.run, steps=8, seed=3)
    assert differences(run, to_dict(CONFIG.run)) == [
        "steps: 4 there, 8 here",
        "seed: 0 there, 3 here",
    ]


def test_the_order_of_arms_counts_only_for_the_first():
    arms = {"relu": {}, "gelu": {"model.variant": "gelu"}, "silu": {"model.variant": "silu"}}
    config = replace(CONFIG, arms=arms)
    first, *others = arms.items()
    assert differences(config, to_dict(replace(config, arms=dict([first, *others[::-1]])))) == []
    (line,) = differences(config, to_dict(replace(config, arms=dict([*others, first]))))
    assert line == "gelu is the first arm there, relu here, which the others are compared with"


def test_what_no_comparison_wrote_is_never_deleted(finished: Path):
    notes = {"notes.txt": "mine", "runs/other/results.json": "{}", "runs/relu/mine.txt": "mine"}
    for name, text in notes.items():
        (finished / name).parent.mkdir(parents=True, exist_ok=True)
        (finished / name).write_text(text)
    claim(finished, same(OTHER), overwrite=True)
    assert files(finished) == {name: text.encode() for name, text in notes.items()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [("main.py", "print()"), ("config.yaml", "title: my blog\n"), ("config.yaml", "[")],
)
def test_a_foreign_directory_is_refused_whatever_is_told(
    tmp_path: Path, name: str, text: str, overwrite: bool
):
    (tmp_path / name).write_text(text)
    (tmp_path / "report.html").write_text("of somebody")
    line = refusal(tmp_path, overwrite=overwrite)
    assert line == f"output = '{tmp_path}': holds other files; choose another --output"


def test_a_second_process_is_kept_out_and_the_first_one_lets_go(tmp_path: Path):
    directory = tmp_path / "a" / "b"
    with locked(directory):
        (directory / "config.yaml").write_text("{}")
        with (
            pytest.raises(ConfigError, match="another process is using it"),
            locked(directory),
        ):
            raise AssertionError("two at once")
    with locked(directory):
        pass
    assert files(directory).keys() == {".lock", "config.yaml"}


def test_an_unused_directory_does_not_stay(tmp_path: Path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    with locked(tmp_path / "a"):
        (tmp_path / "a" / ".config.yaml.7").write_text("half")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


@pytest.mark.parametrize(
    ("output", "reason"),
    [("file/x", "not a directory"), ("file", "file exists"), ("/proc/x/y", "no such file")],
)
def test_where_no_directory_can_be(tmp_path: Path, output: str, reason: str):
    """Also for root, whom no permission stops."""
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ConfigError, match=rf"^output = '.*': {reason}"), locked(tmp_path / output):
        raise AssertionError("there is none")


def test_errors_within_are_not_taken_for_those_of_locking(tmp_path: Path):
    with pytest.raises(PermissionError, match="inside"), locked(tmp_path):
        raise PermissionError("inside")
