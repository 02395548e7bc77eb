"""A file is whole or as it was before: failures on the way leave nothing behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from effects.files import write_whole


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_text_and_bytes_arrive_as_they_are(tmp_path: Path) -> None:
    text = "τ = μ₁ − μ₀\r\nsecond line\n"
    assert write_whole(tmp_path / "a.txt", text) == tmp_path / "a.txt"
    assert (tmp_path / "a.txt").read_bytes() == text.encode("utf-8")  # no newline is translated
    write_whole(str(tmp_path / "b.bin"), bytes(range(256)) * 3)
    assert (tmp_path / "b.bin").read_bytes() == bytes(range(256)) * 3
    write_whole(tmp_path / "empty", b"")
    assert names(tmp_path) == ["a.txt", "b.bin", "empty"]


def test_a_second_writing_replaces_the_first_entirely(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "a long first version")
    write_whole(tmp_path / "a.txt", "short")
    assert (tmp_path / "a.txt").read_text() == "short" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("broken", ["replace", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException
) -> None:
    write_whole(tmp_path / "a.txt", "old")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, broken, fail)
    for target in ("a.txt", "new.txt"):
        with pytest.raises(type(error)):
            write_whole(tmp_path / target, "new")
    monkeypatch.undo()
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_failure_while_writing_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a.txt", "old")
    real = os.fdopen

    class Full:
        """A file that takes half of what it is given, then finds the disk full."""

        def __init__(self, handle: int, mode: str) -> None:
            self.file = real(handle, mode)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            raise OSError("disk full")

    monkeypatch.setattr(os, "fdopen", Full)
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a.txt", "new and longer")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_until_the_rename_readers_see_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, seen = tmp_path / "a.txt", []
    write_whole(target, "old")
    rename = os.replace

    def look_then_rename(source: str, destination: Path) -> None:
        seen.append((target.read_text(), Path(source).read_text(), Path(source).parent))
        rename(source, destination)

    monkeypatch.setattr(os, "replace", look_then_rename)
    write_whole(target, "new")
    assert seen == [("old", "new", tmp_path)]  # whole beside it, in the same folder: the rename cannot cross disks
    assert target.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "a.txt", "x")
        assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode
    finally:
        assert os.umask(before) == mask  # looking at the mask has not changed it


def test_a_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.* for 'a\.txt' does not exist: create it first"):
        write_whole(tmp_path / "nowhere" / "a.txt", "x")
    assert names(tmp_path) == []


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "results", "x")
    assert names(tmp_path) == ["results"]
