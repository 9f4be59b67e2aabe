"""Files and folders are written whole or not at all."""

from contextlib import suppress
from pathlib import Path

import pytest

from gelu_jax import files
from gelu_jax.files import new_folder, replacing, write_file


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch):
    target = tmp_path / "results.json"
    write_file(target, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_text_is_utf8_and_folders_are_made(tmp_path: Path):
    write_file(tmp_path / "a" / "b.txt", "σ ≤ 1\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "σ ≤ 1\n".encode()


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "is_primary", lambda: False)
    write_file(tmp_path / "a" / "b.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_what_fails_half_way_leaves_nothing(tmp_path: Path):
    (tmp_path / "old").write_text("old")
    with suppress(ZeroDivisionError), replacing(tmp_path / "old") as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    with suppress(ZeroDivisionError), new_folder(tmp_path / "folder") as draft:
        (draft / "x").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as draft:
        (draft / "x").write_text("x")
    assert (tmp_path / "empty" / "x").read_text() == "x"
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "empty"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
