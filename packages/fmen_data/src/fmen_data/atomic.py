"""Atomic file writes: a file is written completely, or the old one stays unchanged."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ABANDONED = 3600.0
"""Seconds after which an unchanged temporary file belongs to no running process: a file is written in less."""

_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{32}(\.[^.]*)?", re.DOTALL)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield the path of an empty temporary file, which replaces ``path`` when the block ends without an exception.

    After an exception in the block, Ctrl-C included, the temporary file is removed and an existing ``path`` is
    unchanged. Parent directories are created. The content is flushed to the disk before the rename, so that after a
    power failure ``path`` has either the old content or the new one. The temporary name is random, since process IDs
    repeat across containers that share a disk.

    Raises:
        OSError: The file cannot be written. ``filename`` is ``path``, or the parent directory that cannot be created.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.stem[:32]}.{uuid.uuid4().hex}{path.suffix}")
    make_folder(path.parent)
    try:
        temporary.touch()
        yield temporary
        _sync_file(temporary)
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # a read-only disk refuses even to remove what does not exist
            temporary.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        OSError: It cannot be created. ``filename`` is the part of its path that is at fault.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # "File exists" reads as if a file in the folder were meant
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error


def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically; see :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove the temporary files that killed processes left when they wrote ``paths``, if older than ``ABANDONED``."""
    names = defaultdict(set)
    for path in paths:
        names[path.parent].add((path.stem[:32], path.suffix))
    for folder, written in names.items():
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                found = _TEMPORARY.fullmatch(entry.name)
                ours = found is not None and (found[1], found[2] or "") in written
                if ours and time.time() - entry.stat().st_mtime > ABANDONED:
                    os.unlink(entry.path)  # noqa: PTH108 - an entry is not a path


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_directory(path: Path) -> None:
    """Flush the rename to the disk. Not every system and file system supports it; the file is complete in any case."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
