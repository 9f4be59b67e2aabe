"""The command line: what it writes, and one clear line for every mistake."""

import csv
import importlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
import quickly

from gelu_jax import cli, importing
from gelu_jax.cli import commands
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.records import read_results
from gelu_jax.errors import ConfigError
from gelu_jax.runs import trackers
from gelu_jax.runs.execution import find_model
from gelu_jax.training.config import from_dict, read_config, to_dict, write_config
from gelu_jax.training.trainer import TrainConfig, Trainer

ROOT = Path(__file__).parents[2]

DIGITS = """\
data: {kind: digits}
model: {kind: mlp, d_in: 64, num_classes: 10, num_layers: 1, d_ff: 8}
optimizer: {name: adam}
steps: 2
batch_size: 32
eval_every: 1
"""
LM = """\
data: {kind: files, path: text.txt, context: 8, validation_windows: 2}
model:
  kind: transformer
  vocab_size: 256
  num_layers: 1
  max_positions: 40
  d_model: 8
  block:
    norm: {kind: rms}
    attention: {num_heads: 2}
    feed_forward: {variant: swiglu, d_ff: 8}
steps: 2
batch_size: 2
eval_every: 1
"""
COMPARE = f"""\
arms:
  relu: {{model.variant: relu}}
  swiglu: {{model.variant: swiglu}}
seeds: 1
protocol: smoke test
run:
{"".join(f"  {line}" for line in DIGITS.splitlines(keepends=True))}"""


class Done(NamedTuple):
    out: list[str]
    err: list[str]
    code: int


class Shell:
    """Calls `gelu_jax.cli.main` as a shell would, in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys

    def __call__(self, *arguments: object) -> Done:
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setattr(sys, "argv", ["gelu-jax", *map(str, arguments)])
        self.capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = self.capsys.readouterr()
        return Done(out.splitlines(), err.splitlines(), code)

    def refuses(self, *arguments: object) -> list[str]:
        """The lines on standard error; nothing else is printed and nothing written."""
        before = files(self.folder)
        done = self(*arguments)
        assert done.code == 2, done
        assert done.out == []
        assert files(self.folder) == before
        assert not any("Traceback" in line for line in done.err)
        return done.err


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder by its path; empty folders too, but for locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


def written(folder: Path) -> Path:
    for name, text in (("digits", DIGITS), ("lm", LM), ("compare", COMPARE)):
        (folder / f"{name}.yaml").write_text(text)
    (folder / "text.txt").write_text("to be, or not to be, that is the question\n" * 20)
    return folder


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Shell:
    return Shell(written(tmp_path), monkeypatch, capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder in which all three configs have been run, and what was printed."""
    folder = written(tmp_path_factory.mktemp("trained"))
    done: dict[str, Any] = {"folder": folder}
    environment = os.environ | quickly.PROCESS | {"PYTHONPATH": str(ROOT)}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "gelu_jax", command, f"{name}.yaml"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command, name in (("train", "digits"), ("train", "lm"), ("compare", "compare"))
    }
    for name, process in processes.items():
        done[name] = Done(*[x.splitlines() for x in process.communicate()], process.returncode)
    return done


