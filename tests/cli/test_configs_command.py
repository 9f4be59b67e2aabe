"""Configs by name, the version, and what is said where the lab is not installed."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from gelu_jax import __version__, cli
from gelu_jax.cli.configs import configs_command, find_config
from gelu_jax.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_every_config_is_listed_with_its_first_line(capsys: Any):
    configs_command()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [path.stem for path in CONFIGS]
    for line, path in zip(lines, CONFIGS, strict=True):
        first = path.read_text().partition("\n")[0]
        assert first.startswith("# ")
        assert line.endswith(first[2:])


@pytest.mark.parametrize("name", [*(path.stem for path in CONFIGS), "byte_lm.yaml"])
def test_a_config_is_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(Path(name)).samefile(ROOT / "configs" / f"{name.removesuffix('.yaml')}.yaml")


def test_a_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "byte_lm").write_text("mine")
    assert find_config(Path("byte_lm")) == Path("byte_lm")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("byte_ml", "byte_ml: no such file; did you mean byte_lm"),
        ("byte_ml.yaml", "byte_ml.yaml: no such file; did you mean byte_lm"),
        ("configs/byte_lm.yaml", "configs/byte_lm.yaml: no such file"),
        ("qqq", "qqq: no such file"),
    ],
)
def test_a_name_that_is_none(name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_config(Path(name))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(sys, "argv", ["gelu-jax", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"gelu-jax {__version__}\n"


def test_the_lab_is_what_the_extra_installs():
    """All of it but what flax brings anyway."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["lab"]
    with_flax = {"optax", "orbax-checkpoint", "pyyaml", "rich"}
    distributions = packages_distributions()
    installed = {distributions[name][0].lower() for name in cli.LAB}
    assert installed | with_flax == {re.split("[>=]", line)[0] for line in extra}


def test_without_the_lab_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    found = cli.find_spec
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "tyro" else found(name))
    monkeypatch.setattr(sys, "argv", ["gelu-jax", "train", "byte_lm"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "gelu-jax needs tyro: pip install 'gelu-jax[lab]'\n"
