"""Get an archive over HTTP and unpack it: resumable, checked, and safe against what an archive may hold."""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from tqdm import tqdm

from .errors import DataError

_CHUNK = 1 << 20  # bytes
_ATTEMPTS = 5  # without a single new byte
_PAUSE = 1.0  # seconds before the second attempt; doubles with each


def fetch(url: str, target: Path, *, md5: str = "", sha256: str = "", progress: bool = True) -> None:
    """Download ``url`` to ``target``.

    What has arrived lies in ``target`` + ``.part`` and is continued by the next attempt or the next call; ``target``
    appears when the file is whole and its MD5 or SHA-256, whichever is given, is right. Dropped connections are tried
    again.

    Raises:
        DataError: the server refuses, stays away, or sends another file; or the disk is full.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            status = getattr(error, "code", None)
            if isinstance(status, int) and 400 <= status < 500 and status not in (408, 416, 429):
                raise DataError(f"cannot download {url}: the server answers {status}; check the address") from error
            failures = 1 if _size(part) > before else failures + 1
            if failures >= _ATTEMPTS:
                reason = getattr(error, "reason", None) or error
                raise DataError(f"cannot download {url}: {reason}; run the command again, it continues") from error
            time.sleep(_PAUSE * 2 ** (failures - 1))
    try:
        if md5:
            check_md5(part, md5, progress=progress)
        if sha256:
            check_digest(part, "sha256", sha256, progress=progress)
    except DataError:
        part.unlink()
        raise
    part.replace(target)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check_md5(path: Path, md5: str, *, progress: bool = True) -> None:
    """Compare a file's MD5 with the known one.

    Raises:
        DataError: it is another file.
    """
    check_digest(path, "md5", md5, progress=progress)


def check_digest(path: Path, algorithm: Literal["md5", "sha256"], expected: str, *, progress: bool = True) -> None:
    """Compare a file's digest with the known one.

    Raises:
        DataError: it is another file.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    bar = tqdm(total=_size(path), desc=f"check {path.stem}", unit="B", unit_scale=True, disable=not progress)
    with path.open("rb") as file, bar:
        while block := file.read(_CHUNK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != expected:
        raise DataError(
            f"{path} has {algorithm.upper()} {digest.hexdigest()}, not the known {expected}; "
            "remove it and run the command again"
        )


def _transfer(url: str, part: Path, progress: bool) -> None:
    """Continue ``part`` until it is whole; raises ``OSError`` or ``HTTPException`` when the connection breaks."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # there is nothing after what we have
        part.unlink()
        raise
    with response:
        if not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            have = 0  # the server sends the whole file again
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total:
            _require_space(part, total - have)
        with tqdm(
            total=total,
            initial=have,
            desc=part.stem,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=not progress,
        ) as bar:
            _append(response, part, have, bar.update)
        if total and _size(part) < total:
            raise ConnectionError("the connection was closed early")


def _append(response: IO[bytes], part: Path, have: int, arrived: Callable[[int], object]) -> None:
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        while block := response.read(_CHUNK):
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise _full(part, error) from error
            arrived(len(block))


def _require_space(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise DataError(f"{place} needs {needed / 1e9:.1f} GB more, but {free / 1e9:.1f} GB are free; free some space")


def _full(path: Path, error: OSError) -> DataError:
    remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EFBIG) else "choose another folder"
    return DataError(f"cannot write {path}: {error.strerror}; {remedy} and run the command again")


def unpack(
    archive: Path, folder: Path, wanted: Callable[[PurePosixPath], Path | None], *, progress: bool = True
) -> None:
    """Unpack files of a zip or tar archive into a folder, all or none.

    They are written to a temporary folder first and moved in when the whole archive has been read and its checksums
    agree.

    Args:
        archive: the file.
        folder: where to.
        wanted: maps a file's name in the archive to its path below ``folder``; ``None`` leaves it out.
        progress: show a progress bar on stderr.

    Raises:
        DataError: damaged, or with a member that is a link or device or would land outside the folder; or the disk is
            full.
    """
    temporary = folder / f".{archive.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    written: list[Path] = []
    try:
        for name, content in tqdm(_members(archive), f"unpack {archive.stem}", unit="file", disable=not progress):
            relative = wanted(name)
            if relative is None:
                continue
            (temporary / relative).parent.mkdir(parents=True, exist_ok=True)
            with (temporary / relative).open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
            written.append(relative)
        for relative in written:
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            (temporary / relative).replace(folder / relative)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is damaged ({error}); remove it and run the command again") from error
    except OSError as error:
        raise _full(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """The regular files of an archive with their content; each must be read before the next is asked for."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                name = _safe(archive, entry.filename, stat.S_ISLNK(entry.external_attr >> 16))
                if not entry.is_dir():
                    with zipped.open(entry) as content:
                        yield name, content
        return
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            name = _safe(archive, member.name, not (member.isfile() or member.isdir()))
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield name, stream


def _safe(archive: Path, name: str, special: bool) -> PurePosixPath:
    path = PurePosixPath(name)
    if special or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DataError(f"{archive} holds {name!r}, a link or a path outside its folder; it is not unpacked, remove it")
    return path
