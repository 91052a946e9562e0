"""``fmen reparam``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Model, warn


def reparam(
    weights: Annotated[Path, typer.Argument(metavar="FILE|NAME", help="Weights of a network in its training form.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The safetensors file to write.")],
    model: Model = None,
) -> None:
    """Convert a network to its inference form."""
    from fmen.sources.networks import has_blocks, load_network, save_network
    from fmen_core import WeightsError, find_weights, read_metadata, reparameterize

    weights = find_weights(weights)
    network = load_network(weights, model, note=warn)
    if not has_blocks(network):
        raise WeightsError(f"{weights}: is {network.name} in its inference form; there is nothing to re-parameterize")
    save_network(reparameterize(network), out, recipe=read_metadata(weights).get("recipe", ""))
    typer.echo(f"{out}: {network.name} x{network.scale}, inference form")
