"""``fmen upscale``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fmen.cli.errors import DEBUG
from fmen.cli.options import AutoPrecision, Device, Model, Threads, warn
from fmen.errors import UserError

if TYPE_CHECKING:
    from fmen.upscaling.enlarge import OutputSize
    from fmen.upscaling.jobs import Job
    from fmen.upscaling.manifest import Settings
    from fmen.upscaling.networks import Networks
    from fmen.upscaling.storage import Location

LARGEST_FACTOR = 64


class Format(str, Enum):
    """Format of the files in a folder."""

    png = "png"
    jpg = "jpg"
    webp = "webp"
    tiff = "tiff"


class Backend(str, Enum):
    """What runs the network."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"
    onnxruntime = "onnxruntime"


class Engine(str, Enum):
    """What runs the images."""

    local = "local"
    ray = "ray"


Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help="Images, folders, patterns, URIs; - is stdin.")]
Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="PATH", help="Folder, or file for one image; - is stdout (PNG).")
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="auto|clean|real|FILE|NAME",
        help="Trained weights. auto: of the bundled ones clean, real or their mean, "
        "chosen by each image's noise and JPEG quality. "
        "Default: the newest run's or, if there is no run, auto.",
    ),
]
Denoise = Annotated[
    float | None, typer.Option(metavar="SHARE", min=0, max=1, help="Blend clean (0) and real (1) for all images.")
]
Scale = Annotated[
    str | None,
    typer.Option(
        metavar="FACTOR",
        help="Enlarge by 2, 3 or 4, or by any factor, such as 2.7. Default: the network's scale; 4 if there is no run.",
    ),
]
Outscale = Annotated[
    str | None, typer.Option(metavar="FACTOR", help="Resize the result of --scale to any factor, such as 2.5.")
]
Width = Annotated[int | None, typer.Option(min=1, metavar="PIXELS", help="Width of the results.")]
MaxSide = Annotated[int | None, typer.Option(min=1, metavar="PIXELS", help="Limit for the longer side of the results.")]
Quality = Annotated[int, typer.Option(metavar="N", min=1, max=100, help="Quality of JPEG and WebP.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing outputs.")]
Ensemble = Annotated[
    bool, typer.Option("--ensemble", help="Average over 8 flips and rotations: better, and 8 times slower.")
]
FastPrecision = Annotated[
    AutoPrecision, typer.Option(help="Arithmetic of the convolutions. auto: the fastest that the machine supports.")
]
Tile = Annotated[
    str, typer.Option(metavar="auto|N|none", help="Side of the tiles in pixels. auto: as the memory allows.")
]
Library = Annotated[
    Backend, typer.Option(help="The library that runs the network. auto: PyTorch. Others run on the CPU.")
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes of --engine ray. Default: one per GPU or CPU core."),
]


def upscale(
    inputs: Inputs,
    output: Output = None,
    weights: Weights = None,
    denoise: Denoise = None,
    model: Model = None,
    scale: Scale = None,
    outscale: Outscale = None,
    width: Width = None,
    max_side: MaxSide = None,
    format_: Annotated[Format, typer.Option("--format", help="Format of the files in a folder.")] = Format.png,
    quality: Quality = 95,
    overwrite: Overwrite = False,
    ensemble: Ensemble = False,
    precision: FastPrecision = AutoPrecision.auto,
    tile: Tile = "auto",
    device: Device = "auto",
    backend: Library = Backend.auto,
    threads: Threads = None,
    engine: Annotated[
        Engine, typer.Option(help="ray: many processes, on this machine or on a cluster.")
    ] = Engine.local,
    workers: Workers = None,
) -> None:
    """Enlarge images.

    A folder is enlarged with its subfolders. Existing outputs are skipped.
    """
    if not output:
        raise missing_output(inputs)
    if "" in inputs:
        raise UserError("an input has an empty name; name an image or a folder")
    side = parse_tile(tile)
    network_scale, size = parse_size(scale, outscale, width, max_side)
    check_engine(engine, threads, workers, [*inputs, output])
    prepare_process(backend, threads)
    from fmen.sources.networks import source_of
    from fmen.upscaling.choice import choose
    from fmen.upscaling.jobs import output_folder, plan
    from fmen.upscaling.manifest import Settings
    from fmen.upscaling.networks import Networks
    from fmen_data import DataError

    jobs, faults = plan(inputs, output, f".{format_.value}")
    chosen = choose(weights, model, scale=network_scale, size=size, denoise=denoise)
    options: dict[str, Any] = {"precision": precision.value, "device": device, "tile": side, "self_ensemble": ensemble}
    options |= {"backend": backend.value, "denoise": denoise, "size": size}
    networks = Networks.load(chosen.files, model, blended=chosen.blended, note=warn, **options)
    settings = Settings.of(
        *(chosen.all_files, precision.value, ensemble, quality, networks.size), code=source_of(model), denoise=denoise
    )
    for fault in faults:
        warn(f"error: {fault}")
    say = partial(typer.echo, err=output == "-")  # standard output may be the image
    todo = jobs_to_do(jobs, settings, say, overwrite=overwrite)
    failed, advice = 0, "for the reasons above"
    if todo and engine is Engine.ray:
        failed, advice = run_on_workers(todo, networks, settings, say, output_folder(inputs, output), workers)
    elif todo:
        failed = run_here(todo, networks, settings, say)
    if failed or faults:
        raise DataError(f"{failed + len(faults)} of {len(todo) + len(faults)} images could not be upscaled, {advice}")


