"""The rate of a run and the time that it still takes; runs of a given time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmen.training.loop import train
from fmen.training.pace import FIRST_STEPS, Pace, in_words
from fmen.training.recipe import Recipe, load_recipe, make_recipe
from fmen.training.run_folder import Run, RunError, resumed_recipe
from fmen.training.setup import compiles, make_state
from fmen.training.stages import stages_of
from fmen.training.time_budget import fit, seconds_per_step, unchanged

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")


class Time:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def step(self, pace: Pace, seconds: float, count: int = 1) -> None:
        for _ in range(count):
            self.now += seconds
            pace.tick()


def test_the_rate_leaves_out_the_first_steps_and_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time(monkeypatch)
    pace = Pace()
    clock.step(pace, 90.0, FIRST_STEPS)
    clock.step(pace, 0.5, 4)
    assert pace.rate() is None
    with pace.paused():
        clock.now += 1_000
    clock.step(pace, 0.5)
    assert pace.rate() == pytest.approx(2.0)
    clock.step(pace, 0.25, 1_000)
    assert pace.rate() == pytest.approx(4.0)
    pace.begin_stage()
    assert pace.rate() is None


def test_the_time_left_counts_later_stages_by_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = stages_of(
        make_recipe(
            {
                "learning_rate": 1e-3,
                "patch": 10,
                "batch": 4,
                "stages": [{"steps": 100}, {"steps": 50, "patch": 20}, {"steps": 10, "batch": 2}],
            }
        )
    )
    clock = Time(monkeypatch)
    pace = Pace()
    assert pace.remaining(stages, stages[0], 0) is None
    clock.step(pace, 2.0, FIRST_STEPS + 5)
    assert pace.remaining(stages, stages[0], 10) == pytest.approx(2 * (90 + 4 * 50 + 5))
    assert pace.remaining(stages, stages[1], 120) == pytest.approx(2 * (30 + 10 / 8))
    assert pace.remaining(stages, stages[2], 160) == 0


def test_durations_are_told_in_the_units_of_people() -> None:
    told = {8.2: "8 s", 89: "89 s", 100: "2 min", 3_120: "52 min", 12_000: "3 h 20 min", 300_000: "3 days 11 h"}
    told |= {172_800: "2 days 0 h", 172_740: "47 h 59 min"}
    assert {seconds: in_words(seconds) for seconds in told} == told


def test_a_step_is_timed_after_the_first_ones_and_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time(monkeypatch)
    taken: list[int] = []

    def take(step: int) -> None:
        taken.append(step)
        clock.now += 60 if len(taken) <= FIRST_STEPS else 3

    assert seconds_per_step(take, limit=10) == pytest.approx(3.0)
    assert len(taken) == FIRST_STEPS + 4
    taken.clear()
    assert seconds_per_step(take, limit=1e9) == pytest.approx(3.0)
    assert len(taken) == FIRST_STEPS + 20
    taken.clear()
    seconds_per_step(take, limit=10, slowest=lambda seconds: 2 * seconds)
    assert len(taken) == FIRST_STEPS + 2


def test_steps_that_are_only_timed_change_nothing(tiny: RecipeMaker) -> None:
    state = make_state(tiny(ema=0.9), CPU)
    assert state.ema is not None
    before = [value.clone() for value in (*state.model.state_dict().values(), *state.ema.model.state_dict().values())]
    with unchanged(state):
        for parameter in state.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        state.optimizer.step()
        state.ema.update(state.model, 100)
    after = (*state.model.state_dict().values(), *state.ema.model.state_dict().values())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not state.optimizer.state_dict()["state"]


def test_a_recipe_is_fitted_to_a_time() -> None:
    recipe = load_recipe("cpu", {"minutes": 30, "warmup": 300})
    fitted = fit(recipe, seconds=1800, step=0.5, validation=6)
    assert fitted.steps == (1800 - 10 * 6) * 2 == fitted.schedule_steps
    assert fitted.warmup == round(300 * fitted.steps / 15_000)
    assert fitted.minutes is None and fitted.learning_rate == recipe.learning_rate
    assert (fitted.val_every, fitted.save_every, fitted.log_every) == (348, 348, 34)
    slow = fit(recipe, seconds=100, step=10, validation=30)
    assert (slow.steps, slow.val_every, slow.log_every, slow.warmup) == (7, 7, 1, 0)
    assert fit(recipe, seconds=1800, step=0.5, validation=0).val_every == 500
    assert fit(recipe, seconds=-5, step=0.5, validation=1).steps == 1
    assert fit(load_recipe("paper", {"minutes": 1}), 60, 0.1, 0).halve_every == 120


def test_the_stages_of_a_fitted_recipe_share_the_time_as_before() -> None:
    recipe = load_recipe("staged", {"minutes": 30, "warmup": 700})
    fitted = fit(recipe, seconds=1800, step=0.5, validation=0)
    steps = [stage["steps"] for stage in fitted.stages]
    nominal = [stage["steps"] for stage in recipe.stages]
    assert [each / steps[0] for each in steps] == pytest.approx([each / nominal[0] for each in nominal], rel=0.01)
    stages = stages_of(fitted)
    assert sum(stage.recipe.steps * stage.pixels / stages[0].pixels * 0.5 for stage in stages) == pytest.approx(
        1800, 0.01
    )
    assert fitted.schedule_steps is None and stages[0].recipe.warmup == round(1_000 * steps[0] / nominal[0])


def test_a_run_of_a_given_time_takes_the_steps_that_fit_and_starts_as_any_other(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    def six_seconds(take: Callable[[int], object], *, limit: float, slowest: Callable[[float], float]) -> float:
        take(0)
        return slowest(6.0)

    monkeypatch.setattr("fmen.training.time_budget.seconds_per_step", six_seconds)
    monkeypatch.setattr("fmen.training.time_budget.fit", lambda recipe, left, *_: fitted.append(left) or fit_as(recipe))
    fitted: list[float] = []

    def fit_as(recipe: Recipe) -> Recipe:
        return recipe.model_copy(update={"minutes": None, "steps": 4, "schedule_steps": 4})

    lines: list[str] = []
    recipe = tiny(minutes=1, log_every=1, ema=0.5, val_data=str(photos))
    run, plain = Run(tmp_path / "run"), Run(tmp_path / "plain")
    assert train(recipe, run, announce=lines.append).step == 4
    train(tiny(steps=4, log_every=1, ema=0.5, val_data=str(photos)), plain)
    assert [record["loss"] for record in run.records()] == [record["loss"] for record in plain.records()]
    assert 50 < fitted[0] < 60
    assert lines == [
        "measuring how many steps fit into 1 min",
        f"run {run.folder}: fmen-s x4, 4 steps on the CPU",
    ]
    assert (run.recipe().steps, run.recipe().minutes) == (4, None)
    with pytest.raises(RunError, match="its minutes is None and cannot change"):
        resumed_recipe(run, {"minutes": 5})


def test_a_run_of_a_given_time_really_ends_near_it(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    outcome = train(tiny(minutes=0.05, warmup=1), run)
    rates = [record["lr"] for record in run.records()]
    assert outcome.step == run.recipe().steps > 6
    assert rates[-1] < 0.05 * max(rates)  # The cosine ends with the run.


def test_a_short_run_is_not_compiled(tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert not compiles(tiny(compile="auto", steps=10**6, minutes=19), CPU)
    assert compiles(tiny(compile="auto", steps=10, minutes=20), CPU)
