"""Read, write and list images: ``uint8 (H, W, 3) RGB`` in memory, PNG, JPEG, BMP, TIFF or WebP on disk.

Decisions that a user meets:

- Gray and palette images become RGB. An alpha channel that is opaque everywhere is dropped; one that is not is an
  error, for there is no right colour behind a transparent pixel. 16-bit images are an error, for cutting them to 8 bits
  silently would train on other pixels than the user's.
- The pixels come as they are stored: an EXIF orientation is not applied, since LR and HR must stay aligned.
- A truncated or damaged PNG or JPEG is an error. Decoders tend to return the part that they could read, gray below.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from .atomic import atomic_write
from .bicubic import Image
from .errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_SIGNATURE = b"\xff\xd8"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15: the segments that hold the size
_JPEG_SCAN = 0xDA


def read_image(path: str | Path) -> Image:
    """Read one image file.

    Returns:
        uint8 ``(H, W, 3)`` RGB, contiguous.

    Raises:
        DataError: missing, unreadable, truncated, no image, 16-bit, or with transparent pixels.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """The file's content; ``DataError`` instead of ``OSError``."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the name and its permissions") from error


def decode_image(data: bytes, path: str | Path) -> Image:
    """Decode the content of an image file; as `read_image`, with ``path`` for the messages alone."""
    damage = find_damage(data)
    if damage:
        raise DataError(f"{path} {damage}; get the file again or remove it")
    # UNCHANGED keeps alpha and 16 bits visible, and ignores the EXIF orientation.
    try:
        pixels = cv2.imdecode(np.frombuffer(_without_profile(data), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(f"{path} is no image that can be read; get the file again or remove it")
    if pixels.dtype != np.uint8:
        raise DataError(f"{path} has {pixels.dtype} pixels; convert it to 8 bits per channel")
    return _to_rgb(np.asarray(pixels, np.uint8), path)


def _to_rgb(pixels: Image, path: str | Path) -> Image:
    """OpenCV's gray, BGR or BGRA pixels -> RGB."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    if channels == 4:
        if int(pixels[..., 3].min()) < 255:
            raise DataError(f"{path} has transparent pixels; flatten it onto a background, without an alpha channel")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), np.uint8)
    if channels != 3:
        raise DataError(f"{path} has {channels} channels; convert it to RGB")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def find_damage(data: bytes) -> str:
    """What is wrong with the content of a PNG or JPEG file, as the rest of a sentence; empty if nothing is.

    A PNG must be a whole chain of chunks with correct checksums that ends in IEND; a JPEG must end its scan with an EOI
    marker (inside a scan the two bytes of that marker cannot occur).
    """
    if not data:
        return "is empty"
    if data.startswith(_PNG_SIGNATURE):
        return _find_png_damage(data)
    if data.startswith(_JPEG_SIGNATURE):
        scan = _find_jpeg_segment(data, frozenset({_JPEG_SCAN}))
        if scan is None or data.find(b"\xff\xd9", scan) < 0:
            return "is truncated (the JPEG has no end marker)"
    return ""


def _find_png_damage(data: bytes) -> str:
    position, view = len(_PNG_SIGNATURE), memoryview(data)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return f"is damaged (checksum of the PNG chunk at byte {position})"
        if data[position + 4 : position + 8] == b"IEND":
            return ""
        position = end
    return "is truncated (the PNG ends before its IEND chunk)"


def _without_profile(data: bytes) -> bytes:
    """A PNG without its colour profile, other data as it is.

    OpenCV does not apply profiles, but libpng prints a warning about every odd one, and many files in the wild have
    one.
    """
    position = len(_PNG_SIGNATURE)
    while data.startswith(_PNG_SIGNATURE) and position + 12 <= len(data):
        end = position + 12 + int(struct.unpack_from(">I", data, position)[0])
        kind = data[position + 4 : position + 8]
        if kind == b"iCCP":
            return data[:position] + data[end:]
        if kind == b"IDAT":  # a profile stands before the pixels or nowhere
            break
        position = end
    return data


def _find_jpeg_segment(data: bytes, markers: frozenset[int]) -> int | None:
    """Where the payload of the first segment with one of these markers begins, its length field included."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in markers:
            return position + 2
        if marker == _JPEG_SCAN:
            return None
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    return None


def image_size(path: str | Path) -> tuple[int, int]:
    """``(height, width)`` of an image file, from the header alone for PNG and JPEG.

    Raises:
        DataError: missing, unreadable, or no image.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(32)
            if head.startswith(_PNG_SIGNATURE) and len(head) >= 24:
                width, height = struct.unpack_from(">II", head, 16)
                return int(height), int(width)
            if head.startswith(_JPEG_SIGNATURE):
                data = head + file.read()
                frame = _find_jpeg_segment(data, _JPEG_FRAMES)
                if frame is not None and frame + 7 <= len(data):
                    height, width = struct.unpack_from(">HH", data, frame + 3)
                    return int(height), int(width)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the name and its permissions") from error
    height, width = read_image(path).shape[:2]
    return height, width


def check_image(path: str | Path, *, deep: bool = False) -> None:
    """Check that an image file is whole, by its header and its end; with ``deep``, by decoding it.

    Raises:
        DataError: what `read_image` would say of it.
    """
    image_size(path)
    with Path(path).open("rb") as file:
        head = file.read(len(_PNG_SIGNATURE))
        file.seek(max(0, Path(path).stat().st_size - len(_PNG_END)))
        tail = file.read()
    whole = tail == _PNG_END if head == _PNG_SIGNATURE else tail.endswith(b"\xff\xd9")
    if deep or not whole:  # an odd end need not be damage: bytes may follow the image
        read_image(path)


def write_image(path: str | Path, image: Image) -> None:
    """Write an image in the format that the suffix names, whole or not at all.

    Args:
        path: the file; its folder is made if it is missing.
        image: uint8 ``(H, W, 3)`` RGB or ``(H, W)`` gray.

    Raises:
        DataError: the suffix names no known format, or the file cannot be written (a full disk, no permission).
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"cannot write {path}: unknown image format {path.suffix!r}; use one of {', '.join(SUFFIXES)}")
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(path.suffix, bgr)
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; free some space or choose another place") from error


def list_images(folder: str | Path) -> list[Path]:
    """The image files directly in a folder, by name; hidden files are left out.

    Raises:
        DataError: the folder is missing, no folder, unreadable, or has no image.
    """
    folder = Path(folder)
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names alone are ten times as quick
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}; check the name") from error
    files = [folder / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not files:
        raise DataError(f"no images in {folder}; it should hold files such as 0001.png ({', '.join(SUFFIXES)})")
    return files
