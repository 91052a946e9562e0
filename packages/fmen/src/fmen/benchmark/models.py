"""The networks of a benchmark: by name, from weights files, and from the user's own source files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fmen.errors import UserError
from fmen.sources.networks import build_network, is_user_module, load_network
from fmen_core import create_model, load, model_names, reparameterize
from fmen_core.models import ARCHITECTURES

SCALE = 4

SLOW = ("haesr",)
"""Networks that are measured only where they are asked for: they take ten times as long as the others."""


@dataclass(frozen=True)
class BenchModel:
    """A network to measure, in its inference form.

    Attributes:
        name: Label of its row, unique in a table.
        title: Label in a figure.
        network: The module.
        weights: The file that its weights are from; None if they are random.
        custom: Whether it is defined in a source file of the user's.
    """

    name: str
    title: str
    network: nn.Module
    weights: Path | None = None
    custom: bool = False


def choose_models(
    names: Iterable[str] | None = None, weights: Iterable[Path] = (), modules: Iterable[str] = ()
) -> list[BenchModel]:
    """Build the networks to measure.

    Args:
        names: Names that ``create_model`` takes, for networks with random weights; None for all but ``SLOW``.
        weights: Weights files. The network of a file replaces the one of the same name with random weights.
        modules: The user's networks, as ``path/to/file.py:ClassName`` or ``path/to/file.py:ClassName,weights``.

    Raises:
        UserError: A module cannot be used, a name occurs twice, or there is no network.
        ModelError: A name is unknown, or a weights file cannot be used.
    """
    titles = {architecture.name: architecture.title for architecture in ARCHITECTURES}
    chosen: dict[str, BenchModel] = {}
    for name in default_names() if names is None else names:
        chosen[name] = BenchModel(name, titles.get(name, name), reparameterize(create_model(name, SCALE)))
    for file in weights:
        network = reparameterize(load(file))
        name, title = str(network.name), titles.get(str(network.name), str(network.name))
        if name in chosen and chosen[name].weights is not None:
            name, title = f"{name} ({file.stem})", f"{title} ({file.stem})"
        if name in chosen and chosen[name].weights is not None:
            raise UserError(f"{file}: the table already has a network called {name}; rename the file")
        chosen[name] = BenchModel(name, title, network, file)
    for module in modules:
        model = load_module(module)
        if model.name in chosen:
            raise UserError(f"--module {module}: the table already has a network called {model.name}")
        chosen[model.name] = model
    if not chosen:
        raise UserError("no network to measure: name some with --models, --weights or --module")
    return list(chosen.values())


def default_names() -> list[str]:
    """Return the names of the networks that are measured by default."""
    return [name for name in model_names() if name not in SLOW]


def load_module(argument: str) -> BenchModel:
    """Build a network from a source file: ``path/to/file.py:ClassName`` or ``path/to/file.py:ClassName,weights``.

    Raises:
        UserError: The file or the class cannot be used; see :func:`fmen.sources.networks.build_network`.
        WeightsError: The weights cannot be read, or do not fit.
    """
    location, _, weights = argument.partition(",")
    if not is_user_module(location):
        raise UserError(f"--module {argument}: expected FILE.py:CLASS or FILE.py:CLASS,WEIGHTS")
    network = load_network(weights, location) if weights else build_network(location, SCALE)
    name = str(network.name)
    return BenchModel(name, name, network.eval(), Path(weights) if weights else None, custom=True)