@pytest.fixture
def after(trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Shell:
    return Shell(trained["folder"], monkeypatch, capsys)


# --- What is written --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "lm", "compare"])
def test_all_files_are_written(trained: dict[str, Any], name: str):
    done, home = trained[name], trained["folder"] / "runs" / name
    assert done.code == 0, done.err
    names = ("report.html", "curves.png", "curves.svg", "curves.pdf", "results.csv", "results.json")
    listed = [f"runs/{name}/{f}" for f in names]
    assert done.out[-6:] == listed
    about = [line for line in done.err if "one after another: about" in line]
    assert len(about) == (1 if name == "compare" else 0), done.err
    shown = [line for line in done.err if line not in about]
    ends = [line for line in shown if ": step " not in line]  # others only if it takes long
    assert len(ends) == (2 if name == "compare" else 1), done.err
    assert done.err[-1].startswith("100%  ")
    top = {path.name for path in home.iterdir()} - {".lock"}
    assert top == {"config.yaml", "identity.json", "runs", *names}
    assert (home / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (home / "report.html").read_text()[:500]
    comparison = read_results(home)
    assert {run.status for run in comparison.runs} == {"finished"}
    rows = list(csv.DictReader((home / "results.csv").read_text().splitlines()))
    assert [row["step"] for row in rows][:3] == ["0", "1", "2"]
    arms = 2 if name == "compare" else 1
    metrics = list(home.glob("runs/*/*/metrics.jsonl"))
    assert len(metrics) == arms
    points = [json.loads(line) for line in metrics[0].read_text().splitlines()]
    assert [point["step"] for point in points] == [0, 1, 2]
    assert all(len(point["gradient norm"]) == 1 for point in points)  # one layer
    for run in comparison.runs:
        assert {"sparsity", "gradient norm"} <= run.health.keys()
        assert {len(at) for at in run.health.values()} == {3}
    assert 'id="health"' in (home / "report.html").read_text()


@pytest.mark.parametrize("name", ["digits", "lm", "compare"])
def test_the_written_config_repeats_the_run(
    after: Shell, name: str, monkeypatch: pytest.MonkeyPatch
):
    """In place it finds everything done; `command` in results.json says how."""
    path = Path("runs") / name / "config.yaml"
    command = read_results(after.folder / "runs" / name).command
    kind = "compare" if name == "compare" else "train"
    assert command == f"gelu-jax {kind} {path.as_posix()}"
    before = read_results(after.folder / "runs" / name)
    monkeypatch.setattr(Trainer, "fit", None)
    done = after(*command.split()[1:])
    assert done.code == 0, done
    assert read_results(after.folder / "runs" / name).runs == before.runs
    assert after(kind, f"{name}.yaml").code == 0


def test_elsewhere_it_repeats_the_same_numbers(after: Shell, tmp_path: Path):
    """The same config in another directory gives the same losses, from another process."""
    first = read_results(after.folder / "runs/digits")
    done = after("train", "runs/digits/config.yaml", "--output", tmp_path / "again")
    assert done.code == 0, done
    again = read_results(tmp_path / "again")
    assert [run.validation_loss for run in again.runs] == [r.validation_loss for r in first.runs]
    assert [run.train_loss for run in again.runs] == [run.train_loss for run in first.runs]


def test_report_draws_equal_files_without_training(
    after: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    home = after.folder / "runs/compare"
    drawn = ("report.html", "curves.png", "curves.svg", "curves.pdf", "results.csv")
    before = {name: (home / name).read_bytes() for name in drawn}
    for name in drawn:
        (home / name).unlink()
    monkeypatch.setattr(Trainer, "fit", None)
    done = after("report", "runs/compare")
    assert done.code == 0, done
    assert done.out[0] == "Smoke test: no conclusion is drawn."
    assert {name: (home / name).read_bytes() for name in drawn} == before


def test_json_is_all_that_is_printed(after: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Trainer, "fit", None)
    done = after("compare", "compare.yaml", "--json")
    assert done.code == 0, done
    found = json.loads("\n".join(done.out), parse_constant=lambda name: pytest.fail(name))
    assert found["verdict"]["headline"] == "Smoke test: no conclusion is drawn."
    runs = read_results(after.folder / "runs/compare").runs
    relu, swiglu = found["arms"]
    assert relu["arm"]["name"] == "relu"
    assert relu["losses"] == {"0": runs[0].final_loss}
    assert relu["sd"] == "NaN"  # of one seed
    (contrast,) = found["contrasts"]
    assert contrast["arm"] == "swiglu"
    assert contrast["mean"] == swiglu["mean"] - relu["mean"]
    assert all((after.folder / file).is_file() for file in found["files"])
    assert len(found["files"]) == 6


def test_json_prints_nothing_where_the_input_is_wrong(shell: Shell):
    (line,) = shell.refuses("compare", "compare.yaml", "--json", "seeds=0")
    assert line.endswith("seeds = 0: must be above 0")


def test_a_run_is_written_to_tensorboard_where_that_is_asked_for(shell: Shell):
    done = shell("train", "digits.yaml", "--log", "tensorboard", "steps=4")
    assert done.code == 0, done
    (home,) = (shell.folder / "runs/digits/runs/digits").iterdir()
    tracked = shell.folder / "runs/digits/tensorboard/digits" / home.name
    (file,) = tracked.iterdir()
    assert b"gradient_norm/layer_1" in file.read_bytes()
    assert shell("train", "digits.yaml", "--overwrite").code == 0
    assert not tracked.exists()


def test_a_missing_tracker_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    line = "log = 'wandb': needs wandb: pip install 'gelu-jax[wandb]'"
    assert shell.refuses("train", "digits.yaml", "--log", "wandb") == [line]
    assert shell.refuses("compare", "compare.yaml", "--json", "--log", "wandb") == [line]


def test_more_seeds_are_added(after: Shell, monkeypatch: pytest.MonkeyPatch):
    """Counted from what is finished: an interrupted command, given again, adds no more."""
    asked: list[CompareConfig] = []

    def stopped(config: CompareConfig, directory: Path, *_: object) -> None:
        asked.append(config)
        write_config(config, directory / "config.yaml")
        raise KeyboardInterrupt

    folder = after.folder / "runs/compare"
    original = (folder / "config.yaml").read_bytes()
    monkeypatch.setattr("gelu_jax.cli.compare.compare", stopped)
    try:
        for command, seeds in (
            (("--add-seeds", "4"), 5),
            (("--add-seeds", "4"), 5),
            (("--add-seeds", "0"), 1),
            (("seeds=3", "--add-seeds", "1"), 3),
        ):
            done = after("compare", "compare.yaml", *command)
            assert done.code == 130
            assert done.err[-1] == "Interrupted. Rerun the same command to resume."
            assert asked[-1].seeds == seeds
    finally:
        (folder / "config.yaml").write_bytes(original)
    assert after.refuses("compare", "compare.yaml", "--add-seeds", "-1") == [
        "add_seeds = -1: must not be below 0"
    ]


def test_a_finished_directory_is_not_overwritten_unless_told(after: Shell, tmp_path: Path):
    line = "steps: 2 there, 4 here); choose another --output, "
    holds = "holds another run or comparison ("
    assert after.refuses("train", "digits.yaml", "steps=4") == [
        f"output = 'runs/digits': {holds}{line}or --overwrite"
    ]
    assert after.refuses("compare", "compare.yaml", "run.steps=4") == [
        f"output = 'runs/compare': {holds}run.{line}--change to keep its runs, or --overwrite"
    ]
    # what is wrong with the new one is found before the old one is deleted
    wrong = ("train", "digits.yaml", "model.d_in=63", "--overwrite")
    assert after.refuses(*wrong) == ["model.d_in = 63: must equal the size of an image = 64"]
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        (found,) = after.refuses("train", "digits.yaml", "--output", tmp_path / "else", *more)
        assert found.endswith("holds other files; choose another --output")
    assert [p.name for p in (tmp_path / "else").iterdir()] == ["notes.txt"]


def test_overwrite_replaces_another_comparison(shell: Shell):
    assert shell("train", "digits.yaml").code == 0
    assert shell("train", "digits.yaml", "steps=4", "--overwrite").code == 0
    (run,) = read_results(shell.folder / "runs/digits").runs
    assert run.eval_steps == (0, 1, 2, 3, 4)
    assert len(list(shell.folder.glob("runs/digits/runs/*/*"))) == 1
    config = read_config(shell.folder / "runs/digits/config.yaml", TrainConfig)
    assert config.steps == 4
    assert to_dict(from_dict(to_dict(config), TrainConfig)) == to_dict(config)


OWN = (
    "import jax.numpy as jnp\nfrom my_scale import scale\ndef gate(x): return jnp.sin(x) * scale\n"
)


def test_a_comparison_is_changed_and_keeps_its_runs(after: Shell, tmp_path: Path):
    """An arm more: the other arms are read, this one is trained, and the change is on record."""
    output = tmp_path / "changed"
    shutil.copytree(after.folder / "runs" / "compare", output)
    arguments = ("compare", "compare.yaml", "arms.gelu={model.variant: gelu}", "--output", output)
    (refusal,) = after.refuses(*arguments)
    assert "arms.gelu.model.variant: nothing there, gelu here" in refusal
    assert refusal.endswith("choose another --output, --change to keep its runs, or --overwrite")
    before = {path: path.stat().st_mtime_ns for path in output.glob("runs/*/*/run.json")}
    assert after(*arguments, "--change").code == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    found = read_results(output)
    assert [arm.name for arm in found.arms] == ["relu", "swiglu", "gelu"]
    (change,) = found.changes
    assert change.differences == ("arms.gelu.model.variant: nothing there, gelu here",)
    assert "the config was changed" in (output / "report.html").read_text()
    assert after(*arguments).code == 0  # now it is the same, and nothing is left to do
    assert len(read_results(output).changes) == 1
    (refusal,) = after.refuses(*arguments, "max_seeds=3", "--change")
    assert "max_seeds: None there, 3 here" in refusal


def test_a_ladder_is_climbed_reported_and_read_again(shell: Shell):
    """One arm at three sizes, in a smoke test; a rung that is there is not trained again."""
    ladder = "ladder={rungs: [{model.d_ff: 4}, {model.d_ff: 8}, {model.d_ff: 16}]}"
    few = "ladder.tokens_per_parameter=0.1"
    arguments = ("compare", "compare.yaml", "arms.swiglu=null", ladder, few)
    done = shell(*arguments)
    assert done.code == 0, done.err
    assert done.out[0] == "Smoke test: no conclusion is drawn."
    home = shell.folder / "runs" / "compare"
    rungs = [path.name for path in sorted((home / "rungs").iterdir())]
    assert [name.partition("-")[0] for name in rungs] == ["1", "2", "3"]
    assert all((home / "rungs" / name / "report.html").exists() for name in rungs)
    again = shell(*arguments, "--json")
    assert len(json.loads("\n".join(again.out))["sizes"]) == 3
    assert not any("step 0" in line for line in again.err)
    assert shell("report", "runs/compare").out == done.out
    assert [e for e in shell.refuses("compare", "compare.yaml", "--output", home) if "ladder" in e]


@pytest.fixture
def own(shell: Shell) -> Iterator[Shell]:
    """A config in a folder, with a module beside it that imports another one."""
    (shell.folder / "sub").mkdir()
    (shell.folder / "sub/lm.yaml").write_text(LM.replace("swiglu", "my_gates:gate"))
    (shell.folder / "sub/my_gates.py").write_text(OWN)
    (shell.folder / "sub/my_scale.py").write_text("scale = 1.0\n")
    before = list(sys.path), os.environ.get("PYTHONPATH")
    yield shell
    sys.path[:] = before[0]
    os.environ.pop("PYTHONPATH", None) if before[1] is None else os.environ.update(
        PYTHONPATH=before[1]
    )
    forget_own_modules()


def forget_own_modules() -> None:
    """As in another process."""
    for name in ("my_gates", "my_scale"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    importing.source.cache_clear()


def test_own_modules_are_found_and_are_part_of_what_a_run_is(own: Shell):
    """Beside the config, and what they import too; an edit is another run, which is said."""
    done = own("train", "sub/lm.yaml")
    assert done.code == 0, done
    losses = [run.validation_loss for run in read_results(own.folder / "runs/lm").runs]
    forget_own_modules()
    assert own("train", "sub/lm.yaml").code == 0
    assert own("generate", "runs/lm", "--length", "2").code == 0
    (own.folder / "sub/my_scale.py").write_text("scale = 0.5\n")
    forget_own_modules()
    (line,) = own.refuses("train", "sub/lm.yaml")
    assert "(modules my_gates: " in line
    forget_own_modules()
    assert own("train", "sub/lm.yaml", "--overwrite").code == 0
    assert losses != [run.validation_loss for run in read_results(own.folder / "runs/lm").runs]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_of_that_name\n", "my_gates.py:1: ModuleNotFoundError: No module named"),
        ("\n\nx = undefined\n", "my_gates.py:3: NameError: name 'undefined'"),
        ("def gate(x) return x\n", "SyntaxError: expected ':' (my_gates.py, line 1)"),
        ("x = 1\n", "AttributeError: module 'my_gates' has no attribute 'gate'"),
    ],
)
def test_what_is_wrong_in_an_own_module_has_its_line(own: Shell, text: str, reason: str):
    (own.folder / "sub/my_gates.py").write_text(text)
    found = own("train", "sub/lm.yaml")
    assert (found.code, found.out, len(found.err)) == (2, [], 1)
    assert reason in found.err[0]


def test_one_more_line_of_data_is_said(shell: Shell):
    assert shell("train", "lm.yaml").code == 0
    with (shell.folder / "text.txt").open("a") as file:
        file.write("whether 'tis nobler in the mind to suffer\n")
    (line,) = shell.refuses("train", "lm.yaml")
    assert line.startswith("output = 'runs/lm': holds another run or comparison (data: ")


def test_another_processor_is_warned_of(shell: Shell):
    assert shell("train", "digits.yaml").code == 0
    path = shell.folder / "runs/digits/identity.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"processor": "Abacus"}))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = shell("train", "digits.yaml")
    assert done.code == 0
    (line,) = (line for line in done.err if line.startswith("warning: "))
    assert line.startswith("warning: runs/digits was begun on Abacus; this one is ")
    path.unlink()  # as versions left it that did not record it
    assert not any("warning" in line for line in shell("train", "digits.yaml").err)


def test_the_command_that_repeats_does(shell: Shell):
    """Wherever --output was; and a config.yaml of a person's own has a directory of its own."""
    assert shell("train", "digits.yaml", "--output", "my runs/a").code == 0
    command = read_results(shell.folder / "my runs/a").command
    assert command == "gelu-jax train 'my runs/a/config.yaml'"
    before = files(shell.folder / "my runs/a")
    assert shell(*shlex.split(command)[1:]).code == 0
    assert files(shell.folder / "my runs/a")["results.csv"] == before["results.csv"]
    assert not (shell.folder / "runs").exists()
    (shell.folder / "config.yaml").write_text(DIGITS)
    assert shell("train", "config.yaml").code == 0
    assert (shell.folder / "runs" / shell.folder.name / "results.json").exists()


def test_generate_takes_the_run_on_record(after: Shell):
    """Not one that was interrupted, nor one of another time."""
    (home,) = (after.folder / "runs/lm/runs/lm").iterdir()
    other = home.with_name(f"{home.name[:-12]}{'0' * 12}")
    shutil.copytree(home, other)
    record = json.loads((other / "run.json").read_text())
    record["validation_loss"][-1] -= 1.0
    (other / "run.json").write_text(json.dumps(record))
    try:
        assert find_model(after.folder / "runs/lm") == home
        shutil.rmtree(other / "checkpoint")
        home.rename(home.with_suffix(".away"))
        with pytest.raises(ConfigError, match=r"the model that results\.json names is gone"):
            find_model(after.folder / "runs/lm")
    finally:
        home.with_suffix(".away").rename(home)
        shutil.rmtree(other)


def test_an_arm_is_dropped(after: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    out = ("--output", tmp_path / "alone")
    assert after("compare", *out, "arms.swiglu=null", "compare.yaml").code == 0
    assert [arm.name for arm in read_results(tmp_path / "alone").arms] == ["relu"]
    assert after.refuses("compare", "compare.yaml", "arms.swigle=null") == [
        "arms.swigle: no such arm; did you mean swiglu?"
    ]


# --- What is wrong ----------------------------------------------------------------------------

FEED_FORWARD = "model.block.feed_forward"
TOO_SHORT = "holds 3 bytes, fewer than one window of 9 (context + 1)"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (f"{FEED_FORWARD}.variant=swigle",
         f"{FEED_FORWARD}.variant = 'swigle': unknown; did you mean swiglu, swiglu_clamped, silu?"),
        (f"{FEED_FORWARD}.variant=[gelo]",
         f"{FEED_FORWARD}.variant = ('gelo',): unknown; did you mean gelu,"),
        (f"{FEED_FORWARD}.varient=relu",
         f"{FEED_FORWARD}.varient: unknown key; did you mean variant?"),
        ("stpes=3", "stpes: unknown key; did you mean steps?"),
        ("steps=many", "steps = 'many': should be a valid integer"),
        ("steps=2.5", "steps = 2.5: should be a valid integer"),
        ("eval_every=3", "eval_every = 3: must divide steps = 2; nearest: 2"),
        ("batch_size=0", "batch_size = 0: must be above 0"),
        ("model.block.attention.num_heads=3",
         "model.block.attention.num_heads = 3: must divide d_model = 8"),
        ("optimizer.name=adma", "optimizer.name = 'adma': unknown name; did you mean adam, adamw?"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate = 0.0: must be above 0"),
        ("data.kind=dgits", "data.kind = 'dgits': unknown kind; choose from digits, files,"),
        ("data.path=txet.txt", "data.path = 'txet.txt': no such file; did you mean text.txt"),
        ("data.path=empty.txt", "data.path = 'empty.txt': holds 0 bytes, nothing to train on"),
        ("data.path=short.txt", f"data.path = 'short.txt': {TOO_SHORT}"),
        ("data.context=5000", "data.path = 'text.txt': holds 840 bytes, fewer than one window"),
        ("model.vocab_size=100", "model.vocab_size = 100: the data needs at least 256"),
        ("model.max_positions=4", "model.max_positions = 4: the data needs at least 8"),
        ("model={kind: mlp, d_in: 8, num_classes: 256}",
         "model.kind = 'mlp': the data holds tokens, which need kind: transformer"),
        ("seed=-1", "seed = -1: must lie in [0, 2**32)"),
        ("steps", "write it as section.key=value"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line(shell: Shell, override: str, line: str):
    (shell.folder / "empty.txt").touch()
    (shell.folder / "short.txt").write_text("abc")
    (found,) = shell.refuses("train", "lm.yaml", override)
    assert line in found
    assert len(found) < 300


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("steps: 2", "steps: many", "lm.yaml:12: steps = 'many': should be a valid integer"),
        ("swiglu", "swigle",
         "lm.yaml:11: model.block.feed_forward.variant = 'swigle': unknown; did you mean swiglu, "
         "swiglu_clamped, silu?"),
        ("num_heads: 2", "num_heads: 3",
         "lm.yaml:10: model.block.attention.num_heads = 3: must divide d_model = 8; nearest: 2"),
        ("batch_size", "batchsize", "lm.yaml:13: batchsize: unknown key; did you mean batch_size?"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_has_its_line(shell: Shell, old: str, new: str, line: str):
    assert old in LM
    (shell.folder / "lm.yaml").write_text(LM.replace(old, new))
    found = shell.refuses("train", "lm.yaml")
    assert line in found
    assert found in ([line], ["lm.yaml: batch_size: required", line])


def test_all_mistakes_at_once(shell: Shell):
    found = shell.refuses("train", "lm.yaml", "stpes=3", "batch_size=x", "model.d_modle=3")
    assert [line.split(": ")[0] for line in found] == [
        "override stpes=3", "override batch_size=x", "override model.d_modle=3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("arms={}", "arms = {}: a comparison has at least one arm"),
        ("arms.relu={model.varient: relu}",
         "arms.relu.model.varient: unknown key; did you mean variant?"),
        ("arms.relu={model.variant: rellu}",
         "arms.relu.model.variant = 'rellu': unknown; did you mean relu, relu6, reglu?"),
        ("arms.relu={batch_size: 3}", "arms must see the same data"),
        ("seeds=0", "seeds = 0: must be above 0"),
        ("learning_rates=[1e-3, fast]", "learning_rates[1] = 'fast': should be a valid number"),
        ("match=flop", "match = 'flop': unknown match; did you mean flops?"),
        ("run.model.d_in=65", "model.d_in = 65: must equal the size of an image = 64"),
        ("run.data={kind: mnist, path: data}", "data.path = 'data': no such file"),
    ],
)  # fmt: skip
def test_mistakes_in_a_comparison(shell: Shell, override: str, line: str):
    (found,) = shell.refuses("compare", "compare.yaml", override)
    assert line in found


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "lm.yml"), "lm.yml: no such file; did you mean lm.yaml, compare.yaml?"),
        (("compare", "."), ".: is a directory"),
        (("train", "text.txt"), "text.txt: "),
        (("report", "runs/none"), "results.json = 'runs/none/results.json': no such file"),
        (("report", "text.tx"),
         "results.json = 'text.tx/results.json': no such file; did you mean text.txt?"),
        (("generate", "runs/none"), "run = 'runs/none': there is no finished run in it"),
        (("generate", "."), "run = '.': there is no finished run in it"),
        (("generate", ".", "--prompt", ""), "prompt = '': must not be empty"),
        (("generate", ".", "--length", "0"), "length = 0: must be above 0"),
        (("train", "digits.yaml", "--output", "text.txt"), "output = 'text.txt': file exists"),
        (("train", "digits.yaml", "--output", "text.txt/x"),
         "output = 'text.txt/x': not a directory"),
        (("train", "digits.yaml", "--output", "/proc/none/x"),
         "output = '/proc/none/x': no such file or directory"),
    ],
)  # fmt: skip
def test_files_and_folders_that_do_not_serve(shell: Shell, arguments: tuple[str, ...], line: str):
    (found,) = shell.refuses(*arguments)
    assert line in found


def test_a_config_of_the_other_command(shell: Shell):
    """In one line, with the command that serves."""
    assert shell.refuses("train", "compare.yaml") == [
        "compare.yaml: is the config of a comparison: gelu-jax compare compare.yaml"
    ]
    assert shell.refuses("compare", "digits.yaml") == [
        "digits.yaml: is the config of a training run: gelu-jax train digits.yaml"
    ]


def test_plan_of_a_comparison_and_of_an_mlp(shell: Shell):
    """A line for each arm, and one of everything; nothing is written."""
    before = files(shell.folder)
    table = shell("plan", "compare.yaml", "seeds=3", "--chip", "a100", "--devices", "2").out
    assert [line.split()[:2] for line in table[:3]] == [
        ["arm", "runs"],
        ["relu", "3"],
        ["swiglu", "3"],
    ]
    assert len({len(line) for line in table[:3]}) == 1
    assert table[4].startswith("6 runs, 384 targets, ")
    assert table[4].endswith("on 2 × a100, at its peak.")
    alone = shell("plan", "digits.yaml").out
    assert alone[1].split()[:3] == ["digits", "1", "2"]
    assert files(shell.folder) == before
    assert shell.refuses("plan", "compare.yaml", "arms.relu={model.variant: rellu}")[0].endswith(
        "did you mean relu, relu6, reglu?"
    )


def test_report_of_a_comparison_that_is_under_way(shell: Shell):
    """What is missing, what is there, and no conclusion; the same command then ends it."""
    assert shell("compare", "compare.yaml", "seeds=2").code == 0
    home = shell.folder / "runs" / "compare"
    (home / "results.json").unlink()
    (last,) = home.glob("runs/swiglu/*-seed1-*")
    shutil.rmtree(last)
    done = shell("report", "runs/compare")
    assert done.code == 0
    assert done.out[0].startswith("3 of 4 runs are done, about 1 second of training left:")
    assert done.out[1:3] == [
        "swiglu: 1 of 2 reported runs",
        "Unfinished: no conclusion is drawn.",
    ]
    assert not (home / "results.json").exists()
    assert "unfinished" in (home / "report.html").read_text(encoding="utf-8")
    again = shell("compare", "compare.yaml", "seeds=2")
    assert again.code == 0
    assert again.err[0].startswith("1 run, one after another: about ")
    assert "of memory here (by 1 step of swiglu and the FLOPs of each arm)." in again.err[0]
    assert again.out[0] == "Smoke test: no conclusion is drawn."


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=3", "optimizer.learning_rate"),
        ("optimizer.lr=3", "learning_rate"),
        ("seq_len=9", "data.context"),
        ("variant=gelu", "model.variant"),
    ],
)
def test_a_field_that_people_look_for_elsewhere(shell: Shell, override: str, meant: str):
    (line,) = shell.refuses("train", "lm.yaml", override)
    assert line.endswith(f"unknown key; did you mean {meant}?")


