"""Images upscaled by 4 with PyTorch, OpenVINO and ONNX Runtime on the CPU: time of ``Upscaler``, by backend.

    python tools/bench/backends.py [--weights FILE]

From image to image, as ``fmen upscale --backend`` does it: PyTorch in strips, the others as a whole or in tiles. Three
minutes on two cores.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from statistics import median

import numpy as np
from measure import Report, in_turns, main, photograph

from fmen_core import Upscaler, fmen_s, load
from fmen_core.backends import PRECISIONS, REQUIRED_PACKAGES

SIDES = (256, 1024)
TOLERANCE = {"fp32": 1, "bf16": 8}
"""Largest accepted difference from PyTorch in fp32, in gray levels."""


def upscalers(weights: str) -> dict[str, dict[str, Upscaler]]:
    """Return the upscalers by precision and backend; print which packages are not installed."""
    model = load(weights) if weights else fmen_s(scale=4, pretrained=True)
    found: dict[str, dict[str, Upscaler]] = {precision: {} for precision in TOLERANCE}
    for precision, backends in found.items():
        for backend in ("torch", *(name for name in PRECISIONS if precision in PRECISIONS[name])):
            missing = [name for name in REQUIRED_PACKAGES.get(backend, ()) if not importlib.util.find_spec(name)]
            if missing:
                print(f"{backend} is not measured; not installed: {', '.join(missing)}")
            else:
                backends[backend] = Upscaler(model, device="cpu", precision=precision, backend=backend)
    return found


def run(runs: int, *, weights: str = "", sides: Sequence[int] = SIDES, rounds: int = 3) -> Report:
    """Check and measure, PyTorch and one other backend at a time: threads that wait actively would slow a third one."""
    report, found = Report("backends"), upscalers(weights)
    table = {f"{side}x{side}": dict[str, float]() for side in sides}
    for precision, backends in found.items():
        for side, (size, row) in zip(sides, table.items(), strict=True):
            image = photograph(side, side)
            exact = found["fp32"]["torch"](image)
            for backend, upscaler in backends.items():
                what = f"{backend}, {precision}, {size}"
                difference = np.abs(upscaler(image).astype(int) - exact)
                if difference.max() > TOLERANCE[precision]:
                    raise SystemExit(f"{what}: {difference.max()} of 255 from PyTorch in fp32")
                report.checks[f"{what}: mean squared difference from PyTorch in fp32"] = float((difference**2).mean())
                if backend == "torch":
                    continue
                actions = {name: partial(backends[name], image) for name in ("torch", backend)}
                times = [in_turns(actions, rounds=rounds) for _ in range(runs)]
                for name in actions:
                    row[f"us per pixel, {name}, {precision}"] = 1e6 * median(time[name] for time in times) / side**2
                title = f"upscaling {size} by 4 with {backend}, {precision}"
                report.compare(title, "with PyTorch", "s", times, (backend, "torch"), 1)
    report.facts["image"] = table
    return report


if __name__ == "__main__":
    settings = {"default": "", "help": "weights file of a x4 network (default: the bundled weights of FMEN-S)"}
    main(__doc__, run, {"sides": (24, 40), "rounds": 1}, weights=settings)
