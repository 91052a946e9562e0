"""Teachers: their output as a second target of every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmen.training.distributed import Processes
from fmen.training.feed import open_patches, to_floats
from fmen.training.initialization import initial_network
from fmen.training.loop import train
from fmen.training.recipe import Recipe, RecipeError
from fmen.training.run_folder import Run, RunError
from fmen.training.setup import make_state
from fmen.training.stages import Stage
from fmen.training.teachers import Teachers, open_teachers
from fmen_core import create_model, reparameterize, save
from fmen_core.copies import Copies

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")
SIZES = {"n_feats": 8, "mid_feats": 6, "down_blocks": 1, "up_blocks": (1, 1)}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(7)
    model = create_model("fmen-s", **SIZES)
    model.tail[0].bias.data.fill_(120.0)  # type: ignore[union-attr,index,operator]
    return model.eval()


@pytest.fixture
def file(network: nn.Module, tmp_path: Path) -> str:
    save(network, tmp_path / "teacher.safetensors")
    return str(tmp_path / "teacher.safetensors")


def first_batch(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    return to_floats(*open_patches([Stage(recipe)], Processes())[0].batch(0), recipe, Copies(CPU))


def first_loss(recipe: Recipe, folder: Path) -> float:
    train(recipe, Run(folder))
    loss: float = Run(folder).records()[0]["loss"]
    return loss


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_loss_mixes_the_distances_to_hr_and_to_the_teachers_output(
    tiny: RecipeMaker, network: nn.Module, file: str, tmp_path: Path, share: float
) -> None:
    recipe = tiny(steps=1, teacher=file, teacher_weight=share, loss="l2")
    lr, hr = first_batch(recipe)
    with torch.no_grad():
        sr, taught = initial_network(recipe).train()(lr), network(lr).clamp(0, 255)
    expected = (1 - share) * F.mse_loss(sr, hr) + share * F.mse_loss(sr, taught)
    assert first_loss(recipe, tmp_path / "run") == pytest.approx(expected.item(), rel=1e-4)


def test_several_teachers_give_the_mean_of_their_outputs_each_clamped_to_images(tiny: RecipeMaker) -> None:
    class Constant(nn.Module):
        scale = 4

        def __init__(self, data_range: float, value: float) -> None:
            super().__init__()
            self.data_range, self.value = data_range, value

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.max() <= self.data_range
            return torch.full((1, 3, 4, 4), self.value * self.data_range)

    lr = torch.full((1, 3, 1, 1), 255.0)
    for networks, expected in (
        ([Constant(1.0, 0.2)], 51.0),
        ([Constant(255.0, 0.2), Constant(1.0, 0.4)], 76.5),
        ([Constant(255.0, 2.0), Constant(1.0, 0.5)], 191.25),
        ([Constant(1.0, -1.0)], 0.0),
    ):
        assert Teachers(networks)(lr).unique().tolist() == pytest.approx([expected])


def test_a_teacher_is_not_trained_and_a_resumed_run_is_exact(tiny: RecipeMaker, file: str, tmp_path: Path) -> None:
    recipe = tiny(steps=4, teacher=[file], schedule="constant", log_every=1)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(recipe, whole)
    train(recipe.model_copy(update={"steps": 2}), parts)
    train(parts.recipe().model_copy(update={"steps": 4}), parts, resume=True)
    found, expected = (torch.load(run.resume, weights_only=True)["model"] for run in (parts, whole))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    teachers = open_teachers(recipe, CPU)
    assert teachers is not None
    assert not any(parameter.requires_grad for each in teachers.networks for parameter in each.parameters())
    assert make_state(recipe, CPU).model is not teachers.networks[0]


def test_a_run_is_not_resumed_with_a_teacher_whose_file_has_changed(
    tiny: RecipeMaker, network: nn.Module, file: str, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=2, teacher=["fmen-s_x4", file]), run)
    longer = run.recipe().model_copy(update={"steps": 3})
    original = Path(file).read_bytes()
    save(network, file, recipe="another")
    with pytest.raises(RunError, match=r"run: the weights file of its teacher .*teacher\.safetensors has changed"):
        train(longer, run, resume=True)
    Path(file).write_bytes(original)
    assert train(longer, run, resume=True).step == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_teacher_runs_in_the_recipes_precision(
    tiny: RecipeMaker, network: nn.Module, file: str, precision: str
) -> None:
    recipe = tiny(teacher=file, precision=precision)
    teachers = open_teachers(recipe, CPU)
    assert teachers is not None
    dtypes = {parameter.dtype for parameter in teachers.networks[0].parameters()}
    assert {"bf16": torch.bfloat16, "fp16": torch.float16}[precision] in dtypes
    lr, _ = first_batch(recipe)
    exact = Teachers([reparameterize(network)])(lr)
    assert (teachers(lr) - exact).abs().max() < 0.02 * 255


def test_a_teacher_that_never_ends_in_bf16_on_a_cpu_runs_in_fp32(tiny: RecipeMaker, tmp_path: Path) -> None:
    save(create_model("haesr"), tmp_path / "haesr.safetensors")
    teachers = open_teachers(tiny(teacher=str(tmp_path / "haesr.safetensors"), patch=32, precision="bf16"), CPU)
    assert teachers is not None
    assert {parameter.dtype for parameter in teachers.networks[0].parameters()} == {torch.float32}


def test_a_teacher_of_another_scale_or_without_weights_is_refused_before_the_first_step(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmen.training.loop.take_step", lambda *_: pytest.fail("a step was taken"))
    faults = {
        "fmen-s_x2": r"teacher = 'fmen-s_x2': a network of scale 2, but the run's scale is 4",
        "fmen-s_x5": r"teacher = 'fmen-s_x5': no weights are called 'fmen-s_x5'",
        str(tmp_path / "none.pt"): r"none\.pt: no such weights file; check the path",
    }
    for name, message in faults.items():
        with pytest.raises(RecipeError, match=message) as caught:
            train(tiny(teacher=name), Run(tmp_path / "run"))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_cannot_upscale_a_patch_is_refused(
    tiny: RecipeMaker, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(nn.Module):
        scale, data_range = 4, 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Broken(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.pad(x, (9, 9), mode="reflect")

    for module, message in ((Small, "its output for a 8x8 patch is not an image of x4"), (Broken, "cannot upscale")):
        monkeypatch.setattr("fmen.training.teachers.load", lambda _, module=module: module())
        with pytest.raises(RecipeError, match=message):
            open_teachers(tiny(teacher=file), CPU)
