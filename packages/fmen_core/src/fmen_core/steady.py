"""Sigmoids whose last bits do not depend on where in memory a pixel lies.

Among PyTorch's functions on the CPU the sigmoid is special: it computes whole vectors of floats in one way, and the
floats that are left over at the end of each thread's share in another, which differs in the last bit. An image and a
tile of it have other shares, and the bit turns a gray level in one pixel out of a million.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

VECTORS = 64
"""A multiple of the floats that PyTorch computes at once, on any processor."""

SHARE = 32768
"""So many floats PyTorch leaves to a single thread."""


def steady(function_: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply an in-place function of single floats to ``x``, dense and float32, in whole vectors alone."""
    flat = x.as_strided((x.numel(),), (1,))
    threads = torch.get_num_threads()
    step = VECTORS * threads
    even = flat[: flat.numel() // step * step]
    for part in torch.split(even, SHARE) if even.numel() < SHARE * threads else [even]:
        function_(part)
    rest = flat[even.numel() :]
    padded = F.pad(rest, (0, step - rest.numel()))
    rest.copy_(function_(padded)[: rest.numel()])
    return x


def is_dense(x: Tensor) -> bool:
    """Whether ``x`` fills its part of memory without gaps."""
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def silu_(x: Tensor) -> Tensor:
    """SiLU in place."""
    return F.silu(x, inplace=True)


class SteadySigmoids(TorchFunctionMode):
    """While this is active, sigmoid and SiLU of float32 on the CPU are computed by :func:`steady`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by PyTorch in place of each of its functions."""
        kwargs = kwargs or {}
        sigmoid = func in (torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_)
        if not (sigmoid or func is F.silu) or args[0].device.type != "cpu" or args[0].dtype != torch.float32:
            return func(*args, **kwargs)
        x = args[0]
        in_place = func in (torch.sigmoid_, Tensor.sigmoid_) or kwargs.get("inplace", False)
        if not is_dense(x):
            return func(*args, **kwargs)
        return steady(torch.sigmoid_ if sigmoid else silu_, x if in_place else x.clone())
