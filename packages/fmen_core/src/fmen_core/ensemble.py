"""Self-ensemble: the mean of a network's outputs for the flips and rotations of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def ensemble(run: Callable[[Tensor], Tensor], x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return the mean of the outputs for the flips and rotations of ``x`` ``(1, 3, H, W)``, turned back.

    Args:
        run: The network.
        x: The image.
        memory_format: Of the network's inputs.
    """
    total: Any = 0
    for mirrored in (False, True):
        for quarters in range(4):
            turned = torch.rot90(x.flip(3) if mirrored else x, quarters, (2, 3))
            out = run(turned.contiguous(memory_format=memory_format)).float()
            out = torch.rot90(out, -quarters, (2, 3))
            total = total + (out.flip(3) if mirrored else out)
    mean: Tensor = total / 8
    return mean
