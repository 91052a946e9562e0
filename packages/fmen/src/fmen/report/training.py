"""The training section of a report: the facts of runs, and their curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from fmen.charts.curves import SHOWN_DB, Point, draw_loss, draw_psnr, draw_runs, smooth
from fmen.charts.style import inline_svg
from fmen.report.inputs import LogRow, read_metrics, read_recipe
from fmen.training.run_folder import Run
from fmen_core.models import ARCHITECTURES
from fmen_eval import Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_WIDTHS = {"wide": 480, "narrow": 360}
"""Widths of the charts in points, by the CSS class of the screens that show them."""


@dataclass(frozen=True)
class Chart:
    """A chart of the page: a caption, and an ``<svg>`` element by the CSS class of the screens that show it."""

    caption: str
    svgs: dict[str, Markup]


class Series(NamedTuple):
    """A value that a run logged: ``"loss"``, ``"psnr"`` or ``"rate"``, its caption, and its points by step.

    ``protocol`` is that of a PSNR, or "" if it is unknown.
    """

    kind: str
    caption: str
    points: Sequence[Point]
    protocol: str = ""

    def label(self) -> str:
        """Describe the curve in words."""
        (first_step, first), (last_step, last) = self.points[0], self.points[-1]
        if self.kind != "psnr":
            return f"{self.caption}: from {first:.3g} at step {first_step:,} to {last:.3g} at step {last_step:,}"
        best_step, best = max(self.points, key=lambda point: point[1])
        return f"{self.caption}: best {best:.2f} at step {best_step:,}, last {last:.2f} at step {last_step:,}"


def training_part(runs: Sequence[Run], protocol: Protocol) -> dict[str, Any]:
    """Return the curves and the key facts of one or more runs, and which other protocols the curves have."""
    series = {run_title(run, runs): of_protocol(run_series(run), protocol) for run in runs}
    curves = compared_curves(series) if len(runs) > 1 else training_curves(*series.values())
    others = sorted({each.protocol for line in series.values() for each in line} - {"", protocol})
    return {"curves": curves, "facts": [run_facts(run) for run in runs], "other_protocols": others}


def of_protocol(series: Sequence[Series], protocol: Protocol) -> list[Series]:
    """Return the series without the PSNRs of other protocols, if there is a PSNR of this one."""
    if not any(each.protocol == protocol for each in series):
        return list(series)
    return [each for each in series if each.kind != "psnr" or each.protocol == protocol]


def run_title(run: Run, runs: Sequence[Run]) -> str:
    """Return the name of a run's folder, or its path where another run has the same name."""
    names = [other.folder.name for other in runs]
    return run.folder.name if names.count(run.folder.name) == 1 else str(run.folder)


def run_facts(run: Run) -> list[tuple[str, str]]:
    """Return the key facts of a run: their names and values."""
    log, recipe = read_metrics(run), read_recipe(run)
    step, seconds = log[-1].step, log[-1].seconds
    facts = [("Run", str(run.folder)), ("Steps", f"{step:,}" + (f" of {recipe.steps:,}" if recipe else ""))]
    facts.append(("Time", duration(seconds)))
    if recipe:
        facts.insert(1, ("Network", f"{network_titles().get(recipe.network, recipe.network)} ×{recipe.scale}"))
        facts.append(("Recipe", recipe.name))
        facts.append(("Data", ", ".join(Path(source).name for source in recipe.datasets)))
        parts = recipe.stage_recipes()
        facts.append(("Batch", ", then ".join(f"{part.batch} of {part.patch} × {part.patch}" for part in parts)))
        if recipe.stages:
            stages = [f"{part.steps:,} steps of {part.loss_title} from {part.learning_rate:g}" for part in parts]
            facts.append(("Stages", "; ".join(stages)))
    if run.versions.is_file():
        machine = json.loads(run.versions.read_text(encoding="utf-8"))
        facts.append(("Device", str(machine.get("device", "unknown"))))
    return facts


