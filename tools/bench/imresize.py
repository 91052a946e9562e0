"""``imresize`` of a 2040x1356 RGB image to a quarter, against the PyTorch port in cszn/KAIR.

    python tools/bench/imresize.py

KAIR's ``imresize_np`` (``utils/utils_image.py``), reimplemented from its description: weights and positions of every
output row and column in float32, the image extended by copies of its mirrored border, then a loop over the output rows
and another over the columns with a matrix-vector product per channel. Both sides take a uint8 image and return one;
for KAIR's that includes the conversions to floats in [0, 1] and back, without which it is timed, too.

Ours is compared with MATLAB's rule evaluated directly: double precision, rows first, rounding half away from zero and
clamping to uint8 after each pass.
"""

from __future__ import annotations

import math
from statistics import median

import cv2
import numpy as np
import torch
from measure import Action, Report, in_turns, main
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
    """Return weights and input positions, which may be outside the image, of every output; both ``(out, taps)``."""
    width = 4 / SCALE
    place = torch.arange(1, math.ceil(length * SCALE) + 1, dtype=dtype)
    centre = place / SCALE + 0.5 * (1 - 1 / SCALE)
    positions = (centre - width / 2).floor()[:, None] + torch.arange(math.ceil(width) + 2, dtype=dtype)
    weights = SCALE * cubic(SCALE * (centre[:, None] - positions))
    weights = weights / weights.sum(1, keepdim=True)
    used = weights.ne(0).any(0)  # the outermost taps weigh nothing anywhere
    return weights[:, used], positions[:, used].long() - 1


def kair_rows(image: Tensor) -> Tensor:
    """One pass of KAIR's port: ``(H, W, 3)`` float32 to ``(H / 4, W, 3)``, an output row and a channel at a time."""
    return kair_pass(image, 0)


def kair_columns(image: Tensor) -> Tensor:
    """The other pass: ``(H, W, 3)`` float32 to ``(H, W / 4, 3)``, an output column and a channel at a time."""
    return kair_pass(image, 1)


def kair_pass(image: Tensor, axis: int) -> Tensor:
    """Shrink one axis: extend the image by its mirrored border, then one matrix-vector product per line and channel."""
    length = image.shape[axis]
    weights, positions = contributions(length, torch.float32)
    before, after = int(-positions.min()), int(positions.max()) - length + 1
    first, last = image.narrow(axis, 0, before), image.narrow(axis, length - after, after)
    extended = torch.cat([first.flip(axis), image, last.flip(axis)], axis)
    taps = weights.shape[1]
    shape = list(image.shape)
    shape[axis] = len(weights)
    out = torch.empty(shape)
    for line, start in enumerate((positions[:, 0] + before).tolist()):
        part, target = extended.narrow(axis, start, taps), out.select(axis, line)
        for channel in range(3):
            plane = part[:, :, channel]
            target[:, channel] = (plane.t() if axis == 0 else plane).mv(weights[line])
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
    """Verify that ours is exact, and count the values in which KAIR's port is not."""
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
    """Time both sides; KAIR's with as many threads as PyTorch takes, and with one."""
    floats = torch.from_numpy(np.float32(image / 255.0))
    sides: dict[str, Action] = {
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
        report.compare(what, against, "s", times, ("ours", "theirs"), target=2)
        bare = median(time["theirs on floats"] / time["ours"] for time in times)
        report.facts[f"ratio to {against}, without its conversions"] = round(bare, 2)
    torch.set_num_threads(threads)


def run(runs: int, size: tuple[int, int] = SIZE, rounds: int = 5) -> Report:
    """Check and measure."""
    report = Report("imresize")
    image = photograph(size)
    check(report, image)
    compare(report, image, runs, rounds)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"size": (120, 88), "rounds": 1})
