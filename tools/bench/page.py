"""Bring ``docs/performance.md`` and its plots up to date with ``results/speed/*.json``.

    python tools/bench/page.py

The page's prose is written by hand. Between ``<!-- table:NAME -->`` and ``<!-- end -->`` stands what this script puts
there; NAME is one of

- ``targets``: every comparison that was made without a GPU; ``targets-gpu``: those made with one;
- ``machines``: where every file was measured, and by which command;
- ``cost``: what a run of the recipe ``paper`` takes, at every measured rate (``paper_steps_per_second`` of the facts);
- the name of a JSON file without ``.json``: its checks, facts and plots.

Files that are not there leave their place with a line that says so.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from plots import draw

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "speed"
PAGE = ROOT / "docs" / "performance.md"

ORDER = ("training", "forward", "tiling", "loader", "metrics", "imresize", "startup", "operations")
PAPER_STEPS = 3_000_000
COST = "paper_steps_per_second"
BLOCK = re.compile(r"(<!-- table:(\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

Reports = Mapping[str, Mapping[str, Any]]


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON files by their names, in the order in which the page has them."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    rank = {name: place for place, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[1]["name"], len(rank)), item[0])))


def amount(value: float, unit: str) -> str:
    """A figure with a unit that suits its size."""
    if unit in ("s", "ms"):
        seconds = value / 1000 if unit == "ms" else value
        return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    return f"{number(value)} {unit}"


def number(value: object) -> str:
    """Any value of a JSON file, as text; numbers with four digits or all that stand before the point."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def factor(value: float) -> str:
    """A ratio with about three digits, trailing zeros included."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its header."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def comparison(row: Mapping[str, Any]) -> list[str]:
    """One line of the table of targets."""
    sign, suffix = ("≤", "") if row["goal"] == "at most" else ("≥", "x")
    return [
        row["what"],
        row["against"],
        amount(median(row["ours"]), row["unit"]),
        amount(median(row["theirs"]), row["unit"]),
        f"{factor(row['ratio'])}{suffix}",
        f"{factor(row['lowest'])}–{factor(row['highest'])}",
        f"{sign} {row['target']:.3g}{suffix}",
        "met" if row["met"] else "**missed**",
    ]


def targets(reports: Reports, gpu: bool) -> str:
    """All comparisons, of the machines with or without a GPU."""
    header = ["what", "against", "ours", "theirs", "ratio", "lowest–highest", "target", ""]
    chosen = [report for report in reports.values() if ("cuda" in report["machine"]) == gpu]
    rows = [comparison(row) for report in chosen for row in report["comparisons"]]
    return table([header, *rows]) if rows else "Not measured yet."


def machines(reports: Reports) -> str:
    """Where every file comes from."""
    rows = [["result", "command", "machine"]]
    for name, report in reports.items():
        machine = dict(report["machine"])
        place = ", ".join(str(machine.pop(key)) for key in ("cuda", "cpu") if key in machine)
        memory = f", {machine.pop('memory_gib'):g} GiB" if "memory_gib" in machine else ""
        software = ", ".join(f"{key} {value}" for key, value in machine.items())
        rows.append([f"`results/speed/{name}.json`", f"`{report['command']}`", f"{place}{memory}; {software}"])
    return table(rows) if len(rows) > 1 else "Not measured yet."


def cost(reports: Reports) -> str:
    """The hours of a paper run, from every rate that a report has for its step."""
    lines = []
    for report in reports.values():
        rate = report["facts"].get(COST)
        if rate:
            place = report["machine"].get("cuda") or report["machine"]["cpu"]
            hours = PAPER_STEPS / rate / 3600
            days = f" = {hours / 24:.1f} days" if hours > 48 else ""
            lines.append(f"- {place}: {PAPER_STEPS:,} steps / {rate:.4g} steps/s / 3600 = {hours:,.1f} hours{days}")
    return "\n".join(lines) or "Not measured yet."


def fact(name: str, value: object) -> str:
    """A fact: sentences as a list, dicts of one kind as a table, anything else as a line."""
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
    """What a report has beside its comparisons: checks, facts, plots."""
    checked = [f"- {sentence}: {number(figure)}" for sentence, figure in report["checks"].items()]
    facts = [fact(key, value) for key, value in report["facts"].items() if key != COST]
    lines = [text for text in facts if text.startswith("- ")]
    parts = [text for text in facts if not text.startswith("- ")]
    if lines:
        parts.insert(0, "\n".join(["Beside the table:", "", *lines]))
    if checked:
        parts.insert(0, "\n".join(["Checked before anything was timed:", "", *checked]))
    for place, (title, curve) in enumerate(report["curves"].items(), 1):
        file = images / f"speed-{name}-{place}.png"
        draw(title, curve, file)
        parts.append(f"![{title}](images/{file.name})")
    return "\n\n".join(parts) or "Nothing beside the table."


def blocks(reports: Reports, images: Path) -> Iterator[tuple[str, str]]:
    """Every block that a page may have, by its name."""
    yield "targets", targets(reports, gpu=False)
    yield "targets-gpu", targets(reports, gpu=True)
    yield "machines", machines(reports)
    yield "cost", cost(reports)
    for name, report in reports.items():
        yield name, details(name, report, images)


def update(page: Path, results: Path) -> list[str]:
    """Rewrite the page and its plots; returns the names of the reports that it has no place for."""
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    for old in images.glob("speed-*.png"):
        old.unlink()
    reports = read_reports(results)
    contents = dict(blocks(reports, images))
    text = page.read_text(encoding="utf-8")
    placed = {match[2] for match in BLOCK.finditer(text)}
    text = BLOCK.sub(lambda match: f"{match[1]}\n{contents.get(match[2], 'Not measured yet.')}\n\n{match[3]}", text)
    page.write_text(text, encoding="utf-8")
    return [name for name in reports if name not in placed]


def main() -> None:
    """The command line."""
    for name in update(PAGE, RESULTS):
        print(f"{PAGE.name} has no <!-- table:{name} --> for results/speed/{name}.json", file=sys.stderr)


if __name__ == "__main__":
    main()
