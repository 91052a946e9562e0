"""``fmen report``: the command line of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Device, Model, Protocol, Threads, warn

RunFolders = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="Run folder: shows its curves, and images of its weights. Repeatable."),
]
Validations = Annotated[
    list[Path] | None, typer.Option(metavar="FILE.json", help="From fmen validate --json. Repeatable.")
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE|NAME", help="Weights whose images are compared. Repeatable. Default: the runs'."),
]
Data = Annotated[
    str | None, typer.Option(metavar="DIR|sample", help="Images to show: dataset folder, HR_DIR,LR_DIR or sample.")
]
Pictures = Annotated[
    Path | None,
    typer.Option(metavar="DIR|FILE", help="Instead of --data: your own pictures to upscale, without HR or PSNR."),
]
PageProtocol = Annotated[
    Protocol | None,
    typer.Option(help="How PSNR and SSIM are computed. Default: as in --validate or the run, otherwise ntire."),
]
Perceptual = Annotated[bool, typer.Option("--perceptual", help="Also measure LPIPS and DISTS; needs fmen[perceptual].")]
Full = Annotated[
    bool,
    typer.Option("--full", help="Embed images without loss. Default: reduced towards 800 kB per image, 50 MB in all."),
]
Spectrum = Annotated[
    bool, typer.Option("--spectrum", help="Also show the networks' features and their spectra, on the first image.")
]
Layers = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="With --spectrum: modules by class or name. Default: the blocks. Repeatable."),
]


def report(
    run: RunFolders = None,
    validate: Validations = None,
    bench: Annotated[Path | None, typer.Option(metavar="FILE.json", help="From fmen bench --json.")] = None,
    weights: Weights = None,
    model: Model = None,
    data: Data = None,
    pictures: Pictures = None,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page.")] = Path("report.html"),
    protocol: PageProtocol = None,
    perceptual: Perceptual = False,
    max_images: Annotated[int | None, typer.Option(metavar="N", min=0, help="Show at most N images.")] = None,
    full: Full = False,
    spectrum: Spectrum = False,
    layers: Layers = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Write a page of curves, tables and images.

    The page is one HTML file without external resources. It has a section for each input that is named. Without
    --run, --weights, --validate and --bench, it shows the newest run, or, if there is none, the bundled FMEN-S. Several
    --weights or --run are compared under one slider.
    """
    from fmen.outputs import prepare_file
    from fmen.report.inputs import ReportError
    from fmen.report.page import page_protocol, write_report
    from fmen.threads import use_threads
    from fmen.training.run_folder import Run

    use_threads(threads)
    if pictures is not None and (data is not None or perceptual):
        other = "--perceptual" if data is None else "--data"
        raise ReportError(f"--pictures have no HR images and {other} needs them; leave out one of the two")
    prepare_file(out, ".html", ".htm")
    images = data is not None or pictures is not None
    files, folders = choose_networks(weights or [], run or [], model, images or not (validate or bench), images)
    runs, validations = [Run(folder) for folder in folders], validate or []
    used = protocol.value if protocol else page_protocol(runs, validations)
    gallery = None
    if files and max_images != 0:
        from fmen.report.gallery import make_gallery
        from fmen.report.perceptual import make_distances

        gallery = make_gallery(
            *(files, data),
            pictures=pictures,
            model=model,
            protocol=used,
            distances=make_distances(device) if perceptual else None,
            device=device,
            most=max_images,
            full=full,
            layers=(layers or []) if spectrum or layers else None,
            note=warn,
        )
        names = ", ".join(network.weights for network in gallery.networks)
        typer.echo(f"images: {len(gallery.images)} of {gallery.dataset}, weights {names}")
    write_report(out, runs=runs, validations=validations, bench=bench, gallery=gallery, protocol=used)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def choose_networks(
    weights: list[Path], runs: list[Path], model: str | None, wanted: bool, asked: bool
) -> tuple[list[Path], list[Path]]:
    """Return the weights files whose images are shown, and the run folders whose curves are.

    Args:
        weights: As named.
        runs: The folders, as named.
        model: As named.
        wanted: Whether to show the newest run, or the bundled weights, if neither is named.
        asked: Whether images were asked for: weights that cannot be used are then an error instead of a note.
    """
    from fmen.sources.networks import user_class
    from fmen.sources.weights import choose_weights, is_bundled
    from fmen.training.run_folder import Run

    if weights:
        return [choose_weights(file) for file in weights], runs
    if not runs and wanted:
        found = choose_weights(None, model=model)
        if is_bundled(found):
            return [found], []
        runs = [found.parent]
    files = [Run(folder).weights for folder in runs]
    if not asked:
        files = [file for file in files if file.is_file()]
        for file in list(files):
            if model is None and (name := user_class(file)):
                warn(f"note: images are left out; name the network of the run with --model {name}")
                files.remove(file)
    return files, runs