def test_a_pattern_is_an_override(shell: Shell):
    """A value that begins with a star is no YAML alias: there is nothing that it could name."""
    (line,) = shell.refuses("train", "lm.yaml", "data.path=*.foo")
    assert line == "data.path = '*.foo': no such file"


def test_a_misspelt_config_of_ours_beside_a_file_of_a_similar_name(shell: Shell):
    (line,) = shell.refuses("train", "digit_mlp")
    assert line.startswith("digit_mlp: no such file; did you mean digits_mlp")


# --- Text from a trained run ------------------------------------------------------------------


def test_generate_continues_the_prompt(after: Shell):
    drawn = [after("generate", "runs/lm", "--length", "12", "--seed", seed) for seed in (0, 0, 1)]
    texts = ["\n".join(done.out) for done in drawn]
    assert all(done.code == 0 for done in drawn)
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("def ") for text in texts)
    best = after("generate", "runs/lm", "--prompt", "ü", "--length", "3", "--top-k", "1")
    assert best.out[0].startswith("ü")
    odd = after("generate", "runs/lm", "--prompt", "\udcff", "--length", "1")  # no UTF-8
    assert odd.code == 0
    assert odd.out[0].startswith("�")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("runs/digits",), "run = 'runs/digits': holds a classifier, not a language model"),
        (("runs/lm", "--arm", "lmm"), "arm = 'lmm': not in runs/lm; did you mean lm?"),
        (("runs/lm", "--length", "40"),
         "length = 40: the model has 40 positions, the prompt takes 4; nearest: 36"),
        (("runs/lm", "--temperature", "0", "--length", "3"),
         "temperature = 0.0: must be above 0"),
        (("runs/lm", "--top-p", "1.5", "--length", "3"),
         "top_p = 1.5: must lie in (0, 1]"),
    ],
)  # fmt: skip
def test_generate_refuses(after: Shell, arguments: tuple[str, ...], line: str):
    assert after.refuses("generate", *arguments) == [line]


