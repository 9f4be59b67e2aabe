"""What the README and the site show runs: Python as one program a page, commands, configs."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
import tomllib
import types
from dataclasses import fields
from functools import wraps

import pytest
from pages import PAGES, ROOT, blocks, commands, name

from gelu_jax import cli
from gelu_jax.cli import commands as cli_commands
from gelu_jax.compare.config import CompareConfig
from gelu_jax.training.config import read_config
from gelu_jax.training.trainer import TrainConfig

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
COMPARED = "compare_activations"
CONFIGS = {path.stem: path for path in ROOT.glob("configs/*.yaml")}


def pages_with(*languages):
    return pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, *languages)], ids=name)


def test_every_block_is_of_a_language_that_is_tested():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("python", "sh", "console", "yaml", "text"), (page, block.line)


@pages_with("python")
def test_python_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    """The blocks of a page are one program; what one prints is the block "Output" after it."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(tmp_path)
    found = blocks(page)
    for block, following in zip(found, [*found[1:], None], strict=True):
        if block.language != "python" or is_example(block):
            continue
        said = following and following.info == 'title="Output"'
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            # line numbers of a traceback are those of the page
            exec(compile("\n" * block.line + block.code, name(page), "exec"), vars(module))
        assert printed.getvalue() == (following.code if said else ""), f"line {block.line}"


def is_example(block):
    """Whether a block shows a file of examples/, which tests/test_examples.py runs."""
    shown = re.fullmatch(r'--8<-- "(examples/\w+\.py)"\n', block.code)
    return shown is not None and (ROOT / shown[1]).exists()


@pages_with("python")
def test_python_is_formatted(page):
    """As our own code, but for the width of a page."""
    ruff = [sys.executable, "-m", "ruff", "format", "--line-length=80", "--stdin-filename=x.py"]
    for block in blocks(page, "python"):
        if is_example(block):
            continue
        formatted = subprocess.run(
            [*ruff, "-"], input=block.code, capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert block.code == formatted.stdout, f"line {block.line}"


@pages_with("sh")
def test_commands_are_understood(page, monkeypatch):
    for words in commands(page):
        understood(words, monkeypatch)


def understood(words, monkeypatch):
    match words:
        case ["srun", *rest]:
            understood(rest, monkeypatch)
        case ["gelu-jax", *arguments]:
            called = parsed(arguments, monkeypatch)
            if called.get("config") is not None and "CONFIG" not in words:
                check_config(words[1], called)
        case ["make", *targets]:
            subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)
        case ["pip", "install", wanted]:
            assert set(re.findall(r"[\w-]+", wanted.partition("[")[2])) <= EXTRAS.keys()
        case ["python", path, *_]:
            assert (ROOT / path).exists(), path
        case _:
            pytest.fail(f"no test knows this command: {shlex.join(words)}")


def parsed(arguments, monkeypatch):
    """What the real parser makes of a command line; the command itself is not called."""
    called = {}

    def spy(command):
        @wraps(command)
        def call(**given):
            called.update(given)

        return call

    spies = {key: spy(command) for key, command in cli_commands.COMMANDS.items()}
    monkeypatch.setattr(cli_commands, "COMMANDS", spies)
    monkeypatch.setattr(sys, "argv", ["gelu-jax", *arguments])
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()) as complaint:
        cli.main()
    assert complaint.getvalue() == ""
    return called


def check_config(command, called):
    """The config of a command exists, and its overrides are right."""
    path = CONFIGS[str(called["config"]).removeprefix("configs/").removesuffix(".yaml")]
    config = CompareConfig if command == "compare" else TrainConfig
    read_config(path, config, called.get("overrides", ()))


@pages_with("console")
def test_console_blocks_say_what_is_printed(page, monkeypatch):
    """Errors above all: the block shows both streams, and an error exits with 2."""
    monkeypatch.chdir(ROOT)
    for block in blocks(page, "console"):
        for command, said in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.code, re.MULTILINE):
            if "{{" in said:  # run by the build
                continue
            monkeypatch.setattr(sys, "argv", shlex.split(command))
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                try:
                    cli.main()
                    code = 0
                except SystemExit as stopped:
                    code = stopped.code
            assert out.getvalue() == said
            assert code in (0, 2), command


@pages_with("yaml")
def test_configs_are_read(page, tmp_path):
    """A block is a part of a config: it is laid over byte_lm, or over compare_activations."""
    compared = {field.name for field in fields(CompareConfig)}
    for block in blocks(page, "yaml"):
        for part in alternatives(block.code):
            single = sections(part).keys() - compared
            config, base = (TrainConfig, "byte_lm") if single else (CompareConfig, COMPARED)
            whole = sections(CONFIGS[base].read_text()) | sections(part)
            if "factors" in whole:  # they give the arms
                del whole["arms"]
            (tmp_path / "config.yaml").write_text("".join(whole.values()))
            read_config(tmp_path / "config.yaml", config)


def sections(text):
    """The top-level keys of a config, each with its lines."""
    found = re.findall(r"^(\w+):(.*\n(?:[ #].*\n|\n)*)", text + "\n", re.MULTILINE)
    return {key: f"{key}:{rest}" for key, rest in found}


def alternatives(code):
    """A block whose lines all set the same key shows so many ways to do it."""
    lines = code.splitlines(keepends=True)
    keys = {line.partition(":")[0] for line in lines}
    return lines if len(lines) > 1 and len(keys) == 1 else [code]
