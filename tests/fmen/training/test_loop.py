"""Runs of a few steps: what they write, how they stop, resume and fail."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmen.sources.runs import RunError
from fmen.training.checkpoint import State
from fmen.training.feed import read_validation
from fmen.training.logger import Logger
from fmen.training.loop import TrainingError, take_step, train
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run, resumed_recipe
from fmen.training.signals import StopRequest
from fmen_core import FMENTraining, load, read_metadata
from fmen_data import DataError, write_image

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Send this process a signal while ``step`` is done, once."""
    tick, calls = Logger.tick, iter(range(1, 1_000))

    def interrupting_tick(self: Logger) -> None:
        tick(self)
        if next(calls) == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Logger, "tick", interrupting_tick)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load(path).state_dict()


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_training_lowers_the_loss_and_writes_the_whole_run(tiny: RecipeMaker, tmp_path: Path) -> None:
    recipe = tiny(steps=30, val_data=str(tiny().data[0]), val_every=15, warmup=3, ema=0.9)
    outcome = train(recipe, Run(tmp_path / "run"))
    run = Run(tmp_path / "run")
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "recipe.yaml",
        "resume.pt",
        "versions.json",
    ]
    records = run.records()
    assert [record["step"] for record in records] == [*range(2, 15, 2), 15, *range(16, 31, 2)]
    assert records[-1]["loss"] < 0.7 * records[0]["loss"]
    assert {"step", "seconds", "loss", "lr", "steps_per_second", "psnr"} == records[-1].keys()
    assert outcome.best == max(record["psnr"] for record in records if "psnr" in record)
    assert (outcome.step, outcome.signal, outcome.weights) == (30, None, run.best)
    assert read_metadata(run.best)["recipe"] == "custom"
    assert isinstance(load(run.best), FMENTraining)
    assert run.recipe() == recipe.model_copy(update={"schedule_steps": 30, "cuda_graph": False, "threads": 1})
    assert torch.__version__.startswith(json.loads(run.versions.read_text())["torch"])  # without "+cu130" and the like


