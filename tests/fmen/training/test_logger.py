"""What a run writes about its progress."""

from __future__ import annotations

import io
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmen.training.checkpoint import State
from fmen.training.logger import Clock, Logger
from fmen.training.loop import train
from fmen.training.pace import FIRST_STEPS
from fmen.training.recipe import Recipe, make_recipe
from fmen.training.run_folder import Run
from fmen.training.setup import make_state
from fmen.training.signals import StopRequest
from fmen.training.stages import Stage, stages_of

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


def test_tensorboard_discards_the_points_that_a_resumed_run_repeats_and_shows_images(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
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

        def add_image(self, name: str, image: np.ndarray, step: int, dataformats: str) -> None:
            assert dataformats == "HWC" and image.dtype == np.uint8 and image.ndim == 3
            images.append((name, step))

        def close(self) -> None:
            closed.append(True)

    images: list[tuple[str, int]] = []
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    save, run = State.save, Run(tmp_path / "run")
    monkeypatch.setattr(State, "save", lambda self, *rest: save(self, *rest) if self.step <= 3 else sys.exit("crash"))
    with pytest.raises(SystemExit):
        train(tiny(tensorboard=True, log_every=1, save_every=3, val_data=str(photos)), run)
    assert {step for _, step in points} == {1, 2, 3, 4, 5, 6}
    monkeypatch.setattr(State, "save", save)
    train(run.recipe(), run, resume=True)
    assert {step for _, step in points} == {1, 2, 3, 4, 5, 6}
    assert {name for name, _ in points} == {"seconds", "loss", "lr", "steps_per_second", "psnr"}
    assert closed == [True, True]
    assert set(images) == {(f"validation/{photos.name}/{name}", 6) for name in ("one", "two")}


def test_weights_and_biases_gets_the_recipe_the_curves_and_the_images(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    calls: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, Any]]] = []

    class Session:
        def log(self, values: dict[str, Any], step: int) -> None:
            logged.append((step, values))

        def finish(self) -> None:
            calls.append({"finished": True})

    module = types.ModuleType("wandb")
    module.init = lambda **keys: calls.append(keys) or Session()  # type: ignore[attr-defined,func-returns-value]
    module.Image = lambda image: image.shape  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    run = Run(tmp_path / "run")
    recipe = tiny(wandb=True, steps=2, log_every=1, val_data=str(photos))
    train(recipe, run)
    started, finished = calls
    assert (started["project"], started["name"], started["resume"]) == ("fmen", "run", "allow")
    assert started["config"]["learning_rate"] == 1e-3 and finished == {"finished": True}
    curves = [(step, set(values)) for step, values in logged if "loss" in values]
    assert curves == [(1, {"seconds", "loss", "lr", "steps_per_second"}), (2, {*curves[0][1], "psnr"})]
    assert (2, {f"validation/{photos.name}/one": (48, 64, 3)}) in logged
    assert [step for step, _ in logged] == sorted(step for step, _ in logged)
    train(run.recipe().model_copy(update={"steps": 3}), run, resume=True)
    assert calls[2]["id"] == started["id"]
    train(recipe, Run(tmp_path / "other" / "run"))
    assert calls[4]["id"] != started["id"]


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError


def test_a_bar_shows_loss_psnr_learning_rate_rate_and_the_time_left_without_the_first_steps(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    stage = Stage(tiny(steps=1_000, compile=True))
    with Logger(Run(tmp_path), stage.recipe, step=0) as logger:
        assert logger.bar is not None
        logger.bar.mininterval = 0
        logger.begin(stage)
        monkeypatch.setattr("time.perf_counter", lambda: 0.0)
        logger.pace.begin_stage()
        for _ in range(FIRST_STEPS):
            monkeypatch.setattr("time.perf_counter", lambda: logger.pace.last + 60.0)
            logger.tick()
        early = terminal.getvalue()
        for _ in range(20):
            monkeypatch.setattr("time.perf_counter", lambda: logger.pace.last + 0.5)
            logger.tick()
        logger.record({"step": 25, "loss": 3.25, "lr": 1e-3, "steps_per_second": 1.0, "psnr": 27.125}, stage)
        shown = terminal.getvalue()
    assert early.count("compiling the network, about a minute\n") == 1
    assert "left" not in early and "measuring the rate" in early
    assert "h " not in shown
    assert "25/1000, loss 3.250, lr 1.0e-03, 27.12 dB, 2 steps/s, 8 min left" in shown
    assert shown.count("about 8 min for 990 more steps (2 steps/s)\n") == 1


def test_without_a_terminal_the_time_left_is_told_once_it_is_known_and_in_every_line(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tiny(steps=1_000))
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    with Logger(Run(tmp_path), stage.recipe, step=0) as logger:
        logger.begin(stage)
        for _ in range(FIRST_STEPS + 8):
            monkeypatch.setattr("time.perf_counter", lambda: logger.pace.last + 2.0)
            logger.tick()
        logger.record({"step": 13, "psnr": 27.0}, stage)
    assert capsys.readouterr().err.splitlines() == [
        "about 33 min for 990 more steps (0.5 steps/s)",
        "step      13/1000  27.00 dB  33 min left",
    ]


def test_a_new_stage_is_named_and_its_rate_is_measured_again(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {key: value for key, value in tiny().model_dump().items() if key != "steps"}
    stages = stages_of(make_recipe(values | {"compile": True, "stages": [{"steps": 9}, {"steps": 9}]}))
    recipe = make_recipe(values | {"compile": True, "stages": [{"steps": 9}, {"steps": 9}]})
    with Logger(Run(tmp_path), recipe, step=0) as logger:
        for stage in (stages[0], stages[0], stages[1]):
            logger.begin(stage)
            logger.pace.tick()
        assert logger.pace.unmeasured == FIRST_STEPS - 1
        logger.record({"step": 10, "psnr": 27.0}, stages[1])
    assert capsys.readouterr().err.splitlines() == [
        "compiling the network, about a minute",
        "compiling the network, about a minute",
        "stage 2/2  step      10/18  27.00 dB",
    ]


@pytest.mark.parametrize("silent", [False, True])
def test_a_signal_is_answered_at_once_on_standard_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    with StopRequest(silent=silent) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
    said = "" if silent else "\nstopping after this step; another Ctrl-C stops at once\n"
    assert capfd.readouterr().err == said
