"""What a run writes about its progress."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmen.training.checkpoint import State
from fmen.training.logger import Clock, Logger
from fmen.training.loop import train
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.setup import make_state
from fmen.training.stages import Stage

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")


def test_the_clock_counts_on_from_a_checkpoint_and_the_rate_leaves_validation_out(
    tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    state = make_state(tiny(), CPU)
    state.seconds, state.step = 50.0, 7
    clock = Clock(state)
    now, state.step = 104.0, 17
    with clock.paused():
        now += 6
    now += 1
    assert clock.rate() == 2.0
    clock.read()
    assert state.seconds == 61.0
    now, state.step = 115.0, 18
    assert clock.rate() == 0.25
    now, state.step = 118.0, 19
    assert clock.rate() == 0.333


def test_progress_is_printed_after_a_validation_and_otherwise_every_five_seconds(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Logger(Run(tmp_path), tiny(), step=0) as logger:
        for now, record in ((4.9, {"loss": 1.0}), (5.0, {"loss": 2.0}), (9.9, {"loss": 3.0}), (9.9, {"psnr": 30.0})):
            logger.record({"step": now, **record}, Stage(tiny()))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["loss 2.000", "30.00 dB"]
    assert len(Run(tmp_path).records()) == 4
    with Logger(Run(tmp_path / "other"), tiny(), step=0, silent=True) as logger:
        logger.record({"step": 1, "psnr": 1.0}, Stage(tiny()))
    assert not (tmp_path / "other").exists() and capsys.readouterr().err == ""


def test_tensorboard_discards_the_points_that_a_resumed_run_repeats(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: dict[tuple[str, int], float] = {}
    closed = []

    class SummaryWriter:
        """As TensorBoard's: a new writer discards the points from ``purge_step`` on."""

        def __init__(self, log_dir: str, purge_step: int) -> None:
            assert log_dir == str(tmp_path / "run" / "tensorboard")
            for point in [point for point in points if point[1] >= purge_step]:
                del points[point]

        def add_scalar(self, name: str, value: float, step: int) -> None:
            assert (name, step) not in points, "a curve has two values for one step"
            points[name, step] = value

        def close(self) -> None:
            closed.append(True)

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    save, run = State.save, Run(tmp_path / "run")
    monkeypatch.setattr(State, "save", lambda self, *rest: save(self, *rest) if self.step <= 3 else sys.exit("crash"))
    with pytest.raises(SystemExit):
        train(tiny(tensorboard=True, log_every=1, save_every=3), run)
    assert {step for _, step in points} == {1, 2, 3, 4, 5, 6}
    monkeypatch.setattr(State, "save", save)
    train(run.recipe(), run, resume=True)
    assert {step for _, step in points} == {1, 2, 3, 4, 5, 6}
    assert {name for name, _ in points} == {"seconds", "loss", "lr", "steps_per_second"}
    assert closed == [True, True]
