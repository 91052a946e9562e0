"""FMEN-S x4 with 48, 50 and 64 channels: time of a forward pass, and parameters.

    python tools/bench/width.py

50 channels, as published, fill three vectors of 16 floats and an eighth of a fourth. The networks are untrained and run
as ``Upscaler`` runs them.
"""

from __future__ import annotations

from functools import partial
from statistics import median

import torch
from measure import Action, Report, in_turns, main

from fmen_core import FMEN, Upscaler

WIDTHS = (48, 50, 64)


@torch.inference_mode()
def run(runs: int, *, side: int = 256, rounds: int = 5) -> Report:
    """Measure, with images of ``side``; all networks take turns."""
    report = Report("width")
    networks = {str(width): FMEN(n_feats=width).eval() for width in WIDTHS}
    table = {
        f"{name} channels": {"parameters": sum(weight.numel() for weight in network.parameters())}
        for name, network in networks.items()
    }
    report.facts["FMEN-S x4 with"] = table
    for precision in ("fp32", "bf16"):
        actions: dict[str, Action] = {}
        for name, network in networks.items():
            upscaler = Upscaler(network, device="cpu", precision=precision, tile=None)
            x = 255 * torch.rand(1, 3, side, side).contiguous(memory_format=upscaler.memory_format)
            actions[name] = partial(upscaler.model, x)
        times = [in_turns(actions, rounds=rounds) for _ in range(runs)]
        for name in networks:
            table[f"{name} channels"][f"ms, {precision}"] = round(1e3 * median(time[name] for time in times), 2)
        what = f"forward of FMEN-S with 48 channels, {side}x{side}, {precision}"
        report.compare(what, "50 channels", "s", times, ("48", "50"), 1)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"side": 24, "rounds": 1})
