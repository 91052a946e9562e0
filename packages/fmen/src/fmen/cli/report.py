"""``fmen report``: the command line of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Protocol


def report(
    run: Annotated[Path | None, typer.Option(help="The folder of a training run: its curve, and its weights.")] = None,
    validate: Annotated[
        list[Path] | None, typer.Option(metavar="FILE.json", help="From fmen validate --json. May be repeated.")
    ] = None,
    bench: Annotated[Path | None, typer.Option(metavar="FILE.json", help="From fmen bench --json.")] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE|NAME", help="Network to show on images. Default: the run's.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images to show: a dataset folder, HR_DIR,LR_DIR or sample; as in validate.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    protocol: Annotated[Protocol, typer.Option(help="How to measure the images.")] = Protocol.ntire,
    max_images: Annotated[int | None, typer.Option(min=0, help="Show so many images at most; 0: none.")] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Whole images losslessly; otherwise an image takes 800 kB, or 100 of them 50 MB."),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Write a page of curves, tables and pictures.

    One HTML file that needs nothing else. What is not named is left out. Without --run and --weights, --data alone and
    an empty command line mean the newest run.
    """
    from fmen.report.page import make_gallery, write_report
    from fmen.sources.runs import newest_weights
    from fmen.training.run_folder import Run
    from fmen_core import find_weights

    out.parent.mkdir(parents=True, exist_ok=True)  # before the images, not after
    if run is None and weights is None and (data is not None or not (validate or bench)):
        run = newest_weights().parent
    chosen = None if run is None else Run(run)
    if weights is not None:
        weights = find_weights(weights)
    elif chosen is not None and (data is not None or chosen.weights.is_file()):
        weights = chosen.weights
    gallery = None
    if weights is not None and max_images != 0:
        gallery = make_gallery(weights, data, protocol=protocol.value, device=device, most=max_images, full=full)
        typer.echo(f"images: {len(gallery.images)} of {gallery.dataset}, weights {weights}")
    write_report(out, run=chosen, validations=validate or [], bench=bench, gallery=gallery)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
