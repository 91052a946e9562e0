"""What limits the most expensive operators of FMEN-S x4: arithmetic, memory bandwidth, or the overhead of calls.

    python tools/bench/operations.py

First the limits of the machine (see ``roofs.py``): matrix products and convolutions in fp32 and bf16, copies larger and
smaller than the last cache, the overhead of a call. Then a training step (16 patches of 48x48, as in ``fmen train``)
and a forward pass (inference form, 256x256), operator by operator. An operator is bound by the limit that it is
closest to, or by its own instructions if it is far from all limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from measure import Action, Report, main
from roofs import LARGE, Entry, account, call_seconds, conv_rate, copy_rate, matmul_rate, timed, total
from ways import ours

from fmen_core import fmen_s, reparameterize
from fmen_eval import complexity

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WIDTHS = (48, 50, 64)
CACHED = 6 * 2**20
NEAR = 0.2
"""Share of a limit from which on an operator is said to be bound by it."""

TOP = 5


def cache_bytes() -> int:
    """Return the size of the last cache, from Linux or a common value."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=32 * 2**20)


def find_roofs(report: Report, size: int, side: int, rounds: int, large: int) -> dict[str, float]:
    """Return the limits of the machine in FLOP/s, bytes/s and seconds."""
    roofs = {"call": call_seconds(), "large copy": copy_rate(large, rounds=rounds), "cached copy": copy_rate(CACHED)}
    table: dict[str, dict[str, Any]] = {}
    for precision, dtype in DTYPES.items():
        product = matmul_rate(dtype, size, rounds=rounds)
        rates = {width: conv_rate(dtype, width, side, rounds=rounds) for width in WIDTHS}
        roofs[precision] = max(product, *rates.values())
        convolutions = {f"{width} -> {width} convolution": round(rates[width] / 1e9) for width in WIDTHS}
        table[precision] = {f"{size}^3 matrix product": round(product / 1e9), **convolutions}
    report.facts["GFLOP/s"] = table
    report.facts["GB/s of a copy larger than the caches"] = round(roofs["large copy"] / 1e9, 1)
    report.facts["GB/s of a copy that fits the last cache"] = round(roofs["cached copy"] / 1e9, 1)
    report.facts["microseconds of a call"] = round(1e6 * roofs["call"], 2)
    return roofs


def judge(name: str, entry: Entry, whole: float, roofs: Mapping[str, float], precision: str) -> dict[str, Any]:
    """Return the share of each limit that an operator reaches, as figures and as a sentence."""
    cached = entry.bytes / entry.calls < cache_bytes()
    shares = {
        "arithmetic": entry.flops / entry.seconds / roofs[precision],
        "memory bandwidth": entry.bytes / entry.seconds / roofs["cached copy" if cached else "large copy"],
        "call overhead": entry.calls * roofs["call"] / entry.seconds,
    }
    closest = max(shares, key=lambda roof: shares[roof])
    bound = closest if shares[closest] >= NEAR else "its own instructions, far from every limit"
    sentence = (
        f"{name}: {entry.seconds / whole:.0%} of the time in {entry.calls} call{'s' if entry.calls > 1 else ''}; "
        f"{entry.flops / entry.seconds / 1e9:.0f} GFLOP/s ({shares['arithmetic']:.0%} of the limit), "
        f"{entry.bytes / entry.seconds / 1e9:.1f} GB/s ({shares['memory bandwidth']:.0%}"
        f"{', in the cache' if cached else ''}), call overhead {shares['call overhead']:.1%}: bound by {bound}."
    )
    figures = {"calls": entry.calls, "ms": 1000 * entry.seconds, "share": entry.seconds / whole}
    return {"operation": name, **figures, **shares, "bound by": bound, "sentence": sentence}


def explain(report: Report, what: str, step: Action, roofs: Mapping[str, float], precision: str, rounds: int) -> None:
    """Add the most expensive operators of a step, and the step as a whole."""
    whole, entries = timed(step, rounds), account(step)
    dear = sorted(entries.items(), key=lambda item: -item[1].seconds)[:TOP]
    report.facts[f"most expensive in {what}, {precision}"] = [
        judge(name, entry, whole, roofs, precision) for name, entry in dear
    ]
    calls, rate = int(total(entries, "calls")), total(entries, "flops") / whole
    report.facts[f"all of {what}, {precision}"] = (
        f"{1000 * whole:.0f} ms in {calls} operators, whose calls take {1000 * calls * roofs['call']:.1f} ms; "
        f"{rate / 1e9:.0f} GFLOP/s, {rate / roofs[precision]:.0%} of the limit"
    )


def forward_step(precision: str, side: int) -> Action:
    """Return a forward pass of the inference form on one image."""
    model = reparameterize(fmen_s(scale=4, pretrained=True)).to(DTYPES[precision], memory_format=torch.channels_last)
    x = (torch.rand(1, 3, side, side) * 255).to(DTYPES[precision], memory_format=torch.channels_last)
    return torch.no_grad()(lambda: model(x))


def check(report: Report, side: int) -> None:
    """Verify that the operators of a forward pass are counted as the challenge counts them."""
    counted = total(account(forward_step("fp32", side), repeats=1), "flops") / 2
    known = complexity(reparameterize(fmen_s(scale=4, pretrained=True)), (side, side)).macs
    if counted != known:
        raise SystemExit(f"{counted:,.0f} multiply-accumulates counted in a forward pass, {known:,.0f} known")
    report.checks["multiply-accumulates of a forward pass, counted and known, in G"] = round(counted / 1e9, 4)


def run(
    runs: int,
    *,
    size: int = 3072,
    side: int = 256,
    batch: int = 16,
    patch: int = 48,
    image: int = 256,
    large: int = LARGE,
) -> Report:
    """Measure; the limits with matrices of ``size`` and images of ``side``."""
    report = Report("operations")
    check(report, image)
    rounds = 2 * runs - 1
    roofs = find_roofs(report, size, side, rounds, large)
    for precision in DTYPES:
        explain(report, "a training step", ours(precision).on(batch, patch), roofs, precision, rounds)
    for precision in DTYPES:
        explain(report, "a forward pass", forward_step(precision, image), roofs, precision, rounds)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"size": 64, "side": 16, "batch": 2, "patch": 8, "image": 32, "large": 2**22})
