"""Optimizers by name, their arguments, and steps computed in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from fmen.training.distributed import Processes
from fmen.training.loop import take_step, train
from fmen.training.optimizers import OPTIMIZERS, has_tensor_rate, make_optimizer
from fmen.training.recipe import Recipe, RecipeError
from fmen.training.run_folder import Run
from fmen.training.setup import captures, check_recipe, make_state
from fmen.training.teachers import Teachers
from fmen_core import load

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")


class Net(nn.Module):
    """A network without BatchNorm, whose result does not depend on how a batch is divided."""

    scale, data_range = 4, 255.0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 3, padding=1)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        out: Tensor = nn.functional.pixel_shuffle(self.conv(x), 4)
        return out


@pytest.fixture
def network() -> Net:
    torch.manual_seed(0)
    return Net()


def gradient_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Take two steps with given gradients; returns the weights."""
    for step in range(2):
        for parameter in model.parameters():
            generator = torch.Generator().manual_seed(step)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_recipe_knows_the_optimizers_by_name() -> None:
    assert get_args(Recipe.model_fields["optimizer"].annotation) == tuple(OPTIMIZERS)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_takes_the_recipes_rate_and_takes_steps(
    recipe_of: RecipeMaker, network: Net, name: str
) -> None:
    before = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    optimizer = make_optimizer(recipe_of(optimizer=name, learning_rate=0.01, fused=True), network)
    assert isinstance(optimizer, OPTIMIZERS[name]) and optimizer.param_groups[0]["lr"] == 0.01
    assert optimizer.defaults.get("fused", True) is True
    after = gradient_step(network, optimizer)
    assert after.isfinite().all() and (after != before).float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("adamw", {}, lambda p: torch.optim.AdamW(p, 1e-3)),
        (
            "adamw",
            {"betas": [0.8, 0.9], "eps": 1e-3, "optimizer_args": {"weight_decay": 0.5}},
            lambda p: torch.optim.AdamW(p, 1e-3, (0.8, 0.9), 1e-3, weight_decay=0.5),
        ),
        ("adam", {"optimizer_args": {"amsgrad": True}}, lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True)),
        (
            "sgd",
            {"optimizer_args": {"momentum": 0.9, "nesterov": True}},
            lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True),
        ),
        ("rmsprop", {"optimizer_args": {"alpha": 0.5}}, lambda p: torch.optim.RMSprop(p, 1e-3, alpha=0.5)),
    ],
)
def test_optimizers_are_those_of_torch_with_the_recipes_arguments(
    recipe_of: RecipeMaker, name: str, keys: dict[str, Any], expected: Callable[[Iterator[Any]], torch.optim.Optimizer]
) -> None:
    weights = []
    for make in (lambda model: make_optimizer(recipe_of(optimizer=name, **keys), model), None):
        torch.manual_seed(0)
        model = Net()
        weights.append(gradient_step(model, make(model) if make else expected(model.parameters())))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adam", {"momentum": 0.9}, "adam takes no 'momentum' here; it takes weight_decay, amsgrad"),
        ("adamw", {"betas": [0.5, 0.5]}, "adamw takes no 'betas' here"),
        ("muon", {"weight_decay": 0.1}, "muon takes no 'weight_decay' here; it takes none"),
        ("sgd", {"momentum": -1}, "Invalid momentum value: -1"),
        ("sgd", {"momentum": "much"}, "'momentum': 'much'"),
    ],
)
def test_arguments_that_an_optimizer_does_not_take_are_refused_before_the_first_step(
    tiny: RecipeMaker, tmp_path: Path, name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        train(tiny(optimizer=name, optimizer_args=arguments), Run(tmp_path / "run"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_run_with_adamw_is_resumed_exactly(tiny: RecipeMaker, tmp_path: Path) -> None:
    recipe = tiny(optimizer="adamw", optimizer_args={"weight_decay": 0.3}, schedule="constant")
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(recipe, whole)
    train(recipe.model_copy(update={"steps": 3}), parts)
    train(parts.recipe().model_copy(update={"steps": 6}), parts, resume=True)
    found, expected = (load(run.last).state_dict() for run in (parts, whole))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    other = Run(tmp_path / "other")
    train(tiny(optimizer="adamw", schedule="constant"), other)
    assert not torch.equal(load(other.last).state_dict()["head.weight"], expected["head.weight"])


def test_only_optimizers_that_read_their_rate_from_the_device_are_captured(recipe_of: RecipeMaker) -> None:
    cuda = torch.device("cuda")
    assert {name for name in OPTIMIZERS if not has_tensor_rate(name)} == {"sgd", "adagrad", "adafactor"}
    assert captures(recipe_of(optimizer="adamw"), cuda, Processes())
    assert not captures(recipe_of(optimizer="sgd"), cuda, Processes())


def random_batch(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(255 * torch.rand(count, 3, side, side, generator=generator) for side in (8, 32))  # type: ignore


@pytest.mark.parametrize(
    ("keys", "taught"), [({}, False), ({"loss": {"l2": 1, "fft": 0.1}, "grad_clip": 20.0}, False), ({}, True)], ids=str
)
def test_a_batch_in_parts_gives_the_step_of_the_whole_batch_and_parts_alone_are_in_memory(
    recipe_of: RecipeMaker, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], taught: bool
) -> None:
    results = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model, teacher = Net(), Net()
        monkeypatch.setattr("fmen.training.setup.initial_network", lambda recipe, model=model: model)
        recipe = recipe_of(batch=12, accumulate=accumulate, eps=1.0, **keys)  # Adam follows the size of the gradient.
        state = make_state(recipe, CPU)
        teachers = Teachers([teacher]) if taught else None
        loss = take_step(recipe, state, state.model, *random_batch(12), teachers=teachers)
        results.append((loss, model.conv.weight.detach()))
        parts = [12] if accumulate == 1 else [3] * 4
        assert model.batches == parts and teacher.batches == (parts if taught else [])
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-9)


def test_a_batch_that_is_not_divided_equally_is_refused(recipe_of: RecipeMaker) -> None:
    with pytest.raises(RecipeError, match=r"accumulate = 3 does not divide the 8 patches$"):
        check_recipe(recipe_of(batch=8, accumulate=3), Processes())
    with pytest.raises(RecipeError, match="accumulate = 8 does not divide the 4 patches of the 2 processes"):
        check_recipe(recipe_of(batch=8, accumulate=8), Processes(0, 2))
    check_recipe(recipe_of(batch=8, accumulate=4), Processes(0, 2))
    with pytest.raises(RecipeError, match="accumulate = 2 does not divide the 1 patches"):
        check_recipe(recipe_of(stages=[{"steps": 6}, {"steps": 1, "batch": 1, "accumulate": 2}], steps=7), Processes())


def test_two_processes_wait_for_the_last_part_of_a_batch(
    recipe_of: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of the other parts are added within a process."""
    from contextlib import contextmanager

    unsynchronised: list[int] = []

    class Parallel(nn.Module):
        def __init__(self, module: Net) -> None:
            super().__init__()
            self.module, self.paused = module, False

        def forward(self, x: Tensor) -> Tensor:
            unsynchronised.append(self.paused)
            out: Tensor = self.module(x)
            return out

        @contextmanager
        def no_sync(self) -> Iterator[None]:
            self.paused = True
            yield
            self.paused = False

    monkeypatch.setattr("fmen.training.setup.initial_network", lambda recipe: Net())
    recipe = recipe_of(batch=6, accumulate=3)
    state = make_state(recipe, CPU)
    take_step(recipe, state, Parallel(state.model), *random_batch(6))  # type: ignore[arg-type]
    assert unsynchronised == [True, True, False]
