"""``fmen weights``: the bundled weights, and those that their authors publish."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fmen.cli.options import examples, matching
from fmen.errors import UserError

weights_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List and download trained weights.",
    epilog=examples("fmen weights list", "fmen weights get imdn-x4"),
)


@weights_app.command("list", epilog=examples("fmen weights list", "fmen weights list 'fmen*'"))
def list_(
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Names or patterns, such as 'imdn*'. Default: all.")
    ] = None,
) -> None:
    """List the names that --weights takes.

    PSNR is on Set5, protocol paper. 'licence' is that of the repository that publishes the file.
    """
    from fmen_core.pretrained import PUBLISHED, bundled, known_names
    from fmen_core.published import BUNDLED_DATA, BUNDLED_PSNR
    from fmen_eval.tables import format_text

    rows = {
        name: (
            "bundled",
            BUNDLED_PSNR.get(name),
            sum(part.stat().st_size for part in {file, *file.parent.glob(f"{name}.bin")}),
            "Apache-2.0",
            BUNDLED_DATA,
            "FMEN-S in int8, for OpenVINO" if file.suffix == ".xml" else "FMEN-S, this project",
        )
        for name, file in bundled().items()
    }
    for entry in PUBLISHED:
        state = "downloaded" if entry.file.is_file() else "-"
        rows[entry.name] = (state, entry.psnr, entry.size, entry.licence, entry.data, entry.title)
    lines = [["name", "file", "PSNR [dB]", "size [MB]", "licence", "trained on", "network"]]
    for name in matching(patterns, known_names()):
        state, psnr, size, *rest = rows[name]
        lines.append([name, state, f"{psnr:.2f}" if psnr else "-", f"{size / 1e6:.1f}", *rest])
    typer.echo(format_text(lines, words={0, 1, 4, 5, 6}))
    typer.echo("\nPSNR on Set5, protocol paper; the licence is that of the repository that publishes the file.")
    if any(line[1] == "-" for line in lines):
        typer.echo("Download a file with: fmen weights get NAME")


@weights_app.command(epilog=examples("fmen weights get imdn-x4", "fmen weights get span rfdn"))
def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names that 'fmen weights list' shows.")],
    url: Annotated[str | None, typer.Option(metavar="URL", help="Another address of the file.")] = None,
) -> None:
    """Download published weights, and verify them."""
    from fmen.sources.weights import download
    from fmen_core.pretrained import bundled, published

    if url is not None and len(names) > 1:
        raise UserError("--url is the address of one file; name one")
    if url is not None and names[0] in bundled():
        raise UserError(f"{names[0]} is bundled and not downloaded; leave --url out")
    for name in names:
        if name not in bundled():
            published(name)
    for name in names:
        path = download(name, progress=sys.stderr.isatty(), url=url)
        typer.echo(f"{path}: {published(name).title if name not in bundled() else f'{name} is bundled'}")
