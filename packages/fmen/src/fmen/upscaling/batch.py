"""Upscale photographs with their transparency, one after another."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from fmen.upscaling.jobs import Job, Settings, write_record
from fmen.upscaling.photo import Photo, Pixels, check_fits, encode_photo, read_photo, write_photo
from fmen_core import ModelError, Upscaler
from fmen_data import DataError
from fmen_data.images import read_bytes


def enlarge(upscaler: Upscaler, photo: Photo, on_tile: Callable[[int, int], object] | None = None) -> Photo:
    """Upscale a photograph with its transparency.

    Colors of transparent pixels are often black and would show as a fringe at edges. They are first replaced by the
    colors of the nearest visible pixels. The alpha channel is upscaled with the network, too, so that its edges match
    those of the colors. It is clamped to the alpha values around each pixel, so that opaque areas stay opaque.
    """
    if photo.alpha is None:
        return replace(photo, pixels=upscaler(photo.pixels, on_tile=on_tile))
    sr = upscaler(spread_colours(photo.pixels, photo.alpha), on_tile=on_tile)
    alpha = upscaler(np.dstack([photo.alpha] * 3), on_tile=on_tile)[..., 1]
    return replace(photo, pixels=sr, alpha=within_neighbours(alpha, photo.alpha, upscaler.scale))


def spread_colours(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Replace the pixels ``(H, W, 3)`` whose ``alpha`` is 0 by the nearest ones whose alpha is not."""
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
    """Clamp ``sr`` ``(scale*H, scale*W)`` to the minimum and maximum of the 3x3 pixels of ``lr`` around each pixel."""
    square = np.ones((3, 3), np.uint8)
    least, largest = cv2.erode(lr, square), cv2.dilate(lr, square)
    clamped: Pixels = np.clip(sr, least.repeat(scale, 0).repeat(scale, 1), largest.repeat(scale, 0).repeat(scale, 1))
    return clamped


class BatchUpscaler:
    """Upscales a sequence of images.

    Args:
        upscaler_for: Returns the upscaler for images of 8 or 16 bits per channel.
        settings: The settings, which are recorded next to each result.
        progress: Show progress bars on standard error.
        say: Called with a line about each image that was upscaled.
        complain: Called with a line about each image that could not be upscaled.
    """

    def __init__(
        self,
        upscaler_for: Callable[[int], Upscaler],
        *,
        settings: Settings,
        progress: bool = False,
        say: Callable[[str], None] = print,
        complain: Callable[[str], None] = print,
    ) -> None:
        self.upscaler_for = upscaler_for
        self.settings = settings
        self.progress = progress
        self.say = say
        self.complain = complain

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run the jobs. A result appears when it is complete.

        Returns:
            A line for each image that could not be upscaled, if there are several jobs.

        Raises:
            DataError: The only image cannot be read or written.
            ModelError: The only image cannot be upscaled, or the memory runs out.
        """
        faults = []
        with tqdm(total=len(jobs), desc="upscale", unit="image", disable=not self.progress or len(jobs) == 1) as bar:
            for job in jobs:
                tell = self.say
                try:
                    line = self.upscale(job)
                except (DataError, ModelError) as error:
                    if len(jobs) == 1:
                        raise
                    tell, line = self.complain, f"error: {' '.join(str(error).split())}"
                    faults.append(line)
                with bar.external_write_mode():
                    tell(line)
                bar.update()
        return faults

    def upscale(self, job: Job) -> str:
        """Upscale one image and return a line about it."""
        try:
            return self._upscale(job)
        except MemoryError:
            raise ModelError(f"{job.name}: out of memory; upscale a part of the image, or free some memory") from None
        except ModelError as error:
            raise ModelError(f"{job.name}: {error}") from error

    def _upscale(self, job: Job) -> str:
        origin = job.origin(self.settings) if job.source is None or job.source.exists() else {}
        content = sys.stdin.buffer.read() if job.source is None else read_bytes(job.source)
        photo = read_photo(content, job.source or "standard input")
        upscaler = self.upscaler_for(8 * photo.pixels.itemsize)
        height, width = photo.pixels.shape[:2]
        if job.target is not None:  # before the work
            check_fits(job.target, height * upscaler.scale, width * upscaler.scale, transparent=photo.alpha is not None)
        with TileBar(job.name, self.progress) as bar:
            large = enlarge(upscaler, photo, bar.show)
        if job.target is None:
            buffer = io.BytesIO()
            encode_photo(buffer, large, "PNG")
            sys.stdout.buffer.write(buffer.getvalue())
            sys.stdout.buffer.flush()
        else:
            write_photo(job.target, large, quality=self.settings.quality)
            write_record(job.target, origin)
        tall, wide = large.pixels.shape[:2]
        return f"{job.name} ({width}x{height}) -> {job.target or 'standard output'} ({wide}x{tall})"


class TileBar:
    """A progress bar over the tiles of an image, if there are several."""

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
        """Show that ``done`` of ``total`` tiles are done."""
        if total == 1:
            return
        if self.bar is None:
            self.bar = tqdm(total=total, desc=self.name, unit="tile", leave=False, disable=not self.enabled)
        self.bar.update(done - self.bar.n)


def report_faults(faults: Sequence[str], jobs: Sequence[Job]) -> None:
    """Raise DataError if there are faults among several jobs."""
    if faults:
        raise DataError(f"{len(faults)} of {len(jobs)} images could not be upscaled, for the reasons above")