def test_a_damaged_model_is_named(after: Shell):
    (path,) = after.folder.glob("runs/lm/runs/lm/*/checkpoint/2/sums.json")
    original = path.read_bytes()
    try:
        path.write_text("{}")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            done = after("generate", "runs/lm")
        home = path.parents[2].relative_to(after.folder)
        assert (done.code, done.out) == (2, [])
        assert done.err == [
            f"warning: {home}/checkpoint/2: skipped a damaged checkpoint (its files are not as "
            "they were written)",
            f"run = '{home}': no readable checkpoint in it",
        ]
    finally:
        path.write_bytes(original)


# --- The command line itself ------------------------------------------------------------------


def test_help_names_the_commands(shell: Shell):
    done = shell("--help")
    assert done.code == 0
    text = " ".join("\n".join(done.out).split())
    assert (
        "{compare,train,configs,plan,generate,report,tokenize,numerics,audit,activations}" in text
    )
    for command in commands.COMMANDS:
        assert f"• {command} " in text
    detail = " ".join("\n".join(shell("compare", "--help").out).split())
    assert "CONFIG [KEY=VALUE ...]" in detail
    assert "--overwrite" in detail
    assert "--no-overwrite" not in detail


def test_activations_are_listed_by_any_name(shell: Shell):
    done = shell("activations", "--name", "gelu_pytorch_tanh")
    text = "\n".join(done.out)
    assert done.code == 0
    assert "gelu_tanh" in text
    assert "GPT-2" in text
    assert "softcap_25" not in text
    assert "softcap_25" in "\n".join(shell("activations").out)
    (line,) = shell.refuses("activations", "--name", "geul")
    assert line.startswith("name = 'geul': unknown; did you mean gelu, ")


