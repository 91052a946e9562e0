"""Unpacking archives, damaged and malicious ones among them."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from fmen_data import DataError
from fmen_data.download import unpack


def everything(name: PurePosixPath) -> Path:
    return Path(name)


def make_zip(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
    return path


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/../../evil.png", "C:\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_path_outside_the_folder_is_refused_and_nothing_unpacked(tmp_path: Path, kind: str, name: str) -> None:
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        make_zip(archive, {"good.png": b"1", name: b"2"})
    else:
        with tarfile.open(archive, "w") as tar:
            for member in ("good.png", name):
                tar.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(DataError, match="a path outside its folder"):
        unpack(archive, tmp_path / "out", everything, progress=False)
    assert [file.name for file in tmp_path.rglob("*.png")] == []


def test_links_are_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("link.png")
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(entry)
    make_zip(tmp_path / "a.zip", {}, link="link.png")
    for archive in (tmp_path / "a.tar", tmp_path / "a.zip"):
        with pytest.raises(DataError, match="a link or a path outside"):
            unpack(archive, tmp_path / "out", everything, progress=False)


def test_directories_are_created_and_members_that_are_not_wanted_are_skipped(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {"folder/": b"", "folder/a.png": b"1", "notes.txt": b"2"})
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in ("folder/a.png", "notes.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"1"))
    for kind in ("zip", "tar"):
        out = tmp_path / kind
        unpack(tmp_path / f"a.{kind}", out, lambda name: Path(name) if name.suffix == ".png" else None, progress=False)
        files = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
        assert files == {"folder/a.png": b"1"}
        assert [file.name for file in out.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    make_zip(tmp_path / "a.zip", {"a.png": b"1"})
    with pytest.raises(DataError, match=r"cannot write .*file: Not a directory; choose another folder and run"):
        unpack(tmp_path / "a.zip", tmp_path / "file", everything, progress=False)


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a.png": b"1" * 1000, "b.png": b"2" * 1000})
    archive.write_bytes(archive.read_bytes().replace(b"2" * 500, b"3" * 500))
    (tmp_path / "b.zip").write_bytes(b"no archive")
    for file in (archive, tmp_path / "b.zip"):
        with pytest.raises(DataError, match=f"{file.name} is damaged"):
            unpack(file, tmp_path / "out", everything, progress=False)
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path, kind: str) -> None:
    archive, content = tmp_path / f"a.{kind}", bytes(20_000_000)
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("a.png", content)
    else:
        with tarfile.open(archive, "w:gz") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert archive.stat().st_size < len(content) / 900
    with pytest.raises(DataError, match=r"unpacks to more than 100 times its size; remove it"):
        unpack(archive, tmp_path / "out", everything, progress=False)
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_data.download._MOST_MEMBERS", 3)
    for count in (3, 4):
        archive = tmp_path / f"{count}.{kind}"
        if kind == "zip":
            make_zip(archive, {f"{i}.png": b"1" for i in range(count)})
        else:
            with tarfile.open(archive, "w") as tar:
                for i in range(count):
                    tar.addfile(tarfile.TarInfo(f"{i}.png"), io.BytesIO())
    unpack(tmp_path / f"3.{kind}", tmp_path / "few", everything, progress=False)
    assert len(list((tmp_path / "few").iterdir())) == 3
    with pytest.raises(DataError, match="has more than 3 members; remove it"):
        unpack(tmp_path / f"4.{kind}", tmp_path / "many", everything, progress=False)
    assert not list((tmp_path / "many").rglob("*.png"))
