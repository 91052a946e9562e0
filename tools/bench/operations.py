"""How close the most expensive operators of FMEN-S x4 come to the arithmetic rate of the machine.

    python tools/bench/operations.py

First the rates of the machine: matrix products and convolutions in fp32 and bf16. Then a training step (16 patches of
48x48, as in ``fmen train``) and a forward pass (inference form, 256x256), operator by operator.
"""

from __future__ import annotations

import torch
from measure import Action, Report, main, rounded
from roofs import account, conv_rate, flops, matmul_rate, timed
from ways import ours

from fmen_core import fmen_s, reparameterize
from fmen_eval import complexity

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WIDTHS = (48, 50, 64)
TOP = 5


def explain(report: Report, what: str, step: Action, best: float, rounds: int) -> None:
    """Add the most expensive operators of a step, and the step as a whole, next to the ``best`` rate in FLOP/s."""
    whole = timed(step, rounds)
    rate = flops(step) / whole
    entries = sorted(account(step).items(), key=lambda item: -item[1].seconds)[:TOP]
    report.facts[f"most expensive operators of {what}"] = {
        name: rounded(
            {
                "calls": entry.calls,
                "share of the time": entry.seconds / whole,
                "GFLOP/s": entry.flops / entry.seconds / 1e9,
                "share of the best rate": entry.flops / entry.seconds / best,
            }
        )
        for name, entry in entries
    }
    report.facts[f"all of {what}"] = f"{1e3 * whole:.0f} ms, {rate / 1e9:.0f} GFLOP/s, {rate / best:.0%} of the best"


def forward_step(dtype: torch.dtype, side: int) -> Action:
    """Return a forward pass of the inference form on one image."""
    model = reparameterize(fmen_s(scale=4, pretrained=True)).to(dtype, memory_format=torch.channels_last)
    x = (torch.rand(1, 3, side, side) * 255).to(dtype, memory_format=torch.channels_last)
    return torch.no_grad()(lambda: model(x))


def run(runs: int, *, size: int = 3072, side: int = 256, batch: int = 16, patch: int = 48) -> Report:
    """Check and measure, with matrices of ``size`` and images of ``side``."""
    report = Report("operations")
    counted = flops(forward_step(torch.float32, side)) / 2
    known = complexity(reparameterize(fmen_s(scale=4)), (side, side)).macs
    if counted != known:
        raise SystemExit(f"{counted:,.0f} multiply-accumulates counted in a forward pass, {known:,.0f} known")
    report.checks["multiply-accumulates of a forward pass, counted and known, in G"] = round(counted / 1e9, 4)
    report.facts["GFLOP/s"] = table = {}
    for precision, dtype in DTYPES.items():
        rates = {f"{size}^3 matrix product": matmul_rate(dtype, size, rounds=runs)}
        rates |= {f"{width} -> {width} convolution": conv_rate(dtype, width, side, rounds=runs) for width in WIDTHS}
        table[precision] = {name: round(rate / 1e9) for name, rate in rates.items()}
        best = max(rates.values())
        explain(report, f"a training step, {precision}", ours(precision).on(batch, patch), best, runs)
        explain(report, f"a forward pass, {precision}", forward_step(dtype, side), best, runs)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"size": 64, "side": 32, "batch": 2, "patch": 8})
