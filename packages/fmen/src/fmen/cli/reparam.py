"""``fmen reparam``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reparam(
    weights: Annotated[Path, typer.Argument(metavar="FILE|NAME", help="Weights of a network in its training form.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The safetensors file to write.")],
) -> None:
    """Convert a network to its inference form."""
    from fmen_core import WeightsError, find_weights, load, read_metadata, reparameterize, save
    from fmen_core.blocks.reparameterizable import Reparameterizable

    weights = find_weights(weights)
    model = load(weights)
    if not any(isinstance(module, Reparameterizable) for module in model.modules()):
        raise WeightsError(f"{weights}: is {model.name} in its inference form; there is nothing to re-parameterize")
    save(reparameterize(model), out, recipe=read_metadata(weights).get("recipe", ""))
    typer.echo(f"{out}: {model.name} x{model.scale}, inference form")
