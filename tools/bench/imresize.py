"""``imresize`` of a 2040x1356 RGB image to a quarter, against the PyTorch port in cszn/KAIR.

    python tools/bench/imresize.py

KAIR's ``imresize_np`` (``utils/utils_image.py``), written anew from its description: weights and positions of every
output row and column in float32, the image extended by copies of its mirrored border, then a loop over the output rows
and another over the columns with a matrix-vector product per channel. Both sides take a uint8 image and return one;
for KAIR's that includes the conversions to floats in [0, 1] and back, without which it is timed, too.

That ours is exact is checked against MATLAB's rule evaluated directly: double precision, rows first, and after either
pass rounding half away from zero and clamping to uint8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from measure import Comparison, Report, in_turns, options
from numpy.typing import NDArray
from skimage.data import astronaut
from torch import Tensor

from fmen_data import imresize

Image = NDArray[np.uint8]

SIZE = (2040, 1356)  # width and height
SCALE = 0.25


def photograph(size: tuple[int, int] = SIZE) -> Image:
    """A photograph of ``size`` ``(width, height)``, uint8 RGB."""
    return np.asarray(cv2.resize(astronaut(), size, interpolation=cv2.INTER_CUBIC), np.uint8)


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x**2 + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, inner, torch.where(x <= 2, outer, torch.zeros_like(x)))


def contributions(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights and input positions, which may lie outside the image, of every output position; both ``(out, taps)``."""
    width = 4 / SCALE
    place = torch.arange(1, math.ceil(length * SCALE) + 1, dtype=dtype)
    centre = place / SCALE + 0.5 * (1 - 1 / SCALE)
    positions = (centre - width / 2).floor()[:, None] + torch.arange(math.ceil(width) + 2, dtype=dtype)
    weights = SCALE * cubic(SCALE * (centre[:, None] - positions))
    weights = weights / weights.sum(1, keepdim=True)
    used = weights.ne(0).any(0)  # the outermost taps weigh nothing anywhere
    return weights[:, used], positions[:, used].long() - 1


def kair_rows(image: Tensor) -> Tensor:
    """One pass of KAIR's way: ``(H, W, 3)`` float32 to ``(H / 4, W, 3)``, an output row and a channel at a time."""
    height = len(image)
    weights, positions = contributions(height, torch.float32)
    before, after = int(-positions.min()), int(positions.max()) - height + 1
    extended = torch.empty(before + height + after, *image.shape[1:])
    extended[before : before + height] = image
    extended[:before] = image[:before].flip(0)
    extended[before + height :] = image[height - after :].flip(0)
    out = torch.empty(len(weights), *image.shape[1:])
    taps = weights.shape[1]
    for row, start in enumerate((positions[:, 0] + before).tolist()):
        for channel in range(3):
            out[row, :, channel] = extended[start : start + taps, :, channel].t().mv(weights[row])
    return out


def kair_columns(image: Tensor) -> Tensor:
    """The other pass: ``(H, W, 3)`` float32 to ``(H, W / 4, 3)``, an output column and a channel at a time."""
    width = image.shape[1]
    weights, positions = contributions(width, torch.float32)
    before, after = int(-positions.min()), int(positions.max()) - width + 1
    extended = torch.empty(len(image), before + width + after, 3)
    extended[:, before : before + width] = image
    extended[:, :before] = image[:, :before].flip(1)
    extended[:, before + width :] = image[:, width - after :].flip(1)
    out = torch.empty(len(image), len(weights), 3)
    taps = weights.shape[1]
    for column, start in enumerate((positions[:, 0] + before).tolist()):
        for channel in range(3):
            out[:, column, channel] = extended[:, start : start + taps, channel].mv(weights[column])
    return out


def kair_imresize(image: Image) -> Image:
    """A uint8 image shrunk in float32, rounded once at the end."""
    shrunk = kair_columns(kair_rows(torch.from_numpy(np.float32(image / 255.0)))).numpy()
    return np.uint8((shrunk.clip(0, 1) * 255.0).round())


def matlab_rows(image: Image) -> Image:
    """One pass of MATLAB's rule, tap after tap: ``(H, W, 3)`` uint8 to ``(H / 4, W, 3)``."""
    length = len(image)
    weights, positions = (array.numpy() for array in contributions(length, torch.float64))
    mirrored = positions % (2 * length)
    mirrored = np.minimum(mirrored, 2 * length - 1 - mirrored)
    total = np.zeros((len(weights), *image.shape[1:]))
    for tap in range(weights.shape[1]):
        total += weights[:, tap, None, None] * image[mirrored[:, tap]]
    away_from_zero = np.trunc(total + np.copysign(0.5, total))
    return away_from_zero.clip(0, 255).astype(np.uint8)


def matlab_imresize(image: Image) -> Image:
    """MATLAB's rule, evaluated directly."""
    return matlab_rows(matlab_rows(image).swapaxes(0, 1)).swapaxes(0, 1)


def check(report: Report, image: Image) -> None:
    """Make sure that ours is exact, and count where KAIR's way is not."""
    exact, ours, theirs = matlab_imresize(image), imresize(image, SCALE), kair_imresize(image)
    differing = int((ours != exact).sum())
    if differing:
        raise SystemExit(f"imresize differs from MATLAB's rule in {differing} of {exact.size} values")
    apart = np.abs(theirs.astype(int) - exact)
    if apart.mean() > 0.2:
        raise SystemExit(f"KAIR's way is off by {apart.mean():.2f} gray levels on average: not the same computation")
    report.checks["values in which ours differs from MATLAB's rule"] = differing
    report.checks["share of values in which KAIR's way differs from it"] = round(float((apart > 0).mean()), 4)
    report.checks["share of pixels with such a value"] = round(float((apart > 0).any(2).mean()), 4)
    report.checks["gray levels by which KAIR's way differs at most"] = int(apart.max())


def compare(report: Report, image: Image, runs: int, rounds: int) -> None:
    """Time both; KAIR's with as many threads as PyTorch takes, and with the one that may suit small products better."""
    floats = torch.from_numpy(np.float32(image / 255.0))
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: imresize(image, SCALE),
        "theirs": lambda: kair_imresize(image),
        "theirs on floats": lambda: kair_columns(kair_rows(floats)),
    }
    threads = torch.get_num_threads()
    what = f"imresize of a {image.shape[1]}x{image.shape[0]} RGB image to a quarter"
    for count in sorted({threads, 1}, reverse=True):
        torch.set_num_threads(count)
        times = [in_turns(sides, rounds=rounds) for _ in range(runs)]
        against = f"KAIR's port, {count} thread{'s' if count > 1 else ''}"
        ours = [time["ours"] for time in times]
        report.comparisons.append(Comparison(what, against, "s", ours, [time["theirs"] for time in times], target=2))
        bare = sorted(time["theirs on floats"] / time["ours"] for time in times)[runs // 2]
        report.facts[f"ratio to {against}, without its conversions"] = round(bare, 2)
    torch.set_num_threads(threads)


def run(runs: int, size: tuple[int, int] = SIZE, rounds: int = 7) -> Report:
    """Check and measure."""
    report = Report("imresize")
    image = photograph(size)
    check(report, image)
    compare(report, image, runs, rounds)
    return report


def main() -> None:
    """The command line."""
    chosen = options(__doc__)
    report = run(chosen.runs)
    report.show()
    report.write(chosen.json)


if __name__ == "__main__":
    main()
