"""A 4000x3000 LR image upscaled by 4 on the CPU: memory, time, and differences from the image as a whole.

    python tools/bench/tiling.py [--weights FILE]

Every pass runs in its own process, which reads the image from a PNG file, upscales it, and reports its peak resident
memory and the time of a 256x256 image. The result of ``tile="auto"`` is compared with that of the whole image, or, with
less memory than the 14 GiB that this takes, with that of tiles of 500 pixels.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measure import Report, main, photograph
from numpy.typing import NDArray

from fmen_core import Upscaler, fmen_s, load
from fmen_core.tiling import free_memory
from fmen_data import read_image, write_image

SIZE = (4000, 3000)  # width and height
PRECISIONS = ("fp32", "bf16")
REPEATS = 15
LIMIT = 2 * 2**30
WHOLE_IMAGE = 14 * 2**30
"""The free memory, in bytes per 12 million LR pixels, that a pass over the whole image needs."""


def one_pass(file: Path, weights: str, precision: str, tile: int | str | None, side: int, out: Path) -> dict[str, Any]:
    """Upscale an image and time a small one.

    Args:
        file: The LR image.
        weights: A weights file; empty for the bundled weights of FMEN-S x4.
        precision: ``"fp32"`` or ``"bf16"``.
        tile: As ``Upscaler`` takes it.
        side: Side of the small image in pixels.
        out: Where the result is saved.

    Returns:
        ``peak``: resident bytes of the process; ``per_pixel`` and ``small_per_pixel``: seconds per LR pixel of this
        image and of the small one; ``tiles``: their number.
    """
    model = load(weights) if weights else fmen_s(scale=4, pretrained=True)
    upscaler = Upscaler(model, device="cpu", precision=precision, tile=tile)
    image, tiles = read_image(file), [1]

    def timed(lr: NDArray[np.uint8]) -> tuple[float, NDArray[np.uint8]]:
        begun = time.perf_counter()
        sr = upscaler(lr, on_tile=lambda done, total: tiles.append(total))
        return (time.perf_counter() - begun) / (lr.shape[0] * lr.shape[1]), sr

    per_pixel, sr = timed(image)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    np.save(out, sr)
    found = {"peak": peak, "per_pixel": per_pixel, "tiles": tiles[-1]}
    upscaler.tile = None
    small = [timed(np.ascontiguousarray(image[:side, :side]))[0] for _ in range(REPEATS + 2)][2:]
    return found | {"small_per_pixel": median(small)}


def upscale(*arguments: Any) -> dict[str, Any]:
    """Run ``one_pass`` in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(one_pass, *arguments).result()


def differing(first: Path, second: Path) -> int:
    """Count the values in which two saved results differ; read strip by strip because they are large."""
    one, other = np.load(first, mmap_mode="r"), np.load(second, mmap_mode="r")
    if one.shape != other.shape:
        raise SystemExit(f"results of the same image have the sizes {one.shape} and {other.shape}")
    strips = range(0, len(one), 512)
    return sum(int(np.count_nonzero(one[top : top + 512] != other[top : top + 512])) for top in strips)


def run(runs: int, *, weights: str = "", size: tuple[int, int] = SIZE, side: int = 256) -> Report:
    """Check and measure in both precisions."""
    report = Report("tiling")
    pixels, shape = size[0] * size[1], f"{size[0]}x{size[1]}"
    whole = None if free_memory(torch.device("cpu")) > WHOLE_IMAGE * pixels / 12e6 else 500
    with tempfile.TemporaryDirectory(prefix="fmen-tiling-") as name:
        folder = Path(name)
        file, ours, theirs = folder / "lr.png", folder / "auto.npy", folder / "whole.npy"
        write_image(file, photograph(*size))
        for precision in PRECISIONS:
            reference = upscale(file, weights, precision, whole, side, theirs)
            passes = [upscale(file, weights, precision, "auto", side, ours) for _ in range(runs)]
            what = f"{precision}, {shape}, tile=auto ({passes[0]['tiles']} tiles): values that differ from tile={whole}"
            report.checks[f"{what}, of {pixels * 48}"] = differing(ours, theirs)
            report.facts.setdefault("passes", {})[precision] = {
                "tiles": passes[0]["tiles"],
                "seconds": round(median(found["per_pixel"] for found in passes) * pixels, 2),
                f"seconds with tile={whole}": round(reference["per_pixel"] * pixels, 2),
                f"MiB with tile={whole}": round(reference["peak"] / 2**20),
            }
            peaks = [{"ours": float(found["peak"]), "limit": float(LIMIT)} for found in passes]
            what = f"peak memory of the process, {shape} by 4, {precision}"
            report.compare(what, "2 GiB", "bytes", peaks, ("ours", "limit"), 1, "at most")
            pace = [{key: 1e6 * found[key] for key in ("per_pixel", "small_per_pixel")} for found in passes]
            what, against = f"time per LR pixel, {shape} by 4, {precision}", f"a {side}x{side} image"
            report.compare(what, against, "us", pace, ("per_pixel", "small_per_pixel"), 1.15, "at most")
    return report


if __name__ == "__main__":
    settings = {"default": "", "help": "weights file of a x4 network (default: the bundled weights of FMEN-S)"}
    main(__doc__, run, {"size": (160, 144), "side": 32}, weights=settings)