def test_numerics_of_a_function_of_ones_own(shell: Shell):
    (shell.folder / "own_activation.py").write_text(
        "import jax.numpy as jnp\n"
        "def f(x):\n    return x / (1 + jnp.abs(x))\n"
        "def total(x):\n    return x.sum()\n"
    )
    numerics = ("numerics", "--dtype", "f16", "--function")
    done = shell(*numerics, "own_activation:f", "--plot", "f.png")
    text = "\n".join(done.out)
    assert done.code == 0
    assert "compared with: itself in float64, rounded once" in text
    assert "at -inf: nan, slope nan; at +inf: nan, slope nan" in text
    assert "never falls" in text
    assert (shell.folder / "f.png").read_bytes().startswith(b"\x89PNG")
    (line,) = shell.refuses(*numerics, "own_activation:total")
    assert "it must keep shape and dtype" in line
    (line,) = shell.refuses(*numerics, "own_activation:absent")
    assert line.startswith("function = 'own_activation:absent': cannot be imported")
    (line,) = shell.refuses(*numerics, "gelu", "--plot", "f.png")
    assert line == "plot = 'f.png': only with --function module:function"
    (line,) = shell.refuses(*numerics, "own_activation:f", "--plot", "f.gif")
    assert line == "plot = 'f.gif': must end in .png, .svg, .pdf"


