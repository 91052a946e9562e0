"""``fmen data``: download, list, verify, prepare, label and draw datasets."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from fmen.cli.options import Device, Precision, Threads, examples, warn
from fmen.errors import UserError

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Download, list, verify, prepare, label and draw datasets.",
    epilog=examples("fmen data download", "fmen data info photos"),
)


class Dataset(str, Enum):
    """The datasets that can be downloaded."""

    div2k = "div2k"
    flickr2k = "flickr2k"


class Split(str, Enum):
    """The splits of a dataset."""

    train = "train"
    val = "val"


class Kind(str, Enum):
    """The kinds of images that ``fmen_data.synthetic`` draws."""

    leaves = "leaves"
    text = "text"
    lines = "lines"
    facade = "facade"
    diagram = "diagram"
    interface = "interface"


Folder = Annotated[
    str | None,
    typer.Argument(metavar="DIR", help="Dataset folder, HR_DIR,LR_DIR or sample. Default: data.", show_default=False),
]
SourceOption = Annotated[str | None, typer.Option("--data", metavar="DIR", help="The same as the argument DIR.")]
Scale = Annotated[int, typer.Option(metavar="N", min=2, max=4, help="HR size / LR size.")]


def choose_source(folder: str | None, data: str | None) -> str:
    """Return the dataset that the argument or ``--data`` names.

    Raises:
        UserError: Both name one, and they differ.
    """
    if folder is not None and data is not None and folder != data:
        raise UserError(f"{folder} and --data {data} name two datasets; name one")
    return folder or data or "data"


@data_app.command(epilog=examples("fmen data download", "fmen data download div2k flickr2k --data /data --scale 2"))
def download(
    datasets: Annotated[
        list[Dataset] | None, typer.Argument(case_sensitive=False, help="Datasets to download. Default: div2k.")
    ] = None,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The data folder.")] = Path("data"),
    scale: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=2, max=4, help="Scale of the LR images. Repeatable. Default: 4."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another server that has the official archives.")
    ] = None,
) -> None:
    """Download DIV2K and Flickr2K.

    The official archives are downloaded, verified and unpacked. An interrupted download is resumed.
    """
    from fmen_data import div2k

    names = [dataset.value for dataset in datasets or [Dataset.div2k]]
    for root in div2k.download(data, names, scales=scale or [4], base_url=url, progress=sys.stderr.isatty()):
        typer.echo(f"{root} is complete")


@data_app.command(epilog=examples("fmen data info photos", "fmen data info HR_DIR,LR_DIR"))
def info(folder: Folder = None, data: SourceOption = None) -> None:
    """List the image folders of a dataset.

    Each line shows the number, the sizes and the bytes of the images in a folder.
    """
    from fmen_data import div2k, parse_source

    for found in div2k.info(parse_source(choose_source(folder, data))):
        of = f" of {found.expected}" if found.expected else ""
        (low, narrow), (high, wide) = found.smallest, found.largest
        size = f"{wide}x{high}" if found.smallest == found.largest else f"{narrow}x{low} to {wide}x{high}"
        typer.echo(f"{found.path}: {found.images}{of} images, {size}, {found.size / 1e6:.1f} MB")


@data_app.command(epilog=examples("fmen data verify photos", "fmen data verify data/DIV2K --scale 2 --deep"))
def verify(
    folder: Folder = None,
    data: SourceOption = None,
    scale: Scale = 4,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image, not only its header and its end.")] = False,
    cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare the checksums of a cache's images instead.")
    ] = None,
) -> None:
    """Check that a dataset is complete.

    All images must be present and complete, and LR and HR sizes must match; otherwise the exit status is 1.
    """
    from fmen_data import div2k, parse_source

    if cache:
        if folder or data or deep:
            raise UserError("--cache FILE is checked alone; leave the dataset and --deep out")
        verify_cache(cache)
        return
    source = parse_source(choose_source(folder, data))
    found = div2k.verify(source, scale=scale, deep=deep, progress=sys.stderr.isatty())
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

    cache = PatchCache(path)
    try:
        for index in range(len(cache)):
            cache.check(index)
    except DataError as error:
        typer.echo(str(error))
        raise typer.Exit(1) from error
    typer.echo(f"{len(cache)} images of {cache.dataset} checked, no problems")


@data_app.command(epilog=examples("fmen data prepare photos", "fmen data prepare --scale 2 --out div2k_x2.h5"))
def prepare(
    folder: Folder = None,
    data: SourceOption = None,
    scale: Scale = 4,
    split: Annotated[Split, typer.Option(help="The split of the dataset.")] = Split.train,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The cache file. Default: in ~/.cache/fmen or $FMEN_CACHE.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Decoding threads. Default: one per core.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be used, and name them.")
    ] = False,
) -> None:
    """Decode a dataset into one HDF5 file for training.

    'fmen train' does this by itself. A valid, up-to-date cache is reused; any other is rebuilt.
    """
    from fmen.outputs import prepare_file
    from fmen.threads import available_cores
    from fmen_data import PatchCache, open_dataset, parse_source, prepare_cache

    workers = workers or available_cores()

    def report(line: str) -> None:
        typer.echo(f"left out: {line}", err=True)

    on_skip = report if skip_bad else None
    source = parse_source(choose_source(folder, data))
    dataset = open_dataset(source, scale=scale, split=split.value, on_skip=on_skip)
    if out is not None:
        prepare_file(out)
    path = prepare_cache(dataset, out, workers=workers, progress=sys.stderr.isatty(), verify=True, on_skip=on_skip)
    images = len(PatchCache(path))
    typer.echo(f"{path}: {images} images of {dataset.name} at scale {scale}, {path.stat().st_size / 1e6:.1f} MB")


@data_app.command(
    epilog=examples(
        "fmen data label --weights imdn-x4 --data photos --out labelled",
        "fmen data label --weights imdn-x4 --weights mine.pth --model mine.py:Mine --data photos --out labelled",
    )
)
def label(
    weights: Annotated[
        list[Path],
        typer.Option(metavar="FILE|NAME", help="Weights of a teacher. Repeatable: the outputs are averaged."),
    ],
    data: Annotated[list[Path], typer.Option(metavar="DIR", help="A folder of photographs. Repeatable.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The dataset to write, in the EDSR benchmark layout.")],
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE.py:CLASS", help="Your own network, with one of the --weights. Repeatable."),
    ] = None,
    factor: Annotated[
        list[float] | None,
        typer.Option(metavar="X", help="Resize the photographs by X first. Repeatable. Default: 0.6 and 1."),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average each teacher over 8 flips and rotations: 8 times slower.")
    ] = False,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the convolutions.")] = Precision.fp32,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Make training pairs from a stronger network's outputs.

    The outputs are called pseudo-labels. Existing pairs in --out are skipped; they must come from the same teachers and
    photographs.
    """
    from fmen.outputs import check_folder
    from fmen.sources.networks import load_network, model_of
    from fmen.threads import use_threads
    from fmen.training.pseudo_labels import check_teachers, label_folders
    from fmen_core import Upscaler, find_weights

    check_folder(out, data)
    use_threads(threads)
    files = [find_weights(file) for file in weights]
    options: dict[str, Any] = {"device": device, "precision": precision.value, "self_ensemble": ensemble}
    networks = [load_network(file, model_of(file, model or []), note=warn) for file in files]
    teachers = [Upscaler(network, **options) for network in networks]
    scales = sorted({teacher.scale for teacher in teachers})
    if len(scales) > 1:
        raise UserError(f"the teachers have the scales {', '.join(map(str, scales))}; give teachers of one scale")
    check_teachers(out, files, self_ensemble=ensemble)
    progress = sys.stderr.isatty()
    made = label_folders(teachers, data, out, scale=scales[0], factors=factor or (0.6, 1.0), progress=progress)
    typer.echo(f"{out}: {made} new pairs, x{scales[0]}")


@data_app.command(
    epilog=examples("fmen data synthesize synthetic", "fmen data synthesize pages --count 100 --kind text")
)
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write, for 'fmen train --data'.")],
    count: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of drawn images in the folder afterwards.")
    ] = 400,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(
            metavar="KIND",
            help=f"One of {', '.join(kind.value for kind in Kind)}. Repeatable. Default: all in turn.",
            show_default=False,
        ),
    ] = None,
    side: Annotated[int, typer.Option(metavar="N", min=64, max=4096, help="Height and width in pixels.")] = 480,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the series.")] = 0,
) -> None:
    """Draw training images by code.

    They are shapes with the statistics of photographs, text, line art, facades, diagrams and user interfaces. No third
    party's licence applies to them. Existing images in DIR are skipped, whatever their seed.
    """
    from fmen_data import synthetic

    kinds = [each.value for each in kind or Kind]
    written = synthetic.write_images(out, count, kinds=kinds, side=side, seed=seed, progress=sys.stderr.isatty())
    typer.echo(f"{out}: {written} new images, {count - written} exist already")
