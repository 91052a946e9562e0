"""``fmen upscale``."""

from __future__ import annotations

import sys
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fmen.errors import UserError

if TYPE_CHECKING:
    from fmen_core import Upscaler


class Precision(str, Enum):
    """Number format of the convolutions."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Format(str, Enum):
    """Format of the files in a folder."""

    png = "png"
    jpg = "jpg"
    webp = "webp"
    tiff = "tiff"


def upscale(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Images, folders, patterns; - is stdin.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder, or file for one image; - is stdout (PNG).")],
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|NAME", help="Default: FMEN-S in the package, or the newest run's best.")
    ] = None,
    scale: Annotated[int, typer.Option(min=2, max=4, help="Without --weights: how many times larger.")] = 4,
    format_: Annotated[Format, typer.Option("--format", help="Of the files in a folder.")] = Format.png,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG and WebP.")] = 95,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite existing outputs.")] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Mean over 8 flips and rotations: better, 8 times slower.")
    ] = False,
    precision: Annotated[Precision, typer.Option(help="Number format; auto: the fastest here.")] = Precision.auto,
    tile: Annotated[str, typer.Option(help="Side of the tiles in pixels; auto: from the memory; or none.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Enlarge images."""
    side = parse_tile(tile)
    from fmen.upscaling.jobs import Settings, pending, plan

    jobs = plan(inputs, output, f".{format_.value}")
    from fmen.sources.weights import choose_weights

    path = choose_weights(weights, scale)
    settings = Settings.of(path, precision.value, ensemble, quality)
    todo = jobs if overwrite else pending(jobs, settings)
    say = partial(typer.echo, err=output == "-")  # standard output may be the image
    if not todo and len(jobs) == 1:
        say(f"{jobs[0].target} exists already (--overwrite makes it again)")
    elif len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} exist already (--overwrite makes them again)")
    if not todo:
        return

    from fmen.upscaling.batch import BatchUpscaler, report_faults
    from fmen_core import Upscaler, load

    model = load(path)
    upscalers: dict[Precision, Upscaler] = {}

    def upscaler_for(bits: int) -> Upscaler:
        # bf16 and fp16 have 8 and 11 significant bits, too few for an image of 16.
        wanted = Precision.fp32 if precision is Precision.auto and bits == 16 else precision
        if wanted not in upscalers:
            upscalers[wanted] = Upscaler(
                model, device=device, precision=wanted.value, tile=side, self_ensemble=ensemble
            )
        return upscalers[wanted]

    first = upscaler_for(8)
    say(f"weights {path}: {model.name} x{model.scale}, {first.precision} on {first.device}")
    complain = partial(typer.echo, err=True)
    progress = sys.stderr.isatty()
    batch = BatchUpscaler(upscaler_for, settings=settings, progress=progress, say=say, complain=complain)
    report_faults(batch.run(todo), todo)


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
