"""``fmen data``: download, prepare, label, verify and list datasets."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Precision
from fmen.errors import UserError

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Download, prepare, label, verify and list datasets.",
)


class Dataset(str, Enum):
    """The datasets that can be downloaded."""

    div2k = "div2k"
    flickr2k = "flickr2k"


class Split(str, Enum):
    """The splits of a dataset."""

    train = "train"
    val = "val"


SourceOption = Annotated[str, typer.Option("--data", help="A dataset folder, HR_DIR,LR_DIR or sample.")]
Scale = Annotated[int, typer.Option(min=2, max=4, help="HR size / LR size.")]


@data_app.command()
def download(
    datasets: Annotated[
        list[Dataset] | None, typer.Argument(case_sensitive=False, help="Datasets to download. Default: div2k.")
    ] = None,
    data: Annotated[Path, typer.Option("--data", help="The data folder.")] = Path("data"),
    scale: Annotated[
        list[int] | None, typer.Option(min=2, max=4, help="Scale of the LR images; repeatable. Default: 4.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Another server that has the official archives.")] = None,
) -> None:
    """Download DIV2K or Flickr2K: the official archives, resumed after an interruption, checked and unpacked."""
    from fmen_data import div2k

    names = [dataset.value for dataset in datasets or [Dataset.div2k]]
    for root in div2k.download(data, names, scales=scale or [4], base_url=url, progress=sys.stderr.isatty()):
        typer.echo(f"{root} is complete")


@data_app.command()
def prepare(
    data: SourceOption = "data",
    scale: Scale = 4,
    split: Annotated[Split, typer.Option(help="The split of the dataset.")] = Split.train,
    out: Annotated[Path | None, typer.Option(help="The cache file. Default: in ~/.cache/fmen or $FMEN_CACHE.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads. Default: one per core.")] = None,
) -> None:
    """Decode a dataset into one HDF5 file for training. A sound, up-to-date cache is reused, any other rebuilt."""
    from fmen_data import open_dataset, parse_source, prepare_cache

    dataset = open_dataset(parse_source(data), scale=scale, split=split.value)
    path = prepare_cache(dataset, out, workers=workers, progress=sys.stderr.isatty(), verify=True)
    typer.echo(f"{path}: {len(dataset)} images of {dataset.name} at scale {scale}, {path.stat().st_size / 1e6:.1f} MB")


@data_app.command()
def label(
    weights: Annotated[
        list[Path],
        typer.Option(metavar="FILE|NAME", help="A teacher's weights; repeatable: the outputs are averaged."),
    ],
    data: Annotated[Path, typer.Option(help="A folder of photographs.")],
    out: Annotated[Path, typer.Option(help="The dataset to write, in the EDSR benchmark layout.")],
    factor: Annotated[
        list[float] | None,
        typer.Option(help="Resize the photographs by it first; repeatable. Default: 0.6 and 1."),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Precision of the teachers.")] = Precision.fp32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Make training pairs from the outputs of a stronger network (pseudo-labels)."""
    from fmen.training.pseudo_labels import label_folder
    from fmen_core import Upscaler, find_weights, load

    teachers = [Upscaler(load(find_weights(file)), device=device, precision=precision.value) for file in weights]
    scales = sorted({teacher.scale for teacher in teachers})
    if len(scales) > 1:
        raise UserError(f"the teachers have the scales {', '.join(map(str, scales))}; give teachers of one scale")
    progress = sys.stderr.isatty()
    made = label_folder(teachers, data, out, scale=scales[0], factors=factor or (0.6, 1.0), progress=progress)
    typer.echo(f"{out}: {made} new pairs, x{scales[0]}")


@data_app.command()
def verify(
    data: SourceOption = "data",
    scale: Scale = 4,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image, not only its header and its end.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="A cache file; compare the checksums of all its images instead.")
    ] = None,
) -> None:
    """Check that all images are present and complete and that LR and HR sizes match; exit status 1 if not."""
    from fmen_data import div2k, parse_source

    if cache:
        verify_cache(cache)
        return
    found = div2k.verify(parse_source(data), scale=scale, deep=deep, progress=sys.stderr.isatty())
    for problem in found.problems:
        typer.echo(problem)
    typer.echo(
        f"{found.images} images checked, {len(found.problems) or 'no'} problem{'s' * (len(found.problems) != 1)}"
    )
    if found.problems:
        raise typer.Exit(1)


def verify_cache(path: Path) -> None:
    """Compare the checksums of all images of a cache; exit with status 1 at the first that differs."""
    from fmen_data import DataError, PatchCache

    try:
        cache = PatchCache(path)
        for index in range(len(cache)):
            cache.check(index)
    except DataError as error:
        typer.echo(str(error))
        raise typer.Exit(1) from error
    typer.echo(f"{len(cache)} images of {cache.dataset} checked, no problems")


@data_app.command()
def info(data: SourceOption = "data") -> None:
    """List the image folders of a dataset and what they hold."""
    from fmen_data import div2k, parse_source

    for folder in div2k.info(parse_source(data)):
        of = f" of {folder.expected}" if folder.expected else ""
        (low, narrow), (high, wide) = folder.smallest, folder.largest
        size = f"{wide}x{high}" if folder.smallest == folder.largest else f"{narrow}x{low} to {wide}x{high}"
        typer.echo(f"{folder.path}: {folder.images}{of} images, {size}, {folder.size / 1e6:.1f} MB")
