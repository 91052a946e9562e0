"""``threads: auto`` is measured once, changes nothing else, and a resumed run computes with the recorded number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmen.training import time_budget
from fmen.training.logger import Logger
from fmen.training.loop import train
from fmen.training.recipe import Recipe, RecipeError
from fmen.training.run_folder import Run, resumed_recipe
from fmen_core import read_weights

Make = Callable[..., Recipe]


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch have two threads, of which it uses one, since two are slow where cores are busy."""
    count = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: count.__setitem__(0, number))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Let one thread be faster; return the steps that were taken to find out."""
    steps: list[object] = []

    def fake(step: Callable[[], object], counts: tuple[int, int]) -> dict[int, float]:
        steps.append(step())
        return {counts[0]: 0.35, counts[1]: 0.12}

    monkeypatch.setattr(time_budget, "seconds_by_threads", fake)
    return steps


def test_the_faster_number_of_threads_is_recorded(tiny: Make, tmp_path: Path, measured: list[object]) -> None:
    lines: list[str] = []
    train(tiny(steps=1), Run(tmp_path / "run"), announce=lines.append)
    assert len(measured) == 1
    assert Run(tmp_path / "run").recipe().threads == 1
    assert lines[0] == "threads: 1, the faster of two (a step takes 0.12 s with 1, 0.35 s with 2)"
    assert '"threads": 1' in (tmp_path / "run" / "versions.json").read_text()
    assert torch.get_num_threads() == 2  # the caller's setting


def test_measuring_leaves_the_run_as_it_would_be(tiny: Make, tmp_path: Path, measured: list[object]) -> None:
    keys = {"optimizer": "muon", "ema": 0.9, "steps": 3}
    train(tiny(**keys), Run(tmp_path / "auto"))
    train(tiny(**keys, threads=1), Run(tmp_path / "one"))
    assert len(measured) == 1
    auto, one = (read_weights(tmp_path / name / "last.safetensors") for name in ("auto", "one"))
    assert all(torch.equal(auto[name], one[name]) for name in one)


def test_a_resumed_run_computes_with_the_recorded_number(
    tiny: Make, tmp_path: Path, measured: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, used, tick = Run(tmp_path / "run"), list[int](), Logger.tick
    train(tiny(steps=1, schedule="constant"), run)
    monkeypatch.setattr(Logger, "tick", lambda logger: (used.append(torch.get_num_threads()), tick(logger)))
    for overrides in ({"steps": 2}, {"steps": 3, "threads": "auto"}):
        train(resumed_recipe(run, overrides), run, resume=True)
        assert run.recipe().threads == 1
    assert len(measured) == 1 and used == [1, 1]
    train(resumed_recipe(run, {"steps": 4, "threads": 2}), run, resume=True)
    assert run.recipe().threads == 2 and used == [1, 1, 2]


def test_a_run_of_an_earlier_version_is_resumed_without_measuring(
    tiny: Make, tmp_path: Path, measured: list[object]
) -> None:
    run = Run(tmp_path / "run")
    train(tiny(threads=2, steps=1, schedule="constant"), run)
    lines = [line for line in run.recipe_file.read_text().splitlines() if not line.startswith("threads")]
    run.recipe_file.write_text("\n".join(lines))
    train(resumed_recipe(run, {"steps": 2}), run, resume=True)
    assert measured == [] and run.recipe().threads == 2


def test_a_recorded_number_above_the_cores_is_followed_and_noted(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_budget, "available_cores", lambda: 1)
    lines: list[str] = []
    train(tiny(threads=2, steps=1), Run(tmp_path / "run"), announce=lines.append)
    assert lines[0] == "note: 2 threads on 1 cores; --threads 1 changes only the last bits"


@pytest.mark.parametrize("value", [0, "all", 2000])
def test_a_wrong_number_is_refused(tiny: Make, value: object) -> None:
    with pytest.raises(RecipeError, match="threads"):
        tiny(threads=value)
