"""Estimate how much noise and how strong a JPEG compression a photograph has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fmen.upscaling.photo import Photo, Pixels

REAL_BELOW_QUALITY = 90
"""JPEGs of a lower quality have the highest PSNR with the weights for degraded images (docs/upscaling.md)."""

HALF_BELOW_QUALITY = 98
"""Other JPEGs of a lower quality have the highest PSNR with the mean of these weights and those for clean images."""

COLOUR_NOISE, GRAY_NOISE = 2.5, 8.0
"""Noise from which a photograph counts as degraded, in gray levels; gray noise is easily confused with texture."""

TILE = 4
"""Side of the areas in which noise is measured, in blocks of 2x2 pixels."""

SMOOTHEST = 0.05
"""Share of the areas that are taken as having no texture."""

BIAS = 0.72
"""Ratio of what the smoothest areas show to the standard deviation of white noise."""

SATURATED = 6
"""Areas whose mean is within this many gray levels of black or white are left out: there, noise is cut off."""

MEASURED_PIXELS = 2**21
"""About as many pixels are measured in a large photograph, in rows of areas that are spread evenly."""

LUMA_TABLE_SUM = 3688
"""Sum of the luma quantization table of quality 50 (ITU-T T.81, table K.1)."""


class Degradation(NamedTuple):
    """Why a photograph counts as degraded, in words, and the share of the weights for such images that it needs."""

    reason: str
    share: float


def degradation_of(photo: Photo) -> Degradation | None:
    """Return how a photograph is degraded, or None if it is not."""
    quality = 100 if photo.luma_table is None else jpeg_quality(photo.luma_table)
    compressed = f"JPEG of quality {quality}"
    if quality < REAL_BELOW_QUALITY:
        return Degradation(compressed, 1.0)
    colour, gray = noise_sigma(photo.pixels)
    if colour >= COLOUR_NOISE or gray >= GRAY_NOISE:
        strength = max(colour, gray if gray >= GRAY_NOISE else 0)
        return Degradation(f"noise of about {strength:.0f} gray levels", 1.0)
    return Degradation(compressed, 0.5) if quality < HALF_BELOW_QUALITY else None


def jpeg_quality(luma_table: Sequence[int]) -> int:
    """Return the libjpeg quality, 1 to 100, that quantizes as strongly as a luma table of 64 values."""
    percent = 100 * sum(luma_table) / LUMA_TABLE_SUM
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return max(1, min(100, round(quality)))


def noise_sigma(pixels: Pixels) -> tuple[float, float]:
    """Estimate the standard deviation of white noise, in gray levels of 255.

    The diagonal Haar coefficients of 2x2 pixels have the deviation of the noise where there is no texture: in the
    smoothest areas of 8x8 pixels. Texture is similar in the three channels, so that their differences show noise of
    smaller deviation, if it is independent in the channels.

    Args:
        pixels: uint8 or uint16 ``(H, W, 3)``.

    Returns:
        The noise that is independent in the channels, and the noise of the green channel. 0 for an image that is
        smaller than 8x8 pixels, or black or white nearly everywhere.
    """
    side = 2 * TILE
    height, width = (length // side for length in pixels.shape[:2])
    if not height or not width:
        return 0.0, 0.0
    rows = pixels[: height * side, : width * side].reshape(height, side, width * side, 3)
    rows = rows[:: max(1, rows.size // 3 // MEASURED_PIXELS)]
    levels = rows.reshape(-1, width * side, 3).astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)
    even, odd = levels[::2], levels[1::2]
    diagonal = (even[:, ::2] - even[:, 1::2] - odd[:, ::2] + odd[:, 1::2]) / 2
    used = np.abs(_means(levels, side) - 127.5).max(-1) < 127.5 - SATURATED
    if not used.any():
        return 0.0, 0.0
    red, green, blue = diagonal[..., 0], diagonal[..., 1], diagonal[..., 2]
    squares = np.stack([(red - green) ** 2 / 2, (blue - green) ** 2 / 2, green**2], -1)
    found = np.sqrt(np.quantile(_means(squares, TILE)[used], SMOOTHEST, axis=0)) / BIAS
    return float(found[:2].min()), float(found[2])


def _means(values: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """Return the means of the squares of ``side`` by ``side`` elements of an array ``(H, W, C)``."""
    height, width, channels = values.shape
    means: npt.NDArray[np.float32] = values.reshape(height // side, side, width // side, side, channels).mean((1, 3))
    return means
