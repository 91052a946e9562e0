"""``fmen models``."""

from __future__ import annotations

from typing import Annotated

import typer

from fmen.cli.options import matching


def models(
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Names or patterns, such as 'span*'. Default: all.")
    ] = None,
) -> None:
    """List the networks, with parameters and publication.

    The parameters are those of the inference form at x4.
    """
    from fmen_core.models import architecture_named, model_names

    names = matching(patterns, model_names())
    width = max(map(len, names))
    typer.echo(f"{'network':<{width}}  parameters  by")
    for name in names:
        architecture = architecture_named(name)
        parameters = sum(weight.numel() for weight in architecture.build(form="inference").parameters())
        typer.echo(f"{name:<{width}}  {parameters:>10,}  {architecture.paper}")
