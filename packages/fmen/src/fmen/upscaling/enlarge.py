"""Enlarge one photograph: the network, transparency, flat and gray areas, and the exact output size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np

from fmen.upscaling.photo import Photo, Pixels
from fmen_core import ModelError, Upscaler
from fmen_data import imresize

ROWS = 64
"""LR rows that are processed at once, so that temporary arrays stay small."""


@dataclass(frozen=True)
class OutputSize:
    """The size of the results.

    Attributes:
        factor: The ratio of output to input; None for ``width``, or else for the largest network's scale.
        width: The output's width in pixels.
        max_side: Limit for the output's longer side in pixels.
    """

    factor: Fraction | None = None
    width: int | None = None
    max_side: int | None = None

    def factor_for(self, height: int, width: int, scale: int) -> Fraction:
        """Return the ratio of output to input for an input of this size and networks of at most this scale."""
        factor = self.factor or (Fraction(self.width, width) if self.width else Fraction(scale))
        return factor if self.max_side is None else min(factor, Fraction(self.max_side, max(height, width)))

    def __str__(self) -> str:
        given = {"factor": self.factor, "width": self.width, "max side": self.max_side}
        return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)


def enlarge(
    upscaler: Upscaler | None,
    photo: Photo,
    factor: Fraction | None = None,
    on_tile: Callable[[int, int], object] | None = None,
) -> Photo:
    """Upscale a photograph with its transparency; see ``run_network`` and ``finish``."""
    return finish(run_network(upscaler, photo, on_tile), photo, factor)


def run_network(upscaler: Upscaler | None, photo: Photo, on_tile: Callable[[int, int], object] | None = None) -> Photo:
    """Upscale colours and alpha with the network; without one, leave their size as it is.

    Colours of transparent pixels are often black and would show as a fringe at edges. They are first replaced by the
    colours of the nearest visible pixels. The alpha channel is upscaled with the network, too, so that its edges match
    those of the colours.

    Raises:
        ModelError: The network fails, or its output is black for an image that is not.
    """
    lr = visible_colours(photo)
    if upscaler is None:
        return replace(photo, pixels=lr)
    sr = not_black(upscaler(lr, on_tile=on_tile), lr)
    if photo.alpha is None:
        return replace(photo, pixels=sr)
    alpha = upscaler(np.dstack([photo.alpha] * 3), on_tile=on_tile)[..., 1]
    return replace(photo, pixels=sr, alpha=np.ascontiguousarray(alpha))


def resized(photo: Photo, factor: Fraction) -> Photo:
    """Resize a photograph bicubically, for a network that enhances images at their own size."""
    pixels = visible_colours(photo)
    alpha = None if photo.alpha is None else resize(photo.alpha, photo.alpha, factor)
    return replace(photo, pixels=resize(pixels, pixels, factor), alpha=alpha)


def not_black(sr: Pixels, lr: Pixels) -> Pixels:
    """Return ``sr``, or raise ModelError if it is black and ``lr`` is not."""
    if not sr.any() and is_bright(lr):
        raise ModelError("the network's output is black; check the weights")
    return sr


def is_bright(lr: Pixels) -> bool:
    """Return whether a black result of ``lr`` is wrong."""
    return bool(lr.max() > np.iinfo(lr.dtype).max // 8)


def finish(sr: Photo, lr: Photo, factor: Fraction | None = None) -> Photo:
    """Correct the network's output with the photograph that it was made of, and resize it.

    In every channel, a pixel is limited to the range of the 3x3 LR pixels around it, extended on either side by the
    width of this range and one gray level. Flat areas thus keep their level, which networks miss by a few levels; where
    there is detail, the limits are outside what a network outputs. Equal colour channels stay equal. Alpha is limited
    to the range itself, so that opaque areas stay opaque.

    Args:
        sr: The result of ``run_network``. Its arrays are changed in place.
        lr: The photograph.
        factor: Ratio of the final size to that of ``lr``; by default the network's scale.
    """
    colours, alpha = sr.pixels, sr.alpha
    limit(colours, visible_colours(lr), extend=True)
    if lr.gray or is_gray(lr.pixels):
        colours = cv2.cvtColor(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if alpha is not None and lr.alpha is not None:
        limit(alpha, lr.alpha, extend=False)
    if factor is not None:
        colours = resize(colours, lr.pixels, factor)
        alpha = None if alpha is None else resize(alpha, lr.pixels, factor)
    return replace(sr, pixels=colours, alpha=alpha)


def visible_colours(photo: Photo) -> Pixels:
    """Return the pixels of a photograph, with those that are transparent replaced by the nearest visible ones."""
    return photo.pixels if photo.alpha is None else spread_colours(photo.pixels, photo.alpha)


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


def is_gray(pixels: Pixels) -> bool:
    """Return whether the three channels are equal."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    return np.array_equal(red, green) and np.array_equal(green, blue)


def limit(sr: Pixels, lr: Pixels, *, extend: bool) -> None:
    """Limit ``sr`` in place to the minimum and maximum of the 3x3 pixels of ``lr`` around each pixel.

    Args:
        sr: ``(scale*H, scale*W, ...)``.
        lr: ``(H, W, ...)``.
        extend: Extend this range on either side by its width and one gray level of 255.
    """
    scale = len(sr) // len(lr)
    for rows in blocks(len(lr)):
        limit_rows(sr[rows.start * scale : rows.stop * scale], lr, rows.start * scale, scale, extend=extend)


def limit_rows(sr: Pixels, lr: Pixels, top: int, scale: int, *, extend: bool) -> None:
    """Limit some rows of a result in place; see ``limit``.

    Args:
        sr: The rows ``(n, scale*W, ...)`` from ``top`` on.
        lr: ``(H, W, ...)``.
        top: The first row.
        scale: Ratio of their sizes.
        extend: As of ``limit``.
    """
    first, last = top // scale, -(-(top + len(sr)) // scale)
    above = min(first, 1)
    part, square = lr[first - above : last + 1], np.ones((3, 3), np.uint8)
    least, largest = (change(part, square)[above : above + last - first] for change in (cv2.erode, cv2.dilate))
    white = np.iinfo(lr.dtype).max
    if extend:
        low, high = least.astype(np.int32), largest.astype(np.int32)
        slack = high - low + white // 255
        least, largest = (np.clip(bound, 0, white).astype(lr.dtype) for bound in (low - slack, high + slack))
    offset = top - first * scale
    bounds = (bound.repeat(scale, 0)[offset : offset + len(sr)].repeat(scale, 1) for bound in (least, largest))
    np.clip(sr, *bounds, out=sr)


def blocks(length: int) -> Iterator[slice]:
    """Cut ``length`` rows into blocks."""
    for start in range(0, length, ROWS):
        yield slice(start, min(length, start + ROWS))


def resize(sr: Pixels, lr: Pixels, factor: Fraction) -> Pixels:
    """Resize ``sr`` with MATLAB's bicubic kernel to ``factor`` times the size of ``lr``, rounded up."""
    height, width = (max(1, math.ceil(side * factor)) for side in lr.shape[:2])
    if sr.shape[:2] == (height, width):
        return sr
    scale = float(factor * len(lr) / len(sr))
    return imresize(sr, scale)[:height, :width]  # floating point may have rounded an exact size up
