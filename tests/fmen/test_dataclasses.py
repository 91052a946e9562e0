"""Records cannot be changed after they are made."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from contextlib import suppress

import pytest

MUTABLE = {
    "fmen.training.checkpoint.State",
    "fmen.training.distributed.Processes",
    "fmen_core.row_graph.Node",
    "fmen_eval.memory._Buffer",
}
"""What a run, a trace and a recording update as they go on."""


@pytest.mark.parametrize("package", ["fmen", "fmen_core", "fmen_data", "fmen_eval"])
def test_dataclasses_are_frozen_but_for_those_that_are_updated(package: str) -> None:
    path = importlib.import_module(package).__path__
    modules = []
    for module in pkgutil.walk_packages(path, f"{package}."):
        with suppress(ModuleNotFoundError):  # an optional package is not installed
            modules.append(importlib.import_module(module.name))
    found = {
        f"{module.__name__}.{name}": value.__dataclass_params__.frozen
        for module in modules
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == module.__name__
    }
    assert found and {name for name, frozen in found.items() if not frozen} == {
        name for name in MUTABLE if name.startswith(f"{package}.")
    }
