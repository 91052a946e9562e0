"""Add a colour profile and EXIF data to a PNG file encoded by OpenCV, which writes neither."""

from __future__ import annotations

import struct
import zlib

HEADER_END = 33
"""Where the IHDR chunk, always the first one, ends."""


def with_chunks(png: bytes, *, icc: bytes | None, exif: bytes) -> bytes:
    """Return ``png`` with an ``iCCP`` and an ``eXIf`` chunk, each if it has content.

    Args:
        png: A PNG file without these chunks.
        icc: The profile.
        exif: As Pillow encodes it, with or without its ``Exif`` prefix.
    """
    chunks = b""
    if icc:
        chunks += chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    if exif:
        chunks += chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    return png[:HEADER_END] + chunks + png[HEADER_END:]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk: length, kind, content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
