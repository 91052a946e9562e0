"""Where a network runs."""

from __future__ import annotations

import re

import torch
from torch import nn

from fmen_core.errors import ModelError


def pick_device(device: str | torch.device) -> str:
    """Return the device that ``"auto"`` stands for; ``"cpu"``, ``"cuda"`` and ``"cuda:N"`` as they are.

    Raises:
        ModelError: There is no such device.
    """
    device = str(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ModelError(f"device {device!r} is unknown; choose auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, but this PyTorch sees no CUDA GPU; choose cpu or auto")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise ModelError(f"device {device!r} does not exist; GPUs of this machine: {torch.cuda.device_count()}")
    return device


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the parameters; the CPU if there are none."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))
