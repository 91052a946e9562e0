"""What a run decides before its first step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fmen.training.distributed import Processes
from fmen.training.loop import train
from fmen.training.recipe import Recipe, RecipeError, load_recipe
from fmen.training.run_folder import Run
from fmen.training.setup import (
    check_recipe,
    compiles,
    device_type,
    make_state,
    pick_device,
    pick_precision,
    resolve_recipe,
)
from fmen_core import read_weights

RecipeMaker = Callable[..., Recipe]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_only_a_long_run_on_a_machine_with_a_compiler_is_compiled(
    tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert compiles(tiny(compile="auto", steps=2_000), CPU)
    assert not compiles(tiny(compile="auto", steps=1_999), CPU)
    assert compiles(tiny(compile="auto", steps=1_999, schedule_steps=2_000), CPU)
    assert compiles(tiny(compile=True, steps=1), CPU)
    assert not compiles(tiny(compile=False, steps=2_000), CPU)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not compiles(tiny(compile="auto", steps=2_000), CPU)
    for spec in (None, object()):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, spec=spec: spec if name == "triton" else None)
        assert compiles(tiny(compile="auto", steps=2_000), CUDA) is (spec is not None)


def test_fast_compiles_its_steps_and_replays_them_as_a_graph_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("fmen.training.setup.has_bf16", lambda device: True)
    recipe = resolve_recipe(load_recipe("fast"), CUDA, Processes())
    assert (recipe.compile, recipe.cuda_graph, recipe.precision, recipe.tf32) == (True, True, "bf16", True)


def test_auto_precision_is_bf16_where_the_device_has_it(tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("fmen.training.setup.has_bf16", lambda device, has=has: has)
        assert pick_precision(tiny(precision="auto"), CPU) == expected
        assert pick_precision(tiny(precision="fp16"), CPU) == "fp16"


def test_a_network_that_never_ends_in_bf16_on_a_cpu_is_refused(tiny: RecipeMaker) -> None:
    keys: dict[str, Any] = {"model": "haesr", "model_args": {}, "scale": 4}
    with pytest.raises(RecipeError, match=r"precision = bf16, in which haesr never ends on a CPU; use --set"):
        make_state(tiny(**keys, precision="bf16"), CPU)
    assert make_state(tiny(**keys), CPU).model is not None


def test_a_resolved_recipe_has_no_choice_left_that_changes_the_result(tiny: RecipeMaker) -> None:
    recipe = resolve_recipe(tiny(precision="auto", compile="auto"), CPU, Processes())
    assert recipe.precision in ("fp32", "bf16") and recipe.compile is False and recipe.schedule_steps == 6
    assert resolve_recipe(tiny(schedule_steps=9), CPU, Processes()).schedule_steps == 9


def test_the_device_is_a_gpu_where_there_is_one(tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device(tiny(device="auto"), 3) == torch.device("cuda", 3) and chosen == [3]
    assert pick_device(tiny(device="auto"), Processes().local_rank) == torch.device("cuda", 0)
    assert pick_device(tiny(device="cpu"), 3) == CPU
    assert (device_type(tiny(device="cuda")), device_type(tiny(device="cpu"))) == ("cuda", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(tiny(device="auto"), 3) == CPU


def test_all_faults_are_named_in_one_line_before_any_data_is_prepared(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr("fmen.training.loop.open_patches", lambda *_: pytest.fail("data were opened"))
    with pytest.raises(RecipeError) as caught:
        check_recipe(tiny(device="cuda", batch=3, tensorboard=True), Processes(0, 2))
    message = str(caught.value)
    assert "\n" not in message
    assert "device = 'cuda', but this PyTorch sees no GPU; use --set device=cpu" in message
    assert "batch = 3 is not a multiple of the 2 processes" in message
    assert "pip install 'fmen[tensorboard]'" in message
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match=r"wandb = true, but it is not installed: pip install 'fmen\[wandb\]'"):
        check_recipe(tiny(wandb=True), Processes())
    for keys in ({"device": "cuda"}, {"tensorboard": True}, {"weights": "missing.safetensors"}):
        with pytest.raises(ValueError, match=r"no GPU|pip install|missing\.safetensors"):
            train(tiny(**keys), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_synchronised_batchnorm_is_refused_on_the_cpu_and_replaces_every_batchnorm(tiny: RecipeMaker) -> None:
    with pytest.raises(RecipeError, match="sync_batchnorm = true, which PyTorch has for GPUs only"):
        check_recipe(tiny(sync_batchnorm=True), Processes(0, 2))
    kinds = [
        [type(module) for module in make_state(tiny(sync_batchnorm=sync), CPU).model.modules() if is_batchnorm(module)]
        for sync in (False, True)
    ]
    assert len(kinds[0]) == len(kinds[1]) > 0
    assert (set(kinds[0]), set(kinds[1])) == ({nn.BatchNorm2d}, {nn.SyncBatchNorm})


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_norms_keep_the_running_statistics_of_the_initial_weights(
    tiny: RecipeMaker, tmp_path: Path, frozen: bool
) -> None:
    first = train(tiny(), Run(tmp_path / "first")).weights
    recipe = tiny(weights=str(first), frozen_norms=frozen, seed=1)
    before, after = (read_weights(file) for file in (first, train(recipe, Run(tmp_path / "second")).weights))
    statistics = [name for name in before if "running_" in name]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics) == frozen
    assert not torch.equal(before["head.weight"], after["head.weight"])


def is_batchnorm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
