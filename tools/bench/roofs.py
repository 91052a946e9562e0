"""Limits of the machine, and the operators of a step: time, arithmetic, memory traffic."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from measure import Action, in_turns
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

LARGE = 256 * 2**20


@dataclass
class Entry:
    """All calls of one kind of operator: number, seconds, floating-point operations, bytes read and written."""

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0


class Recorder(TorchDispatchMode):
    """Record every operator that runs in the context."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        begun = time.perf_counter()
        out = func(*args, **kwargs)
        elapsed = time.perf_counter() - begun
        entry = self.entries.setdefault(label(func, args), Entry())
        entry.calls += 1
        entry.seconds += elapsed
        if not func.is_view:
            entry.bytes += sum(footprint(tensor) for tensor in tree_leaves((args, kwargs, out)))
        count = flop_registry.get(func._overloadpacket)
        if count:
            entry.flops += count(*args, **kwargs, out_val=out)
        return out


def footprint(tensor: object) -> int:
    """Return the bytes of a tensor; expanded dimensions count once."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes()) if isinstance(tensor, Tensor) else 0


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


def total(entries: Mapping[str, Entry], field: str) -> float:
    """Return the sum over all operators."""
    return float(sum(getattr(entry, field) for entry in entries.values()))


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


def copy_rate(size: int, device: str = "cpu", rounds: int = 5) -> float:
    """Return the bytes per second that a copy of ``size`` bytes reads and writes."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    repeats = max(1, LARGE // size)
    return 2 * size * repeats / timed(lambda: [target.copy_(source) for _ in range(repeats)], rounds)
