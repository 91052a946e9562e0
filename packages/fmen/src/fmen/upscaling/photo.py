"""Read and write photographs with everything in the file besides the pixels: alpha, EXIF data, colour profile.

Reads PNG, JPEG, WebP, TIFF and BMP; writes PNG, JPEG, WebP and TIFF. Pillow decodes files of 8 bits per channel and all
metadata; OpenCV decodes 16 bits per channel, which Pillow truncates to 8.

- The EXIF orientation is applied to the pixels and not written. Of the other EXIF data, author, date, place and camera
  are copied, except into TIFF; thumbnails and other tags that describe the old pixels are dropped.
- The ICC profile is copied if it is one for gray or RGB, as the pixels that are written. CMYK is converted to RGB and
  loses its profile.
- Gray images stay gray. 16 bits per channel stay 16 in PNG and TIFF; JPEG and WebP are written with 8.
"""

from __future__ import annotations

import ctypes
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError, _imaging

from fmen.upscaling import storage
from fmen.upscaling.exif import copied_exif, read_exif, value_of
from fmen.upscaling.png_chunks import PngWriter
from fmen.upscaling.storage import Location, shown
from fmen_data import DataError
from fmen_data.atomic import atomic_write
from fmen_data.images import decode_jpeg, find_damage, without_metadata

Pixels = npt.NDArray[Any]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""The formats that can be written, by suffix."""

READABLE = (*FORMATS, ".bmp")
"""The suffixes of the images that are read from a folder."""

JPEG_SEGMENT = 65533
"""Most bytes of EXIF data in a JPEG."""

MOST_DEEP_PIXELS = 2**30
"""OpenCV's limit."""

PNG_GRAY_ALPHA = 4
"""The colour type of PNG files with gray and alpha, which Pillow takes for RGBA if they have 16 bits."""

PROFILE_COLOURS = slice(16, 20)
"""Where an ICC profile names the colours that it is for."""

LONGEST_SIDE = {"JPEG": 65535, "WEBP": 16383}

# Values of TIFF tags. OpenCV ignores them when it decodes 16 bits per channel.
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
INTERLEAVED = 1
EXTRA_SAMPLES, UNSPECIFIED, PREMULTIPLIED = 338, 0, 1

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# The images are the user's own, enlarged ones are large, and some have long texts or colour profiles.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 2**28, 2**30


