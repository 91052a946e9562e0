"""Draw the training curves of the weights in the box: PSNR on Set5 by step.

    python tools/curve.py

Reads ``results/runs/*.jsonl``, the lines with a PSNR of each run's ``metrics.jsonl``, and writes a PNG of the same name
into ``docs/images/``.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]


def draw(file: Path) -> None:
    """Draw one run."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    axes.plot([line["step"] for line in lines], [line["psnr"] for line in lines], color="#c2410c", linewidth=1.8)
    axes.set(xlabel="step", ylabel="PSNR on Set5, dB (paper)", xlim=(0, lines[-1]["step"]))
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.grid(color="#e5e7eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"Training of {file.stem}", loc="left", fontsize=11, fontweight="bold")
    figure.savefig(ROOT / "docs/images" / f"curve-{file.stem}.png", dpi=160)
    pyplot.close(figure)


if __name__ == "__main__":
    for file in sorted((ROOT / "results/runs").glob("*.jsonl")):
        draw(file)
