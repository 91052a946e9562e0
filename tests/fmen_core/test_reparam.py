"""Conversion between the forms, in both directions; blocks in other networks; wrapped networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmen_core import (
    FMEN,
    FMENTraining,
    ModelError,
    SRModel,
    Upscaler,
    create_model,
    expand,
    fmen_s,
    load,
    reparameterize,
    save,
)
from fmen_core.architecture import sr_model, unwrap
from fmen_core.blocks.layers import kernel_of
from fmen_core.blocks.reparameterizable import RRRB, Reparameterizable, set_collapsed
from fmen_core.reparam import synthetic_images

SIZES = {"scale": 2, "n_feats": 10, "mid_feats": 8, "down_blocks": 2, "up_blocks": (2, 1, 1)}


def small_fmen() -> FMEN:
    torch.manual_seed(0)
    return FMEN(**SIZES)


def image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255


def photographs(reference: Path) -> Tensor:
    files = sorted((reference / "data/Set5/LR_bicubic/X4").glob("*.png"))
    crops = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)[:56, :56] for file in files]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float()


# --- expand -----------------------------------------------------------------------------------------------------------


def test_expanded_training_form_is_the_same_function_borders_included() -> None:
    model = small_fmen().double()
    training = expand(model)
    assert isinstance(training, FMENTraining) and not training.training
    x = image(9, 7).double()
    with torch.no_grad():
        expected = model(x)
        for collapsed in (True, False):
            set_collapsed(training, collapsed)
            assert (training(x) - expected).abs().max() < 1e-12 * 255
    back = reparameterize(training)
    assert type(back) is FMEN
    for (name, ours), reference in zip(back.named_parameters(), model.parameters(), strict=True):
        assert (ours - reference).abs().max() < 1e-12, name


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pretrained_training_form_equals_the_pretrained_inference_form(
    scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = synthetic_images(1, 32)  # the function does not depend on them, the time does
    monkeypatch.setattr("fmen_core.reparam.synthetic_images", lambda: few)
    inference, training = fmen_s(scale, pretrained=True), fmen_s(scale, pretrained=True, form="training")
    assert type(inference) is FMEN and type(training) is FMENTraining
    x = image(20, 15).double()
    with torch.no_grad():
        exact, expanded = inference.double()(x), expand(inference)(x)
        assert (expanded - exact).abs().max() < 1e-12 * 255
        assert (training.double()(x) - exact).abs().max() < 1e-3  # rounding of the float32 parameters


def test_expanded_training_form_in_training_mode_is_close_to_the_inference_form(reference: Path) -> None:
    """The statistics of synthetic images stand for those of photographs; given photographs, they are closer."""
    model, x = fmen_s(4, pretrained=True), photographs(reference)
    with torch.no_grad():
        expected = model(x)
        distance = {}
        for name, images in (("synthetic", None), ("given", x)):
            training = expand(model, images).train()
            distance[name] = (training(x) - expected).square().mean().sqrt().item()
    assert distance["given"] < 0.01 < distance["synthetic"] < 10, distance
    fresh = create_model("fmen-s").train()
    assert (fresh(x) - expected).square().mean().sqrt() > 50


def test_expanded_training_form_can_be_fine_tuned() -> None:
    model = expand(small_fmen(), image(16, 16, 4)).train()
    lr = image(16, 16, 4)
    target = lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = (model(lr) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    assert losses == sorted(losses, reverse=True)


def test_expanded_factors_are_in_general_position() -> None:
    for block in expand(small_fmen().double()).modules():
        if isinstance(block, RRRB):
            for conv in (block.expand_conv, block.fea_conv, block.reduce_conv):
                weight, bias = kernel_of(conv)
                assert weight.all() and bias.any()
                assert torch.linalg.matrix_rank(weight.flatten(1)) == min(weight.flatten(1).shape)


def test_expanding_is_reproducible_and_leaves_random_numbers_and_the_network_alone() -> None:
    model = small_fmen()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    first = expand(model).state_dict()
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(7))
    assert all(torch.equal(value, first[key]) for key, value in expand(model).state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.manual_seed(7)
    reparameterize(expand(model))
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(7))


def test_synthetic_images_are_smooth_colored_and_always_the_same() -> None:
    before = torch.get_rng_state()
    images = synthetic_images()
    assert torch.equal(images, synthetic_images()) and torch.equal(torch.get_rng_state(), before)
    assert images.shape == (8, 3, 64, 64) and synthetic_images(2, 32).shape == (2, 3, 32, 32)
    assert images.min() == 0 and images.max() == 1 and ((images == 0) | (images == 1)).float().mean() < 0.05
    power = torch.fft.fft2(images).abs().square().mean((0, 1))
    slopes = [torch.log2(line[16] / line[2]).item() / 3 for line in (power[0], power[:, 0])]
    assert all(-3 < slope < -1.8 for slope in slopes)  # of photographs: -2.3 to -2.5
    red, green, blue = images.permute(1, 0, 2, 3).flatten(1)
    correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in ((red, green), (green, blue), (blue, red))]
    assert min(correlations) > 0.5 and max(correlations) < 0.9


def test_a_network_without_a_training_form_is_not_expanded() -> None:
    with pytest.raises(ModelError, match="span has no training form"):
        expand(create_model("span", 2, n_feats=4))
    with pytest.raises(ModelError, match="fmen: n_feats = 12 differs from the inference form's 8"):
        expand(create_model("fmen", n_feats=8), n_feats=12)
    with pytest.raises(ModelError, match="Linear has no training form"):
        expand(nn.Linear(2, 2))


# --- blocks in other networks -----------------------------------------------------------------------------------------


class OwnNetwork(nn.Module):
    """A network with re-parameterizable blocks that is not in the package."""

    scale = 1
    data_range = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.ModuleList([RRRB(6), nn.Sequential(nn.ReLU(), RRRB(6))])
        self.tail = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        for layer in self.body:
            x = layer(x)
        return self.tail(x)


def test_blocks_of_any_network_are_merged() -> None:
    torch.manual_seed(0)
    model = OwnNetwork().double()
    fused = reparameterize(model)
    assert type(fused) is OwnNetwork and isinstance(model.body[0], RRRB)
    assert not any(isinstance(module, Reparameterizable) for module in fused.modules())
    x = torch.rand(1, 3, 8, 6, dtype=torch.float64)
    assert (fused(x) - model(x)).abs().max() < 1e-12
    assert Upscaler(model, device="cpu")(np.zeros((8, 8, 3), np.uint8)).shape == (8, 8, 3)


def test_collapsed_training_of_any_network_has_the_gradients_of_expanded_training() -> None:
    torch.manual_seed(0)
    collapsed = OwnNetwork().double()
    expanded = copy.deepcopy(collapsed)
    set_collapsed(expanded, False)
    assert collapsed.body[0].collapsed and not expanded.body[1][1].collapsed
    x = torch.rand(2, 3, 8, 6, dtype=torch.float64)
    for model in (collapsed, expanded):
        model(x).square().sum().backward()
    for (name, ours), reference in zip(collapsed.named_parameters(), expanded.parameters(), strict=True):
        assert (ours.grad - reference.grad).norm() / reference.grad.norm() < 1e-12, name


def test_eval_mode_merges_in_float64_and_training_in_the_precision_of_the_parameters() -> None:
    seen: list[torch.dtype | None] = []

    class Block(RRRB):
        def kernel_and_bias(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
            seen.append(dtype)
            weight, bias = super().kernel_and_bias(dtype)
            assert weight.dtype == bias.dtype == (dtype or torch.float32)
            return weight, bias

    block, x = Block(4), torch.rand(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):  # products of kernels are never in reduced precision
        block.train()(x)
        block.eval()(x)
    block.fused()
    assert seen == [None, torch.float64, torch.float64]


def test_merged_kernel_keeps_the_memory_format_of_the_features() -> None:
    x = torch.rand(1, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    assert RRRB(4)(x).is_contiguous(memory_format=torch.channels_last)
    assert RRRB(4)(x.contiguous()).is_contiguous()


# --- wrapped networks -------------------------------------------------------------------------------------------------


def compiled(model: nn.Module) -> nn.Module:
    wrapped = torch.compile(model, backend="eager")
    assert isinstance(wrapped, nn.Module)
    return wrapped


def parts_compiled(model: nn.Module) -> nn.Module:
    model.ERBs[0] = compiled(model.ERBs[0])
    model.tail = compiled(model.tail)
    return model


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": compiled,
    "DataParallel": nn.DataParallel,
    "DataParallel of compile": lambda model: nn.DataParallel(compiled(model)),
    "compile of DataParallel": lambda model: compiled(nn.DataParallel(model)),
    "compiled parts": parts_compiled,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "DataParallel of AveragedModel": lambda model: nn.DataParallel(torch.optim.swa_utils.AveragedModel(model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("form", ["training", "inference"])
def test_wrapped_networks_are_saved_loaded_converted_and_run(form: str, wrapper: str, tmp_path: Path) -> None:
    plain = create_model("fmen", form=form, **SIZES).eval()
    wrapped = WRAPPERS[wrapper](copy.deepcopy(plain))
    save(wrapped, tmp_path / "saved.safetensors")
    torch.save(wrapped.state_dict(), tmp_path / "state.pth")
    for file in ("saved.safetensors", "state.pth"):
        loaded = load(tmp_path / file)
        assert type(loaded) is type(plain), file
        assert all(torch.equal(value, plain.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert type(reparameterize(wrapped)) is FMEN
    network = sr_model(wrapped)
    assert isinstance(network, SRModel) and (network.scale, network.data_range) == (2, 255.0)
    lr = image(12, 10)[0].permute(1, 2, 0).byte().numpy()
    assert np.array_equal(Upscaler(wrapped, device="cpu")(lr), Upscaler(plain, device="cpu")(lr))


def test_unwrapping_leaves_a_network_with_a_part_called_module_alone() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    own = Own()
    assert unwrap(own) is own and unwrap(nn.DataParallel(nn.DataParallel(own))) is own


@pytest.mark.parametrize(("scale", "data_range"), [(None, 1.0), (2.0, 1.0), (2, None), (2, 255)])
def test_a_network_without_scale_or_data_range_is_refused(scale: object, data_range: object) -> None:
    model = nn.Linear(2, 2)
    model.scale, model.data_range = scale, data_range
    with pytest.raises(ModelError, match=r"Linear needs the attributes scale \(an int\) and data_range"):
        sr_model(model)


def replica(model: nn.Module) -> nn.Module:
    """A replica as ``DataParallel`` makes it: the tensors are plain attributes, and ``parameters()`` is empty."""
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, copied in replicas.items():
        for name, child in module._modules.items():
            setattr(copied, name, replicas[child])
        for name, parameter in module._parameters.items():
            setattr(copied, name, parameter.view_as(parameter))
        for name, buffer in module._buffers.items():
            setattr(copied, name, buffer.clone())
    assert not list(replicas[model].parameters())
    return replicas[model]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["training", "inference"])
def test_forward_works_in_a_replica(form: str, training: bool) -> None:
    model = create_model("fmen", form=form, **SIZES).double().train(training)
    x = image(9, 7, 2).double()
    out = replica(model)(x)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.allclose(out, model(x), rtol=1e-10)
