"""Tokens on disk: written from text whole or not at all, read in shares, in any order of asking."""

import functools
import json
import os
import resource
import socket
import subprocess
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gelu_jax import cli
from gelu_jax.errors import ConfigError
from gelu_jax.runs.execution import Task, execute
from gelu_jax.training.config import from_dict, write_config
from gelu_jax.training.data import (
    Files,
    HuggingFace,
    TokenData,
    TokenFiles,
    load_data,
    stream,
    text,
)
from gelu_jax.training.data.convert import write_corpus
from gelu_jax.training.data.corpus import read_corpus
from gelu_jax.training.data.dataset import DatasetInfo
from gelu_jax.training.data.stream import Tokens, _rows_of
from gelu_jax.training.trainer import TrainConfig, Trainer

END = "<|endoftext|>"
SOURCES = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-c]*.py"))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json of 600 tokens, and texts: a folder of files and a .jsonl."""
    folder = tmp_path_factory.mktemp("tokens")
    made: Any = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    made.train([str(path) for path in SOURCES[:8]], trainer)
    made.enable_truncation(16)  # as the files of many encoders ask for
    made.save(str(folder / "tokenizer.json"))
    (folder / "texts" / "below").mkdir(parents=True)
    for path in SOURCES:
        (folder / "texts" / "below" / path.name).write_bytes(path.read_bytes())
    (folder / "texts" / ".hidden").write_bytes(b"\xff")
    (folder / "texts" / "empty.txt").touch()
    lines = [{"text": f"Zeile {i}\r\n\n  ümlaut {'x' * i} 🙂", "id": i} for i in range(40)]
    lines.insert(3, {"text": "", "id": -1})
    dumped = "\n\n".join(json.dumps(line) for line in lines)
    (folder / "lines.jsonl").write_text(dumped)
    write_corpus(
        [folder / "texts", folder / "lines.jsonl"], folder / "tokenizer.json", folder / "corpus"
    )
    return folder


def encoder(folder: Path) -> Any:
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.no_truncation()
    return made


def documents(corpus: Path, split: str) -> list[list[int]]:
    tokens = np.fromfile(corpus / f"{split}.bin", "<u2")
    ends = np.fromfile(corpus / f"{split}.documents", "<i8")
    assert ends[0] == 0
    assert ends[-1] == len(tokens)
    return [part.tolist() for part in np.split(tokens, ends[1:-1])]


# --- Writing ----------------------------------------------------------------------------------


def test_a_corpus_holds_every_document_once(folder: Path):
    written = [d for split in ("train", "validation") for d in documents(folder / "corpus", split)]
    own = encoder(folder)
    end = own.token_to_id(END)
    texts = [path.read_bytes().decode() for path in SOURCES]
    lines = (folder / "lines.jsonl").read_text().splitlines()
    texts += [json.loads(line)["text"] for line in lines if line]
    expected = [[*own.encode(t, add_special_tokens=False).ids, end] for t in texts if t]
    assert Counter(map(tuple, written)) == Counter(map(tuple, expected))
    decoded = Counter(own.decode(d[:-1], skip_special_tokens=False) for d in written)
    assert decoded == Counter(t for t in texts if t)
    assert 0 < len(documents(folder / "corpus", "validation")) < 0.3 * len(written)


def test_it_is_written_the_same_twice_and_says_what_it_holds(folder: Path, tmp_path: Path):
    texts = [folder / "texts", folder / "lines.jsonl"]
    facts = write_corpus(texts, folder / "tokenizer.json", tmp_path / "deep" / "corpus")
    for path in (folder / "corpus").iterdir():
        assert path.read_bytes() == (tmp_path / "deep" / "corpus" / path.name).read_bytes()
    assert len(list((tmp_path / "deep").iterdir())) == 1
    assert facts["vocab_size"] == 600
    assert facts["dtype"] == "uint16"
    assert facts["end_of_document"] == 0
    opened = read_corpus(str(tmp_path / "deep" / "corpus"))
    assert [len(split.starts) for split in opened.splits] == [
        facts[name]["documents"] for name in ("train", "validation")
    ]
    assert all(isinstance(split.tokens, np.memmap) for split in opened.splits)


