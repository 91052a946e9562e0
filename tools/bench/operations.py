"""What bounds the most expensive operations of FMEN-S x4: arithmetic, memory bandwidth, or the overhead of a call.

    python tools/bench/operations.py

First the machine's roofs: the best rate of a large matrix product and of wide convolutions, in fp32 and bf16; the
bandwidth of a copy that does not fit into the caches, and of one that fits the last one; the time of a call that
computes next to nothing. Then a training step (16 patches of 48x48, as ``fmen train`` runs it) and a forward pass
(inference form, 256x256) are run operator by operator: for each, the time, the floating-point operations and the bytes
of the tensors that it reads and writes. An operation is bound by the roof that it comes closest to, or by the
instructions of its kernel if it comes near none.

An operator is a call of PyTorch's dispatcher; those of one kind and of one convolution's shape are taken together. The
clock is read around each, as the profiler does, but the tensors are at hand, whose sizes it does not record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from measure import Report, in_turns, options
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from training import ours

from fmen_core import fmen_s, reparameterize
from fmen_eval import complexity

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WIDTHS = (48, 50, 64)
LARGE = 256 * 2**20
CACHED = 6 * 2**20
NEAR = 0.2
"""The share of a roof from which on an operation is said to be bound by it."""

TOP = 5

Step = Callable[[], object]


@dataclass
class Entry:
    """What the calls of one kind of operator came to.

    Attributes:
        calls: How many there were.
        seconds: Their time.
        flops: Multiplications and additions of convolutions and matrix products.
        bytes: Sizes of the tensors read and written.
    """

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0


class Ledger(TorchDispatchMode):
    """Keeps account of every operator that runs while it is entered."""

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
    """Bytes of a tensor; what is expanded is counted once."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes()) if isinstance(tensor, Tensor) else 0


def label(func: Any, args: Any) -> str:
    """What an operator's kind is called."""
    name = str(func._overloadpacket.__name__)
    if name in ("convolution", "convolution_backward"):
        out, inner, side = args[1 if name == "convolution" else 2].shape[:3]
        return f"{inner} -> {out} {side}x{side} convolution" + (", backward" if name != "convolution" else "")
    images = [tensor for tensor in args if isinstance(tensor, Tensor) and tensor.dim() == 4]
    return f"{name}, {images[0].shape[1]} channels" if images else name


def account(step: Step, repeats: int = 3) -> dict[str, Entry]:
    """What each kind of operator comes to in a step; the median time of several steps."""
    step()
    books = []
    for _ in range(repeats):
        with Ledger() as ledger:
            step()
        books.append(ledger.entries)
    for name, entry in books[0].items():
        entry.seconds = median(book[name].seconds for book in books)
    return books[0]


def total(entries: Mapping[str, Entry], field: str) -> float:
    """The sum over all operators."""
    return float(sum(getattr(entry, field) for entry in entries.values()))


def timed(action: Step, rounds: int = 7) -> float:
    """Median seconds."""
    return in_turns({"it": action}, rounds=rounds)["it"]


def matmul_rate(dtype: torch.dtype, size: int, device: str = "cpu", rounds: int = 7) -> float:
    """FLOP/s of a product of two square matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / timed(lambda: torch.mm(a, b, out=out), rounds)


def conv_rate(dtype: torch.dtype, channels: int, side: int, device: str = "cpu", rounds: int = 7) -> float:
    """FLOP/s of a 3x3 convolution of a square image, channels-last, with as many channels out as in."""
    layout = torch.channels_last
    x = torch.randn(1, channels, side, side, device=device).to(dtype, memory_format=layout)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype, memory_format=layout)
    bias = torch.zeros(channels, device=device, dtype=dtype)
    with torch.inference_mode():
        return 2 * 9 * channels**2 * side**2 / timed(lambda: F.conv2d(x, weight, bias, padding=1), rounds)


def copy_rate(size: int, device: str = "cpu", rounds: int = 7) -> float:
    """Bytes read and written per second by a copy of ``size`` bytes, made often enough to last."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    repeats = max(1, LARGE // size)

    def copies() -> None:
        for _ in range(repeats):
            target.copy_(source)

    return 2 * size * repeats / timed(copies, rounds)


def call_seconds(device: str = "cpu", calls: int = 5000) -> float:
    """Seconds of a call of an operator on one number."""
    number = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(calls):
            number.add_(1)

    return timed(many) / calls


