"""Arithmetic rates of the machine, and the operators of a step: their time and arithmetic."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from measure import Action, in_turns
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry


@dataclass
class Entry:
    """All calls of one kind of operator: number, seconds, floating-point operations."""

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0


class Recorder(TorchDispatchMode):
    """Record every operator that runs in the context."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begun = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        elapsed = time.perf_counter() - begun
        entry = self.entries.setdefault(label(func, args), Entry())
        entry.calls += 1
        entry.seconds += elapsed
        count = flop_registry.get(func._overloadpacket)
        entry.flops += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def label(func: Any, args: Any) -> str:
    """Name the kind of an operator: a convolution by its shape, another operator by its channels."""
    name = str(func._overloadpacket.__name__)
    if name in ("convolution", "convolution_backward"):
        out, inner, side = args[1 if name == "convolution" else 2].shape[:3]
        return f"{inner} -> {out} {side}x{side} convolution" + (", backward" if name != "convolution" else "")
    images = [tensor for tensor in args if isinstance(tensor, Tensor) and tensor.dim() == 4]
    return f"{name}, {images[0].shape[1]} channels" if images else name


def account(step: Action, repeats: int = 3) -> dict[str, Entry]:
    """Return the operators of a step, with the median time of several steps."""
    step()
    records = []
    for _ in range(repeats):
        with Recorder() as recorder:
            step()
        records.append(recorder.entries)
    for name, entry in records[0].items():
        entry.seconds = median(record[name].seconds for record in records)
    return records[0]


def flops(step: Action) -> int:
    """Return the floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def timed(action: Action, rounds: int = 5) -> float:
    """Return the median seconds of an action."""
    return in_turns({"it": action}, rounds=rounds)["it"]


def matmul_rate(dtype: torch.dtype, size: int, device: str = "cpu", rounds: int = 5) -> float:
    """Return the FLOP/s of a product of two square matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / timed(lambda: torch.mm(a, b, out=out), rounds)


def conv_rate(dtype: torch.dtype, channels: int, side: int, rounds: int = 5) -> float:
    """Return the FLOP/s of a channels-last 3x3 convolution of a square image."""
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1).to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, channels, side, side).to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        return 2 * 9 * channels**2 * side**2 / timed(lambda: conv(x), rounds)
