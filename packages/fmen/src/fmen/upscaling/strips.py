"""Upscale a large photograph into a PNG or TIFF file strip by strip; the result is never in memory as a whole."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import IO, TypeVar

import cv2
import numpy as np

from fmen.upscaling import storage
from fmen.upscaling.enlarge import is_bright, is_gray, limit_rows
from fmen.upscaling.photo import FORMATS, Photo, Pixels, channels_of, tiff_options, writing
from fmen.upscaling.png_chunks import PngWriter
from fmen.upscaling.storage import Location
from fmen_core import ModelError, Upscaler
from fmen_data.atomic import atomic_write

T = TypeVar("T")

LARGE = 256 * 2**20
"""Least size of a result in bytes for which it is written strip by strip."""

STRIP_BYTES = 4 * 2**20
"""Size of the strips that are compressed."""

CLASSIC_BYTES = 2**32 - 2**26
"""Size of a result from which a TIFF file has 64-bit offsets (BigTIFF). Deflate adds less than a percent to noise."""


def writes_strips(upscaler: Upscaler | None, photo: Photo, factor: Fraction | None, target: Location | None) -> bool:
    """Return whether a result is written strip by strip.

    It is a large PNG or TIFF file without transparency and has the network's scale.
    """
    if upscaler is None or not isinstance(target, Path) or FORMATS[storage.suffix(target)] not in ("PNG", "TIFF"):
        return False
    if photo.alpha is not None or factor not in (None, upscaler.scale):
        return False
    return photo.pixels.nbytes * upscaler.scale**2 >= LARGE


def write_strips(
    upscaler: Upscaler,
    photo: Photo,
    file: Path,
    writers: Executor,
    on_strip: Callable[[int, int], object] | None = None,
) -> tuple[int, int]:
    """Upscale a photograph and write it atomically; a strip is compressed while the network computes the next one.

    The pixels are those of ``enlarge`` and the file has the metadata that ``write_photo`` gives it.

    Returns:
        The height and width of the result.

    Raises:
        DataError: The file cannot be written.
        ModelError: The network fails, or its output is black for an image that is not.
    """
    height, width = (side * upscaler.scale for side in photo.pixels.shape[:2])
    rows = max(1, STRIP_BYTES // (width * 3 * photo.pixels.itemsize))
    strips = (channels_of(replace(photo, pixels=strip)) for strip in finished_strips(upscaler, photo, rows, on_strip))
    write = write_png if storage.suffix(file) == ".png" else write_tiff
    with writing(file), atomic_write(file) as temporary, temporary.open("wb+") as stream:
        write(stream, strips, (height, width, rows), photo, writers)
    return height, width


def write_png(
    file: IO[bytes], strips: Iterable[Pixels], size: tuple[int, int, int], photo: Photo, writers: Executor
) -> None:
    """Write a PNG file of some strips, with the metadata of ``photo``."""
    channels = 1 if photo.gray else 3
    png = PngWriter(file, *size[:2], photo.pixels.dtype, channels=channels, icc=photo.icc, exif=photo.exif)
    for _ in ahead(writers, png.write, strips):
        pass
    png.end()


def write_tiff(
    file: IO[bytes], strips: Iterable[Pixels], size: tuple[int, int, int], photo: Photo, writers: Executor
) -> None:
    """Write a TIFF file of strips that all have ``size[2]`` rows, but the last one, with the metadata of ``photo``."""
    import tifffile

    height, width, rows = size
    shape, dtype = (height, width) if photo.gray else (height, width, 3), photo.pixels.dtype
    tifffile.imwrite(
        file,
        ahead(writers, deflated, strips),
        shape=shape,
        dtype=dtype,
        rowsperstrip=rows,
        bigtiff=math.prod(shape) * dtype.itemsize >= CLASSIC_BYTES,
        **tiff_options(photo),
    )


def deflated(strip: Pixels) -> bytes:
    """Return the differences between neighbouring pixels of each row (TIFF's predictor 2), compressed with zlib."""
    differences = strip.copy()
    differences[:, 1:] -= strip[:, :-1]
    return zlib.compress(differences, 3)


def ahead(writers: Executor, function: Callable[[Pixels], T], strips: Iterable[Pixels]) -> Iterator[T]:
    """Yield ``function(strip)`` for each strip; it runs in another thread while the next strip is made."""
    running: Future[T] | None = None
    try:
        for strip in strips:
            if running is not None:
                yield running.result()
            running = writers.submit(function, strip)
        if running is not None:
            yield running.result()
    finally:
        if running is not None:
            wait([running])


def finished_strips(
    upscaler: Upscaler, photo: Photo, rows: int, on_strip: Callable[[int, int], object] | None = None
) -> Iterator[Pixels]:
    """Yield a result in strips of ``rows`` rows, corrected as ``enlarge.finish`` does; the last one may have fewer."""
    lr, top, black = photo.pixels, 0, True
    gray = photo.gray or is_gray(lr)
    with closing(upscaler.stream(lr, on_tile=on_strip)) as pieces:
        for strip in regrouped(pieces, rows):
            black = black and not strip.any()
            limit_rows(strip, lr, top, upscaler.scale, extend=True)
            top += len(strip)
            yield cv2.cvtColor(cv2.cvtColor(strip, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) if gray else strip
    if black and is_bright(lr):
        raise ModelError("the network's output is black; check the weights")


def regrouped(pieces: Iterable[Pixels], rows: int) -> Iterator[Pixels]:
    """Yield the rows of all pieces in strips of ``rows`` rows; the last one may have fewer."""
    parts: list[Pixels] = []
    for piece in pieces:
        start = 0
        while start < len(piece):
            parts.append(piece[start : start + rows - sum(map(len, parts))])
            start += len(parts[-1])
            if sum(map(len, parts)) == rows:
                yield np.concatenate(parts)
                parts = []
    if parts:
        yield np.concatenate(parts)
