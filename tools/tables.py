"""Print the README's tables from the JSON that the commands left under ``results/``.

    python tools/tables.py

The JSON comes from ``fmen validate --json`` (``results/validate/*.json``) and ``fmen bench --json``
(``results/bench/*.json``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
    return table(["weights", *columns], [[row, *(found.get(c, "") for c in columns)] for row, found in cells.items()])


def main() -> None:
    """Print the tables."""
    print(accuracy())


if __name__ == "__main__":
    main()
