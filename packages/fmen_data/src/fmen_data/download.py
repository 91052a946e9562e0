"""Download an archive over HTTP and unpack it: resumable, checksummed, safe against malicious archives."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
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
from typing import IO

from tqdm import tqdm

from .errors import DataError

_CHUNK = 1 << 20  # bytes
_ATTEMPTS = 5  # consecutive attempts without a new byte
_TIMEOUT = 60.0  # seconds without a byte
_MOST_MEMBERS = 100_000  # of an archive; Flickr2K has 10,600
_LARGEST_RATIO = 100  # of the unpacked bytes to the archive's; of images it is about 1
_PAUSE = 1.0  # seconds before the second attempt; doubles with each


def fetch(url: str, target: Path, *, md5: str = "", progress: bool = True) -> None:
    """Download ``url`` to ``target``.

    Received bytes are in ``target`` + ``.part``, which the next attempt or the next call continues. ``target`` appears
    when the file is complete and its MD5, if one is given, is correct. Dropped connections are retried.

    Raises:
        DataError: The address is invalid; the server refuses, does not respond, or sends another file; or the file
            cannot be written.
    """
    if not re.match("https?://[^/]", url, re.IGNORECASE):
        raise DataError(f"{url} is not a URL; write it with https://")
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, progress)
            break
        except (http.client.InvalidURL, ValueError) as error:
            raise DataError(f"{url} is not a URL ({error}); check the address") from error
        except (OSError, http.client.HTTPException) as error:
            status = getattr(error, "code", None)
            if isinstance(status, int) and 400 <= status < 500 and status not in (408, 416, 429):
                raise DataError(f"cannot download {url}: the server answers {status}; check the address") from error
            failures = 1 if _size(part) > before else failures + 1
            if failures >= _ATTEMPTS:
                reason = getattr(error, "reason", None) or error
                raise DataError(f"cannot download {url}: {reason}; run the command again, it continues") from error
            time.sleep(_PAUSE * 2 ** (failures - 1))
    found = file_md5(part, progress=progress) if md5 else ""
    if found != md5:
        part.unlink()
        raise DataError(f"{url} is not the expected file (checksum {found}, not {md5}); download from another server")
    part.replace(target)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def file_md5(path: Path, *, progress: bool = True) -> str:
    """Return the MD5 of a file in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    bar = tqdm(total=_size(path), desc=f"check {path.stem}", unit="B", unit_scale=True, disable=not progress)
    with path.open("rb") as file, bar:
        while block := file.read(_CHUNK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _transfer(url: str, part: Path, progress: bool) -> None:
    """Continue ``part`` until it is complete; raise ``OSError`` or ``HTTPException`` when the connection breaks."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # it is complete
        part.unlink()
        raise
    with response:
        if not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            have = 0  # the server sends the file from its start
        total = None if response.length is None else have + response.length
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


def _append(response: http.client.HTTPResponse, part: Path, have: int, arrived: Callable[[int], object]) -> None:
    """Append the response to the first ``have`` bytes of ``part``. An error in writing is not retried."""
    try:
        file = part.open("r+b" if have else "wb", buffering=0)
    except OSError as error:
        raise _write_error(part, error) from error
    with file:
        file.seek(have)
        while block := response.read1(_CHUNK):  # what has arrived; read() would lose it when the connection stalls
            rest = memoryview(block)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError as error:
                raise _write_error(part, error) from error
            arrived(len(block))


def _require_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(f"{path} needs {needed / 1e9:.1f} GB more, but {free / 1e9:.1f} GB are free; free some space")


def _write_error(path: Path, error: OSError) -> DataError:
    remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EFBIG) else "choose another folder"
    return DataError(f"cannot write {path}: {error.strerror}; {remedy} and run the command again")


def unpack(
    archive: Path, folder: Path, extract_path: Callable[[PurePosixPath], Path | None], *, progress: bool = True
) -> None:
    """Unpack files of a zip or tar archive into a folder, all or none.

    They are written to a temporary folder and moved when the whole archive has been read and its checksums agree.

    Args:
        archive: The archive.
        folder: The folder to unpack into.
        extract_path: Maps a file's name in the archive to its path below ``folder``, or to ``None`` to skip it.
        progress: Show a progress bar on stderr.

    Raises:
        DataError: The archive is damaged, has a link, a device, a path outside the folder or too many members, unpacks
            to too many bytes, or the files cannot be written.
    """
    temporary = folder / f".{archive.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    written: list[Path] = []
    try:
        allowed = _LARGEST_RATIO * _size(archive)
        for name, content in tqdm(_members(archive), f"unpack {archive.stem}", unit="file", disable=not progress):
            relative = extract_path(name)
            if relative is None:
                continue
            (temporary / relative).parent.mkdir(parents=True, exist_ok=True)
            with (temporary / relative).open("wb") as file:
                while block := content.read(_CHUNK):
                    allowed -= len(block)
                    if allowed < 0:
                        raise DataError(f"{archive} unpacks to more than {_LARGEST_RATIO} times its size; remove it")
                    file.write(block)
            written.append(relative)
        for relative in written:
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            (temporary / relative).replace(folder / relative)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is damaged ({error}); remove it and run the command again") from error
    except OSError as error:
        raise _write_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Yield the regular files of an archive with their content, which must be read before the next file."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for number, entry in enumerate(zipped.infolist()):
                _require_few(archive, number)
                name = _safe(archive, entry.filename, stat.S_ISLNK(entry.external_attr >> 16))
                if not entry.is_dir():
                    with zipped.open(entry) as content:
                        yield name, content
        return
    with tarfile.open(archive, "r|*") as tar:
        for number, member in enumerate(tar):
            _require_few(archive, number)
            name = _safe(archive, member.name, not (member.isfile() or member.isdir()))
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield name, stream


def _require_few(archive: Path, number: int) -> None:
    if number >= _MOST_MEMBERS:
        raise DataError(f"{archive} has more than {_MOST_MEMBERS:,} members; remove it")


def _safe(archive: Path, name: str, special: bool) -> PurePosixPath:
    path = PurePosixPath(name)
    if special or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DataError(f"{archive} has the member {name!r}, a link or a path outside its folder; remove the archive")
    return path
