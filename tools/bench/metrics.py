"""PSNR and SSIM of a 2040x1356 RGB pair, against cszn/KAIR.

    python tools/bench/metrics.py

KAIR's ``calculate_psnr`` and ``calculate_ssim`` (``utils/utils_image.py``), reimplemented from their description: PSNR
in double precision; SSIM channel by channel, each of its five local means an 11x11 ``filter2D`` in double precision
without its outermost five pixels. The images are a photograph of scikit-image enlarged to DIV2K's size, and the same
after shrinking to a quarter and back. Both sides read the same pixels from memory.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from measure import Action, Report, in_turns, main, photograph
from numpy.typing import NDArray

from fmen_eval import psnr, ssim

Image = NDArray[np.uint8]

SIZE = (2040, 1356)  # width and height
BORDER = 4
TOLERANCE = 1e-9
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def image_pair(size: tuple[int, int]) -> tuple[Image, Image]:
    """Return ``(sr, hr)``, both uint8 RGB of ``size`` ``(width, height)``."""
    hr = photograph(*size)
    lr = cv2.resize(hr, (size[0] // 4, size[1] // 4), interpolation=cv2.INTER_AREA)
    sr = cv2.resize(lr, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(sr, np.uint8), hr


def inner(image: Image) -> NDArray[np.float64]:
    """Return the pixels inside the border, in double precision."""
    return image[BORDER:-BORDER, BORDER:-BORDER].astype(np.float64)


def kair_psnr(sr: Image, hr: Image) -> float:
    """Compute PSNR from the mean squared error."""
    return 20 * math.log10(255 / math.sqrt(np.mean((inner(sr) - inner(hr)) ** 2)))


def local_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter with the 11x11 Gaussian window, in the valid region."""
    line = cv2.getGaussianKernel(11, 1.5)
    return np.asarray(cv2.filter2D(image, -1, line @ line.T)[5:-5, 5:-5], np.float64)


def channel_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Compute the SSIM of one channel from five filtered images."""
    mean_a, mean_b = local_mean(a), local_mean(b)
    square_a, square_b, product = mean_a**2, mean_b**2, mean_a * mean_b
    variance_a, variance_b = local_mean(a**2) - square_a, local_mean(b**2) - square_b
    numerator = (2 * product + C1) * (2 * (local_mean(a * b) - product) + C2)
    return float((numerator / ((square_a + square_b + C1) * (variance_a + variance_b + C2))).mean())


def kair_ssim(sr: Image, hr: Image) -> float:
    """Compute the mean of the three channels' SSIM."""
    a, b = inner(sr), inner(hr)
    return float(np.mean([channel_ssim(a[..., channel], b[..., channel]) for channel in range(3)]))


def run(runs: int, size: tuple[int, int] = SIZE, rounds: int = 5) -> Report:
    """Check that both sides find the same values, and time both metrics together."""
    report = Report("metrics")
    sr, hr = image_pair(size)
    for name, ours, theirs in (("PSNR", psnr, kair_psnr), ("SSIM", ssim, kair_ssim)):
        difference = abs(ours(sr, hr, border=BORDER) - theirs(sr, hr))
        if not difference <= TOLERANCE:
            raise SystemExit(f"{name} differs from KAIR's by {difference}, more than {TOLERANCE}")
        report.checks[f"{name} differs from KAIR's by"] = difference
    sides: dict[str, Action] = {
        "ours": lambda: (psnr(sr, hr, border=BORDER), ssim(sr, hr, border=BORDER)),
        "theirs": lambda: (kair_psnr(sr, hr), kair_ssim(sr, hr)),
    }
    times = [in_turns(sides, rounds=rounds) for _ in range(runs)]
    what = f"PSNR and SSIM of a {size[0]}x{size[1]} RGB pair"
    against = "KAIR's code: double filter2D per channel and statistic"
    report.compare(what, against, "s", times, ("ours", "theirs"), target=4)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"size": (120, 88), "rounds": 1})
