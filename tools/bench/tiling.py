"""A 4000x3000 LR image upscaled by 4: memory, time, and differences between tilings.

    python tools/bench/tiling.py

Every pass runs in its own process, which reads the image from a PNG file, upscales it and reports its peak resident
memory: with tiles as ``Upscaler`` chooses them, whole, and, on a part of the image, with smaller tiles. Each result is
compared with that of the whole image. The whole image takes 12 GiB in fp32; with less memory, two tilings are compared.
Time per pixel is compared with that of a 256x256 image in the same process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from measure import Report, main
from numpy.typing import NDArray
from skimage import data

from fmen_core.tiling import free_memory

Image = NDArray[np.uint8]

SIZE = (4000, 3000)  # width and height
PRECISIONS = ("fp32", "bf16")
SMALL_SIDE = 256
SMALL_TILE = 256
LIMIT = 2 * 2**30
WHOLE_IMAGE = 14 * 2**30
"""The free memory, in bytes per 12 million LR pixels, that a pass over the image as a whole asks for."""

PASS = """
import json, sys, time
from pathlib import Path
from statistics import median
import numpy as np
from fmen_core import Upscaler, fmen_s, load
from fmen_data import read_image

file, weights, precision, tile, side, repeats, out = sys.argv[1:]
model = load(weights) if weights else fmen_s(scale=4, pretrained=True)
upscaler = Upscaler(model, device="cpu", precision=precision, tile=json.loads(tile))
image = read_image(file)
tiles = []

def timed(lr):
    begun = time.perf_counter()
    sr = upscaler(lr, on_tile=lambda done, total: tiles.append(total))
    return time.perf_counter() - begun, sr

seconds, sr = timed(image)
status = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
if out:
    np.save(out, sr)
