"""``fmen report``: write runs, validations, benchmarks and images as one self-contained HTML file.

Style, script, charts and images are inside the file, and its content security policy forbids loading anything else.
Sections without input are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fmen.benchmark.run import BASELINE
from fmen.charts.networks import Network, inline_networks
from fmen.report.features import features_part
from fmen.report.gallery import Gallery, images_part
from fmen.report.inputs import BenchRow, ReportError, read_bench, read_recipe, read_validation
from fmen.report.tables import challenge_table, per_image_table, validation_table
from fmen.report.training import Chart, network_titles, training_part
from fmen.training.run_folder import Run
from fmen_data.atomic import atomic_write
from fmen_eval import Protocol

SCATTER_WIDTHS = {"wide": 1040, "medium": 700, "narrow": 400}
"""Widths of the chart of networks in points, by the CSS class of the screens that show it."""

PROTOCOLS: dict[Protocol, str] = {
    "ntire": "on RGB, rounded to 8 bits",
    "paper": "on luma (BT.601), not rounded",
    "kair-y": "on luma (BT.601), rounded to 8 bits",
}
"""What PSNR and SSIM are computed on."""

BENCH_PROTOCOL: Protocol = "ntire"
"""The protocol of ``fmen bench``."""


def write_report(
    out: Path,
    *,
    runs: Sequence[Run] = (),
    validations: Sequence[Path] = (),
    bench: Path | None = None,
    gallery: Gallery | None = None,
    protocol: Protocol | None = None,
) -> None:
    """Write the page atomically.

    Args:
        out: The HTML file.
        runs: The folders of training runs; the curves of several are drawn in the same charts.
        validations: Files of ``fmen validate --json``.
        bench: A file of ``fmen bench --json``.
        gallery: The images.
        protocol: Protocol of the page; None for that of the images or as :func:`page_protocol` chooses.

    Raises:
        ReportError: There is no input, or a file has another content than expected or figures of another protocol.
        OSError: A file cannot be read or written.
    """
    titles = network_titles()
    protocol = protocol or (gallery and gallery.protocol) or page_protocol(runs, validations)
    parts = {
        "training": training_part(runs, protocol) if runs else None,
        "validation": validation_part(validations, titles, protocol) if validations else None,
        "networks": None if bench is None else networks_part(bench, titles, protocol),
        "images": images_part(gallery) if gallery and gallery.images else None,
        "features": features_part(gallery.features, gallery.images[0].name) if gallery and gallery.features else None,
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
        protocol=f"{protocol}: PSNR and SSIM {PROTOCOLS[protocol]}",
        measures=bool(validations or (gallery and gallery.protocol)),
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


def page_protocol(runs: Sequence[Run], validations: Sequence[Path]) -> Protocol:
    """Return the protocol of the inputs: that of the first validation, or the first of the first run, or ``ntire``."""
    for file in validations:
        return read_validation(file)[0].protocol
    recipes = [recipe for recipe in map(read_recipe, runs) if recipe]
    return recipes[0].val_protocol[0] if recipes else "ntire"


def validation_part(files: Sequence[Path], titles: dict[str, str], protocol: Protocol) -> dict[str, Any]:
    """Return the means of every validation, and the figures of each image.

    Raises:
        ReportError: A file has another content than expected, or figures of another protocol.
    """
    stems = [file.stem for file in files]
    names = [file.stem if stems.count(file.stem) == 1 else str(file) for file in files]
    results = {
        f"{name}: {row.dataset}" if row.dataset else name: row
        for name, file in zip(names, files, strict=True)
        for row in read_validation(file)
    }
    for name, row in results.items():
        if row.protocol != protocol:
            raise ReportError(
                f"{name}: measured by {row.protocol}, but this page is by {protocol}; use one protocol: "
                f"fmen validate --protocol {protocol}, or fmen report --protocol {row.protocol}"
            )
    details = [(name, per_image_table(result)) for name, result in results.items()]
    return {"table": validation_table(results, titles), "details": details}


def networks_part(file: Path, titles: dict[str, str], protocol: Protocol) -> dict[str, Any]:
    """Return the challenge table and its chart. The PSNR, which is by ``ntire``, is left out under other protocols."""
    rows = read_bench(file)
    left_out = protocol != BENCH_PROTOCOL and any(row.psnr is not None for row in rows)
    if left_out:
        rows = [row.model_copy(update={"psnr": None}) for row in rows]
    networks = [
        Network(row.model, titles.get(row.model, row.model), row.params, row.runtime_ms, row.peak_memory_bytes)
        for row in rows
    ]
    svgs = {
        kind: Markup(inline_networks(networks, f"networks-{kind}", width)) for kind, width in SCATTER_WIDTHS.items()
    }
    chart = Chart("Runtime, memory and parameters", svgs)
    return {"table": challenge_table(rows, titles), "chart": chart, "remarks": remarks(rows, left_out)}


def remarks(rows: Sequence[BenchRow], psnr_left_out: bool = False) -> list[str]:
    """Return sentences on the meaning of the table's figures and how they were measured."""
    relative = "; percentages are relative to the IMDN baseline" if BASELINE in {row.model for row in rows} else ""
    sentences = [f"The small number is the rank in the column{relative}."]
    datasets = sorted({row.dataset for row in rows if row.psnr is not None and row.dataset})
    if datasets:
        sentences.append(f"PSNR on {' and '.join(datasets)} ({BENCH_PROTOCOL}).")
    if psnr_left_out:
        sentences.append(f"PSNR is left out: 'fmen bench' measures it by {BENCH_PROTOCOL}.")
    if any(row.score is not None for row in rows):
        sentences.append("A lower score is better.")
    if rows[0].conditions:
        sentences.append(f"{rows[0].conditions}.")
    return sentences


def _template(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