@dataclass(frozen=True)
class Photo:
    """A photograph with the EXIF orientation applied.

    Attributes:
        pixels: ``(H, W, 3)`` RGB, uint8 or uint16.
        alpha: ``(H, W)`` of the same type, or None if all of it is opaque.
        gray: Whether the file has a single colour channel; the channels of ``pixels`` are then equal up to rounding.
        icc: The colour profile.
        exif: The encoded EXIF data to write.
        luma_table: The luma quantization table of a JPEG file, 64 values.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    gray: bool = False
    icc: bytes | None = None
    exif: bytes = b""
    luma_table: tuple[int, ...] | None = None


def silence_libtiff() -> None:
    """Turn off the messages that Pillow's LibTIFF writes on standard error; Pillow raises an exception as well."""
    with suppress(AttributeError, OSError):  # a Pillow without LibTIFF
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def read_photo(content: bytes, name: str | Path) -> Photo:
    """Decode an image file.

    Args:
        content: The file.
        name: The file name for error messages.

    Raises:
        DataError: Not an image, damaged, several frames, or neither 8 nor 16 bits per channel.
    """
    damage = find_damage(content)
    if damage:
        raise DataError(f"{name} {damage}; get the file again or remove it")
    try:
        with Image.open(io.BytesIO(content)) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # MPO: a JPEG followed by a preview or a second view
                raise DataError(f"{name} has {frames} frames; extract one of them")
            deep = _is_deep(content, image)
            pixels, gray = _decode_deep(content, image, name) if deep else _decode(content, image, name)
            exif = read_exif(image)
            orientation = value_of(exif, ExifTags.Base.Orientation)
            if deep and image.format == "TIFF":  # OpenCV has applied it
                orientation = None
            icc = image.info.get("icc_profile")
            copied = copied_exif(exif)
            table = getattr(image, "quantization", {}).get(0)
    except UnidentifiedImageError:
        if content.startswith(TIFF_SIGNATURES):
            raise DataError(f"{name} is an unsupported kind of TIFF file; convert it to PNG") from None
        raise DataError(f"{name} is not a readable image; give PNG, JPEG, WebP, TIFF or BMP") from None
    except MemoryError:
        size = f"{image.width}x{image.height}"
        raise DataError(
            f"{name} has {size} pixels, too many for the memory, or is damaged; cut it into parts"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is damaged ({error}); get the file again or remove it") from error
    pixels = _upright(pixels, orientation)
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    if alpha is not None and (alpha == np.iinfo(alpha.dtype).max).all():
        alpha = None
    if icc and icc[PROFILE_COLOURS] != (b"GRAY" if gray else b"RGB "):
        icc = None
    return Photo(np.ascontiguousarray(pixels[..., :3]), alpha, gray, icc, copied, table and tuple(table))


def _is_deep(content: bytes, image: Image.Image) -> bool:
    """Whether the file has 16 bits per channel."""
    if image.format == "PNG":
        return content[24] == 16
    return image.format == "TIFF" and 16 in np.atleast_1d(_tiff_tag(image, ExifTags.Base.BitsPerSample, 1))


def _tiff_tag(image: Image.Image, tag: int, default: Any) -> Any:
    """A tag of a TIFF file; the default in files of other formats."""
    return getattr(image, "tag_v2", {}).get(tag, default)


def _decode(content: bytes, image: Image.Image, name: str | Path) -> tuple[Pixels, bool]:
    """The pixels of an 8-bit image, RGB or RGBA, and whether they are gray."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise DataError(f"{name} has 32 bits per channel; convert it to 8 or 16")
    if UNSPECIFIED in np.atleast_1d(_tiff_tag(image, EXTRA_SAMPLES, ())):
        raise DataError(f"{name} has an extra channel of unspecified meaning; remove it, or mark it as alpha")
    gray = image.mode in ("1", "L", "LA", "La")
    if image.format in ("JPEG", "MPO"):
        pixels = decode_jpeg(content, name)  # strict about damage, unlike Pillow
        if image.mode != "CMYK":
            return pixels, gray
    transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    if image.format == "PNG" and gray and content[24] in (2, 4) and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2 ** content[24] - 1)  # Pillow extends only the pixels to 8 bits
    if image.mode == "La":  # gray multiplied by alpha, which Pillow converts in two steps
        image = image.convert("LA")
    mode = "RGBA" if transparent else "RGB"
    return np.array(image if image.mode == mode else image.convert(mode)), gray


def _decode_deep(content: bytes, image: Image.Image, name: str | Path) -> tuple[Pixels, bool]:
    """The pixels of a 16-bit image, RGB or RGBA, and whether they are gray."""
    if image.width * image.height > MOST_DEEP_PIXELS:
        raise DataError(f"{name} has {image.width}x{image.height} pixels of 16 bits, too many; cut it into parts")
    pixels: Pixels | None = None
    with suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(without_metadata(content), np.uint8), cv2.IMREAD_UNCHANGED)
    channels = 0 if pixels is None else 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels is None or pixels.dtype != np.uint16 or channels not in (1, 3, 4) or image.mode == "CMYK":
        raise DataError(f"{name} has an unsupported 16-bit pixel format; convert it to RGB")
    if channels == 1:
        if _tiff_tag(image, ExifTags.Base.PhotometricInterpretation, BLACK_IS_ZERO) == WHITE_IS_ZERO:
            pixels = np.uint16(65535) - pixels
        colours = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        transparent = image.info.get("transparency")  # a gray level, which OpenCV ignores
        if transparent is None:
            return colours, True
        return np.dstack([colours, np.where(pixels == transparent, 0, 65535).astype(np.uint16)]), True
    if _tiff_tag(image, ExifTags.Base.PlanarConfiguration, INTERLEAVED) != INTERLEAVED:
        raise DataError(f"{name} has planar colour channels; save it with interleaved channels")
    if channels == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), False
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    if np.atleast_1d(_tiff_tag(image, EXTRA_SAMPLES, 0))[0] == PREMULTIPLIED:
        pixels = _divide_by_alpha(pixels)
    return pixels, image.format == "PNG" and content[25] == PNG_GRAY_ALPHA


def _divide_by_alpha(pixels: Pixels) -> Pixels:
    """The colours of uint16 RGBA pixels that were multiplied by their alpha."""
    alpha = np.maximum(pixels[..., 3:], 1).astype(np.float64)
    colours = np.minimum(pixels[..., :3] * (65535 / alpha), 65535).round().astype(np.uint16)
    return np.dstack([colours, pixels[..., 3]])


def _upright(pixels: Pixels, orientation: Any) -> Pixels:
    """Apply an EXIF orientation, 1 to 8; other values have no meaning and are ignored."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def check_fits(file: Location, height: int, width: int, *, transparent: bool) -> None:
    """Raise DataError unless the format of ``file`` can hold an image of this size, with or without transparency."""
    kind = FORMATS[storage.suffix(file)]
    if max(height, width) > LONGEST_SIDE.get(kind, 2**31):
        raise DataError(f"{shown(file)}: {width}x{height} pixels are more than {kind} can hold; choose png or tiff")
    if transparent and kind == "JPEG":
        raise DataError(f"{shown(file)}: JPEG has no transparency; choose png, webp or tiff")


def check_writable(file: Location) -> None:
    """Raise DataError unless the suffix of ``file`` names a format that can be written."""
    suffix = storage.suffix(file)
    if suffix not in FORMATS:
        raise DataError(f"cannot write {shown(file)}: unknown image format {suffix!r}; use one of {', '.join(FORMATS)}")


def write_photo(file: Location, photo: Photo, *, quality: int = 95) -> None:
    """Write a photograph atomically, in the format of the suffix.

    Args:
        file: The file; its folder is created if it is missing.
        photo: The photograph.
        quality: Of JPEG and WebP, 1 to 100.

    Raises:
        DataError: The format cannot hold the photograph, or the file cannot be written.
    """
    check_writable(file)
    check_fits(file, *photo.pixels.shape[:2], transparent=photo.alpha is not None)
    kind = FORMATS[storage.suffix(file)]
    if isinstance(file, str):
        buffer = io.BytesIO()
        encode_photo(buffer, photo, kind, quality=quality)
        storage.write(file, buffer.getvalue())
        return
    with writing(file), atomic_write(file) as temporary, temporary.open("wb+") as stream:
        encode_photo(stream, photo, kind, quality=quality)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn an OSError while ``file`` is written into a DataError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot write {shown(file)}: {reason}; free some space or choose another place") from error


def encode_photo(file: IO[bytes], photo: Photo, kind: str, *, quality: int = 95) -> None:
    """Encode a photograph as ``"PNG"``, ``"JPEG"``, ``"WEBP"`` or ``"TIFF"`` into an open file."""
    if kind == "TIFF" and photo.gray and photo.alpha is not None and photo.pixels.dtype == np.uint16:
        photo = replace(photo, gray=False, icc=None)  # few readers know 16 bits of gray and alpha; its profile is gray
    pixels = channels_of(photo)
    if pixels.dtype == np.uint16 and kind == "PNG":
        height, width, channels = np.atleast_3d(pixels).shape
        png = PngWriter(file, height, width, pixels.dtype, channels=channels, icc=photo.icc, exif=photo.exif)
        png.write(pixels)
        png.end()
    elif pixels.dtype == np.uint16 and kind == "TIFF":
        _write_deep_tiff(file, pixels, photo)
    else:
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        options: dict[str, dict[str, Any]] = {
            "PNG": {"compress_level": 3},  # half the time of the default 6 for a few per cent of the size
            "JPEG": {"quality": quality, "subsampling": 0},
            "WEBP": {"quality": quality},
            "TIFF": {"compression": "tiff_adobe_deflate"},
        }
        # Pillow writes no EXIF parts into a compressed TIFF, and a JPEG has no space for more.
        without = kind == "TIFF" or (kind == "JPEG" and len(photo.exif or b"") > JPEG_SEGMENT)
        icc = None if kind == "WEBP" and photo.gray else photo.icc  # WebP has no gray
        metadata = {"icc_profile": icc, "exif": None if without else photo.exif}
        given = {key: value for key, value in metadata.items() if value}
        Image.fromarray(pixels).save(file, kind, **options[kind], **given)


def channels_of(photo: Photo) -> Pixels:
    """Return the pixels with as many channels as are written: gray, gray and alpha, RGB, or RGBA."""
    pixels = cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY) if photo.gray else photo.pixels
    return pixels if photo.alpha is None else np.dstack([pixels, photo.alpha])


def _write_deep_tiff(file: IO[bytes], pixels: Pixels, photo: Photo) -> None:
    import tifffile

    tifffile.imwrite(file, pixels, **tiff_options(photo))


def tiff_options(photo: Photo) -> dict[str, Any]:
    """Return the arguments of ``tifffile.imwrite`` for a photograph."""
    return {
        "photometric": "minisblack" if photo.gray else "rgb",
        "planarconfig": None if photo.gray and photo.alpha is None else "contig",
        "extrasamples": None if photo.alpha is None else ["unassalpha"],
        "compression": "adobe_deflate",
        "predictor": True,
        "iccprofile": photo.icc,
        "metadata": None,
        "software": False,
    }
