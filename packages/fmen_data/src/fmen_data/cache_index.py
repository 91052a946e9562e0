"""What the index of a cache says about an image: the checksum of its pixels, and the file that it was decoded from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .bicubic import Image
from .datasets import Pair
from .images import read_bytes


@dataclass(frozen=True)
class SourceFile:
    """The file that an image was decoded from, as it was at that time."""

    path: Path
    size: int
    mtime_ns: int
    checksum: str

    @classmethod
    def of(cls, path: Path, data: bytes) -> SourceFile:
        """Describe a file whose content has just been read."""
        return cls(path.resolve(), len(data), path.stat().st_mtime_ns, checksum(data))

    def changed(self) -> bool:
        """Return whether the file exists with another content; the checksum is compared only if the times differ.

        A file that could not be read has changed if it can be read now.
        """
        try:
            status = self.path.stat()
        except OSError:
            return False
        if not self.checksum:  # it could not be read
            try:
                self.path.read_bytes()
            except OSError:
                return False
            return True
        if status.st_size != self.size:
            return True
        return status.st_mtime_ns != self.mtime_ns and checksum(read_bytes(self.path)) != self.checksum


@dataclass(frozen=True)
class Skipped:
    """An image that was left out of a cache, why, and its files as they were; a file that cannot be read is empty."""

    name: str
    problem: str
    files: tuple[SourceFile, ...]

    @classmethod
    def of(cls, pair: Pair, problem: str) -> Skipped:
        """Describe a pair that cannot be used."""
        files = []
        for path in filter(None, (pair.hr, pair.lr)):
            try:
                files.append(SourceFile.of(path, path.read_bytes()))
            except OSError:
                files.append(SourceFile(path.resolve(), 0, 0, ""))
        return cls(pair.name, problem, tuple(files))

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Skipped:
        """Read an entry of the index."""
        files = (SourceFile(Path(path), *rest) for path, *rest in entry["files"])
        return cls(entry["name"], entry["problem"], tuple(files))

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the index."""
        files = [[str(file.path), file.size, file.mtime_ns, file.checksum] for file in self.files]
        return {"name": self.name, "problem": self.problem, "files": files}


def index_row(image: Image, source: SourceFile | None) -> list[str | int]:
    """The row of an image in the index: the checksum of its pixels, then its source file."""
    row: list[str | int] = [checksum(np.ascontiguousarray(image).data)]
    return row + ([str(source.path), source.size, source.mtime_ns, source.checksum] if source else ["", 0, 0, ""])


def read_sources(rows: list[list[Any]]) -> list[SourceFile]:
    """The source files of a group's images, except those of images that were made."""
    return [SourceFile(Path(path), size, time, digest) for _, path, size, time, digest in rows if path]


def checksum(data: bytes | memoryview) -> str:
    """Return the BLAKE2b digest of 128 bits of some bytes, in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