def test_a_long_document_is_encoded_as_if_it_were_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In pieces of 8,000 characters, cut where a tokenizer like GPT-2's cuts too."""
    monkeypatch.setattr(text, "_PIECE", 8000)
    monkeypatch.setattr(text, "_BATCH", 20000)
    source = folder / "texts" / "below"
    write_corpus([source], folder / "tokenizer.json", tmp_path / "x", end_of_document="")
    written = [d for split in ("train", "validation") for d in documents(tmp_path / "x", split)]
    whole = [encoder(folder).encode(p.read_text()).ids for p in SOURCES]
    assert Counter(map(tuple, written)) == Counter(map(tuple, whole))


@pytest.mark.parametrize("fraction", [0.1, 0.999])  # the hash says training; held out
def test_of_one_document_the_end_is_held_out(folder: Path, tmp_path: Path, fraction: float):
    source = SOURCES[0]
    write_corpus([source], folder / "tokenizer.json", tmp_path / "x", validation_fraction=fraction)
    train, held_out = (documents(tmp_path / "x", name) for name in ("train", "validation"))
    assert (len(train), len(held_out)) == (1, 1)
    assert train[0] + held_out[0] == [*encoder(folder).encode(source.read_text()).ids, 0]
    assert len(held_out[0]) == round(fraction * len(train[0] + held_out[0]))
    read_corpus(str(tmp_path / "x"))


BAD_INPUT = {
    "texts = '{0}/nothing'": {"texts": ["{0}/nothing"]},
    "is not UTF-8 text": {"texts": ["{0}/texts/.hidden"]},
    "does not hold any file": {"texts": ["{0}/none"]},
    "do not hold any text": {"texts": ["{0}/texts/empty.txt"]},
    "line 2 is not JSON": {"texts": ["{0}/broken.jsonl"]},
    "line 1 has no string in a field text; it has content": {"texts": ["{0}/other.jsonl"]},
    "line 1 holds half of a surrogate pair": {"texts": ["{0}/half.jsonl"]},
    "tokenizer = '{0}/tokeniser.json': no such file; did you mean tokenizer.json": {
        "tokenizer": "{0}/tokeniser.json"
    },
    "not a readable tokenizer": {"tokenizer": "{0}/lines.jsonl"},
    "output = '{0}/corpus': exists": {"output": "{0}/corpus"},
    "end_of_document = '</s>': is not in the tokenizer": {"end_of_document": "</s>"},
    "validation_fraction = 1.0: must lie": {"validation_fraction": 1.0},
}


