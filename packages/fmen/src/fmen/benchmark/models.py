"""The networks of a benchmark: by name, from weights files, and from the user's own source files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from fmen.errors import UserError
from fmen.sources.networks import Note, build_network, is_user_module, load_network, model_of
from fmen_core import create_model, load, model_names, reparameterize
from fmen_core.models import ARCHITECTURES
from fmen_core.pretrained import PUBLISHED, Published, bundled

SCALE = 4

SLOW = ("haesr", "vdsr", "drcn", "lapsrn", "drrn", "memnet", "edsr-baseline", "carn", "msrresnet")
"""Networks that are measured only where they are asked for: they take several times as long as most others."""


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
    names: Iterable[str] | None = None,
    weights: Iterable[Path] = (),
    modules: Iterable[str] = (),
    *,
    own: Sequence[str] = (),
    trained: bool = False,
    note: Note = lambda line: None,
) -> list[BenchModel]:
    """Build the networks to measure.

    Args:
        names: Names that ``create_model`` takes, for networks with random weights; None for all but ``SLOW``.
        weights: Weights files. The network of a file replaces the one of the same name with random weights.
        modules: The user's networks, as ``path/to/file.py:ClassName`` or ``path/to/file.py:ClassName,weights``.
        own: The user's networks, as ``path/to/file.py:ClassName``. Those of no weights file have random weights.
        trained: Load the weights of the other networks that are on this machine; see :func:`weights_at_hand`.
        note: Called with one line about weights of another version of a user's file, and about a network that is not
            x4.

    Raises:
        UserError: A module cannot be used, a name occurs twice, or there is no network.
        ModelError: A name is unknown, or a weights file cannot be used.
    """
    titles = {architecture.name: architecture.title for architecture in ARCHITECTURES}
    chosen: dict[str, BenchModel] = {}
    for name in default_names() if names is None else names:
        chosen[name] = BenchModel(name, titles.get(name, name), reparameterize(create_model(name, SCALE)))
    untrained = list(own)
    for file in weights:
        model = model_of(file, own)
        untrained = [other for other in untrained if other != model]
        network = reparameterize(load_network(file, model, note=note))
        name, title = str(network.name), titles.get(str(network.name), str(network.name))
        if name in chosen and chosen[name].weights is not None:
            name, title = f"{name} ({file.stem})", f"{title} ({file.stem})"
        if name in chosen and chosen[name].weights is not None:
            raise UserError(f"{file}: the table already has a network called {name}; rename the file")
        chosen[name] = BenchModel(name, title, network, file, custom=model is not None)
    for name, random in chosen.items():
        if trained and random.weights is None and (found := weights_at_hand(name)):
            chosen[name] = replace(random, network=reparameterize(load(found)), weights=found)
    for argument in (*modules, *untrained):
        module = load_module(argument)
        if module.name in chosen:
            raise UserError(f"{argument}: the table already has a network called {module.name}")
        chosen[module.name] = module
    if not chosen:
        raise UserError("no network to measure: name some with --models, --weights or --model")
    for name, each in chosen.items():
        if (scale := getattr(each.network, "scale", SCALE)) != SCALE:
            note(f"note: {name} is x{scale}, and the table's other networks are x{SCALE}")
    return list(chosen.values())


def published_for(name: str) -> list[Published]:
    """Return the x4 weights of a network that its authors publish."""
    return [entry for entry in PUBLISHED if entry.name in (name, f"{name}-x{SCALE}")]


def weights_at_hand(name: str) -> Path | None:
    """Return the x4 weights of a network that are bundled or downloaded; None if there are none."""
    files = [bundled().get(f"{name}_x{SCALE}"), *(entry.file for entry in published_for(name))]
    return next((file for file in files if file is not None and file.is_file()), None)


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
        raise UserError(f"{argument}: expected FILE.py:CLASS, such as mine.py:Mine; name other networks with --models")
    network = load_network(weights, location) if weights else build_network(location, SCALE)
    name = str(network.name)
    return BenchModel(name, name, reparameterize(network), Path(weights) if weights else None, custom=True)
