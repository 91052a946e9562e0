"""``fmen report``: write runs, validations, benchmarks and images as one self-contained HTML file.

Style, script, charts and images are inside the file, and its content security policy forbids loading anything else.
Sections without input are left out.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from fmen.charts.curves import SHOWN_DB, Point, draw_loss, draw_psnr, draw_runs, smooth
from fmen.charts.networks import Network, inline_networks
from fmen.charts.style import inline_svg
from fmen.report.images import BUDGET, ERROR_CEILING, PAGE_BUDGET, ComparedImage, Kind, compare
from fmen.report.inputs import BenchRow, LogRow, ReportError, read_bench, read_metrics, read_recipe, read_validation
from fmen.report.tables import challenge_table, comparison_table, mean, per_image_table, validation_table
from fmen.sources.datasets import measured_source
from fmen.sources.networks import Note, load_network
from fmen.training.run_folder import Run
from fmen_core import Upscaler
from fmen_core.models import ARCHITECTURES
from fmen_data import open_dataset
from fmen_data.atomic import atomic_write
from fmen_eval import Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCATTER_WIDTHS = {"wide": 1040, "narrow": 400}
CURVE_WIDTHS = {"wide": 480, "narrow": 360}
"""Widths of the charts in points, by the CSS class of the screens that show them."""


@dataclass(frozen=True)
class Chart:
    """A chart of the page: a caption, and an ``<svg>`` element by the CSS class of the screens that show it."""

    caption: str
    svgs: dict[str, Markup]


class Series(NamedTuple):
    """A value that a run logged: ``"loss"``, ``"psnr"`` or ``"rate"``, its caption, and its points by step."""

    kind: str
    caption: str
    points: Sequence[Point]

    def label(self) -> str:
        """Describe the curve in words."""
        (first_step, first), (last_step, last) = self.points[0], self.points[-1]
        if self.kind != "psnr":
            return f"{self.caption}: from {first:.3g} at step {first_step:,} to {last:.3g} at step {last_step:,}"
        best_step, best = max(self.points, key=lambda point: point[1])
        return f"{self.caption}: best {best:.2f} at step {best_step:,}, last {last:.2f} at step {last_step:,}"


@dataclass(frozen=True)
class Gallery:
    """The images of a report.

    Attributes:
        model: Name of the network.
        weights: Its weights file.
        dataset: Name of the dataset.
        total: Number of images in the dataset; the report may show fewer.
        protocol: Protocol of PSNR and SSIM.
        scale: 2, 3 or 4.
        images: The images that the report shows.
    """

    model: str
    weights: Path
    dataset: str
    total: int
    protocol: Protocol
    scale: int
    images: tuple[ComparedImage, ...]


def make_gallery(
    weights: Path,
    data: str | None,
    *,
    model: str | None = None,
    protocol: Protocol = "ntire",
    device: str = "auto",
    most: int | None = None,
    full: bool = False,
    note: Note = lambda line: None,
) -> Gallery:
    """Upscale and measure the images of a dataset.

    Args:
        weights: The weights file.
        data: As for ``--data``; None for DIV2K's validation images if they are present, otherwise the sample's.
        model: The network, as :func:`fmen.sources.networks.load_network` takes it; required for a user's network.
        protocol: Protocol of PSNR and SSIM.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        most: Largest number of images, from the first one.
        full: Store whole images without loss, whatever their size.
        note: Called with one line about weights of another version of a user's file.

    Raises:
        UserError: Weights or data cannot be used; the message is one line.
    """
    network = load_network(weights, model, note=note)
    upscaler = Upscaler(network, device=device, channels_last=False)
    dataset = open_dataset(measured_source(data, upscaler.scale), scale=upscaler.scale, split="val")
    count = len(dataset) if most is None else min(most, len(dataset))
    bar = tqdm(
        islice(dataset, count), total=count, desc="compare", unit="image", disable=not sys.stderr.isatty(), leave=False
    )
    budget = min(BUDGET, PAGE_BUDGET // max(count, 1))
    images = tuple(
        compare(name, lr, hr, upscaler, scale=upscaler.scale, protocol=protocol, full=full, budget=budget)
        for name, lr, hr in bar
    )
    return Gallery(str(network.name), weights, dataset.name, len(dataset), protocol, upscaler.scale, images)


def write_report(
    out: Path,
    *,
    runs: Sequence[Run] = (),
    validations: Sequence[Path] = (),
    bench: Path | None = None,
    gallery: Gallery | None = None,
) -> None:
    """Write the page atomically.

    Args:
        out: The HTML file.
        runs: The folders of training runs; the curves of several are drawn in the same charts.
        validations: Files of ``fmen validate --json``.
        bench: A file of ``fmen bench --json``.
        gallery: The images.

    Raises:
        ReportError: There is no input, or a file has another content than expected.
        OSError: A file cannot be read or written.
    """
    titles = network_titles()
    parts = {
        "training": training_part(runs) if runs else None,
        "validation": validation_part(validations, titles) if validations else None,
        "networks": None if bench is None else networks_part(bench, titles),
        "images": images_part(gallery, titles) if gallery and gallery.images else None,
    }
    if not any(parts.values()):
        raise ReportError("nothing to report: name a run, images, or files of 'fmen validate' and 'fmen bench'")
    environment = Environment(
        loader=PackageLoader("fmen.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").generate(
        **parts,
        style=Markup(_template(environment, "report.css")),  # no HTML, and not the user's
        script=Markup(_template(environment, "report.js")),
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=metadata.version("fmen"),
    )
    try:
        with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(page)
    except OSError as error:  # names the user's file instead of the temporary one
        raise OSError(error.errno, error.strerror, str(out)) from error


def training_part(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the curves and the key facts of one or more runs."""
    series = {run_title(run, runs): run_series(run) for run in runs}
    curves = compared_curves(series) if len(runs) > 1 else training_curves(*series.values())
    return {"curves": curves, "facts": [run_facts(run) for run in runs]}


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
    series.append(Series("psnr", caption, psnrs))
    for name in dict.fromkeys(name for row in log for name in row.further):
        points = [(row.step, row.further[name]) for row in log if name in row.further]
        place, protocol = name.removeprefix("psnr/").rsplit("/", 1)
        series.append(Series("psnr", f"Validation PSNR in dB on {place} ({protocol})", points))
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


