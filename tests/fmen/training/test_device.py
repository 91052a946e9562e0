"""What a GPU needs of the code, tested without one: no operation mixes devices, and validation leaves cuDNN alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fmen.training import validation
from fmen.training.cuda_graph import make_capturable
from fmen.training.distributed import Processes
from fmen.training.feed import ResidentPatches, open_patches, to_floats
from fmen.training.loop import train
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.setup import make_state
from fmen.training.stages import Stage
from fmen.training.step import take_step
from fmen_core import create_model, model_names, reparameterize
from fmen_core.copies import Copies
from fmen_core.pixels import interleave, is_finite, to_levels
from fmen_core.row_graph import record
from fmen_core.streaming import Stream

Make = Callable[..., Recipe]
META = torch.device("meta")


class Devices(TorchDispatchMode):
    """Collect the operations whose tensors are not all on one device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)]
        if len({tensor.device for tensor in tensors}) > 1:
            self.found.append(str(func))
        return out


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has no autocast on the meta device; steps in fp32 do not need it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **options: nullcontext())


@contextmanager
def one_device() -> Iterator[None]:
    """Fail if an operation within mixes devices. Reading a value, which waits for a GPU, fails on the meta device."""
    with Devices() as devices:
        yield
    assert devices.found == []


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_training_step_meets_no_tensor_of_the_cpu(optimizer: str, recipe_of: Make) -> None:
    recipe = recipe_of(optimizer=optimizer, ema=0.9, grad_clip=100.0, accumulate=2)
    state = make_state(recipe, META)
    if optimizer == "muon":  # PyTorch's Adam counts steps on the CPU, and can count on GPUs, but not on this device
        make_capturable(state.optimizer, META)
    lr, hr = torch.zeros(4, 3, 8, 8, device=META), torch.zeros(4, 3, 32, 32, device=META)
    with one_device():
        for _ in range(2):
            state.count(take_step(recipe, state, state.model, lr, hr))


def test_a_step_with_a_tensor_of_the_cpu_is_noticed(recipe_of: Make) -> None:
    recipe = recipe_of()
    state = make_state(recipe, META)
    with pytest.raises(RuntimeError, match=r"device"), one_device():
        take_step(recipe, state, state.model, torch.zeros(2, 3, 8, 8, device=META), torch.zeros(2, 3, 32, 32))
    with pytest.raises(AssertionError), one_device():
        torch.ones(2, device=META) * torch.tensor(2.0)


def test_a_batch_that_is_cut_on_the_device_meets_the_cpu_in_the_upload_of_its_positions_alone(tiny: Make) -> None:
    recipe = tiny()
    patches = ResidentPatches(open_patches([Stage(recipe)], Processes())[0], META)
    with Devices() as devices:
        lr, hr = patches.batch(3)
    assert devices.found == ["aten._to_copy.default"]
    with one_device():
        floats = to_floats(lr, hr, recipe, Copies(META))
    assert [(x.device, x.dtype, x.shape[:2]) for x in floats] == 2 * [(META, torch.float32, (recipe.batch, 3))]


@pytest.mark.parametrize("name", [name for name in model_names() if name != "haesr"])
def test_a_forward_pass_meets_no_tensor_of_the_cpu(name: str) -> None:
    with torch.device("meta"):
        model = reparameterize(create_model(name))
    x = torch.zeros(1, 3, 64, 64, device=META)
    with torch.inference_mode(), one_device():
        assert model(x).device == META


def test_a_strip_of_an_image_meets_no_tensor_of_the_cpu() -> None:
    with torch.device("meta"):
        model = reparameterize(create_model("fmen-s"))

    def finish(out: Tensor) -> Tensor:
        assert is_finite(out).device == META
        return to_levels(out, 255.0)

    stream, pieces = Stream(record(model), 40, 20, torch.channels_last, META, finish), list[Tensor]()
    with torch.inference_mode(), one_device():
        for _ in range(stream.steps(8)):
            out = stream.step(torch.zeros(1, 3, 8, 20, device=META), 8)
            pieces += [] if out is None else [interleave(out)]
    assert sum(len(piece) for piece in pieces) == 160 and pieces[0].dtype == torch.uint8


def test_cudnn_measures_its_algorithms_in_steps_and_not_in_validations(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validations, steps = list[bool](), list[bool]()

    class Upscaler(validation.Upscaler):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            validations.append(torch.backends.cudnn.benchmark)
            return super().__call__(*args, **kwargs)

    monkeypatch.setattr(validation, "Upscaler", Upscaler)
    recipe = tiny(steps=2, val_every=1, val_data="sample")
    monkeypatch.setattr(
        "fmen.training.step.loss_of",
        lambda recipe, sr, hr, taught: (steps.append(torch.backends.cudnn.benchmark), (sr - hr).abs().mean())[1],
    )
    train(recipe, Run(tmp_path / "run"))
    assert steps == [True, True] and len(validations) == 4 and not any(validations)
