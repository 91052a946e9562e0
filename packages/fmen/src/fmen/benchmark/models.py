"""The networks of a benchmark: by name, from weights files, and from the user's own source files."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from fmen.errors import UserError
from fmen_core import create_model, load, model_names, reparameterize
from fmen_core.checkpoint import normalise_keys, read_tensors
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

    The file is executed and the class is called without arguments. The weights must load strictly.

    Raises:
        UserError: The file cannot be imported, the class cannot be built, or the weights do not fit.
        WeightsError: The weights cannot be read.
    """
    location, _, weights = argument.partition(",")
    file, colon, class_name = location.rpartition(":")
    path = Path(file)
    if not colon or not class_name.isidentifier():
        raise UserError(f"--module {argument}: expected path/to/file.py:ClassName or path/to/file.py:ClassName,weights")
    if not path.is_file():
        raise UserError(f"--module {argument}: no such file {path}")
    with importing_beside(path):
        module = call_user_code(lambda: import_file(path), f"--module {argument}: {path} cannot be imported")
        constructor = getattr(module, class_name, lambda: None)
        network = call_user_code(constructor, f"--module {argument}: {class_name}() failed")
    if not isinstance(network, nn.Module):
        raise UserError(f"--module {argument}: {path} has no nn.Module called {class_name}")
    if weights:
        load_strictly(network, Path(weights))
    return BenchModel(class_name, class_name, network.eval(), Path(weights) if weights else None, custom=True)


@contextmanager
def importing_beside(path: Path) -> Iterator[None]:
    """Let the block import the modules beside ``path``, and drop them from ``sys.modules`` afterwards.

    Their importers keep their references, and modules of one name in two folders stay different modules.
    """
    folder = path.resolve().parent
    before = set(sys.modules)
    sys.path.insert(0, str(folder))  # stays, for imports in forward()
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            top = name.partition(".")[0]
            if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
                del sys.modules[name]


def import_file(path: Path) -> ModuleType:
    """Import a Python file under a name that no other file has."""
    name = f"fmen_module_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def call_user_code(function: Callable[[], Any], failure: str) -> Any:
    """Call a function of the user's; whatever it raises becomes a one-line UserError that begins with ``failure``."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise UserError(f"{failure}: {type(error).__name__}: {reason}") from error


def load_strictly(network: nn.Module, weights: Path) -> None:
    """Load a weights file under its own key names or, if they do not fit, under those of ``fmen_core``'s networks.

    Raises:
        UserError: Keys or shapes differ.
        WeightsError: The file cannot be read.
    """
    tensors: Mapping[str, Tensor] = read_tensors(weights)
    expected = network.state_dict().keys()
    if tensors.keys() != expected:
        stripped = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
        tensors = stripped if stripped.keys() == expected else normalise_keys(tensors)
    failure = f"{weights}: does not fit {type(network).__name__}"
    differing = sorted(tensors.keys() ^ expected)
    if differing:
        raise UserError(f"{failure}: {', '.join(differing[:3])} differ")
    call_user_code(lambda: network.load_state_dict(dict(tensors), strict=True), failure)
