"""Run a network on the meta device, where tensors have shapes and lifetimes and nothing is computed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from fmen_eval.errors import EvaluationError

Result = TypeVar("Result")


def copy_of(network: nn.Module) -> nn.Module:
    """Return a deep copy, also of a network that holds results of its last forward pass, as fmen_core's does.

    Old-style weight normalization and networks that store their features do. ``copy.deepcopy`` refuses such tensors.
    """
    held = (value for module in network.modules() for value in vars(module).values())
    tensors = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in tensors})


def run_on_meta(module: nn.Module, lr_size: tuple[int, int], observe: Callable[[nn.Module, Tensor], Result]) -> Result:
    """Observe a copy of a network while it runs on one image on the meta device.

    A network whose forward pass depends on values cannot run there; it runs on the CPU.

    Args:
        module: Maps RGB ``(1, 3, H, W)`` to the SR image; the copy is in eval mode.
        lr_size: ``(H, W)`` of the LR image.
        observe: Called with the copy and the image, without gradients; runs the network and returns its observations.
            It may modify the copy. If it fails on the meta device, it is called again with another copy on the CPU.

    Returns:
        What ``observe`` returns.

    Raises:
        EvaluationError: The network cannot take an image of this size.
    """
    module = getattr(module, "_orig_mod", module)  # without torch.compile
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    error: Exception | None = None
    for device in ("meta", "cpu"):
        network = copy_of(module).eval().to(device)
        try:
            with torch.no_grad():
                return observe(network, torch.zeros(1, 3, *lr_size, dtype=dtype, device=device))
        except Exception as caught:  # A network may be any user's code and may raise anything.
            error = caught
    height, width = lr_size
    reason = str(error).strip().split("\n", maxsplit=1)[0]
    raise EvaluationError(f"{type(module).__name__} cannot run on a {width}x{height} RGB image: {reason}") from error
