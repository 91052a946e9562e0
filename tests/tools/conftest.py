"""The scripts of ``tools`` and ``tools/bench``, as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from torch.utils.benchmark import Measurement, Timer

TOOLS = Path(__file__).resolve().parents[2] / "tools"
BENCH = TOOLS / "bench"


def load(name: str, file: Path) -> ModuleType:
    """Execute a script as a module."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], ModuleType]:
    """Loads a script of ``tools`` by its name, without ``.py``."""
    return lambda name: load(name, TOOLS / f"{name}.py")


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time every action without the two passes that PyTorch's timer adds before."""

    def timeit(timer: Timer, number: int) -> Measurement:
        return Measurement(number, [timer._timeit(number)], timer._task_spec)

    monkeypatch.setattr(Timer, "timeit", timeit)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads a script by its name, without ``.py``, as ``python tools/bench/NAME.py`` would find its neighbours."""
    monkeypatch.syspath_prepend(str(BENCH))
    return lambda name: load(f"bench_{name}", BENCH / f"{name}.py")
