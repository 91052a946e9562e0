"""Single steps and short runs against a training loop written out in full."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fmen.training.distributed import Processes
from fmen.training.ema import Ema
from fmen.training.feed import open_patches
from fmen.training.initialization import initial_network
from fmen.training.loop import take_step, train
from fmen.training.losses import LOSSES
from fmen.training.muon import Muon
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.setup import backend_flags, device_title, machine, make_state
from fmen.training.stages import Stage
from fmen.training.step import gray_levels
from fmen_core import load
from fmen_eval.runtime import allocated_by

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")
ALONE = Processes()


def plain_run(recipe: Recipe, rates: list[float]) -> tuple[nn.Module, nn.Module, list[float]]:
    """Train without the trainer; returns the network, its average and the losses."""
    model = initial_network(recipe).train()
    average = copy.deepcopy(model)
    sampler = open_patches([Stage(recipe)], ALONE)[0]
    losses = []
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "muon":
        optimizer = Muon(model.parameters(), 9.0, recipe.betas, recipe.eps)
    else:
        optimizer = torch.optim.Adam(model.parameters(), 9.0, recipe.betas, recipe.eps)
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        lr, hr = (patches.float() for patches in sampler.batch(step))
        difference = model(lr) - hr
        loss = difference.abs().mean() if recipe.loss == {"l1": 1.0} else difference.square().mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
        factor = min(1.0, recipe.grad_clip / norm) if recipe.grad_clip else 1.0
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient * factor
        optimizer.step()
        decay = min(recipe.ema, (1 + step) / (10 + step))
        for name, value in average.state_dict().items():
            new = model.state_dict()[name]
            value.copy_(decay * value + (1 - decay) * new if value.is_floating_point() else new)
    return model, average, losses


@pytest.mark.parametrize(
    ("keys", "rates"),
    [
        ({"schedule": "constant"}, [1e-3] * 4),
        ({"schedule": "constant", "optimizer": "muon"}, [1e-3] * 4),
        ({"schedule": "constant", "warmup": 3}, [2.5e-4, 5e-4, 7.5e-4, 1e-3]),
        ({"schedule": "halving", "halve_every": 2, "warmup": 1}, [5e-4, 1e-3, 5e-4, 5e-4]),
        ({"final_learning_rate": 1e-4}, [1e-3, 8.681981e-4, 5.5e-4, 2.318019e-4]),
        # Adam's step barely depends on the size of the gradient, unless eps is of that size.
        ({"schedule": "constant", "eps": 1.0}, [1e-3] * 4),
        ({"schedule": "constant", "eps": 1.0, "grad_clip": 0.5}, [1e-3] * 4),
        ({"schedule": "constant", "betas": [0.5, 0.6], "loss": "l2"}, [1e-3] * 4),
        ({"schedule": "constant", "ema": 0.2}, [1e-3] * 4),
        ({"schedule": "constant", "ema": 0.9}, [1e-3] * 4),
        ({"schedule": "constant", "channels_last": False, "fused": True}, [1e-3] * 4),
    ],
    ids=str,
)
def test_a_run_takes_the_steps_of_a_loop_written_out(
    tiny: RecipeMaker, tmp_path: Path, keys: dict[str, Any], rates: list[float]
) -> None:
    recipe = tiny(steps=4, log_every=1, **keys)
    run = Run(tmp_path / "run")
    train(recipe, run)
    model, average, losses = plain_run(recipe, rates)
    start = initial_network(recipe).state_dict()

    records = run.records()
    assert [record["lr"] for record in records] == pytest.approx(rates, rel=1e-5)
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=1e-5)
    checkpoint = torch.load(run.resume, weights_only=True)
    assert_same_change(checkpoint["model"], model.state_dict(), start)
    assert_same_change(load(run.last).state_dict(), (average if recipe.ema else model).state_dict(), start)
    assert checkpoint["optimizer"]["param_groups"][0]["lr"] == pytest.approx(rates[-1], rel=1e-5)


def assert_same_change(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> None:
    """Compare the changes from ``start`` by the norm over all tensors: single weights may follow a rounding error."""
    assert found.keys() == expected.keys()
    names = [name for name, value in expected.items() if value.is_floating_point()]
    error = torch.cat([(found[name] - expected[name]).flatten() for name in names]).norm()
    change = torch.cat([(expected[name] - start[name]).flatten() for name in names]).norm()
    assert change > 0 and error < 0.01 * change
    for name in expected.keys() - names:
        assert torch.equal(found[name], expected[name]), name


def test_every_loss_is_averaged_over_the_steps_since_the_last_line(tiny: RecipeMaker, tmp_path: Path) -> None:
    single, pairs = Run(tmp_path / "single"), Run(tmp_path / "pairs")
    train(tiny(log_every=1), single)
    train(tiny(log_every=4), pairs)
    losses = [record["loss"] for record in single.records()]
    found = [record["loss"] for record in pairs.records()]
    assert found == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 2], rel=1e-6)


def batch_of(recipe: Recipe, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    lr, hr = open_patches([Stage(recipe)], ALONE)[0].batch(step)
    return lr.float(), hr.float()


def test_gradients_do_not_add_up_over_steps(tiny: RecipeMaker) -> None:
    recipe = tiny()
    state = make_state(recipe, CPU)
    take_step(recipe, state, state.model, *batch_of(recipe))
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_gradients_are_averaged_over_the_processes_once_a_step(tiny: RecipeMaker) -> None:
    class Distributed(nn.Module):
        averages = True

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.backward_passes = module, list[bool]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.module(x)
            out.register_hook(lambda _: self.backward_passes.append(self.averages))
            return out

        @contextmanager
        def no_sync(self) -> Iterator[None]:
            self.averages = False
            yield
            self.averages = True

    recipe = tiny(batch=6, accumulate=3)
    state = make_state(recipe, CPU)
    network = Distributed(state.model)
    take_step(recipe, state, network, *batch_of(recipe))
    assert network.backward_passes == [False, False, True]


def test_gray_levels_are_not_rounded_to_the_type_of_the_output() -> None:
    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.bfloat16()

    # 0.2 with the 8 bits of bf16 is 205 / 1024; 51.05 would be rounded to 51.
    assert gray_levels(Half(), torch.tensor(51.0), 1.0).item() == pytest.approx(255 * 205 / 1024, rel=1e-6)
    assert gray_levels(Half(), torch.tensor(51.0), 255.0).dtype == torch.float32


def test_the_loss_scale_changes_no_step_not_even_a_clipped_one(tiny: RecipeMaker) -> None:
    recipe = tiny(grad_clip=0.5, eps=1.0)
    states = [make_state(recipe, CPU) for _ in range(2)]
    states[1].scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for state in states:
        for step in range(2):
            take_step(recipe, state, state.model, *batch_of(recipe, step))
    for name, value in states[0].model.state_dict().items():
        torch.testing.assert_close(states[1].model.state_dict()[name], value, msg=name)


def test_a_step_whose_fp16_gradients_overflow_is_skipped_and_the_loss_scale_halved(tiny: RecipeMaker) -> None:
    recipe = tiny(precision="fp16", loss="l2")
    state = make_state(recipe, CPU)
    before = [parameter.clone() for parameter in state.model.parameters()]
    assert state.scaler.is_enabled()
    take_step(recipe, state, state.model, *batch_of(recipe))
    assert state.scaler.get_scale() == 2.0**15
    assert all(map(torch.equal, before, state.model.parameters()))
    assert not make_state(tiny(precision="bf16"), CPU).scaler.is_enabled()


def test_autocast_runs_the_convolutions_in_the_precision_of_the_recipe(tiny: RecipeMaker) -> None:
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for precision, dtype in dtypes.items():
        recipe = tiny(precision=precision)
        state = make_state(recipe, CPU)
        seen: list[torch.dtype] = []
        state.model.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out.dtype))
        loss = take_step(recipe, state, state.model, *batch_of(recipe))
        assert seen == [dtype]
        assert loss.dtype == torch.float32 and not loss.requires_grad
        assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())


@pytest.mark.parametrize("channels_last", [True, False])
def test_weights_have_the_memory_order_of_the_recipe(tiny: RecipeMaker, channels_last: bool) -> None:
    model = make_state(tiny(channels_last=channels_last), CPU).model
    weight = next(p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert weight.is_contiguous() is not channels_last


def test_the_optimizer_is_the_recipes(tiny: RecipeMaker) -> None:
    adam = make_state(tiny(learning_rate=0.25, betas=[0.1, 0.2], eps=0.5, fused=True), CPU).optimizer
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["lr"], adam.defaults["betas"], adam.defaults["eps"]) == (0.25, (0.1, 0.2), 0.5)
    assert adam.defaults["fused"] is True
    muon = make_state(tiny(optimizer="muon", learning_rate=0.25, betas=[0.1, 0.2], eps=0.5), CPU).optimizer
    assert isinstance(muon, Muon)
    assert (muon.defaults["lr"], muon.defaults["betas"], muon.defaults["eps"]) == (0.25, (0.1, 0.2), 0.5)


def test_the_seed_decides_the_first_weights_and_no_average_is_kept_without_ema(tiny: RecipeMaker) -> None:
    first, same, other = (make_state(tiny(seed=seed), CPU) for seed in (1, 1, 2))
    assert all(map(torch.equal, first.model.parameters(), same.model.parameters()))
    assert not all(map(torch.equal, first.model.parameters(), other.model.parameters()))
    assert first.ema is None and first.network is first.model
    averaged = make_state(tiny(ema=0.5), CPU)
    assert averaged.ema is not None and averaged.ema.decay == 0.5
    assert averaged.network is averaged.ema.model is not averaged.model
    assert averaged.model.training and not averaged.network.training


def flags() -> tuple[object, ...]:
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv"):  # PyTorch 2.9 and newer
        tf32 = backends.cudnn.conv.fp32_precision == "tf32", backends.cuda.matmul.fp32_precision == "tf32"
    else:
        tf32 = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    return backends.cudnn.benchmark, *tf32


@pytest.mark.parametrize("tf32", [False, True])
def test_a_step_uses_tf32_only_if_the_recipe_says_so_and_leaves_pytorchs_flags_as_they_were(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tf32: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before, seen = flags(), set()

    def loss(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        seen.add(flags())
        return torch.nn.functional.l1_loss(sr, hr)

    monkeypatch.setitem(LOSSES, "l1", loss)
    train(tiny(steps=1, tf32=tf32), Run(tmp_path / "run"))
    assert seen == {(True, tf32, tf32)}
    assert flags() == before
    with pytest.raises(KeyError), backend_flags(tiny(tf32=not tf32)):
        raise KeyError
    assert flags() == before


def test_the_versions_of_a_run_state_tf32(tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    cuda = torch.device("cuda")
    assert machine(tiny(tf32=True), cuda, ALONE)["tf32"] is True
    assert machine(tiny(), cuda, ALONE)["tf32"] is False
    on_cpu = machine(tiny(tf32=True), CPU, Processes(0, 3))
    assert (on_cpu["device"], on_cpu["tf32"], on_cpu["processes"]) == ("cpu", False, 3)


def test_the_first_line_of_a_run_states_the_arithmetic_of_a_gpu(
    tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    cuda = torch.device("cuda")
    assert device_title(tiny(tf32=True, precision="bf16"), cuda) == "GPU in bf16, TF32 on"
    assert device_title(tiny(), cuda) == "GPU in fp32, TF32 off"
    assert device_title(tiny(tf32=True), CPU) == "the CPU"


def test_an_average_follows_weights_and_statistics_and_ends_on_them() -> None:
    model = torch.nn.BatchNorm2d(2)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3)
        model.running_mean = torch.full((2,), 8.0)
    assert model.num_batches_tracked is not None
    model.num_batches_tracked += 7
    ema.update(model, step=0)  # Decay 0.1.
    assert ema.model.weight.tolist() == pytest.approx([2.8, 2.8])
    assert ema.model.num_batches_tracked is not None and ema.model.num_batches_tracked.item() == 7
    for step in range(100, 160):
        ema.update(model, step)
    assert ema.model.running_mean is not None
    assert ema.model.running_mean.tolist() == pytest.approx([8, 8])
    assert model.weight.requires_grad and not ema.model.weight.requires_grad


def test_an_average_allocates_no_memory_and_averages_shared_weights_once() -> None:
    conv = nn.Conv2d(3, 3, 3)
    model = nn.Sequential(conv, conv, nn.BatchNorm2d(3))
    ema = Ema(model, 0.5)
    start = conv.weight.detach().clone()
    with torch.no_grad():
        conv.weight += 1
    assert allocated_by(lambda: ema.update(model, step=100)) == 0
    torch.testing.assert_close(ema.model[0].weight, start + 0.5)
