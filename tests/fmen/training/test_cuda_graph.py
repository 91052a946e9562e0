"""A step as one CUDA graph, and optimizers whose numbers are tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmen.training.cuda_graph import make_capturable, make_plain, set_learning_rate
from fmen.training.distributed import Processes
from fmen.training.feed import open_patches
from fmen.training.loop import take_step, train
from fmen.training.muon import Muon
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.schedule import learning_rate
from fmen.training.setup import captures, make_state
from fmen.training.stages import Stage
from fmen_core.cuda_graph import CudaGraph

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")


def test_muon_takes_the_same_steps_with_its_numbers_in_tensors() -> None:
    torch.manual_seed(0)
    shapes = [(8, 4, 3, 3), (8, 4, 3, 3), (4, 8, 1, 1), (8,)]
    numbers = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    tensors = copy.deepcopy(numbers)
    optimizers = [Muon(params, 1.0, (0.9, 0.99), 1e-8) for params in (numbers, tensors)]
    make_capturable(optimizers[1], CPU)
    for step in range(5):
        grads = [torch.randn(shape) for shape in shapes]
        for params, optimizer in zip((numbers, tensors), optimizers, strict=True):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.clone()
            set_learning_rate(optimizer, 0.1 / (1 + step))
            optimizer.step()
    assert isinstance(optimizers[1].param_groups[0]["lr"], torch.Tensor)
    for a, b in zip(numbers, tensors, strict=True):
        torch.testing.assert_close(a, b)


def test_a_learning_rate_in_a_tensor_is_set_in_place() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], 1.0)
    make_capturable(optimizer, CPU)
    rate = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == 0.25
    assert optimizer.param_groups[0]["capturable"] is True
    make_plain(optimizer)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["capturable"]) == (0.25, False)


def test_steps_are_captured_on_one_gpu_only_and_never_in_fp16(tiny: RecipeMaker) -> None:
    gpu, one, two = torch.device("cuda"), Processes(), Processes(0, 2)
    assert captures(tiny(), gpu, one)
    assert not captures(tiny(), CPU, one)
    assert not captures(tiny(), gpu, two)
    assert not captures(tiny(precision="fp16"), gpu, one)
    assert not captures(tiny(cuda_graph=False), gpu, one)


@pytest.mark.cuda
@pytest.mark.parametrize("keys", [{"optimizer": "muon"}, {"fused": True, "grad_clip": 100.0}, {"precision": "bf16"}])
def test_a_replayed_step_equals_an_eager_one(tiny: RecipeMaker, keys: dict[str, object]) -> None:
    recipe, device = tiny(device="cuda", steps=8, ema=0.9, **keys), torch.device("cuda")
    sampler = open_patches([Stage(recipe)], Processes())[0]
    weights, losses = [], []
    for graph in (None, CudaGraph()):
        torch.manual_seed(0)
        state = make_state(recipe, device)
        if graph:
            make_capturable(state.optimizer, device)
        for step in range(recipe.steps):
            lr, hr = (patches.to(device).float() for patches in sampler.batch(step))
            set_learning_rate(state.optimizer, learning_rate(recipe, step))
            state.count(take_step(recipe, state, state.model, lr, hr, graph))
        weights.append(torch.cat([p.flatten() for p in state.model.parameters()]))
        losses.append(state.losses)
        assert graph is None or graph.graph is not None
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)
    # cuDNN's gradients are not deterministic, and single weights follow their rounding errors.
    assert (weights[0] - weights[1]).norm() < 1e-3 * weights[0].norm()


@pytest.mark.cuda
def test_a_run_on_a_gpu_continues_on_a_cpu(tiny: RecipeMaker, tmp_path: Path) -> None:
    keys = {"save_every": 5, "steps": 5, "schedule_steps": 8, "optimizer": "muon", "final_learning_rate": 1e-4}
    train(tiny(device="cuda", **keys), Run(tmp_path / "run"))
    outcome = train(tiny(device="cpu", **(keys | {"steps": 8})), Run(tmp_path / "run"), resume=True)
    assert outcome.step == 8
