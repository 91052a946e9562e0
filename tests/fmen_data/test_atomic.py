"""The atomic writer: what replaces a file, what an exception leaves, and what the error names."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from fmen_data.atomic import atomic_write, atomic_write_bytes, remove_abandoned


def test_a_file_is_written_with_its_parent_directories(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a/b/c.bin", b"content")
    assert (tmp_path / "a/b/c.bin").read_bytes() == b"content"
    assert [file.name for file in (tmp_path / "a/b").iterdir()] == ["c.bin"]


def test_the_temporary_file_is_empty_hidden_and_has_the_suffix_of_the_target(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.png") as temporary:
        assert temporary.read_bytes() == b""
        assert temporary.parent == tmp_path and temporary.name.startswith(".a.") and temporary.suffix == ".png"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_is_that_of_a_file_created_normally(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        (tmp_path / "normal").write_bytes(b"")
        atomic_write_bytes(tmp_path / "atomic", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "normal").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_exception_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half of the new")
        raise error
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"old"}


def test_the_content_is_synchronised_before_the_rename_and_the_directory_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, object]] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        events.append(("fsync", target if target.is_dir() else target.read_bytes()))
        fsync(handle)

    def recorded_replace(self: Path, target: Path) -> Path:
        events.append(("replace", target))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    atomic_write_bytes(tmp_path / "a", b"content")
    assert events == [("fsync", b"content"), ("replace", tmp_path / "a"), ("fsync", tmp_path)]


def test_a_directory_that_cannot_be_synchronised_raises_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def files_only(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    atomic_write_bytes(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_an_error_names_the_target_and_not_the_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder/inside").mkdir(parents=True)
    with pytest.raises(OSError) as renaming:
        atomic_write_bytes(tmp_path / "folder", b"")  # a file cannot replace a directory
    with pytest.raises(OSError) as writing, atomic_write(tmp_path / "a") as temporary:
        temporary.unlink()
        temporary.mkdir()
        try:
            temporary.write_bytes(b"")
        finally:
            temporary.rmdir()
    with pytest.raises(OSError) as unnamed, atomic_write(tmp_path / "b"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [error.value.filename for error in (renaming, writing, unnamed)] == [
        str(tmp_path / name) for name in ("folder", "a", "b")
    ]
    assert unnamed.value.errno == errno.ENOSPC


def test_an_error_of_a_read_only_disk_names_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError) as error:
        atomic_write_bytes(tmp_path / "a", b"")
    assert (error.value.errno, error.value.filename) == (errno.EROFS, str(tmp_path / "a"))


def test_an_error_of_another_file_or_without_a_number_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as reading, atomic_write(tmp_path / "a"):
        (tmp_path / "absent").read_bytes()
    assert reading.value.filename == str(tmp_path / "absent")
    with pytest.raises(OSError, match="Can't write data"), atomic_write(tmp_path / "a"):
        raise OSError("Can't write data (file write failed)")  # as h5py raises it


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - of the process, not of a path
    for _ in range(3):
        atomic_write_bytes(tmp_path / "a", b"content")
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError) as error:
        atomic_write_bytes(tmp_path / "file/a", b"")
    assert error.value.filename == str(tmp_path / "file")


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / ("n" * 251 + ".png"), b"content")


def test_two_simultaneous_writers_do_not_mix_their_contents(tmp_path: Path) -> None:
    inside = threading.Barrier(2, timeout=10)
    contents = [bytes([value]) * 100_000 for value in (1, 2)]

    def write(content: bytes) -> None:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_bytes(content[: len(content) // 2])
            inside.wait()  # both temporary files exist now
            with temporary.open("ab") as file:
                file.write(content[len(content) // 2 :])

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_beside_a_file_is_removed_once_it_is_old_and_nothing_else(tmp_path: Path) -> None:
    old = (".a.{}.png", ".a.{}.jpg", ".b.{}.png", "a.{}.png", ".a.short.png", ".{}.png", ".none.{}", "a.png")
    for name in old:
        (tmp_path / name.format("0" * 32)).write_bytes(b"")
    for file in tmp_path.iterdir():
        os.utime(file, (0, 0))
    with atomic_write(tmp_path / "a.png") as of_another_process:
        remove_abandoned([tmp_path / "a.png", tmp_path / "none", tmp_path / "missing" / "a.png"])
        left = {file.name for file in tmp_path.iterdir()}
        assert left == {*(name.format("0" * 32) for name in old[1:6]), of_another_process.name, "a.png"}
