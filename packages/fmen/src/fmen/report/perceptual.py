"""LPIPS and DISTS, which pyiqa computes; an optional dependency, with weights that it downloads at first use.

- LPIPS (Zhang et al. 2018), version 0.1 with AlexNet; DISTS (Ding et al. 2020) with VGG16. Lower is better.
- Both are computed on the whole RGB image, without a border.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from fmen.report.encoding import Image
from fmen.report.images import Distances
from fmen.report.inputs import ReportError
from fmen_core.device import pick_device
from fmen_eval import EvaluationError

METRICS = ("lpips", "dists")

SMALLEST_SIDE = 32
"""Below it, a layer of AlexNet has no output."""


def make_distances(device: str = "auto") -> Distances:
    """Return the function that computes LPIPS and DISTS of an SR and an HR image.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        ReportError: pyiqa is not installed or does not work here, or its weights cannot be downloaded.
    """
    try:
        pyiqa = importlib.import_module("pyiqa")
    except ModuleNotFoundError as error:
        if error.name != "pyiqa":
            raise ReportError(f"--perceptual: pyiqa needs {error.name}: pip install 'fmen[perceptual]'") from error
        raise ReportError("--perceptual needs pyiqa: pip install 'fmen[perceptual]'") from error
    except (ImportError, RuntimeError) as error:  # such as a torchvision for another PyTorch
        raise ReportError(f"--perceptual: pyiqa does not work with the installed packages: {error}") from error
    where = torch.device(pick_device(device))
    lpips, dists = (load_metric(pyiqa, name, where) for name in METRICS)

    def distances(sr: Image, hr: Image) -> tuple[float, float]:
        height, width = hr.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            smallest = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
            raise EvaluationError(
                f"LPIPS needs {smallest} pixels, the image has {width}x{height}; leave out --perceptual"
            )
        images = [torch.from_numpy(image).to(where).permute(2, 0, 1)[None] / 255 for image in (sr, hr)]
        with torch.no_grad():
            return float(lpips(*images)), float(dists(*images))

    return distances


def load_metric(pyiqa: Any, name: str, device: torch.device) -> Any:
    """Return a metric of pyiqa.

    Raises:
        ReportError: Its weights cannot be downloaded.
    """
    try:
        return pyiqa.create_metric(name, device=device)
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ReportError(
            f"--perceptual: pyiqa cannot download the weights of {name.upper()} ({reason}); "
            "connect to the internet once, they are stored for later"
        ) from error
