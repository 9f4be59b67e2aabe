"""tokenize: text into a corpus of tokens."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from gelu_jax import signals
from gelu_jax.training.data.convert import write_corpus
from gelu_jax.training.data.corpus import SPLITS


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
        with signals.deferred(), Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("tokenizing", total=None)

            def callback(done: int, total: int) -> None:
                signals.check()
                progress.update(bar, completed=done, total=total)

            facts = write_corpus(
                texts,
                tokenizer,
                output,
                validation_fraction=validation_fraction,
                end_of_document=end_of_document,
                callback=callback,
            )
    except KeyboardInterrupt:
        number = signals.received() or signal.SIGINT
        print(f"{signals.WORDS[number]}; nothing was written.", file=sys.stderr)
        sys.exit(128 + number)
    for name in SPLITS:
        split = facts[name]
        print(f"{name}: {split['documents']:,} documents, {split['tokens']:,} tokens")
    print(output, f"vocab_size: {facts['vocab_size']}", sep="\n")
