"""The scripts of ``tools/bench``, as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from torch.utils.benchmark import Measurement, Timer

BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench"


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

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load
