"""Images upscaled by 4 with PyTorch, OpenVINO and ONNX Runtime on the CPU: time of ``Upscaler``, by backend.

    python tools/bench/backends.py [--weights FILE]

From image to image, as ``fmen upscale --backend`` does it: PyTorch in strips, the others as a whole or in tiles. Six
minutes on two cores.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import partial
from statistics import median

import numpy as np
from measure import Report, in_turns, main, photograph

from fmen_core import Upscaler, fmen_s, load
from fmen_core.backends import PRECISIONS, REQUIRED_PACKAGES
from fmen_core.pixels import Image

ROUNDS = {256: 5, 1024: 1}
"""The sides of the images, and how often each backend upscales one in a run."""

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


def check(report: Report, backends: Mapping[str, Upscaler], image: Image, exact: Image, what: str) -> None:
    """Verify that every backend's result is near PyTorch's in fp32."""
    for backend, upscaler in backends.items():
        difference = np.abs(upscaler(image).astype(int) - exact)
        if difference.max() > TOLERANCE[what.split(",")[0]]:
            raise SystemExit(f"{backend}, {what}: {difference.max()} of 255 from PyTorch in fp32")
        sentence = f"{backend}, {what}: mean squared difference from PyTorch in fp32"
        report.checks[sentence] = float((difference**2).mean())


def run(runs: int, *, weights: str = "", sides: Mapping[int, int] = ROUNDS) -> Report:
    """Check and measure images of ``sides``, each in as many rounds as ``sides`` says; all backends take turns."""
    report, found = Report("backends"), upscalers(weights)
    table = {f"{side}x{side}": dict[str, float]() for side in sides}
    for precision, backends in found.items():
        for side, rounds in sides.items():
            size, image = f"{side}x{side}", photograph(side, side)
            check(report, backends, image, found["fp32"]["torch"](image), f"{precision}, {size}")
            actions = {backend: partial(upscaler, image) for backend, upscaler in backends.items()}
            times = [in_turns(actions, rounds=rounds) for _ in range(runs)]
            for backend in backends:
                microseconds = 1e6 * median(time[backend] for time in times) / side**2
                table[size][f"us per pixel, {backend}, {precision}"] = float(f"{microseconds:.3g}")
                if backend != "torch":
                    title = f"upscaling {size} by 4 with {backend}, {precision}"
                    report.compare(title, "with PyTorch", "s", times, (backend, "torch"), 1)
    report.facts["image"] = table
    return report


if __name__ == "__main__":
    settings = {"default": "", "help": "weights file of a x4 network (default: the bundled weights of FMEN-S)"}
    main(__doc__, run, {"sides": {24: 1, 40: 1}}, weights=settings)
