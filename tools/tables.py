"""Print the README's tables from the JSON under ``results/``.

    python tools/tables.py

The JSON comes from ``fmen validate --json`` (``results/validate/*.json``) and ``fmen bench --json``
(``results/bench/*.json``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from fmen.charts.tables import format_markdown

RESULTS = Path(__file__).resolve().parents[1] / "results"


def accuracy() -> str:
    """PSNR and SSIM of weights files: a row per file, a column per dataset and protocol.

    Rows are sorted by scale, from x4 down, and then by PSNR on Set5 (``paper``), from the highest down. Files with a
    single result, those of later challenges, have a table of their own in the README.
    """
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    order: dict[str, tuple[int, float]] = {}
    columns: list[str] = []
    for file in sorted((RESULTS / "validate").glob("*.json")):
        result: dict[str, Any] = json.loads(file.read_text())
        dataset = file.stem.split("_")[0]
        column = f"{dataset} `{result['protocol']}`"
        columns += [column] if column not in columns else []
        row = f"{result['model']} x{result['scale']} (`{Path(result['weights']).name}`)"
        cells[row][column] = f"{result['mean']['psnr']:.4f} / {result['mean']['ssim']:.4f}"
        if column == "Set5 `paper`":
            order[row] = (-result["scale"], -result["mean"]["psnr"])
    columns.sort(key=lambda column: (len(column.split()[0]), column))  # Set5 before Set14
    shown = sorted((row for row in cells if len(cells[row]) > 1), key=order.__getitem__)
    rows = [[row, *(cells[row].get(column, "") for column in columns)] for row in shown]
    return format_markdown([["weights", *columns], *rows])


def networks() -> str:
    """Complexity, runtime and memory of every network that ``fmen bench`` measured."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / "bench/cpu.json").read_text())
    header = ["network", "params", "FLOPs [G]", "activations [M]", "convs", "time [ms]", "memory [MiB]"]
    return format_markdown(
        [
            header,
            *(
                [
                    f"`{row['model']}`",
                    f"{row['params']:,}",
                    f"{row['flops'] / 1e9:.4f}",
                    f"{row['activations'] / 1e6:.4f}",
                    str(row["convs"]),
                    f"{row['runtime_ms']:.0f}",
                    f"{row['peak_memory_bytes'] / 2**20:.1f}",
                ]
                for row in sorted(rows, key=lambda row: float(row["runtime_ms"]))
            ),
        ]
    )


def main() -> None:
    """Print the tables."""
    print(networks(), accuracy(), sep="\n\n")


if __name__ == "__main__":
    main()
