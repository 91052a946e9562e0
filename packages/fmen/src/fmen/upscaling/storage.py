"""Files in object stores and on other remote file systems, named by URIs such as ``s3://bucket/folder/cat.png``.

pyarrow reads and writes ``s3://``, ``gs://``, ``abfs://`` and ``hdfs://``; fsspec provides the rest. Credentials come
from the environment, as the file systems document. A name without ``://`` is a local file and needs neither library.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote

from fmen_data import DataError
from fmen_data.atomic import atomic_write_bytes

Location = Path | str
"""A local path, or the URI of a remote file."""

UPLOADED_WHOLE = ("s3", "gcs", "abfs")
"""pyarrow's names of the object stores, where a file appears when its upload is complete."""


def location(name: str) -> Location:
    """Return a URI without its trailing slash, or the path that a local name or a ``file://`` URI stands for."""
    if name.startswith("file://"):
        return Path(unquote(name.removeprefix("file://")))
    return name.rstrip("/") if re.match(r"[A-Za-z][\w+.-]+://", name) else Path(name)


def join(folder: Location, name: PurePath) -> Location:
    """Return the location of a file below a folder."""
    return folder / name if isinstance(folder, Path) else f"{folder}/{name.as_posix()}"


def split(file: Location) -> tuple[Location, str]:
    """Return the folder and the name of a file."""
    if isinstance(file, Path):
        return file.parent, file.name
    folder, _, name = file.rpartition("/")
    return folder, name


def suffix(file: Location) -> str:
    """Return the lower-case suffix of a file name, such as ``".png"``."""
    return PurePosixPath(split(file)[1]).suffix.lower()


def shown(name: Location) -> str:
    """Return a file name for a message: on one line, with control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


@contextmanager
def _failures(action: str, uri: str) -> Iterator[None]:
    """Turn the errors of remote file systems into DataError: they are of many classes and name no file."""
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"cannot {action} {shown(uri)}: {error}; install fmen[ray] and the file system's package"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot {action} {uri}: {reason}; check the name, the access rights and the network"
        ) from error


@lru_cache
def _file_system(root: str) -> tuple[Any, str]:
    """Return the pyarrow file system for ``scheme://host/`` and the path of its root."""
    from pyarrow import ArrowInvalid, fs

    try:
        system, base = fs.FileSystem.from_uri(root)
    except ArrowInvalid:  # a scheme that pyarrow does not know
        from fsspec.core import url_to_fs

        other, base = url_to_fs(root)
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, base.rstrip("/")


def _resolve(uri: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URI and the path in it."""
    scheme, _, rest = uri.partition("://")
    host, _, path = rest.partition("/")
    system, base = _file_system(f"{scheme}://{host}/")
    return system, f"{base}/{path}" if path else base or "/"


def _modified(system: Any, info: Any) -> int:
    """Return the modification time of a file in nanoseconds; 0 if its file system has none."""
    if info.mtime_ns is not None or not hasattr(system, "handler"):
        return int(info.mtime_ns or 0)
    try:  # pyarrow does not ask fsspec for it
        return int(system.handler.fs.modified(info.path).timestamp() * 1e9)
    except NotImplementedError:
        return 0


def walk(uri: str) -> Iterator[tuple[str, PurePosixPath, tuple[int, int]]]:
    """Yield the files at ``uri`` and below, sorted.

    Yields:
        The URI of the file; its path relative to ``uri``, or its name if ``uri`` is the file; its size in bytes and its
        modification time in nanoseconds.

    Raises:
        DataError: The file system cannot be reached, or there is nothing of this name.
    """
    with _failures("read", uri):
        from pyarrow import fs

        system, path = _resolve(uri)
        itself = system.get_file_info(path)
        if itself.type == fs.FileType.NotFound:
            raise DataError(f"{uri}: no such file or folder")
        single = itself.type == fs.FileType.File
        found = [itself] if single else system.get_file_info(fs.FileSelector(path, recursive=True))
        files = [
            (PurePosixPath(info.path), (int(info.size), _modified(system, info)))
            for info in found
            if info.type == fs.FileType.File
        ]
    for file, stamp in sorted(files):
        relative = PurePosixPath(file.name) if single else file.relative_to(path)
        yield uri if single else f"{uri}/{relative}", relative, stamp


def names_in(uri: str) -> dict[str, int]:
    """Return the files directly in a folder with their modification times in nanoseconds; none if it is missing."""
    with _failures("read", uri):
        from pyarrow import fs

        system, path = _resolve(uri)
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {info.base_name: _modified(system, info) for info in found if info.type == fs.FileType.File}


def read(file: Location) -> bytes:
    """Return the content of a file.

    Raises:
        DataError: It cannot be read.
    """
    if isinstance(file, Path):
        try:
            return file.read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"cannot read {shown(file)}: {reason}; check the name and its permissions") from error
    with _failures("read", file):
        system, path = _resolve(file)
        with system.open_input_stream(path) as stream:
            return bytes(stream.read())


def write(file: Location, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        DataError: A remote file cannot be written.
        OSError: A local file cannot be written.
    """
    if isinstance(file, Path):
        atomic_write_bytes(file, content)
        return
    with _failures("write", file):
        system, path = _resolve(file)
        whole = system.type_name in UPLOADED_WHOLE
        folder, _, name = path.rpartition("/")
        temporary = path if whole else f"{folder}/.{uuid.uuid4().hex}.{name[-32:]}"
        if not whole:
            system.create_dir(folder or "/", recursive=True)
        with system.open_output_stream(temporary) as stream:
            stream.write(content)
        if not whole:
            system.move(temporary, path)