def run_series(run: Run) -> list[Series]:
    """Return the values that a run logged, with the names of its loss and of its protocol."""
    log, recipe = read_metrics(run), read_recipe(run)
    losses = dict.fromkeys(part.loss_title for part in recipe.stage_recipes()) if recipe else {}
    return logged_series(log, ", then ".join(losses), recipe.val_protocol[0] if recipe else "")


def logged_series(log: Sequence[LogRow], loss: str, protocol: str) -> list[Series]:
    """Return loss, PSNR and learning rate by step, whichever of them a run logged.

    Args:
        log: The lines of the log, by step.
        loss: Name of the loss, or "".
        protocol: Protocol of the PSNR, or "".
    """
    losses = [(row.step, row.loss) for row in log if row.loss is not None and row.loss > 0 and math.isfinite(row.loss)]
    psnrs = [(row.step, row.psnr) for row in log if row.psnr is not None and math.isfinite(row.psnr)]
    caption = f"Validation PSNR in dB ({protocol})" if protocol else "Validation PSNR in dB"
    series = [Series("loss", f"Training loss ({loss})" if loss else "Training loss", losses)]
    series.append(Series("psnr", caption, psnrs, protocol))
    for name in dict.fromkeys(name for row in log for name in row.further):
        points = [(row.step, row.further[name]) for row in log if name in row.further]
        place, protocol = name.removeprefix("psnr/").rsplit("/", 1)
        series.append(Series("psnr", f"Validation PSNR in dB on {place} ({protocol})", points, protocol))
    rates = [(row.step, row.lr) for row in log if row.lr is not None]
    series.append(Series("rate", "Learning rate", rates))
    return [each for each in series if each.points]


def training_curves(series: Sequence[Series]) -> list[Chart]:
    """Draw the curves of one run."""
    return [
        Chart(each.caption, draw_widths(f"{each.kind}-{number}", each.label(), partial(DRAW[each.kind], each.points)))
        for number, each in enumerate(series)
    ]


def compared_curves(runs: Mapping[str, Sequence[Series]]) -> list[Chart]:
    """Draw the curves of several runs, those with the same loss or the same protocol in one chart.

    Args:
        runs: What each run logged, by its name.
    """
    charts: dict[tuple[str, str], dict[str, Series]] = {}
    for name, series in runs.items():
        for each in series:
            charts.setdefault((each.kind, each.caption), {})[name] = each
    drawn = []
    for number, (kind, caption) in enumerate(sorted(charts, key=lambda chart: list(DRAW).index(chart[0]))):
        lines = {
            name: smooth(each.points) if kind == "loss" else each.points for name, each in charts[kind, caption].items()
        }
        label = "; ".join(f"{name}: {each.label()}" for name, each in charts[kind, caption].items())
        draw = partial(draw_runs, lines, logarithmic=kind == "loss", shown=SHOWN_DB if kind == "psnr" else math.inf)
        drawn.append(Chart(caption, draw_widths(f"{kind}-{number}", label, draw)))
    return drawn


def draw_rate(points: Sequence[Point], *, width: float) -> Figure:
    """Draw the learning rate of one run."""
    return draw_runs({"": points}, width=width)


DRAW: dict[str, Callable[..., Figure]] = {"loss": draw_loss, "psnr": draw_psnr, "rate": draw_rate}
"""What draws a series of one run, by its kind, in the order of the page."""


def draw_widths(name: str, label: str, draw: Callable[..., Figure]) -> dict[str, Markup]:
    """Draw a chart for every kind of screen."""
    return {
        kind: Markup(inline_svg(draw(width=width), f"{name}-{kind}", label)) for kind, width in CURVE_WIDTHS.items()
    }


def network_titles() -> dict[str, str]:
    """Return the display names of the networks, by their names in files."""
    return {architecture.name: architecture.title for architecture in ARCHITECTURES}


def duration(seconds: float) -> str:
    """Format as hours and minutes, or as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"
