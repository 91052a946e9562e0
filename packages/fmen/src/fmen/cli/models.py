"""``fmen models``."""

from __future__ import annotations

import typer


def models() -> None:
    """List the networks, with their parameters in the inference form at x4 and who they are by."""
    from fmen_core import create_model, model_names, reparameterize
    from fmen_core.checkpoint import known_architectures

    sources = {architecture.name: architecture.source for architecture in known_architectures()}
    sources["fmen-s"] = sources["fmen"]
    width = max(map(len, model_names()))
    typer.echo(f"{'network':<{width}}  parameters  by")
    for name in model_names():
        network = reparameterize(create_model(name))
        typer.echo(f"{name:<{width}}  {sum(weight.numel() for weight in network.parameters()):>10,}  {sources[name]}")
