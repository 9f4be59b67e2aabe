"""generate and tokenize: text that comes out, and text that goes in."""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.progress import Progress

from gelu_jax.cli.arguments import Finished
from gelu_jax.errors import ConfigError, Problem, check, nearest
from gelu_jax.nn import checks
from gelu_jax.nn.decoding import generate
from gelu_jax.nn.transformer import Transformer
from gelu_jax.runs.perform import load_model
from gelu_jax.training.config import read_config
from gelu_jax.training.data.codec import codec
from gelu_jax.training.data.convert import write_corpus
from gelu_jax.training.data.corpus import SPLITS
from gelu_jax.training.trainer import TrainConfig


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
        print("stopped; nothing was written", file=sys.stderr)
        sys.exit(130)
    for name in SPLITS:
        split = facts[name]
        print(f"{name}: {split['documents']:,} documents, {split['tokens']:,} tokens")
    print(output, f"vocab_size: {facts['vocab_size']}", sep="\n")
