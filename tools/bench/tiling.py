"""Images of all sizes upscaled by 4 on the CPU: in strips, in tiles, and as a whole.

    python tools/bench/tiling.py [--weights FILE] [--huge 20000]

Time and memory of a 4000x3000 image in strips, against a 256x256 image; the values that differ from the image as a
whole, or, with less memory than the 14 GiB that this takes, from tiles of 500 pixels; and the three ways on images of
64x64 to 8000x8000 pixels. Every pass over a large image runs in its own process. About an hour on two cores.
``--huge`` also measures ``fmen upscale`` on a square image of this side, whose result is never in memory as a whole
(another 20 minutes and 3 GB of disk for 20,000).
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measure import Report, in_turns, main, photograph
from numpy.typing import NDArray

from fmen_core import Upscaler, fmen_s, load
from fmen_core.tiling import free_memory
from fmen_data import write_image

SIZE = (4000, 3000)  # width and height
PRECISIONS = ("fp32", "bf16")
WAYS: dict[str, Any] = {"strips": "auto", "tiles": 800, "whole": None}
SMALL, LARGE = (64, 128, 256, 512, 1024), (2048, 4096, 8000)
REPEATS = 15
LIMIT = 150_000_000
WHOLE_IMAGE = 14 * 2**30
"""The free memory, in bytes per 12 million LR pixels, that a pass over the whole image needs."""


def make(weights: str, precision: str, tile: Any) -> Upscaler:
    """Return the upscaler of a weights file; without one, of the bundled FMEN-S x4."""
    model = load(weights) if weights else fmen_s(scale=4, pretrained=True)
    return Upscaler(model, device="cpu", precision=precision, tile=tile)  # type: ignore[arg-type]


def status(field: str) -> int:
    """Return ``VmRSS`` or ``VmHWM`` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def one_pass(weights: str, precision: str, tile: Any, width: int, height: int, side: int, out: str) -> dict[str, float]:
    """Upscale an image once and time a small one.

    Args:
        weights: A weights file, or the empty string.
        precision: ``"fp32"`` or ``"bf16"``.
        tile: As ``Upscaler`` takes it.
        width: Width of the image.
        height: Height of the image.
        side: Side of the small image; 0 for none.
        out: Where the result is saved; empty for nowhere.

    Returns:
        ``memory``: peak resident bytes beyond what the process, the image and the result take; ``per_pixel`` and
        ``small_per_pixel``: microseconds per LR pixel.
    """
    upscaler, image = make(weights, precision, tile), photograph(width, height)
    upscaler(image[:8, :8])
    upscaler.rows_for(height, width)  # examines the network, once for all images
    Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM again
    before, begun = status("VmRSS"), time.perf_counter()
    sr = upscaler(image)
    found = {"per_pixel": 1e6 * (time.perf_counter() - begun) / (width * height)}
    found["memory"] = float(max(0, status("VmHWM") - before - sr.nbytes))
    if out:
        np.save(out, sr)
    if side:
        upscaler.tile, small = None, np.ascontiguousarray(image[:side, :side])
        found["small_per_pixel"] = 1e6 * in_turns({"": lambda: upscaler(small)}, rounds=REPEATS)[""] / side**2
    return found


def upscale(*arguments: Any) -> dict[str, float]:
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


def small_times(weights: str, precision: str, sides: Sequence[int]) -> dict[str, list[tuple[float, float]]]:
    """Return microseconds per LR pixel by side, of all ways in turns in this process."""
    upscalers = {way: make(weights, precision, tile) for way, tile in WAYS.items()}
    lines: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for side in sides:
        image: NDArray[np.uint8] = photograph(side, side)
        actions = {way: partial(run, image) for way, run in upscalers.items()}
        for way, seconds in in_turns(actions, rounds=5).items():
            lines[way].append((side, 1e6 * seconds / side**2))
    return lines


