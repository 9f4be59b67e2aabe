"""The commands that the README and the pages show, run."""

import sys

from pages import PAGES, ROOT, commands
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gelu_jax import cli

TINY = [
    "steps=2",
    "optimizer.warmup_steps=0",
    "eval_every=1",
    "batch_size=2",
    "data.validation_windows=2",
]
SMALL = {
    "train": TINY,
    "compare": [*(f"run.{change}" for change in TINY), "seeds=1", "learning_rates=[]"],
    "generate": ["--length", "4"],
    "numerics": ["--function", "relu"],
}


def test_commands_run(tmp_path, monkeypatch, capsys):
    """One after another in an empty folder, made small; each with each config or run once."""
    write_own_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = [words[1:] for page in PAGES for words in commands(page) if words[0] == "gelu-jax"]
    once = dict[tuple[str, ...], list[str]]()
    for words in shown:
        once.setdefault(tuple(words[:2]), words)
    for words in once.values():
        if not {"CONFIG", "DIRECTORY"} & set(words):
            monkeypatch.setattr(sys, "argv", ["gelu-jax", *small(*words)])
            cli.main()
            assert capsys.readouterr().out, words


def small(command, *arguments):
    """A command with what makes it short after its own changes, before its flags."""
    flags = [i for i, word in enumerate(arguments) if word.startswith("--")]
    at = flags[0] if flags else len(arguments)
    return [command, *arguments[:at], *SMALL.get(command, []), *arguments[at:]]


def write_own_texts(folder):
    """What the pages call texts/, novels/ and tokenizer.json: a page, and a tokenizer of it."""
    text = (ROOT / "docs" / "train.md").read_text()
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text], trainer)
    made.save(str(folder / "tokenizer.json"))
    for place in ("texts", "novels"):
        (folder / place).mkdir()
        (folder / place / "train.txt").write_text(text)
