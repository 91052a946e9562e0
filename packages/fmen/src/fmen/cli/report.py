"""``fmen report``: the command line of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Device, Model, Protocol, Threads, warn


def report(
    run: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="Run folder: shows its curves, and images of the first's weights. Repeatable."
        ),
    ] = None,
    validate: Annotated[
        list[Path] | None, typer.Option(metavar="FILE.json", help="From fmen validate --json. Repeatable.")
    ] = None,
    bench: Annotated[Path | None, typer.Option(metavar="FILE.json", help="From fmen bench --json.")] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE|NAME", help="Weights whose images are shown. Default: the run's.")
    ] = None,
    model: Model = None,
    data: Annotated[
        str | None, typer.Option(metavar="DIR|sample", help="Images to show: dataset folder, HR_DIR,LR_DIR or sample.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page.")] = Path("report.html"),
    protocol: Annotated[Protocol, typer.Option(help="How PSNR and SSIM are computed.")] = Protocol.ntire,
    max_images: Annotated[int | None, typer.Option(metavar="N", min=0, help="Show at most N images.")] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Embed images without loss. Default: at most 800 kB per image and 50 MB in all."),
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Write a page of curves, tables and images.

    The page is one HTML file without external resources. It has a section for each input that is named. Without
    --run, --weights, --validate and --bench, it shows the newest run, or without one the bundled FMEN-S.
    """
    from fmen.report.page import make_gallery, write_report
    from fmen.sources.networks import user_class
    from fmen.sources.weights import choose_weights, is_bundled, weights_title
    from fmen.threads import use_threads
    from fmen.training.run_folder import Run

    use_threads(threads)
    out.parent.mkdir(parents=True, exist_ok=True)  # before the images, not after
    folders = run or []
    if not folders and weights is None and (data is not None or not (validate or bench)):
        found = choose_weights(None, model=model)
        folders, weights = ([], found) if is_bundled(found) else ([found.parent], None)
    runs = [Run(folder) for folder in folders]
    if weights is not None:
        weights = choose_weights(weights)
    elif runs and (data is not None or runs[0].weights.is_file()):
        weights = runs[0].weights
        if data is None and model is None and (name := user_class(weights)):
            warn(f"note: images are left out; name the network of the run with --model {name}")
            weights = None
    gallery = None
    if weights is not None and max_images != 0:
        gallery = make_gallery(
            *(weights, data),
            model=model,
            protocol=protocol.value,
            device=device,
            most=max_images,
            full=full,
            note=warn,
        )
        typer.echo(f"images: {len(gallery.images)} of {gallery.dataset}, weights {weights_title(weights)}")
    write_report(out, runs=runs, validations=validate or [], bench=bench, gallery=gallery)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
