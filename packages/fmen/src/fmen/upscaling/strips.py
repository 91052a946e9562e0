"""Upscale a large photograph into a PNG file strip by strip, so that the result is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2

from fmen.upscaling import storage
from fmen.upscaling.enlarge import is_bright, is_gray, limit_rows
from fmen.upscaling.photo import Photo, Pixels, channels_of, writing
from fmen.upscaling.png_chunks import PngWriter
from fmen.upscaling.storage import Location
from fmen_core import ModelError, Upscaler
from fmen_data.atomic import atomic_write

LARGE = 256 * 2**20
"""Least size of a result in bytes for which it is written strip by strip."""


def writes_strips(upscaler: Upscaler | None, photo: Photo, factor: Fraction | None, target: Location | None) -> bool:
    """Return whether a result is written strip by strip.

    It is a large PNG file without transparency and has the network's scale, and the upscaler yields it in strips.
    """
    if upscaler is None or not isinstance(target, Path) or storage.suffix(target) != ".png":
        return False
    if photo.alpha is not None or factor not in (None, upscaler.scale):
        return False
    height, width = photo.pixels.shape[:2]
    return photo.pixels.nbytes * upscaler.scale**2 >= LARGE and upscaler.rows_for(height, width) is not None


def write_strips(
    upscaler: Upscaler,
    photo: Photo,
    file: Path,
    writers: Executor,
    on_strip: Callable[[int, int], object] | None = None,
) -> tuple[int, int]:
    """Upscale a photograph and write it atomically; a strip is written while the network computes the next one.

    The pixels are those of ``enlarge`` and the file has the chunks that ``write_photo`` gives it.

    Returns:
        The height and width of the result.

    Raises:
        DataError: The file cannot be written.
        ModelError: The network fails, or its output is black for an image that is not.
    """
    height, width = (side * upscaler.scale for side in photo.pixels.shape[:2])
    with writing(file), atomic_write(file) as temporary, temporary.open("wb") as stream:
        png = PngWriter(stream, height, width, photo.pixels.dtype, gray=photo.gray, icc=photo.icc, exif=photo.exif)
        written: Future[None] | None = None
        try:
            for strip in finished_strips(upscaler, photo, on_strip):
                if written is not None:
                    written.result()
                written = writers.submit(png.write, channels_of(replace(photo, pixels=strip)))
        finally:
            if written is not None:
                written.result()
        png.end()
    return height, width


def finished_strips(
    upscaler: Upscaler, photo: Photo, on_strip: Callable[[int, int], object] | None = None
) -> Iterator[Pixels]:
    """Yield the strips of a result, corrected as ``enlarge.finish`` does."""
    lr, top, black = photo.pixels, 0, True
    gray = photo.gray or is_gray(lr)
    with closing(upscaler.stream(lr, on_tile=on_strip)) as strips:
        for strip in strips:
            black = black and not strip.any()
            limit_rows(strip, lr, top, upscaler.scale, extend=True)
            top += len(strip)
            yield cv2.cvtColor(cv2.cvtColor(strip, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) if gray else strip
    if black and is_bright(lr):
        raise ModelError("the network's output is black; check the weights")
