"""``fmen report``: a run, validations, benchmarks and images in; one HTML file out that needs nothing else.

The file loads nothing from anywhere: style, script, charts and pictures are inside, and a content security policy in
its head holds it to that. Parts that there is nothing for are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from fmen.report.curve import draw_curves
from fmen.report.images import BUDGET, ERROR_CEILING, PAGE_BUDGET, ComparedImage, Kind, compare
from fmen.report.inputs import Benched, ReportError, read_bench, read_metrics, read_recipe, read_validation
from fmen.report.scatter import draw_scatter
from fmen.report.tables import challenge_table, comparison_table, mean, per_image_table, validation_table
from fmen.sources.datasets import measured_source
from fmen.training.run_folder import Run
from fmen_core import Upscaler, load
from fmen_core.models import ARCHITECTURES
from fmen_data import open_dataset
from fmen_data.atomic import atomic_write
from fmen_eval import Protocol

WIDE, NARROW = 1040, 400
"""The widths that the scatter is drawn in: for a desk, and for a phone."""


@dataclass(frozen=True)
class Gallery:
    """The images of a report.

    Attributes:
        model: The network's name.
        weights: Its file.
        dataset: The dataset's name.
        total: How many images that has; the report may show fewer.
        protocol: How PSNR and SSIM were measured.
        scale: 2, 3 or 4.
        images: What was compared.
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
    protocol: Protocol = "ntire",
    device: str = "auto",
    most: int | None = None,
    full: bool = False,
) -> Gallery:
    """Upscale and measure the images of a dataset.

    Args:
        weights: The network.
        data: What ``--data`` takes; None for DIV2K's validation images where they are, or else the sample's.
        protocol: How to measure.
        device: Where to run.
        most: Take only so many images, from the first on.
        full: Keep whole images losslessly, whatever it takes.

    Raises:
        UserError: Weights or data are at fault; the message is one line.
    """
    model = load(weights)
    upscaler = Upscaler(model, device=device, channels_last=False)
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
    return Gallery(str(model.name), weights, dataset.name, len(dataset), protocol, upscaler.scale, images)


def write_report(
    out: Path,
    *,
    run: Run | None = None,
    validations: Sequence[Path] = (),
    bench: Path | None = None,
    gallery: Gallery | None = None,
) -> None:
    """Write the page, whole or not at all.

    Args:
        out: The HTML file.
        run: The folder of a training run.
        validations: Files of ``fmen validate --json``.
        bench: A file of ``fmen bench --json``.
        gallery: The images.

    Raises:
        ReportError: There is nothing to report, or a file is not what it should be.
        OSError: A file cannot be read or written.
    """
    titles = network_titles()
    parts = {
        "training": None if run is None else training_part(run),
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
        style=Markup(_template(environment, "report.css")),  # ours, and no HTML
        script=Markup(_template(environment, "report.js")),
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=metadata.version("fmen"),
    )
    try:
        with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(page)
    except OSError as error:  # the user knows the file by its own name
        raise OSError(error.errno, error.strerror, str(out)) from error


def training_part(run: Run) -> dict[str, Any]:
    """The curve of a run, and what it was."""
    log, recipe = read_metrics(run), read_recipe(run)
    step, seconds = log[-1].step, log[-1].seconds
    facts = [("Run", str(run.folder)), ("Steps", f"{step:,}" + (f" of {recipe.steps:,}" if recipe else ""))]
    facts.append(("Time", duration(seconds)))
    if recipe:
        facts.insert(1, ("Network", f"{network_titles().get(recipe.network, recipe.network)} ×{recipe.scale}"))
        facts.append(("Recipe", recipe.name))
        facts.append(("Data", ", ".join(Path(source).name for source in recipe.data)))
        facts.append(("Batch", f"{recipe.batch} of {recipe.patch} × {recipe.patch}"))
    if run.versions.is_file():
        machine = json.loads(run.versions.read_text(encoding="utf-8"))
        facts.append(("Device", str(machine.get("device", "unknown"))))
    loss, protocol = (recipe.loss.upper(), recipe.val_protocol) if recipe else ("", "")
    return {"curves": draw_curves(log, loss=loss, protocol=protocol), "facts": facts}


def validation_part(files: Sequence[Path], titles: dict[str, str]) -> dict[str, Any]:
    """The means of every validation, and the figures of each image."""
    stems = [file.stem for file in files]
    names = [file.stem if stems.count(file.stem) == 1 else str(file) for file in files]
    results = {name: read_validation(file) for name, file in zip(names, files, strict=True)}
    details = [(name, per_image_table(result)) for name, result in results.items()]
    return {"table": validation_table(results, titles), "details": details}


def networks_part(file: Path, titles: dict[str, str]) -> dict[str, Any]:
    """The challenge table and the figure."""
    rows = read_bench(file)
    scatters = [(name, draw_scatter(rows, titles, width=width)) for name, width in (("wide", WIDE), ("narrow", NARROW))]
    return {"table": challenge_table(rows, titles), "scatters": scatters, "remarks": remarks(rows)}


def remarks(rows: Sequence[Benched]) -> list[str]:
    """What the challenge table's figures mean and how they were measured, as sentences."""
    said = ["The small figure is the rank in its column; percentages compare with the IMDN baseline."]
    datasets = sorted({row.dataset for row in rows if row.psnr is not None and row.dataset})
    if datasets:
        said.append(f"PSNR on {' and '.join(datasets)}, RGB.")
    if any(row.score is not None for row in rows):
        said.append("Score: that of the 2026 challenge, smaller is better.")
    if rows[0].conditions:
        said.append(f"{rows[0].conditions}.")
    return said


def images_part(gallery: Gallery, titles: dict[str, str]) -> dict[str, Any]:
    """The images, their figures, and what the layers are called."""
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
    """What people call the networks, by the names that files have."""
    return {architecture.name: architecture.title for architecture in ARCHITECTURES}


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def _template(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
