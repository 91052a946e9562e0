"""A training step of FMEN-S x4 with every re-parameterizable block: collapsed against expanded, time and memory.

    python tools/bench/reparam_blocks.py [--device cuda]

A step is forward, L1, backward and fused Adam on a batch in memory, channels-last, eager, in fp32 and under bf16
autocast. Collapsed steps merge each block into one convolution, expanded steps run its layers. Both compute the same
step, which is checked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
import torch.nn.functional as F
from measure import Report, in_turns, main
from torch import Tensor
from ways import SCALE, TOLERANCE, Way, difference, randomised, step_of

from fmen_core import FMENTraining
from fmen_core.blocks.by_name import BLOCKS
from fmen_core.blocks.reparameterizable import set_collapsed

SIDES = ("collapsed", "expanded")


def way(block: str, precision: str, side: str, device: str) -> Way:
    """Train FMEN-S made of ``block``, collapsed or expanded."""
    torch.manual_seed(0)
    model = FMENTraining(block=block).train().to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_collapsed(model, side == "collapsed")
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)

    def take(lr: Tensor, hr: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            sr = model(lr)
        F.l1_loss(sr.float(), hr).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Way(take, model, optimizer, torch.channels_last)


def check(report: Report, block: str, patch: int = 12) -> None:
    """Verify in float64 that both sides compute the same step."""
    lr, hr = (torch.rand(2, 3, side, side, dtype=torch.float64) * 255 for side in (patch, SCALE * patch))
    steps = []
    for side in SIDES:
        model = randomised(block=block)
        set_collapsed(model, side == "collapsed")
        steps.append(step_of(model, model, lr, hr))
    gradients = difference(steps[0][0], steps[1][0])
    rest = difference(steps[0][1], steps[1][1])
    if max(gradients, rest) > TOLERANCE:
        raise SystemExit(f"{block}: the sides differ by {rest:.1e} in the output and by {gradients:.1e} in a gradient")
    report.checks[f"{block}: relative difference of output and running statistics, in float64"] = rest
    report.checks[f"{block}: relative difference of a parameter's gradient, in float64"] = gradients


def run(
    runs: int,
    *,
    device: str = "cpu",
    batch: int = 16,
    patch: int = 48,
    rounds: int = 5,
    blocks: Sequence[str] = tuple(BLOCKS),
    precisions: Sequence[str] = ("fp32", "bf16"),
) -> Report:
    """Check and measure."""
    report = Report("reparam_blocks" if device == "cpu" else "reparam_blocks_gpu")
    for block in blocks:
        check(report, block)
    rows = [(block, precision) for block in blocks for precision in precisions]
    ways = {(*row, side): way(*row, side, device) for row in rows for side in SIDES}
    steps = {" ".join(name): step.on(batch, patch, device) for name, step in ways.items()}
    times = [in_turns(steps, rounds=rounds) for _ in range(runs)]
    peaks = [
        {" ".join(name): float(step.peak_bytes(batch, patch, device)) for name, step in ways.items()}
        for _ in range(runs)
    ]
    facts: dict[str, dict[str, float]] = {}
    for block, precision in rows:
        sides = (f"{block} {precision} collapsed", f"{block} {precision} expanded")
        if block != "plain":  # whose sides are the same convolution
            what = f"training step, {batch} patches of {patch}x{patch}, {block}, {precision}"
            against = "the expanded block"
            report.compare(what, against, "s", times, sides, 1.0)
            report.compare(
                f"peak memory of that step, {block}, {precision}", against, "bytes", peaks, sides, 1, "at most"
            )
        facts[f"{block}, {precision}"] = {
            f"{side}, {unit}": scale * median(run[name] for run in found)
            for side, name in zip(SIDES, sides, strict=True)
            for unit, scale, found in (("ms", 1e3, times), ("MiB", 2**-20, peaks))
        }
    report.facts["block"] = facts
    return report


if __name__ == "__main__":
    main(
        __doc__,
        run,
        {"batch": 2, "patch": 8, "rounds": 1},
        device={"default": "cpu", "choices": ("cpu", "cuda"), "help": "where the steps run"},
    )
