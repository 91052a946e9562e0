"""Draw the training curves of the bundled weights: PSNR on the validation set of the run by step.

    python tools/curve.py

Reads the lines with a PSNR of ``results/runs/*.jsonl``, whose protocol the model cards name, and writes
``docs/images/curve-*.png``.
"""

from __future__ import annotations

import json
from pathlib import Path

from fmen.charts.curves import draw_psnr
from fmen.charts.style import save_figure

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    for file in sorted((ROOT / "results/runs").glob("*.jsonl")):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        points = [(line["step"], line["psnr"]) for line in lines if "psnr" in line]
        title = f"Training of {file.stem}"
        figure = draw_psnr(points, title=title, name="PSNR, dB", width=504, height=260, size=10)
        save_figure(figure, ROOT / "docs/images" / f"curve-{file.stem}.png")