del sr
number = len(tiles) or 1
side, upscaler.tile = int(side), None
small = [timed(np.ascontiguousarray(image[:side, :side]))[0] for _ in range(int(repeats) + 2)][2:]
per_pixel = seconds / (image.shape[0] * image.shape[1])
found = {"peak": peak, "per_pixel": per_pixel, "tiles": number, "radius": upscaler.radius}
print(json.dumps(found | {"small_per_pixel": median(small) / side**2 if small else None}))
"""


@dataclass(frozen=True)
class Case:
    """What is upscaled, and how.

    Attributes:
        file: The LR image.
        precision: ``"fp32"`` or ``"bf16"``.
        weights: A weights file; empty for the weights in the box.
        small_side: Of the image that sets the pace, in pixels.
        repeats: How often that one is timed.
    """

    file: Path
    precision: str
    weights: str = ""
    small_side: int = SMALL_SIDE
    repeats: int = 15

    def run(self, tile: int | str | None, out: Path | None = None) -> dict[str, Any]:
        """Upscale in a fresh process.

        Args:
            tile: As ``Upscaler`` takes it.
            out: Where the result is kept; the pace of the small image is taken only where it is not.

        Returns:
            ``peak``: the most resident bytes; ``per_pixel`` and ``small_per_pixel``: seconds per LR pixel of this image
            and of the small one, the latter None with ``out``; ``tiles``: their number; ``radius``: of the margins.
        """
        repeats = 0 if out else self.repeats
        arguments = [self.file, self.weights, self.precision, json.dumps(tile), self.small_side, repeats, out or ""]
        command = [sys.executable, "-c", PASS, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"a pass in {self.precision}, tile={tile!r}, failed: {done.stderr.strip().splitlines()[-1]}"
            )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def landscape(width: int, height: int) -> Image:
    """A large picture of natural content: photographs side by side, resized, every second one mirrored."""
    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.hubble_deep_field()]
    rows, filled = [], 0
    while filled < height:
        high = min(750, max(height // 2, 1))
        parts: list[Image] = []
        while sum(part.shape[1] for part in parts) < width:
            place = len(parts) + len(rows)
            photo = photographs[place % len(photographs)]
            wide = max(1, round(photo.shape[1] * high / photo.shape[0]))
            part = np.asarray(cv2.resize(photo, (wide, high), interpolation=cv2.INTER_CUBIC), np.uint8)
            parts.append(part[:, ::-1] if place % 2 else part)
        rows.append(np.concatenate(parts, axis=1)[:, :width])
        filled += high
    return np.ascontiguousarray(np.concatenate(rows)[:height])


def keep(image: Image, path: Path) -> Path:
    """Write a PNG file."""
    cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return path


def differing(first: Path, second: Path) -> int:
    """In how many values two results differ; read strip by strip, for they are large."""
    one, other = np.load(first, mmap_mode="r"), np.load(second, mmap_mode="r")
    if one.shape != other.shape:
        raise SystemExit(f"results of the same image have the sizes {one.shape} and {other.shape}")
    strips = range(0, len(one), 512)
    return sum(int(np.count_nonzero(one[top : top + 512] != other[top : top + 512])) for top in strips)


@dataclass
class Bench:
    """The images and what is found with them.

    Attributes:
        folder: Where images and results lie meanwhile.
        size: ``(width, height)`` of the large image; the part that is cut into small tiles is half as wide and high.
        tile: The small tiles' side.
        runs: How often time and memory are taken.
        settings: Of every ``Case``.
        report: What was found.
    """

    folder: Path
    size: tuple[int, int] = SIZE
    tile: int = SMALL_TILE
    runs: int = 3
    settings: dict[str, Any] = field(default_factory=dict)
    report: Report = field(default_factory=lambda: Report("tiling"))

    def compare(self, image: Image, case: Case, tilings: list[int | str | None]) -> list[dict[str, Any]]:
        """Count the values in which the result with each tiling differs from that with the last one.

        Returns:
            The passes, in the order of ``tilings``.
        """
        results = [self.folder / f"{index}.npy" for index in range(len(tilings))]
        passes = [case.run(tile, result) for tile, result in zip(tilings, results, strict=True)]
        size = f"{image.shape[1]}x{image.shape[0]}"
        for tile, result, found in list(zip(tilings, results, passes, strict=True))[:-1]:
            against = "the whole image" if tilings[-1] is None else f"tile={tilings[-1]}"
            what = f"{case.precision}, {size}, tile={tile} ({found['tiles']} tiles): values that differ from {against}"
            self.report.checks[f"{what}, of {image.size * 16}"] = differing(result, results[-1])
        for result in results:
            result.unlink()
        return passes

    def precision(self, name: str) -> None:
        """Everything for one precision."""
        image = landscape(*self.size)
        part = np.ascontiguousarray(image[: len(image) // 2, : image.shape[1] // 2])
        large = Case(keep(image, self.folder / "large.png"), name, **self.settings)
        self.compare(part, Case(keep(part, self.folder / "part.png"), name, **self.settings), [self.tile, None])
        enough = free_memory(torch.device("cpu")) > WHOLE_IMAGE * image.size / (3 * 12e6)
        *_, last = self.compare(image, large, ["auto", None if enough else 500])
        passes = [large.run("auto") for _ in range(self.runs)]
        pixels = image.size // 3
        self.report.facts.setdefault("passes", {})[name] = {
            "tiles": passes[0]["tiles"],
            "margin in pixels": passes[0]["radius"],
            "seconds": round(median(found["per_pixel"] for found in passes) * pixels, 2),
            "seconds as a whole" if enough else "seconds with tile=500": round(last["per_pixel"] * pixels, 2),
            "MiB as a whole" if enough else "MiB with tile=500": round(last["peak"] / 2**20),
        }
        shape = "x".join(map(str, self.size))
        peak = [{"ours": float(found["peak"]), "limit": float(LIMIT)} for found in passes]
        what = f"peak memory of the process, {shape} by 4, {name}"
        self.report.compare(what, "2 GiB", "bytes", peak, ("ours", "limit"), 1, "at most")
        pace = [{key: 1e6 * found[key] for key in ("per_pixel", "small_per_pixel")} for found in passes]
        side = large.small_side
        what = f"time per LR pixel, {shape} by 4, {name}"
        self.report.compare(
            what, f"a {side}x{side} image", "us", pace, ("per_pixel", "small_per_pixel"), 1.15, "at most"
        )


def run(runs: int, *, weights: str = "", size: tuple[int, int] = SIZE, tile: int = SMALL_TILE, **pace: int) -> Report:
    """Check and measure in both precisions; ``pace`` has settings of ``Case``."""
    report = Report("tiling")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), size, tile, runs, {"weights": weights, **pace}, report)
        for precision in PRECISIONS:
            bench.precision(precision)
    return report


if __name__ == "__main__":
    main(
        __doc__,
        run,
        {"size": (160, 144), "tile": 24, "small_side": 32, "repeats": 1},
        weights={"default": "", "help": "weights file of a x4 network (default: the bundled weights of FMEN-S)"},
    )
