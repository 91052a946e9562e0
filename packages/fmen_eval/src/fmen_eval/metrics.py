"""PSNR and SSIM of an image pair under the protocols of super-resolution papers and challenges.

========  ============================================  ===============================================
protocol  compared pixels                               used by
========  ============================================  ===============================================
ntire     RGB, uint8                                    the NTIRE efficient SR challenges
paper     BT.601 luma of the uint8 images, not rounded  the tables of SR papers (MATLAB's arithmetic)
kair-y    BT.601 luma rounded to integers               ``calculate_psnr`` on ``rgb2ycbcr`` in cszn/KAIR
========  ============================================  ===============================================

Rounding the luma costs about 0.02 dB. All three agree to 1e-9 with KAIR's ``calculate_psnr`` and ``calculate_ssim``.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from fmen_eval.errors import EvaluationError

Image: TypeAlias = NDArray[np.uint8]
"""RGB, ``(H, W, 3)``, 0 to 255."""

Protocol = Literal["ntire", "paper", "kair-y"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

_LUMA = (65.481, 128.553, 24.966)  # BT.601 for R, G, B in [0, 1], as in MATLAB's rgb2ycbcr
_WINDOW = cv2.getGaussianKernel(11, 1.5)
_MARGIN = 5  # half the window; pixels whose window leaves the image have no SSIM
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_STRIP = 64  # rows of the SSIM map computed at once; intermediate images then fit into the cache


def psnr(sr: Image, hr: Image, *, border: int = 4, protocol: Protocol = "ntire") -> float:
    """Peak signal-to-noise ratio in dB; infinite for identical images.

    Args:
        sr: The super-resolved image, uint8 RGB ``(H, W, 3)``.
        hr: The HR image, of the same size.
        border: Pixels cropped from every side before comparing; by convention the scale.
        protocol: ``"ntire"``, ``"paper"`` or ``"kair-y"``.

    Raises:
        EvaluationError: The images differ in size, are not uint8 RGB or too small, or the protocol is unknown.
    """
    a, b = _compared_pixels(sr, hr, border, protocol, smallest=1)
    # On uint8 OpenCV sums the squared differences in integers: the sum is exact.
    squared_error = cv2.norm(a, b, cv2.NORM_L2SQR)
    if squared_error == 0:
        return math.inf
    return 10 * math.log10(255.0**2 * a.size / squared_error)


def ssim(sr: Image, hr: Image, *, border: int = 4, protocol: Protocol = "ntire") -> float:
    """Structural similarity (Wang et al. 2004), mean over pixels and channels; 1 for identical images.

    The window is an 11x11 Gaussian with sigma 1.5. Only windows inside the image count. Computed in double precision.

    Args:
        sr: The super-resolved image, uint8 RGB ``(H, W, 3)``.
        hr: The HR image, of the same size.
        border: Pixels cropped from every side before comparing; by convention the scale.
        protocol: ``"ntire"``, ``"paper"`` or ``"kair-y"``.

    Raises:
        EvaluationError: The images differ in size, are not uint8 RGB or too small, or the protocol is unknown.
    """
    a, b = _compared_pixels(sr, hr, border, protocol, smallest=2 * _MARGIN + 1)
    rows = a.shape[0] - 2 * _MARGIN

    def strip(top: int) -> float:
        bottom = min(top + _STRIP, rows) + 2 * _MARGIN
        return _ssim_sum(a[top:bottom], b[top:bottom])

    # NumPy and OpenCV release the GIL. The strips are summed in order, so the result does not depend on timing.
    with ThreadPoolExecutor(min(max(1, cv2.getNumThreads()), 8)) as pool:
        total = math.fsum(pool.map(strip, range(0, rows, _STRIP)))
    columns, channels = a.shape[1] - 2 * _MARGIN, a.shape[2] if a.ndim == 3 else 1
    return total / int(rows * columns * channels)


def rgb_to_y(image: Image, rounded: bool = False) -> NDArray[Any]:
    """Convert an RGB image to BT.601 luma in [16, 235], as MATLAB's and KAIR's ``rgb2ycbcr`` do.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        rounded: Round to integers, as KAIR does on uint8 images.

    Returns:
        ``(H, W)``: float64, or uint8 if rounded.

    Raises:
        EvaluationError: The image has another shape.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise EvaluationError(f"expected an RGB image (H, W, 3), got {image.shape}")
    # The same expression as in KAIR: for exact halves the order of the additions decides the rounding.
    luma: NDArray[np.float64] = np.dot(image, _LUMA) / 255.0 + 16.0
    return luma.round().astype(np.uint8) if rounded else luma


def _ssim_sum(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Sum the SSIM map over two strips, uint8 or float64, that include the windows' margins."""
    # Four filtered images instead of five: only the sum of the variances matters, and E[aa] + E[bb] is
    # E[(a-b)^2] + 2 E[ab]. Both products of uint8 images fit into uint16, which the filter reads as fast.
    wide = cv2.CV_16U if a.dtype == np.uint8 else cv2.CV_64F
    difference = cv2.absdiff(a, b)
    mean_a = _blur(a)
    mean_b = _blur(b)
    contrast = _blur(cv2.multiply(a, b, dtype=wide), gain=2, offset=_C1 + _C2)
    spread = _blur(cv2.multiply(difference, difference, dtype=wide))

    # In place, because memory bandwidth limits the speed at this size.
    luminance = mean_a * mean_b
    luminance *= 2
    luminance += _C1  # 2 mean_a mean_b + C1
    contrast -= luminance  # 2 covariance + C2
    squared_gap = mean_a
    squared_gap -= mean_b
    squared_gap *= squared_gap
    spread -= squared_gap
    spread += contrast  # variance_a + variance_b + C2
    squared_gap += luminance  # mean_a^2 + mean_b^2 + C1
    luminance *= contrast
    spread *= squared_gap
    luminance /= spread
    return float(luminance.sum())


def _blur(image: NDArray[Any], gain: float = 1, offset: float = 0) -> NDArray[np.float64]:
    """Return ``gain`` times the Gaussian-weighted mean of each window inside the image, plus ``offset``."""
    blurred = cv2.sepFilter2D(image, cv2.CV_64F, _WINDOW, gain * _WINDOW, delta=offset)
    return np.asarray(blurred, np.float64)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def _compared_pixels(
    sr: Image, hr: Image, border: int, protocol: str, smallest: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check a pair of images and return the pixels that the protocol compares."""
    if protocol not in PROTOCOLS:
        raise EvaluationError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    for name, image in (("SR", sr), ("HR", hr)):
        if not isinstance(image, np.ndarray):
            raise EvaluationError(f"the {name} image is a {type(image).__name__}: an array of NumPy is needed")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise EvaluationError(f"the {name} image is {image.dtype} {image.shape}: uint8 RGB (H, W, 3) is needed")
    if sr.shape != hr.shape:
        raise EvaluationError(f"the SR image is {_size(sr)}, the HR image {_size(hr)}: they must be of equal size")
    if border < 0:
        raise EvaluationError(f"border is {border}: it must not be negative")
    height, width = hr.shape[0] - 2 * border, hr.shape[1] - 2 * border
    if min(height, width) < smallest:
        raise EvaluationError(
            f"the images are {_size(hr)}: without a border of {border} pixels they need at least {smallest}x{smallest}"
        )
    inner = slice(border, border + height), slice(border, border + width)
    if protocol == "ntire":
        return sr[inner], hr[inner]
    rounded = protocol == "kair-y"
    return rgb_to_y(sr, rounded=rounded)[inner], rgb_to_y(hr, rounded=rounded)[inner]


def _size(image: Image) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
