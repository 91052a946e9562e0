"""Read, write and list images: ``uint8 (H, W, 3) RGB`` in memory, PNG, JPEG, BMP, TIFF or WebP on disk.

Conversions:

- Gray and palette images become RGB. An opaque alpha channel is dropped. A transparent pixel is an error, since the
  colour behind it is unknown. A 16-bit image is an error, since conversion to 8 bits would change the pixels silently.
- The orientation tag of EXIF and TIFF is not applied, so that LR and HR stay aligned.
- A PNG or JPEG that is truncated, has a wrong checksum, or makes libjpeg warn is an error. Decoders usually return the
  part that they could read. Damage that leaves a valid JPEG stream cannot be detected: JPEG has no checksums.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from .atomic import atomic_write
from .bicubic import Image
from .errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_SIGNATURE = b"\xff\xd8"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15: the segments that hold the size
_JPEG_SCAN = 0xDA
_TIFF_ORIENTATION = 274
_TIFF_INTEGERS = {3: "H", 4: "I"}  # by the code of their type
_LARGEST_JPEG = 2**30  # pixels; OpenCV's limit for the other formats


def read_image(path: str | Path) -> Image:
    """Read one image file.

    Returns:
        uint8 ``(H, W, 3)`` RGB, contiguous.

    Raises:
        DataError: The file is missing, unreadable, truncated, not an image, 16-bit, or has transparent pixels.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a file; raise ``DataError`` instead of ``OSError``."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the name and its permissions") from error


def decode_image(data: bytes, path: str | Path) -> Image:
    """Decode the content of an image file as `read_image` does; ``path`` is only used in messages."""
    damage = find_damage(data)
    if damage:
        raise DataError(f"{path} {damage}; get the file again or remove it")
    if data.startswith(_JPEG_SIGNATURE):
        return decode_jpeg(data, path)
    # UNCHANGED shows alpha and 16 bits, and ignores the EXIF orientation, but not that of a TIFF.
    try:
        coded = without_orientation(without_metadata(data))
        pixels = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(f"{path} is not a readable image; get the file again or remove it")
    if pixels.dtype != np.uint8:
        raise DataError(f"{path} has {pixels.dtype} pixels; convert it to 8 bits per channel")
    if pixels.ndim == 2 and (pixels == _transparent_level(coded)).any():
        raise _transparent(path)
    return _to_rgb(np.asarray(pixels, np.uint8), path)


def _transparent(path: str | Path) -> DataError:
    return DataError(f"{path} has transparent pixels; flatten it and remove the alpha channel")


