"""``fmen weights``: the weights in the package, and those that their authors publish."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fmen.errors import UserError

weights_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Trained weights by name: list, get.",
)


@weights_app.command("list")
def list_() -> None:
    """Show the names that --weights takes, and whether the files are here."""
    from fmen_core.pretrained import PUBLISHED, bundled, known_names

    width = max(map(len, known_names()))
    for name in bundled():
        typer.echo(f"{name:<{width}}  in the package    trained by this project")
    for entry in PUBLISHED:
        where = "here" if entry.file.is_file() else f"not here: {entry.size / 1e6:.1f} MB"
        typer.echo(f"{entry.name:<{width}}  {where:<16}  {entry.title}")
    if not all(entry.file.is_file() for entry in PUBLISHED):
        typer.echo("\n'fmen weights get NAME' downloads what is not here")


@weights_app.command()
def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As fmen weights list shows them.")],
    url: Annotated[str | None, typer.Option(help="Another address that has the file.")] = None,
) -> None:
    """Download published weights from their authors, and verify them."""
    from fmen.sources.weights import download
    from fmen_core.pretrained import bundled, published

    if url is not None and len(names) > 1:
        raise UserError("--url is the address of one file; name one")
    for name in names:
        if name not in bundled():
            published(name)
    for name in names:
        path = download(name, progress=sys.stderr.isatty(), url=url)
        typer.echo(f"{path}: {published(name).title if name not in bundled() else f'{name} is bundled'}")
