"""``fmen upscale``: a photograph in, a larger one out, with everything that belongs to it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from fmen.upscaling.jobs import Job
from fmen.upscaling.photo import Photo, Pixels, check_fits, encode_photo, read_photo, write_photo
from fmen_core import ModelError, Upscaler
from fmen_data import DataError
from fmen_data.images import read_bytes


def enlarge(upscaler: Upscaler, photo: Photo, on_tile: Callable[[int, int], object] | None = None) -> Photo:
    """Upscale a photograph with its transparency.

    The colours behind transparent pixels are often black, and a network would draw them into the edges as a fringe. So
    they are first replaced by those of the nearest visible pixels. The alpha channel goes through the network, too,
    which draws edges as sharp as those of the colours; it is kept within the alphas around each pixel, so that what was
    opaque stays opaque.
    """
    if photo.alpha is None:
        return replace(photo, pixels=upscaler(photo.pixels, on_tile=on_tile))
    sr = upscaler(spread_colours(photo.pixels, photo.alpha), on_tile=on_tile)
    alpha = upscaler(np.dstack([photo.alpha] * 3), on_tile=on_tile)[..., 1]
    return replace(photo, pixels=sr, alpha=within_neighbours(alpha, photo.alpha, upscaler.scale))


def spread_colours(pixels: Pixels, alpha: Pixels) -> Pixels:
    """``pixels`` ``(H, W, 3)`` with those that ``alpha`` hides replaced by the nearest ones that it does not."""
    visible = alpha > 0
    if visible.all() or not visible.any():
        return pixels
    hidden = np.where(visible, 0, 1).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((int(labels.max()) + 1, 3), pixels.dtype)
    colours[labels[visible]] = pixels[visible]
    filled: Pixels = np.where(visible[..., None], pixels, colours[labels])
    return filled


def within_neighbours(sr: Pixels, lr: Pixels, scale: int) -> Pixels:
    """``sr`` ``(scale*H, scale*W)`` clamped to the least and the largest of the 3x3 pixels of ``lr`` around each."""
    square = np.ones((3, 3), np.uint8)
    least, largest = cv2.erode(lr, square), cv2.dilate(lr, square)
    clamped: Pixels = np.clip(sr, least.repeat(scale, 0).repeat(scale, 1), largest.repeat(scale, 0).repeat(scale, 1))
    return clamped


class Workshop:
    """Upscales one job after another, with bars where somebody is looking.

    Args:
        upscaler_for: Gives the upscaler for images of 8 or of 16 bits per channel.
        quality: Of JPEG and WebP.
        progress: Show bars on standard error.
        say: Takes a line about each image that was upscaled.
        complain: Takes a line about each that could not be.
    """

    def __init__(
        self,
        upscaler_for: Callable[[int], Upscaler],
        *,
        quality: int = 95,
        progress: bool = False,
        say: Callable[[str], None] = print,
        complain: Callable[[str], None] = print,
    ) -> None:
        self.upscaler_for = upscaler_for
        self.quality = quality
        self.progress = progress
        self.say = say
        self.complain = complain

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Do the jobs; a file appears when it is whole.

        Returns:
            What was wrong with the images that could not be upscaled, a line each, where there are several jobs.

        Raises:
            DataError: The only image cannot be read, upscaled or written.
        """
        faults = []
        with tqdm(total=len(jobs), desc="upscale", unit="image", disable=not self.progress or len(jobs) == 1) as bar:
            for job in jobs:
                tell = self.say
                try:
                    line = self.do(job)
                except (DataError, ModelError) as error:
                    if len(jobs) == 1:
                        raise
                    tell, line = self.complain, f"error: {' '.join(str(error).split())}"
                    faults.append(line)
                with bar.external_write_mode():
                    tell(line)
                bar.update()
        return faults

    def do(self, job: Job) -> str:
        """Upscale one image; returns a line about it."""
        content = sys.stdin.buffer.read() if job.source is None else read_bytes(job.source)
        photo = read_photo(content, job.source or "standard input")
        upscaler = self.upscaler_for(8 * photo.pixels.itemsize)
        height, width = photo.pixels.shape[:2]
        if job.target is not None:  # better now than when the work is done
            check_fits(job.target, height * upscaler.scale, width * upscaler.scale, transparent=photo.alpha is not None)
        with TileBar(job.name, self.progress) as bar:
            large = enlarge(upscaler, photo, bar.show)
        if job.target is None:
            buffer = io.BytesIO()
            encode_photo(buffer, large, "PNG")
            sys.stdout.buffer.write(buffer.getvalue())
            sys.stdout.buffer.flush()
        else:
            write_photo(job.target, large, quality=self.quality)
        tall, wide = large.pixels.shape[:2]
        return f"{job.name} ({width}x{height}) -> {job.target or 'standard output'} ({wide}x{tall})"


class TileBar:
    """A bar over the tiles of an image; there is none for an image of one."""

    def __init__(self, name: str, enabled: bool) -> None:
        self.name = name
        self.enabled = enabled
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> TileBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: int, total: int) -> None:
        """So many tiles are done."""
        if total == 1:
            return
        if self.bar is None:
            self.bar = tqdm(total=total, desc=self.name, unit="tile", leave=False, disable=not self.enabled)
        self.bar.update(done - self.bar.n)


def report_faults(faults: Sequence[str], jobs: Sequence[Job]) -> None:
    """Raise DataError if there are faults among several jobs."""
    if faults:
        raise DataError(f"{len(faults)} of {len(jobs)} images could not be upscaled, for the reasons above")