def _transparent_level(data: bytes) -> int:
    """The level of the transparent pixels of a gray PNG without metadata, which OpenCV ignores; -1 if there is none."""
    if not data.startswith(_PNG_SIGNATURE) or data[37:41] != b"tRNS":  # after the header
        return -1
    level, bits = int(struct.unpack_from(">H", data, 41)[0]), data[24]
    return level * (255 // (2**bits - 1)) if bits < 8 else level


def decode_jpeg(data: bytes, path: str | Path) -> Image:
    """Decode the content of a JPEG file.

    OpenCV and Pillow decode with the same library, libjpeg-turbo, but do not report its warnings.

    Returns:
        uint8 ``(H, W, 3)`` RGB: the pixels that OpenCV and Pillow return, bit for bit.

    Raises:
        DataError: libjpeg reports an error or a warning.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > _LARGEST_JPEG:
            raise DataError(f"{path} is {width}x{height}, more than {_LARGEST_JPEG} pixels; cut it into parts")
        return np.asarray(simplejpeg.decode_jpeg(data), np.uint8)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error}); get the file again or remove it") from error


def _to_rgb(pixels: Image, path: str | Path) -> Image:
    """Convert OpenCV's gray, BGR or BGRA pixels to RGB."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    if channels == 4:
        if int(pixels[..., 3].min()) < 255:
            raise _transparent(path)
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def find_damage(data: bytes) -> str:
    """Return what is wrong with the content of a PNG or JPEG file, as the end of a sentence; empty if nothing is.

    A PNG must be a complete chain of chunks with correct checksums that ends in IEND. A JPEG must have an EOI marker
    after the start of its scan (the two bytes of the marker cannot occur inside a scan).
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


def without_metadata(data: bytes) -> bytes:
    """Return a PNG with only the chunks that define its pixels, and other data unchanged.

    OpenCV uses no other chunk, but libpng prints a warning about every invalid one; invalid colour profiles are common.
    """
    if not data.startswith(_PNG_SIGNATURE):
        return data
    position, parts, view = len(_PNG_SIGNATURE), [_PNG_SIGNATURE], memoryview(data)
    while position + 12 <= len(data):
        end = position + 12 + int(struct.unpack_from(">I", data, position)[0])
        kind = data[position + 4 : position + 8]
        if kind[:1].isupper() or kind == b"tRNS":  # an upper-case letter marks a critical chunk
            parts.append(bytes(view[position:end]))
        position = end
    return b"".join(parts)


def without_orientation(data: bytes) -> bytes:
    """Return a TIFF or BigTIFF with the orientation of its first image set to upright, and other data unchanged."""
    order = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}.get(data[:4])
    if order is None:
        return data
    big = b"+" in data[:4]
    offset, number, field = (order + each for each in (("Q", "Q", "HHQ8x") if big else ("I", "H", "HHI4x")))
    length = struct.calcsize(field)
    try:
        (start,) = struct.unpack_from(offset, data, 8 if big else 4)
        (fields,) = struct.unpack_from(number, data, start)
        start += struct.calcsize(number)
        for place in range(start, start + fields * length, length):
            tag, kind, _ = struct.unpack_from(field, data, place)
            if tag == _TIFF_ORIENTATION and kind in _TIFF_INTEGERS:
                upright = struct.pack(order + _TIFF_INTEGERS[kind], 1)
                value = place + struct.calcsize(field[:4])
                return data[:value] + upright + data[value + len(upright) :]
    except (struct.error, OverflowError):  # OpenCV says that the file is damaged
        pass
    return data


def _find_jpeg_segment(data: bytes, markers: frozenset[int]) -> int | None:
    """Return the offset of the length field of the first segment with one of these markers."""
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
    """Return ``(height, width)`` of an image file; a PNG or JPEG is not decoded.

    Raises:
        DataError: The file is missing, unreadable, or not an image.
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
    """Check that an image file is complete, from its header and its end, or with ``deep`` by decoding it.

    Raises:
        DataError: As `read_image`.
    """
    image_size(path)
    with Path(path).open("rb") as file:
        head = file.read(len(_PNG_SIGNATURE))
        file.seek(max(0, Path(path).stat().st_size - len(_PNG_END)))
        tail = file.read()
    complete = tail == _PNG_END if head == _PNG_SIGNATURE else tail.endswith(b"\xff\xd9")
    if deep or not complete:  # other bytes may follow a complete image
        read_image(path)


def write_image(path: str | Path, image: Image) -> None:
    """Write an image atomically, in the format of the suffix.

    Args:
        path: The file. A missing folder is created.
        image: uint8 ``(H, W, 3)`` RGB or ``(H, W)`` gray.

    Raises:
        DataError: The image is of another type or shape or empty, the format is unknown or too small for it, or the
            file cannot be written.
    """
    path = Path(path)
    if not isinstance(image, np.ndarray):
        raise DataError(f"cannot write {path}: the image is a {type(image).__name__}, not an array of NumPy")
    if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (3,)) or not image.size:
        raise DataError(
            f"cannot write {path}: the image is {image.dtype} {image.shape}; uint8 (H, W, 3) or (H, W) is needed"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"cannot write {path}: unknown image format {path.suffix!r}; use one of {', '.join(SUFFIXES)}")
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        encodable, encoded = cv2.imencode(path.suffix, bgr)
    except cv2.error:  # OpenCV before 4.10, for a WebP that is too large
        encodable = False
    if not encodable:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise DataError(f"cannot write {path}: the format does not support {size} pixels; use .png")
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; free some space or choose another folder") from error


def list_images(folder: str | Path) -> list[Path]:
    """List the image files directly in a folder, sorted by name, without hidden files.

    Raises:
        DataError: The folder is missing, unreadable, not a folder, or without images.
    """
    folder = Path(folder)
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - ten times as fast as iterdir
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}; check the name") from error
    files = [folder / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    files = [file for file in files if not os.path.isdir(file)]  # noqa: PTH112 - False where a link cannot be followed
    if not files:
        raise DataError(f"no images in {folder}; put files such as 0001.png there ({', '.join(SUFFIXES)})")
    return files