def cache_bytes() -> int:
    """The size of the last cache, where Linux tells; else a common one."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=32 * 2**20)


def find_roofs(report: Report, size: int, side: int, rounds: int) -> dict[str, float]:
    """The machine's roofs, in FLOP/s, bytes/s and seconds."""
    roofs = {"call": call_seconds(), "large copy": copy_rate(LARGE, rounds=rounds), "cached copy": copy_rate(CACHED)}
    table: dict[str, dict[str, Any]] = {}
    for precision, dtype in DTYPES.items():
        product = matmul_rate(dtype, size, rounds=rounds)
        rates = {width: conv_rate(dtype, width, side, rounds=rounds) for width in WIDTHS}
        roofs[precision] = max(product, *rates.values())  # not every processor is served well by its matrix library
        convolutions = {f"{width} -> {width} convolution": round(rates[width] / 1e9) for width in WIDTHS}
        table[precision] = {f"{size}^3 matrix product": round(product / 1e9), **convolutions}
        report.facts[f"what an odd number of channels costs, {precision}"] = (
            f"50 channels of fp32 fill {50 / 16:g} of 4 vectors of 16: 50 -> 50 reaches {rates[50] / 1e9:.0f} "
            f"GFLOP/s where 48 -> 48 reaches {rates[48] / 1e9:.0f} and 64 -> 64 {rates[64] / 1e9:.0f}"
        )
    report.facts["GFLOP/s"] = table
    report.facts["GB/s of a copy, larger than the caches"] = round(roofs["large copy"] / 1e9, 1)
    report.facts["GB/s of a copy that fits the last cache"] = round(roofs["cached copy"] / 1e9, 1)
    report.facts["microseconds of a call"] = round(1e6 * roofs["call"], 2)
    return roofs


def judge(name: str, entry: Entry, whole: float, roofs: Mapping[str, float], precision: str) -> dict[str, Any]:
    """How close an operation comes to each roof, as figures and as a sentence."""
    cached = entry.bytes / entry.calls < cache_bytes()
    bandwidth = roofs["cached copy" if cached else "large copy"]
    shares = {
        "arithmetic": entry.flops / entry.seconds / roofs[precision],
        "memory bandwidth": entry.bytes / entry.seconds / bandwidth,
        "call overhead": entry.calls * roofs["call"] / entry.seconds,
    }
    closest = max(shares, key=lambda roof: shares[roof])
    bound = closest if shares[closest] >= NEAR else "the kernel's own instructions, far from every roof"
    gflops, gbytes = entry.flops / entry.seconds / 1e9, entry.bytes / entry.seconds / 1e9
    sentence = (
        f"{name}: {entry.seconds / whole:.0%} of the time in {entry.calls} call{'s' if entry.calls > 1 else ''}; "
        f"{gflops:.0f} GFLOP/s are {shares['arithmetic']:.0%} of the best rate, {gbytes:.1f} GB/s are "
        f"{shares['memory bandwidth']:.0%} of a copy's{' in the cache' if cached else ''}, the overhead of calls is "
        f"{shares['call overhead']:.1%}: bound by {bound}."
    )
    figures = {"calls": entry.calls, "ms": 1000 * entry.seconds, "share": entry.seconds / whole}
    return {"operation": name, **figures, **shares, "bound by": bound, "sentence": sentence}


def explain(
    report: Report, what: str, step: Step, roofs: Mapping[str, float], precision: str, rounds: int
) -> dict[str, Entry]:
    """The most expensive operations of a step, and the step as a whole."""
    whole = timed(step, rounds)
    entries = account(step)
    dear = sorted(entries.items(), key=lambda item: -item[1].seconds)[:TOP]
    report.facts[f"most expensive in {what}, {precision}"] = [
        judge(name, entry, whole, roofs, precision) for name, entry in dear
    ]
    calls, rate = int(total(entries, "calls")), total(entries, "flops") / whole
    report.facts[f"all of {what}, {precision}"] = (
        f"{1000 * whole:.0f} ms; {1000 * total(entries, 'seconds'):.0f} ms in {calls} operators, each timed, the "
        f"overhead of whose calls is {1000 * calls * roofs['call']:.1f} ms; {rate / 1e9:.0f} GFLOP/s, "
        f"{rate / roofs[precision]:.0%} of the best rate"
    )
    return entries


def forward_step(precision: str, side: int) -> Step:
    """A forward pass of the inference form on one image."""
    model = reparameterize(fmen_s(scale=4, pretrained=True)).to(DTYPES[precision], memory_format=torch.channels_last)
    x = (torch.rand(1, 3, side, side) * 255).to(DTYPES[precision], memory_format=torch.channels_last)

    def step() -> None:
        with torch.no_grad():
            model(x)

    return step


def check(report: Report, side: int) -> None:
    """Make sure that a forward pass's operations are counted as the challenge counts them."""
    counted = total(account(forward_step("fp32", side), repeats=1), "flops") / 2
    known = complexity(reparameterize(fmen_s(scale=4, pretrained=True)), (side, side)).macs
    if counted != known:
        raise SystemExit(f"{counted:,.0f} multiply-accumulates counted in a forward pass, {known:,.0f} known")
    report.checks["multiply-accumulates of a forward pass, counted and known, in G"] = round(counted / 1e9, 4)


def run(
    *, size: int = 3072, side: int = 256, batch: int = 16, patch: int = 48, rounds: int = 5, image: int = 256
) -> Report:
    """Measure; the roofs with matrices of ``size`` and images of ``side``."""
    report = Report("operations")
    check(report, image)
    roofs = find_roofs(report, size, side, rounds)
    for precision in DTYPES:
        explain(report, "a training step", ours(precision).on(batch, patch), roofs, precision, rounds)
    for precision in DTYPES:
        explain(report, "a forward pass", forward_step(precision, image), roofs, precision, rounds)
    return report


def main() -> None:
    """The command line."""
    chosen = options(__doc__)
    report = run(rounds=2 * chosen.runs + 1)
    report.show()
    report.write(chosen.json)


if __name__ == "__main__":
    main()
