"""Data sources: real bytes and images, pure batches, and one clear line for every bad source."""

import gzip
import io
import math
import os
import struct
import sysconfig
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gelu_jax.errors import ConfigError
from gelu_jax.training.data import (
    ByteData,
    DataConfig,
    Dataset,
    Digits,
    Files,
    ImageData,
    Mnist,
    StdlibCorpus,
    load_data,
    shuffled,
)

KEY = jax.random.key(0)


def line(config: DataConfig, batch_size: int = 4) -> str:
    """The one line that a source is refused with."""
    with pytest.raises(ConfigError) as caught:
        load_data(config, batch_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refusal(config: DataConfig) -> str:
    """What a source is refused with; empty if it is not."""
    try:
        load_data(config, 4)
    except ConfigError as error:
        return str(error)
    return ""


def text_file(tmp_path: Path, size: int = 1000, name: str = "corpus.bin") -> Files:
    """Bytes that say where they stand, so that a window shows its start."""
    data = np.arange(size, dtype=">u2").tobytes()[:size]
    (tmp_path / name).write_bytes(data)
    return Files(path=str(tmp_path / name), context=8)


def write_idx(path: Path, array: np.ndarray) -> None:
    """An IDX file, as its authors describe it."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def digits_arrays(train: int = 40, test: int = 12) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.integers(0, 256, (train, 5, 4), np.uint8),
        "y_train": np.arange(train, dtype=np.uint8) % 10,
        "x_test": generator.integers(0, 256, (test, 5, 4), np.uint8),
        "y_test": np.arange(test, dtype=np.uint8) % 10,
    }


def mnist_folder(folder: Path, suffix: str = "") -> Mnist:
    arrays = digits_arrays()
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", arrays["x_train"])
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", arrays["y_train"])
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", arrays["x_test"])
    write_idx(folder / f"t10k-labels-idx1-ubyte{suffix}", arrays["y_test"])
    return Mnist(path=str(folder))


@pytest.fixture(params=["bytes", "images"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    if request.param == "bytes":
        return load_data(text_file(tmp_path), 4)
    return load_data(mnist_folder(tmp_path), 4)


# --- Batches ----------------------------------------------------------------------------------


def batch(data: Dataset, key: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
    return data.batch(key, step)


def equal(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_batches_are_pure(dataset: Dataset) -> None:
    keys = jax.random.split(KEY, 3)
    eager = [[dataset.batch(key, step) for step in range(12)] for key in keys]
    assert equal(eager[0], [dataset.batch(keys[0], step) for step in range(12)])
    jitted = jax.jit(batch)
    assert equal(eager[0], [jitted(dataset, keys[0], step) for step in range(12)])

    def scanned(data: Dataset, key: jax.Array) -> Any:
        return jax.lax.scan(lambda _, step: (None, data.batch(key, step)), None, jnp.arange(12))[1]

    stacked = [jax.tree.map(lambda *x: jnp.stack(x), *steps) for steps in eager]
    assert equal(stacked[0], jax.jit(scanned)(dataset, keys[0]))
    across = jax.vmap(scanned, in_axes=(None, 0))(dataset, keys)
    assert equal(jax.tree.map(lambda *x: jnp.stack(x), *stacked), across)


def test_steps_and_keys_give_different_batches(dataset: Dataset) -> None:
    seen = {
        dataset.batch(jax.random.key(seed), step)[0].tobytes()
        for seed in range(3)
        for step in range(20)
    }
    assert len(seen) == 60


def test_arrays_are_arguments_not_constants(dataset: Dataset) -> None:
    leaves = jax.tree.leaves(dataset)
    assert {type(leaf) for leaf in leaves} <= {type(jnp.zeros(1))}
    jaxpr = jax.make_jaxpr(batch)(dataset, KEY, 0)
    assert max((np.size(c) for c in jaxpr.consts), default=0) <= 16
    rebuilt = jax.tree.unflatten(jax.tree.structure(dataset), leaves)
    assert rebuilt.info == dataset.info


def test_one_compilation_serves_all_steps(dataset: Dataset) -> None:
    traces: list[int] = []

    @jax.jit
    def counted(data: Dataset, key: jax.Array, step: jax.Array) -> Any:
        traces.append(1)
        return data.batch(key, step)

    for seed in range(3):
        for step in range(3):
            counted(dataset, jax.random.key(seed), jnp.int32(step))
    assert len(traces) == 1


def test_shapes_and_types(tmp_path: Path) -> None:
    data = load_data(text_file(tmp_path), 4)
    for inputs, targets in (data.batch(KEY, 0), data.validation):
        assert inputs.shape[1:] == targets.shape[1:] == (8,)
        assert inputs.dtype == targets.dtype == jnp.int32
    assert (data.tokens_per_step, data.num_classes) == (32, 256)
    images = load_data(mnist_folder(tmp_path), 4)
    for inputs, targets in (images.batch(KEY, 0), images.validation):
        assert (inputs.shape[1:], targets.shape[1:]) == ((5, 4, 1), ())
        assert (inputs.dtype, targets.dtype) == (jnp.float32, jnp.int32)
        assert 0 <= inputs.min() <= inputs.max() <= 1
    assert (images.tokens_per_step, images.num_classes) == (4, 10)


# --- Bytes ------------------------------------------------------------------------------------


def start_of(window: np.ndarray) -> int:
    """Where a window of `text_file` begins, from the 16-bit numbers in it."""
    return int(window[1]) * 2 if window[0] == 0 else int(window[0]) * 2 + 1


def test_every_window_is_drawn_equally_often(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(60)))
    data = load_data(Files(path=str(tmp_path / "a"), context=8, validation_fraction=1 / 6), 1000)
    assert isinstance(data, ByteData)
    draws = jax.jit(lambda d: jax.lax.map(lambda s: d.batch(KEY, s), jnp.arange(100)))(data)
    inputs, targets = (np.asarray(x).reshape(-1, 8) for x in draws)
    assert np.array_equal(inputs + 1, targets)
    assert np.array_equal(inputs[:, :1] + np.arange(8), inputs)
    counts = np.bincount(inputs[:, 0], minlength=42)
    assert counts.shape == (42,)  # 50 bytes hold 42 windows of 9; the last target is byte 49
    expected = 100_000 / 42
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_squared - 41) < 5 * math.sqrt(2 * 41)


def test_one_file_is_split_at_a_byte(tmp_path: Path) -> None:
    data = load_data(text_file(tmp_path), 4)
    assert isinstance(data, ByteData)
    whole = (tmp_path / "corpus.bin").read_bytes()
    assert data.train.tobytes() == whole[:900]
    assert (data.info.train_size, data.info.validation_size) == (900, 100)
    assert data.info.description == "1 file, 1000 bytes"
    # 99 // 8 = 12 slots: all of them
    starts = [whole.index(window.tobytes()) for window in data.held_out]
    assert starts == [900 + 8 * slot for slot in range(12)]


@given(st.integers(9, 300), st.integers(1, 40))
def test_validation_windows(tmp_path: Path, size: int, count: int) -> None:
    (tmp_path / "a").write_bytes(bytes(4000))
    (tmp_path / "b").write_bytes((np.arange(size) % 251).astype(np.uint8).tobytes())
    config = Files(
        path=str(tmp_path / "[ab]"),
        context=8,
        validation_fraction=size / (4000 + size),  # the second file, whole
        validation_windows=count,
    )
    data = load_data(config, 1)
    assert isinstance(data, ByteData)
    assert data.info.validation_size == size
    inputs, targets = map(np.asarray, data.validation)
    assert np.array_equal(targets[:, :-1], inputs[:, 1:])
    assert len(inputs) == min(count, (size - 1) // 8)
    windows = np.asarray(data.held_out).astype(int)
    assert np.all(np.diff(windows, axis=1) % 251 == 1)
    if size <= 251:  # then the first byte of a window says where it begins
        gaps = np.diff([*windows[:, 0], (size - 1) // 8 * 8])
        assert gaps.min() >= 8
        assert np.ptp(gaps) <= 8


def make_files(folder: Path, names: str, size: int = 100) -> str:
    for i, name in enumerate(names):
        (folder / f"{name}.txt").write_bytes(bytes([i]) * size)
    return str(folder / "*.txt")


def held_out(path: str | tuple[str, ...], fraction: float = 0.3) -> set[int]:
    data = load_data(Files(path=path, context=4, validation_fraction=fraction), 1)
    assert isinstance(data, ByteData)
    train, held = set(np.asarray(data.train).tolist()), set(np.asarray(data.held_out).ravel())
    assert not train & held  # by file, never through one
    return {int(x) for x in held}


def test_the_split_is_by_name_alone(tmp_path: Path) -> None:
    pattern = make_files(tmp_path, "abcdefghij")
    first = held_out(pattern)
    assert len(first) == 3
    listed = tuple(str(tmp_path / f"{name}.txt") for name in "jihgfedcba")
    assert held_out(listed) == held_out((*listed, *listed, pattern)) == first
    (tmp_path / "elsewhere").mkdir()
    assert held_out(make_files(tmp_path / "elsewhere", "abcdefghij")) == first
    # a larger fraction adds files and takes none away
    assert first < held_out(pattern, 0.5)


def test_the_split_by_name_is_this_one(tmp_path: Path) -> None:
    """Fixed for good: another split would make new runs incomparable with old ones."""
    assert held_out(make_files(tmp_path, "abcdefghij")) == {0, 2, 9}


def test_the_fraction_is_kept_whatever_the_sizes_of_the_files(tmp_path: Path) -> None:
    """Five books and a licence: a tenth, and the end of one of the books; each file counts once."""
    for number in range(5):
        (tmp_path / f"book {number}.txt").write_bytes(bytes([number]) * 100_000)
    (tmp_path / "LICENCE.txt").write_bytes(b"x" * 107)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / ".hidden.txt").write_bytes(b"h" * 1000)
    data = load_data(Files(path=str(tmp_path), context=4), 1)
    assert data.info.validation_size == pytest.approx(0.1 * 500_107, abs=1)
    assert data.info.train_size + data.info.validation_size == 500_107
    (tmp_path / "link.txt").symlink_to(tmp_path / "book 1.txt")
    for path in (str(tmp_path), str(tmp_path / "*.txt"), (str(tmp_path), str(tmp_path / "*"))):
        linked = load_data(Files(path=path, context=4), 1)
        assert linked.info.train_size + linked.info.validation_size == 500_107


def test_the_hash_covers_content_and_split(tmp_path: Path) -> None:
    pattern = make_files(tmp_path, "abcdefghij")

    def digest(**fields: Any) -> str:
        return load_data(Files(path=pattern, **fields), 1).info.hash

    first = digest()
    assert len(first) == 64
    assert digest(context=32) == digest() == first
    assert digest(validation_fraction=0.4) != first
    os.utime(tmp_path / "a.txt", (0, 0))
    assert digest() == first
    (tmp_path / "a.txt").write_bytes(bytes(99) + b"x")
    assert digest() != first


def test_files_in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for i, name in enumerate(("a.txt", "deep/b.txt", "deep/er/c.txt", "deep/d.bin")):
        (tmp_path / name).write_bytes(bytes([i]) * 100)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("**/*.txt", ("a.txt", "deep/*"), "~/deep/**/*"):
        data = load_data(Files(path=path, context=8), 1)
        assert data.info.description == "3 files, 300 bytes"


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    (tmp_path / "[ab].txt").write_bytes(b"x" * 1000)
    (tmp_path / "a.txt").write_bytes(b"y" * 5000)
    data = load_data(Files(path=str(tmp_path / "[ab].txt")), 1)
    assert data.info.description == "1 file, 1000 bytes"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    for name in (b"\xff.txt", b"\xfe.txt"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x" * 200)
    data = load_data(Files(path=str(tmp_path / "*.txt"), context=8), 1)
    assert data.info.description == "2 files, 400 bytes"


def test_the_standard_library(tmp_path: Path) -> None:
    data = load_data(StdlibCorpus(), 32)
    assert isinstance(data, ByteData)
    assert data.info == load_data(StdlibCorpus(), 8).info
    assert data.validation[0].shape == (256, 64)
    total = data.info.train_size + data.info.validation_size
    assert 4e6 < total < 8e6
    assert 0.08 < data.info.validation_size / total <= 0.1
    train = data.train.tobytes()
    sources = [p.read_bytes() for p in Path(sysconfig.get_path("stdlib")).glob("[!_]*.py")]
    inside = [len(source) for source in sources if source in train]
    halves = [len(source) for source in sources if source[: len(source) // 2] in train]
    assert inside == halves  # each file is in the training bytes whole or not at all
    assert 0.85 < sum(inside) / sum(map(len, sources)) < 0.95


def test_the_order_of_a_listing_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    info, listing = load_data(StdlibCorpus(), 1).info, Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, glob: [*listing(self, glob)][::-1])
    assert load_data(StdlibCorpus(), 1).info == info


def test_the_standard_library_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    expected = "data.kind = 'stdlib': holds 0 bytes, nothing to train on"
    assert line(StdlibCorpus()) == expected


def test_bad_byte_sources(tmp_path: Path) -> None:
    good = text_file(tmp_path).path
    assert isinstance(good, str)
    path = good.replace("corpus", "korpus")
    assert line(Files(path=path)) == (
        f"data.path = {path!r}: no such file; did you mean corpus.bin?"
    )
    assert line(Files(path="/nowhere/x")) == "data.path = '/nowhere/x': no such file"
    assert line(Files(path="*.none")) == "data.path = '*.none': no such file"
    assert line(Files(path=())) == "data.path = (): does not name a file"
    assert line(Files(path="")) == "data.path = '': no such file"
    (tmp_path / "empty").write_bytes(b"")
    path = str(tmp_path / "empty")
    assert line(Files(path=path)) == f"data.path = {path!r}: holds 0 bytes, nothing to train on"
    (tmp_path / "short").write_bytes(b"x" * 64)
    path = str(tmp_path / "short")
    assert line(Files(path=path)) == (
        f"data.path = {path!r}: holds 64 bytes, fewer than one window of 65 (context + 1)"
    )
    assert line(Files(path=good, validation_fraction=0.05)) == (
        "data.validation_fraction = 0.05: leaves 50 bytes for validation, "
        "fewer than one window of 65"
    )
    assert line(Files(path=good, validation_fraction=0.95)) == (
        "data.validation_fraction = 0.95: leaves 50 bytes for training, fewer than one window of 65"
    )
    assert line(Files(path=good), batch_size=0).startswith("batch_size = 0: must be above 0")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**31)  # a hole: takes no room on the disk
    assert line(Files(path=str(tmp_path / "large"))).endswith("large': holds 2 GiB or more")
    assert line(Files(path="/dev/zero")) == "data.path = '/dev/zero': is not a regular file"
    os.symlink("gone", tmp_path / "dangling")
    assert line(Files(path=str(tmp_path / "dangling"))).endswith("/dangling': no such file")


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = text_file(tmp_path)

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")  # root, who runs CI, may read everything

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert line(config) == f"data.path = {config.path!r}: permission denied"


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan])
def test_fractions(fraction: float) -> None:
    for source in (StdlibCorpus, Digits):
        with pytest.raises(ConfigError, match=f"^validation_fraction = {fraction}: must lie"):
            source(validation_fraction=fraction)


def test_all_wrong_fields_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        StdlibCorpus(context=0, validation_windows=-1, validation_fraction=2)
    lines = (
        "context = 0: must be above 0",
        "validation_windows = -1: must be above 0",
        "validation_fraction = 2: must lie between 0 and 1",
    )
    for found, expected in zip(str(caught.value).split("\n"), lines, strict=True):
        assert found.startswith(expected)


# --- Images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1437, 60_000])
def test_shuffled_is_a_permutation(n: int) -> None:
    order = np.asarray(shuffled(KEY, jnp.arange(n), n))
    assert np.array_equal(np.sort(order), np.arange(n))


def test_all_orders_are_equally_likely() -> None:
    keys = jax.random.split(KEY, 24_000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, jnp.arange(4), 4)))(keys))
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == set(permutations(range(4)))
    chi_squared = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert abs(chi_squared - 23) < 5 * math.sqrt(2 * 23)


def test_a_shuffle_leaves_no_trace_of_the_order() -> None:
    n = 60_000
    orders = jax.jit(jax.vmap(lambda key: shuffled(key, jnp.arange(n), n)))(
        jax.random.split(KEY, 20)
    )
    for order in np.asarray(orders).astype(float):
        for lag in (1, 2, 128):  # neighbours, and the same place of the next batch
            correlation = np.corrcoef(order[:-lag], order[lag:])[0, 1]
            assert abs(correlation) < 5 / math.sqrt(n)
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 5 / math.sqrt(n)
        assert (order == np.arange(n)).sum() < 12  # fixed points: Poisson of mean 1


def test_an_epoch_meets_every_image_once(tmp_path: Path) -> None:
    data = load_data(mnist_folder(tmp_path), 7)
    assert isinstance(data, ImageData)
    epochs = [
        np.concatenate([data.batch(KEY, step)[0] for step in range(5 * epoch, 5 * epoch + 5)])
        for epoch in range(3)
    ]
    known = {image.tobytes() for image in np.asarray(data.images)}
    for images in epochs:  # 5 batches of 7 out of 40
        seen = {image.tobytes() for image in np.round(images[..., 0] * 255).astype(np.uint8)}
        assert len(seen) == 35
        assert seen <= known
    assert not np.array_equal(epochs[0], epochs[1])


def test_images_keep_their_labels(tmp_path: Path) -> None:
    data = load_data(mnist_folder(tmp_path), 40)
    arrays = digits_arrays()
    images, labels = data.batch(KEY, 3)
    rows = {x.tobytes(): int(y) for x, y in zip(arrays["x_train"], arrays["y_train"], strict=True)}
    read = np.round(np.asarray(images[..., 0]) * 255).astype(np.uint8)
    assert [rows[image.tobytes()] for image in read] == labels.tolist()


def test_digits() -> None:
    data = load_data(Digits(), 128)
    assert isinstance(data, ImageData)
    assert data.info.description == "scikit-learn digits, 1797 images of 8×8"
    assert (data.info.train_size, data.info.validation_size) == (1442, 355)
    assert data.info == load_data(Digits(), 5).info
    assert load_data(Digits(validation_fraction=0.3), 5).info.hash != data.info.hash
    train, held = np.bincount(data.labels), np.bincount(data.held_out_labels)
    assert np.array_equal(held, np.floor((train + held) * 0.2))
    assert float(data.batch(KEY, 0)[0].max()) == 1.0
    assert line(Digits(), 1443) == "batch_size = 1443: is more than the 1442 images to train on"
    assert line(Digits(validation_fraction=1e-3)) == (
        "data.validation_fraction = 0.001: does not hold out any image"
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files(tmp_path: Path, suffix: str) -> None:
    data = load_data(mnist_folder(tmp_path, suffix), 4)
    arrays = digits_arrays()
    assert isinstance(data, ImageData)
    assert np.array_equal(data.images, arrays["x_train"])
    assert np.array_equal(data.labels, arrays["y_train"])
    assert np.array_equal(data.held_out, arrays["x_test"])
    assert np.array_equal(data.held_out_labels, arrays["y_test"])
    assert (data.info.train_size, data.info.validation_size) == (40, 12)
    np.savez(tmp_path / "mnist.npz", **arrays)
    packed = load_data(Mnist(path=str(tmp_path / "mnist.npz")), 4)
    assert packed.info.hash == data.info.hash
    np.savez_compressed(tmp_path / "wide.npz", **{**arrays, "y_test": arrays["y_test"].astype(int)})
    assert load_data(Mnist(path=str(tmp_path / "wide.npz")), 4).num_classes == 10


def test_mnist_files_with_dots(tmp_path: Path) -> None:
    config = mnist_folder(tmp_path)
    for path in tmp_path.iterdir():
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert load_data(config, 4).info.train_size == 40


def damage(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return line(Mnist(path=str(folder))).replace(str(folder), "FOLDER")


def test_bad_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gelu_jax.errors._MAX_LENGTH", 500)  # the path of a test may be long
    mnist_folder(tmp_path)
    name = "train-images-idx3-ubyte"
    good = (tmp_path / name).read_bytes()
    start = f"data.path = 'FOLDER/{name}': "
    assert damage(tmp_path, name, good[:-1]) == (
        start + "holds 799 bytes where its header says 800"
    )
    assert damage(tmp_path, name, good + b"x") == (
        start + "holds 801 bytes where its header says 800"
    )
    for data, shown in (
        (b"", ""),
        (good[:7], "00 00 08 03"),
        (b"\0\0\x0d" + good[3:], "00 00 0d 03"),
        (b"<html>", "3c 68 74 6d"),
        (b"\0\0\x08\x01" + good[4:], "00 00 08 01"),
        (b"\0\0\x08\xff" + bytes(1020), "00 00 08 ff"),
    ):
        assert damage(tmp_path, name, data) == (
            start + f"not an IDX file of 3 dimensions of bytes: begins with {shown}".rstrip()
        )
    packed = gzip.compress(good)
    for data in (packed[:-1], packed[:20], packed[:40] + b"\0\0\0\0" + packed[44:], b"\x1f\x8b"):
        assert damage(tmp_path, name, data).startswith(start + "cannot be read: ")
    write_idx(tmp_path / name, digits_arrays(39)["x_train"])
    assert line(Mnist(path=str(tmp_path))).endswith("holds 39 images but 40 labels")
    write_idx(tmp_path / name, np.zeros((0, 5, 4)))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(0))
    assert line(Mnist(path=str(tmp_path))).endswith("holds 0 images but 0 labels")
    (tmp_path / name).unlink()
    assert line(Mnist(path=str(tmp_path))) == (
        f"data.path = {str(tmp_path)!r}: {name} and {name}.gz are missing"
    )
    assert line(Mnist(path="/nowhere")) == "data.path = '/nowhere': no such file"


def test_test_images_of_another_size(tmp_path: Path) -> None:
    config = mnist_folder(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((12, 6, 6)))
    assert line(config).endswith("images to train on are 5×4, those to test on 6×6")


def test_bad_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    config, arrays = Mnist(path=str(path)), digits_arrays()

    def saved(**changed: Any) -> str:
        np.savez(path, **{k: v for k, v in {**arrays, **changed}.items() if v is not None})
        return line(config).removeprefix(f"data.path = {str(path)!r}: ")

    assert saved(x_train=None) == (
        "needs the arrays x_train and y_train or train_images and train_labels; "
        "it holds y_train, x_test, y_test"
    )
    assert saved(x_train=arrays["x_train"].astype(int)) == (
        "expected uint8 or floating images (n, ...) and integer labels (n,), "
        "found int64[40, 5, 4] and uint8[40]"
    )
    flat = saved(x_train=arrays["x_train"].reshape(40, 20))
    assert flat == "images to train on are 20, those to test on 5×4"
    assert saved(y_train=np.eye(10)[arrays["y_train"]]).endswith("and float64[40, 10]")
    assert saved(y_train=arrays["y_train"][:39]) == "holds 40 images but 39 labels"
    assert saved(y_train=arrays["y_train"].astype(int) - 1) == "has the label -1, below 0"
    objects = saved(y_train=np.array([{}] * 40))
    assert objects == "not a readable .npz file: an array holds Python objects, not numbers"
    buffer = io.BytesIO()
    np.save(buffer, arrays["x_train"])
    path.write_bytes(buffer.getvalue())
    assert "not a readable .npz file: begins with 93 4e 55 4d" in line(config)
    for data in (b"", b"hello", b"PK\3\4"):
        path.write_bytes(data)
        assert line(config).startswith(f"data.path = {str(path)!r}: not a readable .npz file: ")


def test_arrays_as_other_sets_have_them(tmp_path: Path) -> None:
    """MedMNIST's names, colours and labels (n, 1); flat and floating ones; a table; no test set."""
    arrays, path = digits_arrays(), tmp_path / "set.npz"
    images, labels = arrays["x_train"], arrays["y_train"]
    colours = np.stack([images] * 3, -1)
    medical = {
        "train_images": colours, "train_labels": labels[:, None],
        "val_images": colours[:9], "val_labels": labels[:9, None],
        "test_images": colours[:5], "test_labels": labels[:5, None],
    }  # fmt: skip
    np.savez(path, **medical)
    data = load_data(Mnist(path=str(path)), 4)
    assert data.validation[0].shape == (9, 5, 4, 3)
    scaled = jnp.asarray(colours[:9], jnp.float32) / 255
    np.testing.assert_array_equal(data.validation[0], scaled)
    np.testing.assert_array_equal(data.validation[1], labels[:9])
    np.savez(path, x_train=images.reshape(40, -1) / 256, y_train=labels)
    data = load_data(Mnist(path=str(path), validation_fraction=0.25), 4)
    assert data.info.train_size + data.info.validation_size == 40
    assert data.validation[0].shape[1:] == (20, 1)
    assert data.validation[0].max() <= 1
    table = tmp_path / "table.csv"
    rows = np.column_stack([images.reshape(40, -1)[:, :7], labels, images.reshape(40, -1)[:, 7:]])
    names = [*(f"pixel{i}" for i in range(7)), "label", *(f"pixel{i}" for i in range(7, 20))]
    np.savetxt(table, rows, fmt="%d", delimiter=",", header=",".join(names), comments="")
    from_table = load_data(Mnist(path=str(table), validation_fraction=0.25), 4)
    np.testing.assert_array_equal(from_table.validation[1], data.validation[1])
    expected = np.asarray(data.validation[0]) * 256 / 255
    np.testing.assert_allclose(from_table.validation[0], expected, atol=1e-6)
    table.write_text("label,a,b\n1,2,x\n")
    assert "not a table of numbers" in line(Mnist(path=str(table)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz_files_never_raise_anything_else(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "mnist.npz"
    save(path, **digits_arrays())
    good = path.read_bytes()
    generator, refused = np.random.default_rng(0), 0
    for _ in range(300):
        data = bytearray(good)
        for place in generator.integers(0, len(data), 3):
            data[place] = generator.integers(256)
        path.write_bytes(
            data[: generator.integers(len(data))] if generator.random() < 0.3 else data
        )
        error = refusal(Mnist(path=str(path)))
        assert "\n" not in error
        refused += bool(error)
    assert refused > 100