def validation_part(files: Sequence[Path], titles: dict[str, str]) -> dict[str, Any]:
    """Return the means of every validation, and the figures of each image."""
    stems = [file.stem for file in files]
    names = [file.stem if stems.count(file.stem) == 1 else str(file) for file in files]
    results = {
        f"{name}: {row.dataset}" if row.dataset else name: row
        for name, file in zip(names, files, strict=True)
        for row in read_validation(file)
    }
    details = [(name, per_image_table(result)) for name, result in results.items()]
    return {"table": validation_table(results, titles), "details": details}


def networks_part(file: Path, titles: dict[str, str]) -> dict[str, Any]:
    """Return the challenge table and its chart."""
    rows = read_bench(file)
    networks = [
        Network(row.model, titles.get(row.model, row.model), row.params, row.runtime_ms, row.peak_memory_bytes)
        for row in rows
    ]
    svgs = {
        kind: Markup(inline_networks(networks, f"networks-{kind}", width)) for kind, width in SCATTER_WIDTHS.items()
    }
    chart = Chart("Runtime, memory and parameters", svgs)
    return {"table": challenge_table(rows, titles), "chart": chart, "remarks": remarks(rows)}


def remarks(rows: Sequence[BenchRow]) -> list[str]:
    """Return sentences on the meaning of the table's figures and how they were measured."""
    sentences = ["The small number is the rank in the column; percentages are relative to the IMDN baseline."]
    datasets = sorted({row.dataset for row in rows if row.psnr is not None and row.dataset})
    if datasets:
        sentences.append(f"PSNR on {' and '.join(datasets)}, RGB.")
    if any(row.score is not None for row in rows):
        sentences.append("Score: as in the 2026 challenge; lower is better.")
    if rows[0].conditions:
        sentences.append(f"{rows[0].conditions}.")
    return sentences


def images_part(gallery: Gallery, titles: dict[str, str]) -> dict[str, Any]:
    """Return the images, their figures, and the names of the layers."""
    title = titles.get(gallery.model, gallery.model)
    layers: dict[Kind, str] = {
        "lr": "LR",
        "bicubic": "Bicubic",
        "sr": title,
        "hr": "HR",
        "error-bicubic": "Error, bicubic",
        "error-sr": f"Error, {title}",
    }
    return {
        "gallery": gallery,
        "title": title,
        "layers": layers,
        "table": comparison_table(gallery.images, title),
        "bicubic": mean([image.bicubic for image in gallery.images]),
        "ours": mean([image.ours for image in gallery.images]),
        "ceiling": ERROR_CEILING,
    }


def network_titles() -> dict[str, str]:
    """Return the display names of the networks, by their names in files."""
    return {architecture.name: architecture.title for architecture in ARCHITECTURES}


def duration(seconds: float) -> str:
    """Format as hours and minutes, or as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def _template(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