@pytest.mark.parametrize(
    "arguments",
    [(), ("trian", "x"), ("train",), ("train", "x", "--bla"), ("compare", "x", "--add-seeds", "a")],
)
def test_what_tyro_refuses(shell: Shell, arguments: tuple[str, ...]):
    found = shell.refuses(*arguments)
    assert found
    assert "gelu-jax" in "".join(found)


@pytest.mark.parametrize(
    ("errno", "reason"), [(28, "No space left on device"), (30, "Read-only file system")]
)
def test_what_the_machine_refuses_is_one_line_and_another_code(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, errno: int, reason: str
):
    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno, reason, "checkpoint/.2")

    monkeypatch.setattr("gelu_jax.training.checkpoint._check_space", refuses)
    small = ("model.d_ff=8", "steps=2", "eval_every=1", "checkpoint_every=1")
    done = shell("train", "digits_mlp", *small, "--output", "refused")
    assert done.err[-1:] == [f"checkpoint/.2: {reason[0].lower()}{reason[1:]}"]
    assert (len(done.err), done.code) == (1, 1)


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating "
                                    "42949672960 bytes"),
         "out of memory (40.0 GiB asked for at once): reduce batch_size,", 1),
        (MemoryError(), "out of memory: reduce batch_size,", 1),
        (Exception("WordLevel error: Missing [UNK] token from the vocabulary"),
         "tokenizer: the text has words that are not in its vocabulary", 2),
    ],
)  # fmt: skip
def test_failures_that_can_be_foreseen(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str, code: int
):
    def fails() -> None:
        raise error

    monkeypatch.setitem(commands.COMMANDS, "report", fails)
    done = shell("report")
    assert (done.out, done.code, len(done.err)) == ([], code, 1)
    assert done.err[0].startswith(line)


