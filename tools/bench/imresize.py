"""``imresize`` of a 2040x1356 RGB image to a quarter, against the PyTorch port in cszn/KAIR.

    python tools/bench/imresize.py

KAIR's ``imresize_np`` (``utils/utils_image.py``), reimplemented from its description: weights and positions of every
output row and column in float32, the image extended by copies of its mirrored border, then a loop over the output rows
and another over the columns with a matrix-vector product per channel. Both sides take a uint8 image and return one.
KAIR's rounds once, at the end; ours after each pass, as MATLAB does (``tests/fmen_data`` holds it to MATLAB's rule).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from measure import Action, Report, in_turns, main, photograph
from numpy.typing import NDArray
from torch import Tensor

from fmen_data import imresize

Image = NDArray[np.uint8]

SIZE = (2040, 1356)  # width and height
SCALE = 0.25
LARGEST_MEAN = 0.2
"""The largest mean difference of the two sides, in gray levels."""


def cubic(x: Tensor) -> Tensor:
    """Evaluate Keys' cubic kernel with a = -0.5."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x**2 + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, inner, torch.where(x <= 2, outer, torch.zeros_like(x)))


def contributions(length: int) -> tuple[Tensor, Tensor]:
    """Return weights and input positions, which may be outside the image, of every output; both ``(out, taps)``."""
    width = 4 / SCALE
    centre = torch.arange(1, math.ceil(length * SCALE) + 1) / SCALE + 0.5 * (1 - 1 / SCALE)
    positions = (centre - width / 2).floor()[:, None] + torch.arange(math.ceil(width) + 2)
    weights = SCALE * cubic(SCALE * (centre[:, None] - positions))
    weights = weights / weights.sum(1, keepdim=True)
    used = weights.ne(0).any(0)  # the outermost taps weigh nothing anywhere
    return weights[:, used], positions[:, used].long() - 1


def kair_pass(image: Tensor, axis: int) -> Tensor:
    """Shrink one axis of ``(H, W, 3)`` float32: mirror the border, then a product per output line and channel."""
    length = image.shape[axis]
    weights, positions = contributions(length)
    before, after = int(-positions.min()), int(positions.max()) - length + 1
    first, last = image.narrow(axis, 0, before), image.narrow(axis, length - after, after)
    extended = torch.cat([first.flip(axis), image, last.flip(axis)], axis)
    shape = list(image.shape)
    shape[axis] = len(weights)
    out = torch.empty(shape)
    for line, start in enumerate((positions[:, 0] + before).tolist()):
        part, target = extended.narrow(axis, start, weights.shape[1]), out.select(axis, line)
        for channel in range(3):
            plane = part[:, :, channel]
            target[:, channel] = (plane.t() if axis == 0 else plane).mv(weights[line])
    return out


def kair_imresize(image: Image) -> Image:
    """Shrink a uint8 image in float32; round once at the end."""
    shrunk = kair_pass(kair_pass(torch.from_numpy(np.float32(image / 255.0)), 0), 1).numpy()
    return np.uint8((shrunk.clip(0, 1) * 255.0).round())


def run(runs: int, size: tuple[int, int] = SIZE, rounds: int = 5) -> Report:
    """Check that both sides compute the same up to rounding, and time them with all threads and with one."""
    report = Report("imresize")
    image = photograph(*size)
    apart = np.abs(kair_imresize(image).astype(int) - imresize(image, SCALE))
    if apart.mean() > LARGEST_MEAN:
        raise SystemExit(f"KAIR's port is off by {apart.mean():.2f} gray levels on average: not the same computation")
    report.checks["share of values in which KAIR's port differs from ours"] = round(float((apart > 0).mean()), 4)
    report.checks["gray levels by which KAIR's port differs at most"] = int(apart.max())
    sides: dict[str, Action] = {"ours": lambda: imresize(image, SCALE), "theirs": lambda: kair_imresize(image)}
    threads = torch.get_num_threads()
    for count in sorted({threads, 1}, reverse=True):
        torch.set_num_threads(count)
        times = [in_turns(sides, rounds=rounds) for _ in range(runs)]
        what = f"imresize of a {size[0]}x{size[1]} RGB image to a quarter"
        against = f"KAIR's port, {count} thread{'s' if count > 1 else ''}"
        report.compare(what, against, "s", times, ("ours", "theirs"), target=2)
    torch.set_num_threads(threads)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"size": (120, 88), "rounds": 1})
