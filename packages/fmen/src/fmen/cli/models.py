"""``fmen models``."""

from __future__ import annotations

import typer


def models() -> None:
    """List the networks, with the parameters of the inference form at x4 and the publication."""
    from fmen_core.models import ARCHITECTURES, model_names

    width = max(map(len, model_names()))
    typer.echo(f"{'network':<{width}}  parameters  by")
    for architecture in ARCHITECTURES:
        parameters = sum(weight.numel() for weight in architecture.build(form="inference").parameters())
        typer.echo(f"{architecture.name:<{width}}  {parameters:>10,}  {architecture.paper}")
