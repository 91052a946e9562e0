"""The result of an experiment: figures beside the published ones, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fmen.charts.tables import format_markdown


@dataclass(frozen=True)
class Options:
    """What an experiment is run with.

    Attributes:
        out: Folder for images; None if they are not wanted.
        runs: Timed forward passes per network; 0 to measure no time.
        steps: Training steps per network; 0 to train nothing.
        seeds: Trained networks per row.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        threads: CPU threads; None for one per core.
        weights: Weights files or names; empty for the default of the experiment.
        image: An image file, or a folder of images; None for the default of the experiment.
        layers: Modules to measure, by class or name; empty for the default of the experiment.
        bench: Files of ``fmen bench --json``.
        data: Training images, as ``fmen train --data`` names them.
        val_data: Images to measure PSNR on, as ``fmen validate --data`` names them.
        progress: Show progress bars.
    """

    out: Path | None = None
    runs: int = 0
    steps: int = 0
    seeds: int = 2
    device: str = "auto"
    threads: int | None = None
    weights: tuple[str, ...] = ()
    image: Path | None = None
    layers: tuple[str, ...] = ()
    bench: tuple[Path, ...] = ()
    data: str = "sample"
    val_data: str = "sample"
    progress: bool = False


@dataclass(frozen=True)
class Row:
    """One figure of a table.

    Attributes:
        subject: What is measured, e.g. ``"IMDN x4"``.
        quantity: Which quantity, e.g. ``"parameters"``.
        ours: The figure, in ``unit``; NaN if it was not measured.
        unit: ``"K"``, ``"G"``, ``"ms"``, ``"dB"``, ...; empty for a plain number.
        digits: Decimals of the published figure. Ours is shown with one more beside it.
        published: The published figure, in ``unit``; None if there is none, or none that is confirmed.
        source: Where the figure is published.
        note: One sentence, e.g. why the figures differ.
        seconds: Time it took to compute.
        command: The command that computes it. Filled in by the command line.
    """

    subject: str
    quantity: str
    ours: float
    unit: str = ""
    digits: int = 0
    published: float | None = None
    source: str = ""
    note: str = ""
    seconds: float = 0.0
    command: str = ""

    @property
    def difference(self) -> float | None:
        """Our figure minus the published one, with the digits of the published one; None without a published one.

        Papers round or truncate: 0 if the published figure is ours with either.
        """
        if self.published is None or math.isnan(self.ours):
            return None
        truncated = math.trunc(self.ours * 10**self.digits) / 10**self.digits
        differences = [round(ours - self.published, self.digits) for ours in (round(self.ours, self.digits), truncated)]
        return 0.0 if 0 in differences else differences[0]

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the row in its table."""
        return self.subject, self.quantity

    def cells(self) -> list[str]:
        """Return the row of a table: subject, quantity, published, ours, difference, seconds and command."""
        digits = max(self.digits, 0)
        published = difference = "–"
        if self.published is not None:
            published = f"{self.published:,.{digits}f}{self.unit}"
        if self.difference is not None:
            difference = f"{self.difference:+,.{digits}f}" if self.difference else "0"
        ours = "–" if math.isnan(self.ours) else f"{self.ours:,.{digits + (self.published is not None)}f}{self.unit}"
        command = f"`{self.command}`" if self.command else ""
        return [self.subject, self.quantity, published, ours, difference, f"{self.seconds:.2f}", command]


@dataclass(frozen=True)
class Result:
    """What an experiment returns.

    Attributes:
        rows: The figures.
        remarks: Paragraphs below the table: what the paper says, and what agrees with it.
        conditions: Device, image size and number of runs; empty if nothing was measured.
        images: Files that were written to ``Options.out``, by their captions.
        findings: What was measured, in words, by its subject; shown below ``remarks``.
    """

    rows: Sequence[Row]
    remarks: Sequence[str] = ()
    conditions: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    findings: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; each row also has its ``difference``."""
        return {
            "rows": [{**asdict(row), "difference": row.difference} for row in self.rows],
            "remarks": list(self.remarks),
            "findings": dict(self.findings),
            "conditions": self.conditions,
            "images": dict(self.images),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Result:
        """Return the result of a JSON form.

        Raises:
            KeyError, TypeError: It has another structure.
        """
        known = [{key: value for key, value in row.items() if key != "difference"} for row in content["rows"]]
        rows = [Row(**{**row, "ours": math.nan if row["ours"] is None else row["ours"]}) for row in known]
        return cls(rows, content["remarks"], content["conditions"], content["images"], content.get("findings", {}))

    def table(self) -> str:
        """Return the rows as a Markdown table."""
        head = ["", "quantity", "published", "ours", "difference", "seconds", "command"]
        return format_markdown([head, *(row.cells() for row in self.rows)], words={0, 1, 6})

    def markdown(self, images: str = "") -> str:
        """Return table, notes, remarks, findings, conditions and images as Markdown.

        Args:
            images: Folder of the images, as seen from the page; empty to leave them out.
        """
        notes: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.note:
                notes.setdefault((row.quantity, row.note), []).append(row.subject)
        sources = dict.fromkeys(row.source for row in self.rows if row.source)
        parts = [
            self.table() if self.rows else "",
            "\n".join(f"- {quantity} of {', '.join(subjects)}: {note}" for (quantity, note), subjects in notes.items()),
            *self.remarks,
            *self.findings.values(),
        ]
        parts.append(f"Measured on: {self.conditions}" if self.conditions else "")
        parts.append(f"Published figures: {'; '.join(sources)}." if sources else "")
        if images:
            parts += [f"![{caption}]({images}/{file})\n\n{caption}" for caption, file in self.images.items()]
        return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Experiment:
    """A table or figure that ``fmen reproduce NAME`` makes.

    Attributes:
        name: The name on the command line.
        title: What it shows.
        run: Makes it.
    """

    name: str
    title: str
    run: Callable[[Options], Result]


def merged(new: Result, old: Result) -> Result:
    """Return ``new`` with the rows, findings and images of ``old`` that it lacks, such as times of an earlier run.

    Rows are in the order of ``new``, followed by those that are in ``old`` alone. What ``new`` did not measure is that
    of ``old``; published figures are those of ``new``.
    """
    before, made = {row.key: row for row in old.rows}, {row.key for row in new.rows}
    rows = [
        replace(before[row.key], published=row.published, source=row.source)
        if math.isnan(row.ours) and row.key in before
        else row
        for row in new.rows
    ]
    rows += [row for row in old.rows if row.key not in made]
    return replace(
        new,
        rows=rows,
        conditions=new.conditions or old.conditions,
        images={**old.images, **new.images},
        findings={**old.findings, **new.findings},
    )