@pytest.mark.parametrize("error", [RuntimeError("INTERNAL: x"), Exception("x"), AssertionError()])
def test_what_nobody_expected_keeps_its_traceback(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fails() -> None:
        raise error

    monkeypatch.setitem(commands.COMMANDS, "report", fails)
    with pytest.raises(type(error)):
        shell("report")


def test_wandb_without_a_login_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(shell.folder.parent))
    (line,) = shell.refuses("train", "digits.yaml", "--log", "wandb")
    assert line.startswith("log = 'wandb': No API key configured.")
    assert line.endswith("Or set WANDB_MODE=offline.")


TERMS = quickly.PROCESS | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0"}


def process(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gelu_jax", *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | TERMS | variables, capture_output=True
    )


@pytest.mark.parametrize("platform", ["cdua", "cuda"])
def test_a_wrong_platform_is_one_line(shell: Shell, platform: str):
    done = process(shell.folder, "train", "digits.yaml", JAX_PLATFORMS=platform)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(f"JAX_PLATFORMS = '{platform}': ")
    assert done.stderr.count(b"\n") == 1


def test_it_trains_in_float64_mode(shell: Shell):
    """Which is another run: its numbers are others."""
    done = process(shell.folder, "train", "digits.yaml", JAX_ENABLE_X64="1")
    assert done.returncode == 0, done.stderr
    (line,) = shell.refuses("train", "digits.yaml")
    assert "(JAX_ENABLE_X64: True there, False here)" in line


