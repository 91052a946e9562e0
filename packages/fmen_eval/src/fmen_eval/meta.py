"""Running a network for the sake of its shapes, not of its result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from fmen_eval.errors import EvaluationError

Result = TypeVar("Result")


def dry_run(module: nn.Module, lr_size: tuple[int, int], observe: Callable[[nn.Module, Tensor], Result]) -> Result:
    """Have a copy of a network observed while it runs on one image of the given size.

    The copy runs on the meta device, where tensors have shapes and lifetimes and nothing is computed. A network whose
    forward pass looks at values cannot run there, and runs on the CPU.

    Args:
        module: Maps RGB ``(1, 3, H, W)`` to the SR image; the copy is in eval mode.
        lr_size: ``(H, W)`` of the LR image.
        observe: Gets the copy and the image, runs one on the other without gradients, and returns what it saw. It may
            leave traces on the copy; if its first attempt fails it gets a second one, with a fresh copy.

    Raises:
        EvaluationError: The network cannot take an image of this size.
    """
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    error: Exception | None = None
    for device in ("meta", "cpu"):
        network = copy.deepcopy(module).eval().to(device)
        try:
            with torch.no_grad():
                return observe(network, torch.zeros(1, 3, *lr_size, dtype=dtype, device=device))
        except Exception as caught:  # a network is anybody's code and may raise anything
            error = caught
    height, width = lr_size
    reason = str(error).strip().split("\n", maxsplit=1)[0]
    raise EvaluationError(f"{type(module).__name__} cannot run on a {width}x{height} RGB image: {reason}") from error
