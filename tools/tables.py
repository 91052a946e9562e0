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
    """PSNR and SSIM of every validated weights file: a row per file, a column per dataset and protocol."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    columns: list[str] = []
    for file in sorted((RESULTS / "validate").glob("*.json")):
        result: dict[str, Any] = json.loads(file.read_text())
        dataset = file.stem.split("_")[0]
        column = f"{dataset} `{result['protocol']}`"
        columns += [column] if column not in columns else []
        row = f"{result['model']} x{result['scale']} (`{Path(result['weights']).name}`)"
        cells[row][column] = f"{result['mean']['psnr']:.4f} / {result['mean']['ssim']:.4f}"
    columns.sort(key=lambda column: (len(column.split()[0]), column))  # Set5 before Set14
    return format_markdown(
        [["weights", *columns], *([row, *(found.get(c, "") for c in columns)] for row, found in cells.items())]
    )


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