def check_engine(engine: Engine, threads: int | None, workers: int | None, paths: Sequence[str]) -> None:
    """Raise UserError if options contradict ``--engine``."""
    if engine is not Engine.ray and workers:
        raise UserError("--workers is for --engine ray; for this engine use --threads")
    if engine is Engine.ray and threads:
        raise UserError("--engine ray has one thread per core of its processes; give their number with --workers")
    if engine is Engine.ray and "-" in paths:
        raise UserError("--engine ray reads and writes files; for standard input and output use --engine local")


def prepare_process(backend: Backend, threads: int | None) -> None:
    """Set the threads, limit the caches, and turn off libtiff's messages unless debugging.

    Raises:
        ModelError: The backend is not installed.
    """
    from fmen.threads import use_threads
    from fmen.upscaling.batch import limit_caches
    from fmen.upscaling.photo import silence_libtiff
    from fmen_core.backends import check_installed

    check_installed(backend.value)
    use_threads(threads)
    limit_caches()
    if not os.environ.get(DEBUG):
        silence_libtiff()


def jobs_to_do(jobs: list[Job], settings: Settings, say: Callable[[str], None], *, overwrite: bool) -> list[Job]:
    """Return the jobs without a result of these settings, all of them with ``overwrite``; say how many there are."""
    from fmen.upscaling.manifest import pending
    from fmen_data.atomic import remove_abandoned

    for job in jobs:
        if job.source is None and isinstance(job.target, Path) and job.target.exists() and not overwrite:
            raise UserError(f"{job.result}: exists already; name another file, or add --overwrite")
    todo = jobs if overwrite else pending(jobs, settings)
    remove_abandoned(job.target for job in todo if isinstance(job.target, Path))
    if not todo and len(jobs) == 1:
        say(f"{jobs[0].result} exists already (--overwrite makes it again)")
    elif len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} exist already (--overwrite makes them again)")
    return todo


def run_on_workers(
    todo: Sequence[Job],
    networks: Networks,
    settings: Settings,
    say: Callable[[str], None],
    folder: Location,
    workers: int | None,
) -> tuple[int, str]:
    """Upscale with Ray; return the number of images that could not be upscaled, and where the reasons are."""
    from fmen.upscaling.cluster import run_on_ray

    for line in networks.lines():
        say(line)
    failed, failures = run_on_ray(todo, networks, settings, folder, workers=workers, say=say)
    return failed, f"see {failures}" if failed else "for the reasons above"


def run_here(todo: Sequence[Job], networks: Networks, settings: Settings, say: Callable[[str], None]) -> int:
    """Upscale in this process; return the number of images that could not be upscaled."""
    from fmen.sources.openvino_file import OpenVINONetwork
    from fmen.upscaling.batch import BatchUpscaler

    first = networks.upscaler()
    arithmetic, library = first.precision, first.backend
    if isinstance(first.model, OpenVINONetwork):
        arithmetic, library = first.model.arithmetic, "openvino"
    where = f"{arithmetic} on {first.device}" + ("" if library == "torch" else f" with {library}")
    for line in networks.lines(f", {where}"):
        say(line)
    batch = BatchUpscaler(networks, settings, progress=sys.stderr.isatty())
    return batch.run(todo, say=say, complain=warn)


def missing_output(inputs: Sequence[str]) -> UserError:
    """Return the error of a command without an output, which names the option that is missing."""
    if len(inputs) > 1:
        return UserError(f"no output is named; did you mean -o {inputs[-1]}?")
    return UserError("no output is named; add -o and a file, a folder, or - for standard output")


def parse_size(
    scale: str | None, outscale: str | None, width: int | None, max_side: int | None
) -> tuple[int | None, OutputSize | None]:
    """Return the scale of the network, and the output size that the options describe; None for the network's own.

    ``--scale 2``, ``3`` and ``4`` name the network's scale; another factor is an output size, as ``--outscale`` is.

    Raises:
        UserError: The options contradict each other, or a factor is not a positive number.
    """
    from fmen.upscaling.enlarge import OutputSize
    from fmen.upscaling.networks import SCALES

    factor = None if scale is None else parse_factor("--scale", scale)
    network_scale = int(factor) if factor in SCALES else None
    sizes = {"--scale": scale if factor and not network_scale else None, "--outscale": outscale, "--width": width}
    given = [option for option, value in sizes.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} both set the size; give one of them")
    if width is not None:
        factor = None
    if outscale is not None:
        factor = parse_factor("--outscale", outscale)
    size = OutputSize(factor, width, max_side)
    return network_scale, None if size == OutputSize() else size


def parse_factor(option: str, text: str) -> Fraction:
    """Parse a factor such as ``2.5`` or ``5/2``.

    Raises:
        UserError: It is not a number, or out of range.
    """
    try:
        # Fraction would write out the digits of 1e99999999.
        factor = Fraction(0) if "e" in text.lower() else Fraction(text)
    except (ValueError, ZeroDivisionError):
        factor = Fraction(0)
    if not Fraction(1, LARGEST_FACTOR) <= factor <= LARGEST_FACTOR:
        raise UserError(f"{option} {text}: give a factor such as 2.5, from 1/{LARGEST_FACTOR} to {LARGEST_FACTOR}")
    return factor


def parse_tile(text: str) -> int | Literal["auto"] | None:
    """Parse ``"auto"``, a number of pixels, or ``"none"`` (None).

    Raises:
        UserError: The text is none of these.
    """
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    if not text.isdecimal():
        raise UserError(f"--tile {text}: give a number of pixels, or auto, or none")
    return int(text)