def plots(report: Report, weights: str, precision: str, small: Sequence[int], large: Sequence[int]) -> None:
    """Add time per pixel and memory by side; whole images as far as the memory reaches."""
    times = small_times(weights, precision, small)
    memory: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for side in (*small[2:], *large):
        for way, tile in WAYS.items():
            if way == "whole" and WHOLE_IMAGE * side**2 / 12e6 > free_memory(torch.device("cpu")):
                continue
            found = upscale(weights, precision, tile, side, side, 0, "")
            memory[way].append((side, found["memory"] / 2**20))
            if side in large:
                times[way].append((side, found["per_pixel"]))
    report.curve(f"Time per LR pixel, {precision}", "side of the image in pixels", "us", times)
    report.curve(f"Memory beyond image and result, {precision}", "side of the image in pixels", "MiB", memory)


def huge_image(side: int, weights: str) -> dict[str, float]:
    """Upscale a square image with the command; return seconds, peak memory and the size of the result's file."""
    with tempfile.TemporaryDirectory(prefix="fmen-huge-") as name:
        lr, sr = Path(name) / "lr.png", Path(name) / "sr.png"
        write_image(lr, photograph(side, side))
        command = [sys.executable, "-m", "fmen", "upscale", str(lr), "-o", str(sr), "--device", "cpu"]
        begun, peak = time.perf_counter(), 0
        process = subprocess.Popen(command + (["--weights", weights] if weights else []))
        while process.poll() is None:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit("fmen upscale failed")
        seconds = round(time.perf_counter() - begun, 1)
        return {"seconds": seconds, "GiB of memory": peak / 2**20, "GB of the file": sr.stat().st_size / 1e9}


def run(
    runs: int,
    *,
    weights: str = "",
    huge: int = 0,
    largest: int = LARGE[-1],
    size: tuple[int, int] = SIZE,
    side: int = 256,
    sides: tuple[Sequence[int], Sequence[int]] = (SMALL, LARGE),
) -> Report:
    """Check and measure in both precisions."""
    report = Report("tiling")
    pixels, shape = size[0] * size[1], f"{size[0]}x{size[1]}"
    whole = None if free_memory(torch.device("cpu")) > WHOLE_IMAGE * pixels / 12e6 else 500
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory(prefix="fmen-tiling-") as name:
            ours, theirs = Path(name) / "strips.npy", Path(name) / "whole.npy"
            reference = upscale(weights, precision, whole, *size, 0, str(theirs))
            tiled = upscale(weights, precision, WAYS["tiles"], *size, 0, "")
            passes = [upscale(weights, precision, "auto", *size, side, str(ours)) for _ in range(runs)]
            what = f"{precision}, {shape}, strips: values that differ from tile={whole}"
            report.checks[f"{what}, of {pixels * 48}"] = differing(ours, theirs)
        report.facts.setdefault("passes", {})[precision] = {
            f"{figure} {way}": round(found["per_pixel" if figure == "us" else "memory"] / divisor, 2)
            for way, found in (("strips", passes[0]), ("tiles", tiled), (f"tile={whole}", reference))
            for figure, divisor in (("us", 1), ("MiB", 2**20))
        }
        memory = [{"ours": found["memory"], "limit": float(LIMIT)} for found in passes]
        what = f"peak memory beyond image and result, {shape} by 4, {precision}"
        report.compare(what, "150 MB", "bytes", memory, ("ours", "limit"), 1, "at most")
        what, against = f"time per LR pixel, {shape} by 4, {precision}", f"a {side}x{side} image"
        report.compare(what, against, "us", passes, ("per_pixel", "small_per_pixel"), 1.08, "at most")
        plots(report, weights, precision, sides[0], [large for large in sides[1] if large <= largest])
    report.facts["median us of the small image"] = median(found["small_per_pixel"] for found in passes)
    if huge:
        report.facts[f"{huge}x{huge} by 4, fmen upscale"] = huge_image(huge, weights)
    return report


if __name__ == "__main__":
    settings = {"default": "", "help": "weights file of a x4 network (default: the bundled weights of FMEN-S)"}
    side = {"type": int, "default": 0, "metavar": "SIDE", "help": "also measure fmen upscale on an image of this side"}
    limit = {"type": int, "default": LARGE[-1], "metavar": "SIDE", "help": "largest image of the plots"}
    quick = {"size": (160, 144), "side": 32, "sides": ((64, 80, 96), (128,))}
    main(__doc__, run, quick, weights=settings, huge=side, largest=limit)
