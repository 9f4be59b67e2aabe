"""Serving: embeddings beside sentence-transformers, decoding beside transformers, on this machine.

    python benchmarks/serving.py [--small]

Needs the `peers` extra and sentence-transformers. Both tasks have random weights that transformers
wrote: 256 texts by a BERT of MiniLM's shape (384 wide, 6 layers), and 64 tokens after a prompt of
32 by a LLaMA, 768 wide, 12 layers. Ours and theirs take turns (A B A B …) after one call each to
warm up, which compiles ours; the ratio is that of medians. What both return is compared. Writes
benchmarks/results/serving.json and .md; --small rehearses with narrow models, and writes nothing.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gelu_jax import families
from gelu_jax.nn.decoding import generate
from gelu_jax.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
VOCABULARY, PROMPT, NEW = 30_000, 32, 64
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
MINILM |= {"intermediate_size": 1536}
DECODER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
DECODER |= {"intermediate_size": 2048}
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96}


def tokenizer(folder: Path) -> None:
    """Writes a tokenizer of words: w5 is token 5, and w1 and w2 enclose a text."""
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w3"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing("w1 $A w2", None, [("w1", 1), ("w2", 2)])
    words = {"pad_token": "w0", "cls_token": "w1", "sep_token": "w2", "unk_token": "w3"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **words).save_pretrained(folder)


def texts(number: int) -> list[str]:
    """Texts of 5 to 60 words, most of them short."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.geometric(0.06, number), 5, 60)
    return [" ".join(f"w{i}" for i in rng.integers(4, VOCABULARY, n)) for n in lengths]


def in_turn(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> dict[str, list[float]]:
    """The seconds of both, A B A B …, and of the first call of each."""
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(repeats + 1):
        for name, call in (("ours", ours), ("theirs", theirs)):
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return found


def row(
    seconds: dict[str, list[float]], work: float, unit: str, difference: float
) -> dict[str, Any]:
    """Medians without the first calls, the work per second, and how much faster ours is."""
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return {
        "unit": unit,
        "first_call_seconds": {name: times[0] for name, times in seconds.items()},
        "seconds": {name: times[1:] for name, times in seconds.items()},
        "per_second": {name: work / median for name, median in medians.items()},
        "ratio": medians["theirs"] / medians["ours"],
        "difference": difference,
    }


def embeddings(folder: Path, *, small: bool, repeats: int) -> dict[str, Any]:
    """256 texts, in batches of 32."""
    fields = MINILM | (SMALL if small else {})
    config = transformers.BertConfig(vocab_size=VOCABULARY, **fields)
    transformers.BertModel(config).save_pretrained(folder / "base")
    tokenizer(folder / "base")
    made = Transformer(str(folder / "base"), max_seq_length=128)
    SentenceTransformer(
        modules=[made, Pooling(fields["hidden_size"]), Normalize()], device="cpu"
    ).save(str(folder / "encoder"))
    theirs = SentenceTransformer(str(folder / "encoder"), device="cpu")
    ours = families.load_sentence_encoder(folder / "encoder")
    chosen = texts(32 if small else 256)
    seconds = in_turn(lambda: ours.encode(chosen), lambda: theirs.encode(chosen), repeats)
    difference = abs(ours.encode(chosen) - theirs.encode(chosen)).max()
    assert difference < 1e-5, difference
    return row(seconds, len(chosen), "texts", float(difference))


def decoding(folder: Path, *, small: bool, repeats: int) -> dict[str, Any]:
    """One row, greedily, with a cache of keys and values on both sides."""
    fields = DECODER | (SMALL if small else {})
    new = 8 if small else NEW
    config = transformers.LlamaConfig(vocab_size=VOCABULARY, **fields)
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(folder / "decoder")
    ours = families.load(folder / "decoder")
    prompt = np.random.default_rng(1).integers(4, VOCABULARY, (1, PROMPT))
    options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def call() -> jax.Array:
        return jax.block_until_ready(generate(ours, jnp.asarray(prompt), new))

    def their_call() -> torch.Tensor:
        tokens = torch.tensor(prompt)
        with torch.inference_mode():
            return theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **options)

    seconds = in_turn(call, their_call, repeats)
    equal = np.asarray(call())[0] == their_call()[0, PROMPT:].numpy()
    return row(seconds, new, "tokens", float(1 - equal.mean()))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = ["| | ours, per second | theirs, per second | ratio | first call of ours, s |"]
    lines.append("|---|---|---|---|---|")
    for name, found in rows.items():
        ours, theirs = (found["per_second"][side] for side in ("ours", "theirs"))
        first = found["first_call_seconds"]["ours"]
        figures = f"{ours:.0f} | {theirs:.0f} | {found['ratio']:.2f} | {first:.1f}"
        lines.append(f"| {name} ({found['unit']}) | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    torch.manual_seed(0)
    repeats = 3 if small else 7
    with tempfile.TemporaryDirectory() as name:
        rows = {
            "embeddings": embeddings(Path(name), small=small, repeats=repeats),
            "decoding": decoding(Path(name), small=small, repeats=repeats),
        }
    print(table(rows))
    if small:
        return
    peers = {p.__name__: p.__version__ for p in (torch, transformers)}
    peers["torch threads"] = str(torch.get_num_threads())
    record = {"environment": environment() | peers, "rows": rows}
    (RESULTS / "serving.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "serving.md").write_text(table(rows))


if __name__ == "__main__":
    sys.exit(main())
