"""What the README shows runs: its Python as one program, its commands one after another."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

SMALL = {
    "compare": [
        "run.steps=2",
        "run.eval_every=1",
        "run.batch_size=2",
        "run.data.validation_windows=2",
        "seeds=1",
        "learning_rates=[]",
    ],
    "train": ["steps=2", "eval_every=1", "batch_size=2", "data.validation_windows=2"],
    "generate": ["--length", "4"],
    "numerics": ["--function", "relu"],
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    """Every `gelu-jax` line of the README's shell blocks, made small."""
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["gelu-jax"]:
            yield [*words[1:3], *SMALL.get(words[1], []), *words[3:]]


def test_python(tmp_path):
    program = "\n".join(blocks("python"))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "(2, 512)",
        "(2, 512)",
        "True -0.000812531",
        "bert, clip, efficientnet, gemma, gpt2, llama, llava, mistral, palm, t5, vit",
    ]


def write_own_texts(folder):
    """What "Your own tokens" begins with: some texts, and a tokenizer."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [README],
        trainers.BpeTrainer(
            special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    made.save(str(folder / "tokenizer.json"))
    (folder / "texts").mkdir()
    (folder / "texts" / "readme.md").write_text(README)


def test_commands(tmp_path, monkeypatch):
    from gelu_jax import cli

    write_own_texts(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "README.md").symlink_to(ROOT / "README.md")
    monkeypatch.chdir(tmp_path)
    assert len(list(commands())) >= 5
    for command in commands():
        monkeypatch.setattr(sys, "argv", ["gelu-jax", *command])
        cli.main()
    assert (tmp_path / "runs" / "compare_activations" / "report.html").exists()


def test_mistakes_read_as_shown(tmp_path, monkeypatch, capsys):
    from gelu_jax import cli

    monkeypatch.chdir(ROOT)
    for block in blocks("console"):
        command, *expected = block.splitlines()
        monkeypatch.setattr(sys, "argv", shlex.split(command.removeprefix("$ ")))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        assert capsys.readouterr().err.splitlines() == expected


def test_make_targets_exist():
    targets = re.findall(r"^make (.+?)(?:\s+#.*)?$", "".join(blocks("sh")), re.MULTILINE)
    assert targets
    for line in targets:
        subprocess.run(["make", "-n", *line.split()], cwd=ROOT, check=True, capture_output=True)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / link).exists(), link
