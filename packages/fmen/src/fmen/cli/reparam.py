"""``fmen reparam``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Model, warn
from fmen.errors import UserError


def reparam(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[FILE|NAME] OUT",
            help="Weights of a network in its training form, and the safetensors file to write. Default weights: the "
            "newest run's.",
        ),
    ],
    model: Model = None,
) -> None:
    """Convert a network to its inference form."""
    from fmen.outputs import prepare_file
    from fmen.sources.networks import has_blocks, load_network, save_network
    from fmen.sources.weights import choose_weights, weights_title
    from fmen_core import WeightsError, read_metadata, reparameterize

    if len(files) > 2:
        raise UserError(f"{files[2]}: one argument too many; give the weights and the file to write")
    out = files[-1]
    if len(files) == 1 and out.exists():  # probably the weights
        raise UserError(f"{out}: exists already; name the weights and the file to write: fmen reparam {out} OUT")
    weights = choose_weights(files[0] if len(files) == 2 else None, model=model)
    prepare_file(out, ".safetensors", inputs=[weights])
    typer.echo(f"weights {weights_title(weights)}")
    network = load_network(weights, model, note=warn)
    if not has_blocks(network):
        name = weights_title(weights)
        raise WeightsError(f"{name}: is {network.name} in its inference form; there is nothing to re-parameterize")
    save_network(reparameterize(network), out, recipe=read_metadata(weights).get("recipe", ""))
    typer.echo(f"{out}: {network.name} x{network.scale}, inference form")
