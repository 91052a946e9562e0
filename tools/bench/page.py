"""Update ``docs/performance.md`` and its plots from ``results/speed/*.json``.

    python tools/bench/page.py

The prose of the page is written by hand. This script writes the blocks between ``<!-- table:NAME -->`` and
``<!-- end -->``; NAME is one of

- ``targets``: all comparisons without a GPU; ``targets-gpu``: those with one;
- ``machines``: machine and command of every file;
- the name of a JSON file without ``.json``: its checks, facts and plots.

A block without a file says that nothing is measured yet.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measure import HEADER, RESULTS, cells, number

from fmen.charts.curves import draw_lines
from fmen.charts.style import save_figure
from fmen.charts.tables import format_markdown
from fmen_data.atomic import atomic_write_bytes

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"

ORDER = (
    "training",
    "reparam_blocks",
    "time_to_quality",
    "forward",
    "tiling",
    "backends",
    "int8",
    "engines",
    "loader",
    "metrics",
    "imresize",
)
MISSING = "Not measured yet."
BLOCK = re.compile(r"(<!-- table:(\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

Reports = Mapping[str, Mapping[str, Any]]


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the JSON files by name, in the order of the page."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    rank = {name: place for place, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[1]["name"], len(rank)), item[0])))


def table(rows: list[list[str]]) -> str:
    """Return a Markdown table; the first row is its header."""
    return format_markdown(rows, words=range(len(rows[0])))


def targets(reports: Reports, gpu: bool) -> str:
    """Return all comparisons of machines with or without a GPU."""
    chosen = [report for report in reports.values() if ("cuda" in report["machine"]) == gpu]
    rows = [cells(row) for report in chosen for row in report["comparisons"]]
    return table([HEADER, *rows]) if rows else MISSING


def machines(reports: Reports) -> str:
    """Return machine and command of every file."""
    rows = [["result", "command", "machine"]]
    for name, report in reports.items():
        machine = dict(report["machine"])
        place = ", ".join(str(machine.pop(key)) for key in ("cuda", "cpu") if key in machine)
        memory = f", {machine.pop('memory_gib'):g} GiB" if "memory_gib" in machine else ""
        software = ", ".join(f"{key} {value}" for key, value in machine.items())
        rows.append([f"`results/speed/{name}.json`", f"`{report['command']}`", f"{place}{memory}; {software}"])
    return table(rows) if len(rows) > 1 else MISSING


def fact(name: str, value: object) -> str:
    """Format a fact: sentences as a list, dicts as a table, anything else as a line."""
    title = name.replace("_", " ")
    if isinstance(value, dict) and value and all(isinstance(entry, dict) for entry in value.values()):
        value = [{title: key, **entry} for key, entry in value.items()]
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        if all("sentence" in entry for entry in value):
            return "\n".join(f"{place}. {entry['sentence']}" for place, entry in enumerate(value, 1))
        header = list(dict.fromkeys(key for entry in value for key in entry))
        rows = [[number(entry.get(key, "")) for key in header] for entry in value]
        return f"{title}:\n\n" + table([[key.replace("_", " ") for key in header], *rows])
    if isinstance(value, dict):
        value = ", ".join(f"{key.replace('_', ' ')} {number(entry)}" for key, entry in value.items())
    elif isinstance(value, list):
        value = ", ".join(map(number, value))
    return f"- {title}: {number(value)}"


def details(name: str, report: Mapping[str, Any], images: Path) -> str:
    """Return checks, facts and plots of a report, and write the plots."""
    checked = [f"- {sentence}: {number(figure)}" for sentence, figure in report["checks"].items()]
    facts = [fact(key, value) for key, value in report["facts"].items()]
    lines = [text for text in facts if text.startswith("- ")]
    parts = [text for text in facts if not text.startswith("- ")]
    if lines:
        parts.insert(0, "\n".join(["Further figures:", "", *lines]))
    if checked:
        parts.insert(0, "\n".join(["Verified before timing:", "", *checked]))
    for place, (title, curve) in enumerate(report["curves"].items(), 1):
        file = images / f"speed-{name}-{place}.png"
        save_figure(draw_lines(title, **curve), file)
        parts.append(f"![{title}](images/{file.name})")
    return "\n\n".join(parts) or "No further figures."


def blocks(reports: Reports, images: Path) -> Iterator[tuple[str, str]]:
    """Yield the blocks of a page by name."""
    yield "targets", targets(reports, gpu=False)
    yield "targets-gpu", targets(reports, gpu=True)
    yield "machines", machines(reports)
    for name, report in reports.items():
        yield name, details(name, report, images)


def update(page: Path, results: Path) -> list[str]:
    """Rewrite the page and its plots; return the reports without a block."""
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    for old in images.glob("speed-*.png"):
        old.unlink()
    reports = read_reports(results)
    contents = dict(blocks(reports, images))
    text = page.read_text(encoding="utf-8")
    placed = {match[2] for match in BLOCK.finditer(text)}
    text = BLOCK.sub(lambda match: f"{match[1]}\n{contents.get(match[2], MISSING)}\n\n{match[3]}", text)
    atomic_write_bytes(page, text.encode())
    return [name for name in reports if name not in placed]


if __name__ == "__main__":
    for name in update(PAGE, RESULTS):
        print(f"{PAGE.name} has no <!-- table:{name} --> for results/speed/{name}.json", file=sys.stderr)
