"""Runs in stages: what a stage may change, and what it starts from."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fmen.training.distributed import Processes
from fmen.training.feed import batches, open_patches
from fmen.training.logger import Logger
from fmen.training.loop import train
from fmen.training.recipe import Recipe, RecipeError, dump_recipe, load_recipe, make_recipe
from fmen.training.run_folder import Run, RunError, resumed_recipe
from fmen.training.schedule import learning_rate
from fmen.training.setup import check_recipe
from fmen.training.stages import stage_before, stages_of
from fmen_core import load, read_metadata

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")

STAGES: list[dict[str, Any]] = [
    {"steps": 3, "warmup": 1},
    {"steps": 4, "patch": 12, "batch": 1, "loss": "l2", "learning_rate": 1e-4, "grad_clip": 5.0},
]


@pytest.fixture
def staged(tiny: RecipeMaker) -> RecipeMaker:
    """Make a recipe of two stages."""

    def make(stages: list[dict[str, Any]] = STAGES, **keys: object) -> Recipe:
        values = {key: value for key, value in tiny().model_dump().items() if key != "steps"}
        return make_recipe(values | {"log_every": 1, "ema": 0.9, "stages": stages} | keys)

    return make


def test_a_stage_is_a_recipe_with_its_own_values_and_the_common_ones(staged: RecipeMaker) -> None:
    recipe = staged()
    one, two = stages_of(recipe)
    assert recipe.steps == 7
    assert [(stage.start, stage.stop, stage.number, stage.count) for stage in (one, two)] == [
        (0, 3, 1, 2),
        (3, 7, 2, 2),
    ]
    assert (one.recipe.patch, one.recipe.loss, one.recipe.learning_rate, one.recipe.warmup) == (8, {"l1": 1.0}, 1e-3, 1)
    assert (two.recipe.patch, two.recipe.loss, two.recipe.learning_rate, two.recipe.warmup) == (
        12,
        {"l2": 1.0},
        1e-4,
        0,
    )
    assert two.recipe.ema == 0.9 and two.recipe.data == recipe.data
    assert [stage_before([one, two], step).number for step in (1, 3, 4, 7)] == [1, 1, 2, 2]
    (alone,) = stages_of(one.recipe)
    assert (alone.recipe, alone.start, alone.stop) == (one.recipe, 0, 3)


def test_each_stage_has_a_schedule_over_its_own_steps(staged: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(staged(), run)
    records = run.records()
    one, two = (stage.recipe for stage in stages_of(staged()))
    expected = [learning_rate(one, step) for step in range(3)] + [learning_rate(two, step) for step in range(4)]
    assert [record["lr"] for record in records] == pytest.approx(expected)
    assert expected[0] == 5e-4 and expected[3] == 1e-4 and expected[6] < 2e-5
    assert [record["stage"] for record in records] == [1, 1, 1, 2, 2, 2, 2]


def test_a_stage_follows_as_a_new_run_from_the_weights_of_the_stage_before(staged: RecipeMaker, tmp_path: Path) -> None:
    """Its optimizer is new; its samples are those of the steps that follow."""
    recipe = staged(ema=0.0)
    train(recipe, Run(tmp_path / "whole"))
    one, two = stages_of(recipe)
    train(one.recipe, Run(tmp_path / "one"))
    state = torch.load(Run(tmp_path / "one").resume, weights_only=True)
    model = load(Run(tmp_path / "one").last).train()
    optimizer = torch.optim.Adam(model.parameters())
    (sampler,) = open_patches([two], Processes())
    for step in range(two.start, two.stop):
        lr, hr = (patches.float() for patches in sampler.batch(step))
        assert lr.shape == (1, 3, 12, 12)
        optimizer.param_groups[0]["lr"] = learning_rate(two.recipe, step - two.start)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(lr), hr).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    checkpoint = torch.load(Run(tmp_path / "whole").resume, weights_only=True)
    assert {moments["step"].item() for moments in checkpoint["optimizer"]["state"].values()} == {4}
    found = checkpoint["model"]
    values = [(found[name], value.detach(), state["model"][name]) for name, value in model.named_parameters()]
    error = torch.cat([(mine - other).flatten() for mine, other, _ in values]).norm()
    change = torch.cat([(mine - start).flatten() for mine, _, start in values]).norm()
    assert change > 0 and error < 0.01 * change


@pytest.mark.parametrize("stop", [2, 3, 5])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_run_stopped_in_any_stage_and_resumed_ends_with_the_same_bits(
    staged: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, optimizer: str
) -> None:
    recipe = staged(optimizer=optimizer)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(recipe, whole)
    tick, calls = Logger.tick, iter(range(1, 100))

    def interrupting_tick(self: Logger) -> None:
        tick(self)
        if next(calls) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Logger, "tick", interrupting_tick)
    assert train(recipe, parts).step == stop
    assert train(resumed_recipe(parts, {}), parts, resume=True).step == 7
    found, expected = (torch.load(run.resume, weights_only=True) for run in (parts, whole))
    for name in expected["model"]:
        assert torch.equal(found["model"][name], expected["model"][name]), name
        assert torch.equal(found["ema"][name], expected["ema"][name]), name
    for kept, values in zip(found["optimizer"]["state"].values(), expected["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(kept[name], value) for name, value in values.items())
    keys = ("step", "loss", "lr", "stage")
    assert [[record[key] for key in keys] for record in parts.records()] == [
        [record[key] for key in keys] for record in whole.records()
    ]


def test_a_staged_recipe_is_read_back_as_it_was_written(staged: RecipeMaker, tmp_path: Path) -> None:
    recipe = staged()
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    train(recipe, Run(tmp_path / "run"))
    assert Run(tmp_path / "run").recipe().stages == recipe.stages


def test_steps_and_stages_of_a_run_do_not_change_when_it_is_resumed(staged: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(staged(), run)
    with pytest.raises(RecipeError, match=r"steps \(9\) is not the sum of the stages' steps \(7\)"):
        resumed_recipe(run, {"steps": 9})
    with pytest.raises(RunError, match=r"its stages is .* and cannot change"):
        resumed_recipe(run, {"stages": [{"steps": 7}]})


def test_data_and_their_weights_may_change_and_images_are_opened_once(
    staged: RecipeMaker, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"data": [str(photos), "sample"]}
    recipe = staged([{"steps": 2}, {"steps": 2, **both}, {"steps": 2, **both, "data_weights": [0, 1]}])
    stages = stages_of(recipe)
    opened: list[str] = []
    from fmen.training import feed

    prepare = feed.prepare_cache
    monkeypatch.setattr(
        feed, "prepare_cache", lambda dataset, **keys: opened.append(dataset.name) or prepare(dataset, **keys)
    )
    first, second, third = open_patches(stages, Processes())
    assert len(opened) == 2 and recipe.datasets == (str(photos), "sample")
    assert second.caches == third.caches and first.caches == second.caches[:1]
    assert (second.weights, third.weights) == (None, (0, 1))
    copied: list[int] = []
    pixels = feed.Pixels
    monkeypatch.setattr(feed, "Pixels", lambda images, device: copied.append(len(images)) or pixels(images, device))
    for feed_name in ("cpu", "device"):
        fed = [
            type(stage)(stage.recipe.model_copy(update={"feed": feed_name}), stage.start, stage.number, stage.count)
            for stage in stages
        ]
        pairs = list(batches(fed, [first, second, third], Processes(), CPU, start=1))
        assert len(copied) == (4 if feed_name == "device" else 0)  # LR and HR; the last two stages share them.
        assert [stage.number for stage, _, _ in pairs] == [1, 2, 2, 3, 3]
        for step, (stage, lr, _) in enumerate(pairs, 1):
            sampler = (first, second, third)[stage.number - 1]
            assert torch.equal(lr, sampler.batch(step)[0].float())


def test_validation_and_checkpoints_are_due_at_the_end_of_each_stage(
    staged: RecipeMaker, tmp_path: Path, photos: Path
) -> None:
    run = Run(tmp_path / "run")
    train(staged(log_every=100, val_data=str(photos), val_every=0), run)
    assert [(record["step"], record["stage"]) for record in run.records() if "psnr" in record] == [(3, 1), (7, 2)]
    assert [record["step"] for record in run.records() if "loss" in record] == [3, 7]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"steps": 1}, {"patch": 16}], "stage 2: steps is missing; give a number of steps, 1 or more"),
        ([{"steps": 0}], "stage 1: steps = 0; give a number"),
        (
            [{"steps": 1, "lose": "l1"}],
            r"stage 1: unknown key 'lose' \(did you mean 'loss'\?\); a stage may set ",
        ),
        ([{"steps": 1, "scale": 2}], "stage 1: scale cannot change between stages; give it once, above them"),
        ([{"steps": 1, "loss": "l3"}], "stage 1: loss = 'l3'"),
        ([{"steps": 5, "warmup": 5}], r"stage 1: warmup \(5\) must be shorter than the run \(5 steps\)"),
        ([{"steps": 5, "final_learning_rate": 0.1}], r"stage 1: final_learning_rate \(0.1\) is above learning_rate"),
        ([3], "stages is not a list of 'key: value' lines"),
        ({"steps": 3}, "stages is not a list of 'key: value' lines"),
    ],
    ids=str,
)
def test_a_bad_stage_is_refused_in_one_line(staged: RecipeMaker, stages: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        staged(stages)
    assert "\n" not in str(caught.value)


def test_former_names_of_keys_are_read_in_stages_and_a_run_with_stages_has_no_cosine_of_its_own(
    staged: RecipeMaker,
) -> None:
    assert staged([{"steps": 3, "lr": 5e-4}]).stage_recipes()[0].learning_rate == 5e-4
    with pytest.raises(RecipeError, match="schedule_steps is a key of each stage"):
        staged(schedule_steps=9)
    assert (
        make_recipe({"stages": [{"steps": 3, "learning_rate": 5e-4}, {"steps": 2, "learning_rate": 1e-4}]}).steps == 5
    )
    with pytest.raises(RecipeError, match="learning_rate is missing"):
        make_recipe({"stages": [{"steps": 3, "learning_rate": 5e-4}, {"steps": 2}]})


def test_the_batch_of_every_stage_and_every_teacher_are_checked_before_the_first_step(
    staged: RecipeMaker, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="batch = 1 is not a multiple of the 2 processes"):
        check_recipe(staged(), Processes(0, 2))
    with pytest.raises(RecipeError, match="teacher = 'fmen-s_x2': a network of scale 2"):
        train(staged([{"steps": 1}, {"steps": 1, "teacher": "fmen-s_x2"}]), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_teacher_belongs_to_its_stage(staged: RecipeMaker, tmp_path: Path) -> None:
    taught = [{"steps": 2}, {"steps": 2, "teacher": "fmen-s_x4", "teacher_weight": 1.0}]
    plain = [{"steps": 2}, {"steps": 2}]
    losses = []
    for name, stages in (("taught", taught), ("plain", plain)):
        train(staged(stages), Run(tmp_path / name))
        losses.append([record["loss"] for record in Run(tmp_path / name).records()])
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2] != losses[1][2]


def test_the_bundled_staged_recipe_grows_its_patches_and_ends_with_the_squared_error() -> None:
    parts = load_recipe("staged").stage_recipes()
    assert [(part.patch, part.batch, part.loss) for part in parts] == [
        (64, 64, {"l1": 1.0}),
        (64, 64, {"l1": 1.0}),
        (128, 32, {"l1": 1.0}),
        (160, 16, {"l2": 1.0}),
    ]
    rates = [part.learning_rate for part in parts]
    assert rates == sorted(rates, reverse=True) and load_recipe("staged").steps == load_recipe("fast").steps


def test_the_weights_name_the_data_of_all_stages(staged: RecipeMaker, tmp_path: Path, photos: Path) -> None:
    run = Run(tmp_path / "run")
    train(staged([{"steps": 1}, {"steps": 1, "data": "sample"}]), run)
    assert read_metadata(run.last)["data"] == f"{photos} sample"
