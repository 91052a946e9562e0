"""PSNR and SSIM of a 2040x1356 RGB pair, against cszn/KAIR.

    python tools/bench/metrics.py

KAIR's ``calculate_psnr`` and ``calculate_ssim`` (``utils/utils_image.py``), reimplemented from their description: PSNR
in double precision; SSIM channel by channel, each of its five local means an 11x11 ``filter2D`` in double precision
whose outermost five pixels are cut off. The images are a photograph of scikit-image enlarged to DIV2K's size, and what
remains of it after shrinking to a quarter and back. Both sides read the same pixels from memory.
"""

from __future__ import annotations

import math
import os

import cv2
import numpy as np
from measure import Action, Report, in_turns, main
from numpy.typing import NDArray
from skimage.data import astronaut

from fmen_eval import psnr, ssim

Image = NDArray[np.uint8]

SIZE = (2040, 1356)  # width and height
BORDER = 4
TOLERANCE = 1e-9
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def image_pair(size: tuple[int, int] = SIZE) -> tuple[Image, Image]:
    """``(sr, hr)``, both uint8 RGB of ``size`` ``(width, height)``."""
    hr = cv2.resize(astronaut(), size, interpolation=cv2.INTER_CUBIC)
    lr = cv2.resize(hr, (size[0] // 4, size[1] // 4), interpolation=cv2.INTER_AREA)
    sr = cv2.resize(lr, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(sr, np.uint8), np.asarray(hr, np.uint8)


def inner(image: Image) -> Image:
    """Return the pixels inside the border."""
    return image[BORDER:-BORDER, BORDER:-BORDER]


def kair_psnr(sr: Image, hr: Image) -> float:
    """PSNR from the mean squared error of two double-precision copies."""
    error = np.mean((inner(sr).astype(np.float64) - inner(hr).astype(np.float64)) ** 2)
    return 20 * math.log10(255 / math.sqrt(error))


def kair_ssim(sr: Image, hr: Image) -> float:
    """The mean of the three channels' SSIM."""
    a, b = inner(sr), inner(hr)
    return float(np.mean([channel_ssim(a[..., channel], b[..., channel]) for channel in range(3)]))


def channel_ssim(x: Image, y: Image) -> float:
    """SSIM of one channel, from five filtered images."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    line = cv2.getGaussianKernel(11, 1.5)
    window = line @ line.T

    def local_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.filter2D(image, -1, window)[5:-5, 5:-5], np.float64)

    mean_a, mean_b = local_mean(a), local_mean(b)
    square_a, square_b, product = mean_a**2, mean_b**2, mean_a * mean_b
    variance_a = local_mean(a**2) - square_a
    variance_b = local_mean(b**2) - square_b
    covariance = local_mean(a * b) - product
    numerator = (2 * product + C1) * (2 * covariance + C2)
    return float((numerator / ((square_a + square_b + C1) * (variance_a + variance_b + C2))).mean())


def check(report: Report, sr: Image, hr: Image) -> None:
    """Verify that both sides find the same values."""
    for name, ours, theirs in (("PSNR", psnr, kair_psnr), ("SSIM", ssim, kair_ssim)):
        difference = abs(ours(sr, hr, border=BORDER) - theirs(sr, hr))
        if not difference <= TOLERANCE:
            raise SystemExit(f"{name} differs from KAIR's by {difference}, more than {TOLERANCE}")
        report.checks[f"{name} differs from KAIR's by"] = difference


def compare(report: Report, sr: Image, hr: Image, runs: int, rounds: int) -> None:
    """Time both metrics together; then on one core, as ours works on strips in parallel."""
    sides: dict[str, Action] = {
        "ours": lambda: (psnr(sr, hr, border=BORDER), ssim(sr, hr, border=BORDER)),
        "theirs": lambda: (kair_psnr(sr, hr), kair_ssim(sr, hr)),
    }
    times = [in_turns(sides, rounds=rounds) for _ in range(runs)]
    what = f"PSNR and SSIM of a {hr.shape[1]}x{hr.shape[0]} RGB pair"
    against = "KAIR's code: double filter2D per channel and statistic"
    report.compare(what, against, "s", times, ("ours", "theirs"), target=4)
    if hasattr(os, "sched_setaffinity"):
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            alone = in_turns(sides, rounds=rounds)
        finally:
            os.sched_setaffinity(0, cores)
        report.facts["ratio with both sides on one core"] = round(alone["theirs"] / alone["ours"], 2)


def run(runs: int, size: tuple[int, int] = SIZE, rounds: int = 5) -> Report:
    """Check and measure."""
    report = Report("metrics")
    sr, hr = image_pair(size)
    check(report, sr, hr)
    compare(report, sr, hr, runs, rounds)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"size": (120, 88), "rounds": 1})