@pytest.mark.parametrize(
    ("encoding", "sign"),
    [("cp1252", b"\xd7 <= -"), ("iso-8859-1", b"\xd7 <= -"), ("ascii", b"x <= -")],
)
def test_terminals_that_lack_signs(monkeypatch: pytest.MonkeyPatch, encoding: str, sign: bytes):
    monkeypatch.setitem(commands.COMMANDS, "report", lambda: print("× ≤ −"))
    monkeypatch.setattr(sys, "argv", ["gelu-jax", "report"])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding))
    written = sys.stdout.buffer
    commands.run()
    sys.stdout.flush()
    assert written.getvalue() == sign + b"\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ("1000000007", "eval_every = 10: must divide steps = 1000000007"),
        ("2147483648", "steps = 2147483648: must be below 2**31"),
        ("9223372036854775809", "steps = 9223372036854775809: must be below 2**31"),
        ("9" * 40, "must be below 2**31"),
    ],
)
def test_very_many_steps_are_answered_at_once(shell: Shell, steps: str, line: str):
    found = shell.refuses("train", "digits.yaml", f"steps={steps}", "eval_every=10")
    assert any(line in each for each in found), found


def test_python_m_gelu_jax(tmp_path: Path):
    """The process itself, in a terminal of ASCII: exit code 2, one line, nothing on stdout."""
    done = process(tmp_path, "train", "none≤.yaml", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"none<=.yaml: no such file\n"
    assert list(tmp_path.iterdir()) == []