@pytest.mark.parametrize("line", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path, line: str):
    (folder / "none").mkdir(exist_ok=True)
    (folder / "broken.jsonl").write_text('{"text": "a"}\n{')
    (folder / "other.jsonl").write_text('{"content": "a"}')
    (folder / "half.jsonl").write_text(r'{"text": "a\ud800"}')

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(v) for v in value]
        return value.format(folder) if isinstance(value, str) else value

    good = {"texts": ["{0}/texts"], "tokenizer": "{0}/tokenizer.json", "output": f"{tmp_path}/x"}
    given = {key: filled(value) for key, value in {**good, **BAD_INPUT[line]}.items()}
    given["output"] = Path(given["output"])
    with pytest.raises(ConfigError) as caught:
        write_corpus(**given)
    assert line.format(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    def interrupted(*_: object) -> None:
        assert list(tmp_path.iterdir())  # it had begun
        raise KeyboardInterrupt

    monkeypatch.setattr("gelu_jax.training.data.convert._hold_out", interrupted)
    arguments = ["tokenize", f"{folder}/texts", "--tokenizer", f"{folder}/tokenizer.json"]
    monkeypatch.setattr(sys, "argv", ["gelu-jax", *arguments, "--output", f"{tmp_path}/x"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err.strip().endswith("Interrupted; nothing was written.")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_of_any_size_is_encoded_in_bounded_memory(folder: Path, tmp_path: Path):
    """Peak memory of 16 and of 64 MB of text as one document: at most 256 MB apart.

    Encoding it in one piece takes some 0.18 GB a MB of text; the most measured apart is 94 MB.
    """
    source = b"".join(path.read_bytes() for path in SOURCES)
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from gelu_jax.training.data.convert import write_corpus\n"
        "write_corpus([sys.argv[1]], sys.argv[2], Path(sys.argv[3]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for size in (16, 64):
        path = tmp_path / f"{size}.txt"
        path.write_bytes((source * (1 + size * 10**6 // len(source)))[: size * 10**6])
        done = subprocess.run(
            [sys.executable, "-c", program, path, folder / "tokenizer.json", tmp_path / f"{size}"],
            capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 256_000  # kB


# --- Reading ----------------------------------------------------------------------------------


def token_data(tokens: np.ndarray, context: int, batch_size: int, pieces: int = 1) -> TokenData:
    kept = Tokens(np.array_split(tokens, pieces), np.zeros(1, int), 2**16, "x")
    held_out = jax.numpy.zeros((1, context + 1), np.uint16)
    return TokenData(held_out, None, kept, batch_size, DatasetInfo("", "", len(tokens), 1))


def batches(data: TokenData, key: jax.Array, steps: range) -> np.ndarray:
    """Windows (steps, b, t + 1), read in blocks of steps.step."""
    blocks = data.batches(key, steps, data.abstract_batches(steps.step))
    return np.concatenate([np.asarray(block.tokens) for block in blocks])


@pytest.mark.parametrize(
    ("size", "context", "batch_size"), [(101, 10, 3), (97, 1, 5), (9, 8, 2), (1000, 7, 4)]
)
def test_every_window_is_seen_once_in_an_epoch(size: int, context: int, batch_size: int):
    """And every token but the first is a target once, up to what is left at the end."""
    tokens = np.arange(size, dtype=np.uint16)
    data = token_data(tokens, context, batch_size, pieces=4)
    windows = (size - 1) // context
    steps = -(-3 * windows // batch_size)
    seen = batches(data, KEY, range(0, steps, 1)).reshape(-1, context + 1)[: 3 * windows]
    assert (np.diff(seen.astype(int), axis=1) == 1).all()
    epochs = seen[:, 0].reshape(3, windows)
    for epoch in epochs:
        assert sorted(epoch) == list(range(0, windows * context, context))
    if windows > 9:
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seeds_give_orders_that_share_no_epoch():
    """Grain seeds epoch e of seed s like epoch e − 1 of seed s + 1; our keys lie far apart."""
    data = token_data(np.arange(1001, dtype=np.uint16), 10, 100)
    orders = {
        tuple(epoch[:, 0])
        for seed in range(4)
        for epoch in batches(data, jax.random.key(seed), range(0, 5, 1))
    }
    assert len(orders) == 20


def test_a_batch_is_a_function_of_key_and_step():
    """However large the blocks are, and wherever the reading begins."""
    data = token_data(np.arange(5000, dtype=np.uint16), 8, 6)
    whole = batches(data, KEY, range(0, 60, 1))
    for n in (2, 5, 30):
        assert np.array_equal(batches(data, KEY, range(30, 60, n)), whole[30:])
    block = next(data.batches(KEY, range(30, 60, 10), data.abstract_batches(10)))
    for step in range(30, 40):
        inputs, targets = jax.jit(lambda block, step: block.batch(KEY, step))(block, step)
        assert np.array_equal(inputs, whole[step, :, :-1])
        assert np.array_equal(targets, whole[step, :, 1:])
        assert inputs.dtype == targets.dtype == np.int32


@dataclass(frozen=True)
class Place:
    """What a sharding says to one of several processes."""

    rows: tuple[slice, ...]

    def addressable_devices_indices_map(self, shape: Any) -> dict[int, Any]:
        return {i: (slice(None), rows, slice(None)) for i, rows in enumerate(self.rows)}


def shares(processes: int) -> list[Place]:
    """A batch of 24 rows on 8 devices, as many of them to each process."""
    devices = [slice(3 * i, 3 * i + 3) for i in range(8)]
    each = 8 // processes
    return [Place(tuple(devices[i * each : (i + 1) * each])) for i in range(processes)]


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_processes_read_their_shares_of_the_same_batches(
    processes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stream, "_global_array", lambda block, *_: block)
    read: list[int] = []
    windows = Tokens.windows
    monkeypatch.setattr(Tokens, "windows", lambda *a: read.append(len(a[1])) or windows(*a))
    data = token_data(np.arange(5000, dtype=np.uint16), 8, 24)
    whole = batches(data, KEY, range(0, 20, 5))
    read.clear()
    parts = []
    for place in shares(processes):
        shape = jax.ShapeDtypeStruct((5, 24, 9), np.uint16)
        like = stream.TokenBatches(_with_place(shape, place), None)
        blocks = data.batches(KEY, range(0, 20, 5), like)
        parts.append(np.concatenate([np.asarray(block.tokens) for block in blocks]))
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert set(read) == {5 * 24 // processes}  # and no process read more


def _with_place(shape: jax.ShapeDtypeStruct, place: Any) -> Any:
    return type("Abstract", (), {"shape": shape.shape, "dtype": shape.dtype, "sharding": place})()


def test_rows_that_lie_apart_or_on_several_devices():
    """Tensor parallel devices hold the same rows; a mesh need not be in the order of processes."""
    every = slice(None)
    assert _rows_of([(every, slice(6, 8)), (every, slice(0, 2)), (every, slice(6, 8))], 8) == [
        0, 1, 6, 7,
    ]  # fmt: skip
    assert _rows_of([(every, every)], 3) == [0, 1, 2]


PROCESS = """
import json, sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from gelu_jax.training.data.dataset import DatasetInfo
from gelu_jax.training.data.stream import TokenBatches, TokenData, Tokens
from gelu_jax.training.mesh import MeshConfig, make_mesh, with_shardings

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
tokens = Tokens([np.arange(5000, dtype=np.uint16)], np.zeros(1, int), 2**16, "x")
data = TokenData(np.zeros((1, 9), np.uint16), None, tokens, 16, DatasetInfo("", "", 0, 0))
key, steps = jax.random.key(0), range(0, 6, 3)
whole = [np.asarray(block.tokens) for block in data.batches(key, steps, data.abstract_batches(3))]
held = {}
for sizes in ((8, 1, 1), (2, 2, 2), (1, 1, 8)):
    mesh = make_mesh(MeshConfig(*sizes[:2], tensor=sizes[2]))
    like = with_shardings(data.abstract_batches(3), mesh, data.axes)
    blocks = list(data.batches(key, steps, like))
    for block, expected in zip(blocks, whole, strict=True):
        assert block.tokens.shape == expected.shape
        for shard in block.tokens.addressable_shards:
            assert np.array_equal(shard.data, expected[shard.index])
    rows = {shard.index[1].indices(16)[:2] for shard in blocks[0].tokens.addressable_shards}
    held[str(sizes)] = sorted(rows)
print(json.dumps(held))
"""


@pytest.mark.slow
def test_two_processes_of_four_devices_hold_what_is_theirs():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    env = os.environ | flags | {"PYTHONPATH": str(Path(__file__).parents[2])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(number)], stdout=subprocess.PIPE, env=env
        )
        for number in range(2)
    ]
    held = [json.loads(process.communicate(timeout=300)[0]) for process in both]
    for number, rows in enumerate(held):
        half = range(8 * number, 8 * number + 8)
        assert rows["(8, 1, 1)"] == [[i, i + 2] for i in half[::2]]
        assert rows["(2, 2, 2)"] == [[i, i + 4] for i in half[::4]]
        assert rows["(1, 1, 8)"] == [[0, 16]]


def test_blocks_are_small_and_divide_the_steps_between_evaluations():
    data = token_data(np.zeros(2000, np.uint16), 1023, 512)  # 1 MiB a batch
    assert [data.chunk_steps(n) for n in (1, 7, 32, 48, 100, 37)] == [1, 7, 32, 24, 25, 1]
    large = replace(data, batch_size=2**20)
    assert large.chunk_steps(100) == 1


def test_eight_gigabytes_are_not_read(tmp_path: Path):
    tokens = 2**32
    for name, size in (("train", tokens), ("validation", 2**20)):
        with (tmp_path / f"{name}.bin").open("wb") as file:
            file.truncate(2 * size)
        np.asarray([0, size], "<i8").tofile(tmp_path / f"{name}.documents")
    splits = {
        name: {"tokens": size, "documents": 1, "sha256": ""}
        for name, size in (("train", tokens), ("validation", 2**20))
    }
    facts = {"dtype": "uint16", "vocab_size": 10, **splits}
    (tmp_path / "tokens.json").write_text(json.dumps(facts))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = load_data(TokenFiles(path=str(tmp_path), context=1024, validation_windows=8), 64)
    assert isinstance(data, TokenData)
    block = next(data.batches(KEY, range(0, 4, 1), data.abstract_batches(1)))
    assert block.tokens.shape == (1, 64, 1025)
    assert data.info.train_size == tokens
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, grown  # kB, grain included; the file is 8 GiB


# --- Hugging Face -----------------------------------------------------------------------------


def rows(n: int = 50) -> list[list[int]]:
    return [list(range(10 * i, 10 * i + i % 7)) for i in range(n)]


def saved(path: Path, values: Any, column: str = "input_ids", **more: Any) -> str:
    datasets.Dataset.from_dict({column: values, "other": ["x"] * len(values)}).save_to_disk(
        path, **more
    )
    return str(path)


def flat(data: Any) -> list[int]:
    return np.concatenate(data.train.pieces).tolist()


@pytest.mark.parametrize("files", [1, 3])
def test_a_lone_dataset_holds_its_last_documents_out(tmp_path: Path, files: int):
    path = saved(tmp_path / "x", rows(), num_shards=files)
    config = HuggingFace(path=path, context=4, vocab_size=1000, validation_fraction=0.2)
    data = load_data(config, 4)
    assert flat(data) == [token for row in rows()[:40] for token in row]
    held_out = [token for row in rows()[40:] for token in row]
    assert np.asarray(data.held_out[0]).tolist() == held_out[:5]
    assert data.num_classes == 1000
    assert data.info.description == "50 documents, 147 tokens"
    assert data.info.hash == load_data(config, 4).info.hash
    again = replace(config, path=saved(tmp_path / "y", [[7, *row] for row in rows()]))
    assert load_data(again, 4).info.hash != data.info.hash
    windows = batches(data, KEY, range(0, 28, 7))  # 4 epochs of 28 windows, batches of 4
    assert len({tuple(w) for w in windows.reshape(-1, 5)}) == (len(flat(data)) - 1) // 4


@pytest.mark.parametrize("name", ["validation", "test"])
def test_splits_are_taken_as_they_are(tmp_path: Path, name: str):
    parts = {
        "train": datasets.Dataset.from_dict({"ids": rows()}),
        name: datasets.Dataset.from_dict({"ids": [[1, 2, 3, 4, 5, 6]]}),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "x")
    config = HuggingFace(path=str(tmp_path / "x"), column="ids", context=4, vocab_size=1000)
    data = load_data(config, 4)
    assert flat(data) == [token for row in rows() for token in row]
    assert np.asarray(data.held_out).tolist() == [[1, 2, 3, 4, 5]]


def refusal(config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_data(config, 4)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_datasets_are_refused_in_one_line(folder: Path, tmp_path: Path):
    good = HuggingFace(
        path=saved(tmp_path / "x", rows()), context=4, vocab_size=1000, validation_fraction=0.2
    )
    assert "data.column = 'input_id': no such column; did you mean input_ids" in refusal(
        replace(good, column="input_id")
    )
    assert "data.column = 'other': holds string, not lists of integers" in refusal(
        replace(good, column="other")
    )
    words = saved(tmp_path / "words", [["a", "b"]] * 50)
    assert "holds list<item: string>, not lists of int" in refusal(replace(good, path=words))
    assert f"data.path = '{folder}': not a readable dataset" in refusal(
        replace(good, path=str(folder))
    )
    assert "no such file; did you mean x" in refusal(replace(good, path=f"{tmp_path}/xx"))
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"input_ids": rows()})})
    parts.save_to_disk(tmp_path / "parts")
    assert "has the splits train; train and validation are needed" in refusal(
        replace(good, path=str(tmp_path / "parts"))
    )
    small = replace(good, path=saved(tmp_path / "small", [[1], [2], [3]]))
    assert "2 tokens for training, fewer than one window of 5; nearest: 1" in refusal(small)
    arrow = next((tmp_path / "x").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    assert "not a readable dataset" in refusal(good)


@pytest.mark.parametrize(("token", "said"), [(100, "token 100,"), (-100, "token -100,")])
def test_a_token_that_no_vocabulary_has_is_noticed_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: int, said: str
):
    """Before training; beyond what is read then, on the way to the devices, where it would
    silently become another."""
    values = [[1, 2, 3, 4, 5]] * 40
    values[7] = [1, 2, token, 4, 5]
    config = HuggingFace(path=saved(tmp_path / "x", values), context=4, vocab_size=100)
    assert said in refusal(config)
    monkeypatch.setattr(stream, "_CHECKED", 37)  # the token stands right after them
    data = load_data(config, 4)
    with pytest.raises(ConfigError, match=said) as caught:
        batches(data, KEY, range(0, 20, 1))
    assert str(caught.value).startswith("data.path = ")


# --- A corpus that is not as it was written ---------------------------------------------------


def test_bad_corpora_are_refused_in_one_line(folder: Path, tmp_path: Path):
    def copy(name: str) -> Path:
        target = tmp_path / name
        target.mkdir()
        for path in (folder / "corpus").iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        return target

    good = TokenFiles(path=str(folder / "corpus"), context=8)
    assert "no such file; did you mean corpus" in refusal(replace(good, path=f"{folder}/corpse"))
    assert "is not a directory" in refusal(replace(good, path=f"{folder}/tokenizer.json"))
    assert "has no tokens.json; gelu-jax tokenize makes one" in refusal(
        replace(good, path=str(folder))
    )
    for name in ("train.bin", "validation.bin", "train.documents", "validation.documents"):
        damaged = copy(f"short {name}")
        content = (damaged / name).read_bytes()
        (damaged / name).write_bytes(content[:-1])
        said = f"{name} holds {len(content) - 1} bytes where tokens.json says {len(content)}"
        assert said in refusal(replace(good, path=str(damaged)))
        (damaged / name).unlink()
        assert f"{name}: no such file" in refusal(replace(good, path=str(damaged)))
    facts = json.loads((folder / "corpus" / "tokens.json").read_text())
    for number, wrong in enumerate(
        ["", "[]", "{}", json.dumps(facts | {"dtype": "float32"}), json.dumps(facts | {"train": 3})]
    ):
        damaged = copy(f"facts {number}")
        (damaged / "tokens.json").write_text(wrong)
        assert "tokens.json is damaged" in refusal(replace(good, path=str(damaged)))
    held_out = facts["validation"]["tokens"]
    said = f"for validation, fewer than one window of {held_out + 1}; nearest: {held_out - 1}"
    assert said in refusal(replace(good, context=held_out))
    load_data(replace(good, context=held_out - 1), 4)
    with pytest.raises(ConfigError, match="context = 0: must be above 0"):
        TokenFiles(path="x", context=0)


# --- Runs -------------------------------------------------------------------------------------


def run_config(folder: Path, **changes: Any) -> TrainConfig:
    plain = {
        "data": {"kind": "tokens", "path": f"{folder}/corpus", "context": 64},
        "model": {
            "kind": "transformer",
            "vocab_size": 600,
            "num_layers": 1,
            "d_model": 8,
            "block": {
                "norm": {"kind": "rms"},
                "attention": {"num_heads": 2, "rotary": {}},
                "feed_forward": {"variant": "swiglu", "d_ff": 8, "dropout_rate": 0.1},
            },
        },
        "steps": 12,
        "batch_size": 4,
        "eval_every": 3,
        "checkpoint_every": 6,
    }
    return replace(from_dict(plain, TrainConfig), **changes)


@pytest.mark.slow
def test_a_run_stopped_in_an_epoch_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Through folders and checkpoints, interrupted at steps 3 and 9, in chunks of one step."""
    monkeypatch.setattr(stream, "_CHUNK_BYTES", 1)
    config = run_config(folder)
    trainer = Trainer(config, load_data(config.data, config.batch_size))
    assert trainer.chunk_steps == 1
    task = Task("a", 3, 3e-3, "report")
    undisturbed = execute(trainer, task, tmp_path / "whole", lambda *_: None)
    assert undisturbed.status == "finished"

    def stop(at: int, task: Task, run: Any) -> None:
        if run.eval_steps and run.eval_steps[-1] == at:
            raise KeyboardInterrupt

    for at in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            execute(trainer, task, tmp_path / "parts", functools.partial(stop, at))
    resumed = execute(trainer, task, tmp_path / "parts", lambda *_: None)
    for name in ("train_loss", "validation_loss", "validation_accuracy", "health", "eval_steps"):
        assert getattr(resumed, name) == getattr(undisturbed, name), name


def test_a_model_too_small_for_the_tokens_is_refused(folder: Path):
    config = run_config(folder)
    model: Any = config.model
    with pytest.raises(ConfigError, match="vocab_size = 599: the data needs at least 600"):
        Trainer(replace(config, model=replace(model, vocab_size=599)), load_data(config.data, 4))


@pytest.mark.slow  # tests/docs/test_commands.py runs the same three commands
def test_text_in_text_out(folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any):
    """tokenize, train, generate: with the corpus's own tokenizer, or one that is named."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["gelu-jax", *arguments])
        cli.main()
        return capsys.readouterr().out

    said = call(
        "tokenize", f"{folder}/texts", f"{folder}/lines.jsonl",
        "--tokenizer", f"{folder}/tokenizer.json", "--output", "corpus",
    )  # fmt: skip
    facts = json.loads(Path("corpus/tokens.json").read_text())
    assert said.splitlines()[-2:] == ["corpus", "vocab_size: 600"]
    assert f"{facts['train']['tokens']:,} tokens" in said
    config = run_config(folder, steps=1, eval_every=1, checkpoint_every=None, batch_size=2)
    write_config(replace(config, data=TokenFiles(path="corpus", context=8)), "small.yaml")
    assert "nats per token" in call("train", "small.yaml")
    drawn = call("generate", "runs/small", "--prompt", "def über(", "--length", "3")
    assert drawn.startswith("def über(")
    own = ["--tokenizer", "corpus/tokenizer.json"]
    assert call("generate", "runs/small", "--prompt", "def über(", "--length", "3", *own) == drawn


# --- Separate documents -----------------------------------------------------------------------


def apart(lengths: list[int], context: int, batch_size: int) -> TokenData:
    starts = np.cumsum([0, *lengths])[:-1]
    tokens = np.arange(sum(lengths), dtype=np.uint16)
    kept = Tokens(np.array_split(tokens, 3), starts, 2**16, "x")
    held_out = tokens[None, : context + 1]
    segments = kept.segment_ids([0], context + 1)
    info = DatasetInfo("", "", len(tokens), 1)
    return TokenData(jax.numpy.asarray(held_out), segments, kept, batch_size, info)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=30).filter(lambda x: sum(x) > 12))
def test_no_token_is_predicted_from_another_document(lengths: list[int]):
    """Documents of one token and none at all among them."""
    data = apart(lengths, 8, 4)
    document = np.repeat(np.arange(len(lengths)), lengths)
    for block in data.batches(KEY, range(0, 4, 2), data.abstract_batches(2)):
        for step in (0, 1):
            (tokens, segments), (labels, weights) = block.batch(KEY, step)
            own = document[np.asarray(tokens)]
            same = np.asarray(segments)[:, :, None] == np.asarray(segments)[:, None]
            assert np.array_equal(same, own[:, :, None] == own[:, None])
            assert np.array_equal(weights > 0, own == document[np.asarray(labels)])
            if (weights > 0).any():
                assert weights.mean() == pytest.approx(1, abs=1e-6)
            assert len(np.unique(weights[weights > 0])) <= 1


def test_a_corpus_knows_its_documents(folder: Path):
    """The numbers that go along with the tokens, from the files that `tokenize` wrote."""
    config = TokenFiles(path=str(folder / "corpus"), context=64, documents="separate")
    data = load_data(config, 4)
    joined = load_data(replace(config, documents="joined"), 4)
    assert data.info.hash != joined.info.hash
    ends = np.cumsum([len(d) for d in documents(folder / "corpus", "train")])
    block = next(data.batches(KEY, range(0, 8, 8), data.abstract_batches(8)))
    (same,) = joined.batches(KEY, range(0, 8, 8), joined.abstract_batches(8))
    assert np.array_equal(block.tokens, same.tokens)
    ids = np.asarray(block.segment_ids).astype(int)
    begins = np.flatnonzero(np.diff(ids[0, 0])) + 1
    row = np.concatenate(documents(folder / "corpus", "train"))
    places = np.lib.stride_tricks.sliding_window_view(row, 65)[::64]
    at = 64 * np.flatnonzero((places == np.asarray(block.tokens)[0, 0]).all(1))[0]
    assert begins.tolist() == [end - at for end in ends if at < end < at + 65]
    inputs, targets = data.validation
    assert inputs.segment_ids.shape == inputs.tokens.shape == targets.labels.shape


def test_a_dataset_of_hugging_face_knows_its_documents(tmp_path: Path):
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 99, n).tolist() for n in rng.integers(0, 40, 200)]
    datasets.Dataset.from_dict({"input_ids": texts}).save_to_disk(tmp_path / "x")
    config = HuggingFace(path=str(tmp_path / "x"), vocab_size=99, context=16, documents="separate")
    data = load_data(config, 2)
    kept = texts[: len(texts) - round(len(texts) * config.validation_fraction)]
    assert data.train.starts.tolist() == np.cumsum([0, *map(len, kept)])[:-1].tolist()


def test_each_file_is_a_document(tmp_path: Path):
    for name in "abc":
        (tmp_path / name).write_text(name * 80)
    data = load_data(Files(path=str(tmp_path), context=16, documents="separate"), 64)
    (tokens, segments), (labels, weights) = jax.jit(data.batch)(KEY, 0)
    same = np.asarray(tokens)[:, :, None] == np.asarray(tokens)[:, None]
    assert np.array_equal(segments[:, :, None] == segments[:, None], same)
    assert np.array_equal(weights > 0, tokens == labels)
    assert (weights == 0).any()
