"""The command line: parse, call, print.

Exit codes: 0 done; 1 the machine failed (a full disk, no worker left, another process of the run
gone), or `numerics` found a promise broken; 2 the input was wrong; 130 stopped by Ctrl-C, to be
continued by the same command.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.progress import Progress

from gelu_jax.activations import ACTIVATIONS, activation, numerics
from gelu_jax.board import Board
from gelu_jax.compare.analysis import Analysis, analyze
from gelu_jax.compare.crew import Crew
from gelu_jax.compare.directory import claim, locked, same_but_for_seeds
from gelu_jax.compare.experiment import CompareConfig, compare, prepare
from gelu_jax.compare.launchers import Launch, launch
from gelu_jax.compare.records import Run, read_results
from gelu_jax.compare.report import write_report
from gelu_jax.compare.runs import Task, last_point, load_model
from gelu_jax.compare.summary import summary
from gelu_jax.compare.trackers import Kind, trackers
from gelu_jax.compare.verdict import verdict
from gelu_jax.errors import ConfigError, Problem, check, nearest
from gelu_jax.nn import checks
from gelu_jax.nn.decoding import generate
from gelu_jax.nn.transformer import Transformer
from gelu_jax.training import plan as planning
from gelu_jax.training.checkpoint import newest
from gelu_jax.training.config import from_dict, read_config
from gelu_jax.training.data.codec import codec
from gelu_jax.training.data.convert import write_corpus
from gelu_jax.training.data.corpus import SPLITS
from gelu_jax.training.distributed import DistributedConfig, leads, together
from gelu_jax.training.run import TrainConfig

ConfigFile = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
Overrides = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[KEY=VALUE ...]")
]
Finished = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Log = Annotated[tuple[Kind, ...], tyro.conf.UseAppendAction]
Several = Annotated[DistributedConfig, tyro.conf.OmitArgPrefixes]

ALONE = DistributedConfig()
QUICK = ("protocol=smoke test", "seeds=2", "learning_rates=[]")


def compare_command(
    config: ConfigFile,
    overrides: Overrides = (),
    output: Path | None = None,
    overwrite: bool = False,
    add_seeds: int = 0,
    quick: bool = False,
    json: bool = False,
    log: Log = (),
    launcher: str | None = None,
    workers: int | None = None,
    resources: tuple[str, ...] = (),
) -> None:
    """Train arms over seeds and learning rates, and write a report with a verdict.

    Goes on where it stopped: what is finished in the output directory is not trained again.

    Args:
        config: a YAML file such as configs/compare_activations.yaml.
        overrides: section.key=value for any field, such as run.steps=200.
        output: where to write; runs/<name of the config> by default.
        overwrite: delete another comparison that stands in the output directory.
        add_seeds: more seeds than the comparison in the output directory has.
        quick: a smoke test of two seeds without tuning, which draws no conclusion.
        json: print one JSON document and nothing else; progress goes to standard error.
        log: also write to a tracker, as runs go; may be given twice.
        launcher: local, slurm or ray: have workers do the runs, on this machine or on others.
        workers: how many; as many as this machine has cores by default.
        resources: key=value, what each worker asks its launcher for: partition=gpu time=60
            gpus_per_node=1 (slurm), num_gpus=1 (ray).
    """
    staff = launch(launcher, workers, resources)
    comparison = read_config(config, CompareConfig, (*overrides, *QUICK * quick))
    directory = output or Path("runs") / _name(config)
    analysis, files = _run(
        comparison, directory, overwrite=overwrite, add_seeds=add_seeds, log=log, staff=staff
    )
    if json:
        print(summary(analysis, files))
    else:
        _tell(analysis, files)


def train_command(
    config: ConfigFile,
    overrides: Overrides = (),
    output: Path | None = None,
    overwrite: bool = False,
    log: Log = (),
    several: Several = ALONE,
) -> None:
    """Train one config, and write its curves. Goes on where it stopped.

    Args:
        config: a YAML file such as configs/byte_lm.yaml.
        overrides: section.key=value for any field, such as steps=200.
        output: where to write; runs/<name of the config> by default.
        overwrite: delete another run that stands in the output directory.
        log: also write to a tracker, as the run goes; may be given twice.
    """
    run = read_config(config, TrainConfig, overrides)
    name = _name(config)
    directory = output or Path("runs") / name
    single = CompareConfig(run=run, arms={name: {}}, seeds=1)
    with together(several, partial(newest, directory)):
        analysis, files = _run(single, directory, overwrite=overwrite, log=log)
        if leads():
            _tell(analysis, files)


def plan_command(
    config: ConfigFile,
    overrides: Overrides = (),
    chip: str = "h100",
    devices: int = 1,
) -> None:
    """Print what a config would need on chips that are not here; nothing is run.

    Args:
        config: a YAML file such as configs/llama_small.yaml.
        overrides: section.key=value for any field, such as mesh.fsdp=8.
        chip: one of a100, h100, h200, b200, mi300x.
        devices: how many of them.
    """
    check(checks.positive(devices=devices))
    run, found = read_config(config, TrainConfig, overrides), planning.chip(chip)
    report = planning.describe(planning.plan(run, found, devices), found, chip)
    print(report)


def _name(config: Path) -> str:
    """runs/x/config.yaml repeats x; any other file is called by its own name."""
    return config.parent.name if config.stem == "config" else config.stem


def _run(
    config: CompareConfig,
    directory: Path,
    *,
    overwrite: bool,
    add_seeds: int = 0,
    log: Sequence[Kind] = (),
    staff: Launch | None = None,
) -> tuple[Analysis, tuple[Path, ...]]:
    check([Problem("add_seeds", add_seeds, "must not be below 0")] if add_seeds < 0 else [])
    trainers = prepare(config)  # all that can be wrong with it shows before anything is written
    tracked = trackers(log, directory, trainers) if leads() else ()
    with locked(directory) if leads() else nullcontext():
        if leads():
            claim(directory, config, overwrite=overwrite)
        config = _with_seeds(config, directory, add_seeds)
        with ExitStack() as stack:
            board = stack.enter_context(Board(config, Console(stderr=True, quiet=not leads())))
            for tracker in tracked:
                stack.enter_context(tracker)

            def watch(task: Task, run: Run) -> None:
                if _interrupted.is_set():
                    raise KeyboardInterrupt
                board.watch(task, last_point(run))
                if staff is None or run.status != "interrupted":  # of several at once, when done
                    for tracker in tracked:
                        tracker.watch(task, run)

            crew = staff and stack.enter_context(Crew(staff, directory, trainers, watch))
            comparison = compare(config, directory, watch, trainers, crew)
        files = write_report(comparison, directory) if leads() else ()
        return analyze(comparison), files


def _tell(analysis: Analysis, files: Sequence[Path]) -> None:
    print(verdict(analysis))
    print(*files, sep="\n")


def _with_seeds(config: CompareConfig, directory: Path, more: int) -> CompareConfig:
    """The config with as many seeds as the finished comparison there has, and some more.

    Counted from what is finished, so that the same command goes on after a stop.
    """
    with suppress(ConfigError):
        finished = from_dict(read_results(directory).config, CompareConfig)
        if same_but_for_seeds(finished, config):
            return replace(config, seeds=max(config.seeds, finished.seeds + more))
    return replace(config, seeds=config.seeds + more)


def report_command(run: Finished) -> None:
    """Draw the report of a finished run or comparison again, without training.

    Args:
        run: its directory, such as runs/compare_activations.
    """
    comparison = read_results(run)
    _tell(analyze(comparison), write_report(comparison, run))


def generate_command(
    run: Finished,
    prompt: str = "def ",
    length: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    arm: str | None = None,
    tokenizer: Path | None = None,
    seed: int = 0,
) -> None:
    """Print text that a trained language model continues a prompt with.

    Args:
        run: the directory of a run or comparison, such as runs/byte_lm.
        prompt: what the text begins with.
        length: how many tokens to draw: bytes, where it was trained on bytes.
        temperature: below 1 keeps to what is likely.
        top_k: draw among so many likeliest bytes only.
        top_p: draw among the likeliest bytes that together have this probability.
        arm: which arm of a comparison; the first by default.
        tokenizer: of a run on tokens; the corpus's own by default.
        seed: of the draws.
    """
    check([Problem("prompt", prompt, "must not be empty; nearest: 'def '")] if not prompt else [])
    check(checks.positive(length=length))
    home = _home(run, arm)
    model = load_model(home)
    if not isinstance(model, Transformer):
        raise ConfigError([Problem("run", run, "holds a classifier, no language model")])
    text = codec(read_config(home / "config.yaml", TrainConfig).data, tokenizer)
    written = text.encode(prompt)
    check(_strangers(model, written, tokenizer))
    _check_length(model, len(written), length)
    draw = partial(generate, temperature=temperature, top_k=top_k, top_p=top_p)
    tokens = jax.jit(draw, static_argnums=2)(
        model, jnp.asarray([written]), length, key=jax.random.key(seed)
    )
    print(text.decode(written + tokens[0].tolist()))


def _strangers(
    model: Transformer, written: Sequence[int], tokenizer: Path | None
) -> Iterator[Problem]:
    if not written:
        yield Problem("prompt", "", "is no token of this tokenizer")
    elif (worst := max(written)) >= (size := model.config.vocab_size):
        yield Problem("tokenizer", tokenizer, f"makes token {worst}, the model knows {size}")


def _check_length(model: Transformer, prompt: int, length: int) -> None:
    places = model.config.max_positions
    if places is not None and prompt + length > places:
        reason = f"the model has {places} positions, the prompt takes {prompt}"
        best = max(1, places - prompt)
        raise ConfigError([Problem("length", length, f"{reason}; nearest: {best}")])


def _home(run: Path, arm: str | None) -> Path:
    """The folder of the first trained model of an arm."""
    homes = sorted(run.glob("runs/*/report-*/checkpoint"), key=lambda path: path.stat().st_mtime)
    arms = list(dict.fromkeys(path.parent.parent.name for path in homes))
    if not homes:
        raise ConfigError([Problem("run", run, "holds no trained model; nearest: runs/byte_lm")])
    if arm is not None and arm not in arms:
        raise ConfigError([Problem("arm", arm, f"not in {run}; {nearest(arm, arms)}")])
    return next(p.parent for p in homes if p.parent.parent.name == (arm or arms[0]))


def tokenize_command(
    texts: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT...")],
    tokenizer: Path,
    output: Path,
    validation_fraction: float = 0.1,
    end_of_document: str | None = None,
) -> None:
    """Encode text with a tokenizer of yours into a folder to train on (data.kind: tokens).

    A file is a document; of a .jsonl file each line is one, in its field text.

    Args:
        texts: files, or folders of which every file is read.
        tokenizer: a tokenizer.json, as the tokenizers library saves it.
        output: the folder to write.
        validation_fraction: the share of the documents that is held out.
        end_of_document: the token after each document; '' for none, the tokenizer's own by default.
    """
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("tokenizing", total=None)
            facts = write_corpus(
                texts,
                tokenizer,
                output,
                validation_fraction=validation_fraction,
                end_of_document=end_of_document,
                watch=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    except KeyboardInterrupt:
        sys.exit(_complaint("stopped; nothing was written", 130))
    for name in SPLITS:
        split = facts[name]
        print(f"{name}: {split['documents']:,} documents, {split['tokens']:,} tokens")
    print(output, f"vocab_size: {facts['vocab_size']}", sep="\n")


def numerics_command(
    dtype: Literal["bf16", "f16", "bfloat16", "float16"] | None = None,
    function: str | None = None,
) -> None:
    """Try every 16-bit input of every activation on the device at hand, beside jax.nn's.

    Exit code 1 when a promise is broken.

    Args:
        dtype: bf16 or f16 alone; both by default.
        function: one activation alone, by any of its names; all by default.
    """
    try:
        functions = ACTIVATIONS if function is None else [activation(function).__name__]
    except ValueError as error:
        raise ConfigError([Problem("function", function, str(error).partition(": ")[2])]) from None
    names = {"bf16": "bfloat16", "f16": "float16"}
    dtypes = numerics.DTYPES if dtype is None else [names.get(dtype, dtype)]
    rows = numerics.sweep(functions, dtypes)
    numerics.report(rows, Console(width=None if sys.stdout.isatty() else 132))
    if not numerics.promise_kept(rows):
        sys.exit(1)


COMMANDS = {
    "compare": compare_command,
    "train": train_command,
    "plan": plan_command,
    "generate": generate_command,
    "report": report_command,
    "tokenize": tokenize_command,
    "numerics": numerics_command,
}


def main() -> None:
    """Runs a command; an error of the user's is one line for each mistake, and no traceback."""
    _interrupted.clear()
    with warnings.catch_warnings(), _remembered_interrupts():
        warnings.showwarning = _remark
        try:
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="gelu-jax", config=(tyro.conf.FlagCreatePairsOff,)
            )
        except ConfigError as error:
            sys.exit(_complaint(error, 2))
        except BrokenPipeError:  # the reader, `head` say, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            sys.exit(_complaint(f"{error.filename or 'disk'}: {reason}", 1))
        except KeyboardInterrupt:
            sys.exit(_complaint("stopped; the same command goes on from here", 130))


_interrupted = threading.Event()


@contextmanager
def _remembered_interrupts() -> Generator[None]:
    """Ctrl-C raises, and is remembered: what is raised in a finalizer, Python drops."""

    def interrupt(*_: object) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remark(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _complaint(what: object, code: int) -> int:
    print(what, file=sys.stderr)
    return code
