"""Write PNG files of 8 or 16 bits per channel, with colour profile and EXIF data, strip by strip."""

from __future__ import annotations

import struct
import zlib
from typing import IO, Any

import numpy as np
import numpy.typing as npt

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""The colour types of PNG by the number of channels: gray, gray and alpha, RGB, RGBA."""


def metadata(icc: bytes | None, exif: bytes) -> bytes:
    """Return an ``iCCP`` and an ``eXIf`` chunk, each if it has content."""
    profile = chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)) if icc else b""
    return profile + (chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")) if exif else b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk: length, kind, content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


class PngWriter:
    """Writes a PNG file strip by strip, from top to bottom.

    Rows are stored as differences from the rows above (filter type 2), compressed with zlib's level 3.

    Args:
        file: The open file.
        height: Rows of the image.
        width: Columns of the image.
        dtype: uint8 or uint16.
        channels: 1 for gray, 2 for gray and alpha, 3 for RGB, 4 for RGBA.
        icc: The colour profile.
        exif: EXIF data as Pillow encodes it, with or without its ``Exif`` prefix.
    """

    def __init__(
        self, file: IO[bytes], height: int, width: int, dtype: Any, *, channels: int, icc: bytes | None, exif: bytes
    ) -> None:
        self.file = file
        self.compressor = zlib.compressobj(3)
        depth, kind = 8 * np.dtype(dtype).itemsize, COLOUR_TYPES[channels]
        self.above = np.zeros((1, width * channels * depth // 8), np.uint8)
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)))
        file.write(metadata(icc, exif))

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Write the next rows, ``(n, width)`` or ``(n, width, channels)``."""
        lines = rows.astype(rows.dtype.newbyteorder(">"), copy=False).reshape(len(rows), -1).view(np.uint8)
        filtered = np.empty((len(lines), 1 + lines.shape[1]), np.uint8)
        filtered[:, 0] = 2
        np.subtract(lines[:1], self.above, out=filtered[:1, 1:])
        np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
        self.above = lines[-1:].copy()
        self._write_data(self.compressor.compress(filtered.data))

    def end(self) -> None:
        """Write the end of the file."""
        self._write_data(self.compressor.flush())
        self.file.write(chunk(b"IEND", b""))

    def _write_data(self, data: bytes) -> None:
        if data:
            self.file.write(chunk(b"IDAT", data))