@pytest.mark.parametrize(
    ("number", "keys"),
    [
        (signal.SIGINT, {"optimizer": "adam"}),
        (signal.SIGTERM, {"optimizer": "muon"}),
        (signal.SIGTERM, {"precision": "fp16", "loss": "l2"}),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, keys: dict[str, Any]
) -> None:
    recipe = tiny(ema=0.9, grad_clip=50.0, warmup=2, log_every=2, **keys)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(recipe, whole)
    stop_at(3, monkeypatch, number)
    stopped = train(recipe, parts)
    assert (stopped.step, stopped.signal) == (3, number)
    seconds = parts.records()[-1]["seconds"]
    parts.log({"step": 4, "loss": 0.0})  # what a run writes that is killed before its next checkpoint
    with parts.metrics.open("a") as file:
        file.write('{"step": 5, "lo')
    train(parts.recipe(), parts, resume=True)

    assert_equal(weights_of(parts.last), weights_of(whole.last))
    found, expected = (torch.load(run.resume, weights_only=True) for run in (parts, whole))
    assert_equal(found["model"], expected["model"])
    assert found["scaler"] == expected["scaler"]
    assert (found["step"], found["counted"], found["best"]) == (6, 0, -math.inf)
    for index, moments in expected["optimizer"]["state"].items():
        assert_equal(found["optimizer"]["state"][index], moments)
    assert [(r["step"], r["loss"], r["lr"]) for r in parts.records()] == [
        (r["step"], r["loss"], r["lr"]) for r in whole.records()
    ]
    assert parts.records()[-1]["seconds"] > seconds


def test_a_truncated_checkpoint_is_refused_in_one_line(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    run.resume.write_bytes(run.resume.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"resume\.pt: damaged \(wrong checksum\)") as caught:
        train(run.recipe(), run, resume=True)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_a_run_is_not_overwritten(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    before = run.last.read_bytes()
    with pytest.raises(RunError, match="contains a run; continue it with --resume"):
        train(tiny(steps=2), run)
    assert run.last.read_bytes() == before


def test_a_full_disk_leaves_the_last_checkpoint_and_no_half_file(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    before = run.resume.read_bytes()
    write_bytes = Path.write_bytes

    def write_to_full_disk(self: Path, content: bytes) -> int:
        write_bytes(self, content[: len(content) // 2])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    with pytest.raises(OSError, match="No space left"):
        train(run.recipe().model_copy(update={"steps": 2}), run, resume=True)
    assert run.resume.read_bytes() == before
    assert not list(run.folder.glob("*.tmp")) and not list(run.folder.glob(".*.tmp"))


@pytest.mark.parametrize(
    "keys",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"channels_last": False},
        {"fused": True},
        {"collapsed": False},
        {"compile": True},
    ],
    ids=str,
)
def test_every_way_to_compute_a_step_gives_nearly_the_same_loss(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    # aot_eager traces the network, its backward pass included, and leaves out minutes of compiling C++.
    monkeypatch.setattr("fmen.training.loop.torch.compile", partial(torch.compile, backend="aot_eager"))
    losses = []
    for name, extra in (("plain", {}), ("other", keys)):
        run = Run(tmp_path / name)
        train(tiny(steps=2, log_every=1, **extra), run)
        losses.append([record["loss"] for record in run.records()])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=5e-3)
    # fp16 finds the scale of its gradients by skipping steps that overflow.
    assert losses[1][1] == pytest.approx(losses[0][1], rel=0.02 if keys.get("precision") != "fp16" else 0.2)


def test_a_second_signal_acts_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_run_that_reaches_the_learning_rate_of_divergence_stops(tiny: RecipeMaker, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training diverged by step \d+ \(mean loss (nan|inf)\); start again with"):
        train(tiny(loss="l2", learning_rate=1.0, schedule="constant", steps=40), Run(tmp_path / "run"))


@pytest.mark.parametrize("place", ["weights", "statistics", "average", "loss"])
def test_values_that_are_not_finite_never_replace_a_checkpoint(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path, place: str
) -> None:
    def poisoned_step(recipe: Recipe, state: State, *rest: Any) -> torch.Tensor:
        loss = take_step(recipe, state, *rest)
        if state.step == 3:
            assert state.ema is not None
            networks = {"weights": state.model, "statistics": state.model, "average": state.ema.model}
            if place == "loss":
                return loss * math.nan
            values = networks[place].buffers() if place == "statistics" else networks[place].parameters()
            next(values).data[-1] = math.inf
        return loss

    monkeypatch.setattr("fmen.training.loop.take_step", poisoned_step)
    run = Run(tmp_path / "run")
    keys = {"val_data": str(photos), "val_every": 2, "save_every": 1, "log_every": 100}
    with pytest.raises(TrainingError, match="training diverged by step 4"):
        train(tiny(ema=0.5, **keys), run)
    assert torch.load(run.resume, weights_only=True)["step"] == 3
    for file in (run.last, run.best):
        assert all(value.isfinite().all() for value in weights_of(file).values())
    assert (read_metadata(run.last)["step"], read_metadata(run.best)["step"]) == ("3", "2")


def test_the_best_weights_are_those_of_the_best_validation_also_after_resuming(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    results = iter([20.0, 25.0, 25.0, 24.0, 26.0])
    monkeypatch.setattr("fmen.training.validation.measure", lambda *_: (next(results),))
    run = Run(tmp_path / "run")
    outcome = train(tiny(val_data=str(photos), val_every=2, log_every=100), run)
    assert (outcome.best, read_metadata(run.best)["step"]) == (25.0, "4")
    assert [(record["step"], record["psnr"]) for record in run.records()] == [(2, 20.0), (4, 25.0), (6, 25.0)]
    longer = {"schedule_steps": 10}
    assert train(resumed_recipe(run, {"steps": 8, **longer}), run, resume=True).best == 25.0
    assert read_metadata(run.best)["step"] == "4"
    assert train(resumed_recipe(run, {"steps": 9, **longer}), run, resume=True).best == 26.0
    assert read_metadata(run.best)["step"] == "9"


def test_another_spelling_of_the_validation_set_keeps_the_best_weights(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    results = iter([30.0, 20.0])
    monkeypatch.setattr("fmen.training.validation.measure", lambda *_: (next(results),))
    run = Run(tmp_path / "run")
    train(tiny(steps=2, val_data=str(photos)), run)
    resumed = resumed_recipe(run, {"steps": 4, "schedule_steps": 4, "val_data": [f"{photos}/"]})
    assert train(resumed, run, resume=True).best == 30.0


@pytest.mark.parametrize("changed", [{"val_protocol": "ntire"}, {"val_data": ["sample"]}])
def test_the_best_weights_are_chosen_anew_by_another_first_set_or_protocol(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path, changed: dict[str, Any]
) -> None:
    results = iter([30.0, 20.0, 21.0])
    monkeypatch.setattr("fmen.training.validation.measure", lambda *_: (next(results),))
    run = Run(tmp_path / "run")
    train(tiny(steps=2, val_data=str(photos), val_protocol="paper"), run)
    resumed = resumed_recipe(run, {"steps": 4, "schedule_steps": 4, **changed})
    assert train(resumed, run, resume=True).best == 20.0
    assert read_metadata(run.best)["step"] == "4"
    assert train(resumed_recipe(run, {"steps": 5, "schedule_steps": 5}), run, resume=True).best == 21.0


def test_a_run_is_not_resumed_with_fewer_steps_than_it_has(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=3), run)
    before = run.recipe_file.read_bytes()
    with pytest.raises(RunError, match=r"run: 3 steps are done; give --set steps=N with a larger number"):
        train(resumed_recipe(run, {"steps": 2}), run, resume=True)
    assert run.recipe_file.read_bytes() == before


def test_validation_images_that_cannot_be_used_are_named_before_the_first_step(
    tiny: RecipeMaker, tmp_path: Path
) -> None:
    folder, run = tmp_path / "held_out", Run(tmp_path / "run")
    write_image(folder / "good.png", np.zeros((32, 32, 3), np.uint8))
    for name in ("cut.png", "torn.png"):
        (folder / name).write_bytes((folder / "good.png").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"2 problems: .*cut\.png is truncated.*torn\.png is truncated"):
        train(tiny(val_data=str(folder)), run)
    for name in ("cut.png", "torn.png"):
        write_image(folder / name, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"2 problems: .*cut\.png is 8x8, too small to be measured.*torn\.png is 8x8"):
        train(tiny(val_data=str(folder)), run)
    assert not run.folder.exists()


def test_a_run_without_validation_images_has_no_best_weights(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    outcome = train(tiny(val_every=2), run)
    assert (outcome.best, outcome.weights) == (None, run.last)
    assert not run.best.exists()


def test_a_run_that_never_validates_on_its_way_validates_its_end(
    tiny: RecipeMaker, tmp_path: Path, photos: Path
) -> None:
    run = Run(tmp_path / "run")
    train(tiny(val_data=str(photos), val_every=0), run)
    assert [record["step"] for record in run.records() if "psnr" in record] == [6]


def test_checkpoints_and_lines_are_written_as_often_as_the_recipe_says(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [], State.save

    def recording_save(self: State, path: Path, keep: int) -> None:
        save(self, path, keep)
        saved.append(self.step)

    monkeypatch.setattr(State, "save", recording_save)
    run = Run(tmp_path / "run")
    train(tiny(steps=7, save_every=3, log_every=2), run)
    assert (saved, read_metadata(run.last)["step"]) == ([3, 6, 7], "7")
    assert [record["step"] for record in run.records()] == [2, 4, 6, 7]


def test_a_checkpoint_counts_the_losses_since_the_last_line(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(3, monkeypatch)
    run = Run(tmp_path / "run")
    train(tiny(log_every=2), run)
    checkpoint = torch.load(run.resume, weights_only=True)
    assert checkpoint["counted"] == 1
    assert 0 < checkpoint["losses"].item() < 255


def test_a_signal_stops_a_validation_which_the_resumed_run_repeats(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    recipe = tiny(val_data=str(photos), val_every=3, log_every=3)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(recipe, whole)
    calls = iter(range(1, 100))

    def interrupted(*args: Any, **keys: Any) -> Any:
        if next(calls) in (1, 2, 5):  # The first image at step 3, twice, and at step 6 after the repeated validation.
            os.kill(os.getpid(), signal.SIGTERM)
        return read_validation(*args, **keys)

    monkeypatch.setattr("fmen.training.validation.read_validation", interrupted)
    outcomes = [train(recipe, parts)] + [train(parts.recipe(), parts, resume=True) for _ in range(3)]
    assert [(outcome.step, outcome.signal) for outcome in outcomes] == [(3, 15), (3, 15), (6, 15), (6, None)]
    assert next(calls) == 1 + 1 + 2 + 1 + 2 + 1
    found, expected = ({r["step"]: r["psnr"] for r in run.records() if "psnr" in r} for run in (parts, whole))
    assert found == expected and found.keys() == {3, 6}
    assert outcomes[-1].best == max(expected.values())
    assert_equal(weights_of(parts.best), weights_of(whole.best))


def test_a_run_that_diverges_stops_at_the_next_line_of_the_log(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmen.training.loop.take_step", lambda *args: take_step(*args) * math.nan)
    with pytest.raises(TrainingError, match="training diverged by step 2"):
        train(tiny(log_every=2, save_every=100), Run(tmp_path / "run"))
