"""FMEN: its sizes, its two forms, and collapsed training."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fmen_core import (
    FMEN,
    FMENTraining,
    ModelError,
    Upscaler,
    create_model,
    expand,
    load,
    reparameterize,
    save,
)
from fmen_core.blocks.attention import HFAB
from fmen_core.blocks.by_name import BLOCKS
from fmen_core.blocks.reparameterizable import RRRB, set_collapsed
from fmen_core.models.fmen import ERB
from fmen_core.pixels import Image, to_image

# Parameters of the inference form: those of FMEN-S and FMEN from the paper, those of the narrower FMEN-S by hand.
PARAMETERS = {
    ("fmen-s", 4): 341_066,
    ("fmen-s48", 4): 319_740,
    ("fmen", 4): 769_428,
    ("fmen", 3): 757_311,
    ("fmen", 2): 748_656,
}


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics and affine parameters far from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -2.0, 2.0),
                    (module.running_var, 0.2, 3.0),
                    (module.weight, -1.5, 1.5),
                    (module.bias, -1.0, 1.0),
                ):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model


def small_fmen() -> FMENTraining:
    torch.manual_seed(0)
    return FMENTraining(scale=3, n_feats=10, mid_feats=8, down_blocks=2, up_blocks=(2, 1, 1)).double()


def image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255


@pytest.mark.parametrize(("name", "scale"), PARAMETERS)
def test_inference_form_has_the_published_number_of_parameters(name: str, scale: int) -> None:
    model = reparameterize(create_model(name, scale))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name, scale]


def test_the_sizes_of_the_inference_form_are_those_of_fmen_s_unless_given() -> None:
    shapes = {key: value.shape for key, value in FMEN().state_dict().items()}
    published = create_model("fmen-s", form="inference").state_dict()
    assert shapes == {key: value.shape for key, value in published.items()}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_output_is_scale_times_larger(scale: int) -> None:
    assert create_model("fmen-s", scale).eval()(torch.rand(1, 3, 9, 7)).shape == (1, 3, 9 * scale, 7 * scale)


def test_unknown_network_or_scale_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'fmen-xl'; did you mean fmen-s\?"):
        create_model("fmen-xl")
    with pytest.raises(ValueError, match=r"'unknown'; choose one of fmen-s, fmen"):
        create_model("unknown")
    with pytest.raises(ValueError, match="scale 5; choose one of 2, 3, 4"):
        create_model("fmen-s", 5)


@pytest.mark.parametrize("collapsed", [True, False])
@pytest.mark.parametrize("name", ["fmen-s", "fmen"])
def test_inference_form_equals_training_form_borders_included(name: str, collapsed: bool) -> None:
    torch.manual_seed(0)
    model = randomise(create_model(name)).double().eval()
    set_collapsed(model, collapsed)
    x = image(37, 23)
    with torch.no_grad():
        assert (model(x) - reparameterize(model)(x)).abs().max() < 1e-9


def test_fused_rrrb_equals_training_form_at_the_border() -> None:
    torch.manual_seed(0)
    block = RRRB(6).double()
    x = torch.randn(1, 6, 5, 4, dtype=torch.float64)
    merged = block(x)
    block.collapsed = False
    expanded_block = block(x)
    assert (merged - expanded_block).abs().max() < 1e-12
    # Padding with zeros instead of the expansion's bias differs at the border only.
    expanded = block.expand_conv(x)
    padded = torch.nn.functional.pad(expanded, (1, 1, 1, 1))
    naive = block.reduce_conv(block.fea_conv(padded) + expanded) + x
    assert (merged - naive).abs()[..., 0, :].max() > 1e-3
    assert (merged - naive).abs()[..., 1:-1, 1:-1].max() < 1e-12


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_gives_the_inference_form_of_fmen(block: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_feats": 10, "mid_feats": 8, "down_blocks": 2, "up_blocks": (2, 1, 1)}
    model = randomise(create_model("fmen", 3, block=block, **sizes)).double().eval()
    set_collapsed(model, False)
    inference, x = reparameterize(model), image(11, 8)
    assert type(inference) is FMEN and list(inference.state_dict()) == list(FMEN(3, **sizes).state_dict())
    with torch.no_grad():
        assert (model(x) - inference(x)).abs().max() < 1e-9
    save(model, tmp_path / "training.safetensors")
    loaded = load(tmp_path / "training.safetensors")
    assert type(loaded) is FMENTraining and loaded.sizes == {**sizes, "ratio": 2, "block": block}
    expanded = expand(inference, block=block)
    assert expanded.sizes == loaded.sizes
    with torch.no_grad():
        assert (expanded(x) - inference(x)).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("name", "size", "value"), [("fmen-s", "ratio", 0), ("ecbsr", "ratio", 0), ("span", "n_feats", 4.0)]
)
def test_a_number_of_channels_is_a_positive_integer(name: str, size: str, value: float) -> None:
    with pytest.raises(ModelError, match=f"^{name}: {size} is {value}; give an integer of at least 1$"):
        create_model(name, **{size: value})


def test_sizes_that_cannot_be_built_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"^fmen-s cannot be built with \{'up_blocks': 3\}: .*; check the sizes$"):
        create_model("fmen-s", up_blocks=3)
    with pytest.raises(ModelError, match=r"^fmen-s is not defined for scale '4'; choose"):
        create_model("fmen-s", "4")  # type: ignore[arg-type]


def test_unknown_block_is_refused_with_the_choices() -> None:
    message = "fmen-s: there is no block 'conv'; choose one of rrrb, ecb, repvgg, acb, dbb, plain, acb-bn, bases"
    with pytest.raises(ModelError, match=message):
        create_model("fmen-s", block="conv")
    with pytest.raises(ModelError, match="fmen-s has no size called 'block'"):
        create_model("fmen-s", form="inference", block="ecb")


@pytest.mark.parametrize("training", [True, False])
def test_attention_block_equals_the_formula_of_the_paper(training: bool) -> None:
    """``x * sigmoid(bn3(excitate(pad(bn2(lrelu(erbs(lrelu(squeeze(pad(bn1(x))))))))))``, layer by layer."""
    torch.manual_seed(0)
    block = randomise(HFAB(6, 4, lambda: nn.Sequential(ERB(4), ERB(4)))).double().train(training)
    expanded_block = copy.deepcopy(block)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)

    def padded(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
        normal = bn(x)  # first, since in training mode it updates the statistics
        shift = bn.bias - bn.running_mean * bn.weight / (bn.running_var + bn.eps).sqrt()
        frame = shift.view(1, -1, 1, 1).expand(2, -1, 9, 7).clone()
        frame[..., 1:-1, 1:-1] = normal
        return frame

    branch = functional.leaky_relu(expanded_block.squeeze(padded(x, expanded_block.bn1)), 0.1)
    branch = functional.leaky_relu(expanded_block.convs(branch), 0.1)
    expected = x * torch.sigmoid(expanded_block.bn3(expanded_block.excitate(padded(branch, expanded_block.bn2))))
    assert (block(x) - expected).abs().max() < 1e-12


def test_collapsed_and_expanded_training_have_the_same_output_gradients_and_statistics() -> None:
    models = {}
    for collapsed in (True, False):
        model = randomise(small_fmen()).train()
        set_collapsed(model, collapsed)
        out = model(image(19, 14, batch=2))
        out.abs().mean().backward()
        models[collapsed] = (out.detach(), model)
    assert (models[True][0] - models[False][0]).abs().max() < 1e-9
    for (name, ours), reference in zip(models[True][1].named_parameters(), models[False][1].parameters(), strict=True):
        difference, size = (ours.grad - reference.grad).norm(), reference.grad.norm()
        if name.endswith(("bn2.bias", "excitate.bias")):
            # A constant in front of a BatchNorm: its gradient is zero except for rounding.
            assert ours.grad.norm() < 1e-12 and size < 1e-12, name
        else:
            assert difference / size < 1e-12, name
    for ours, reference in zip(models[True][1].buffers(), models[False][1].buffers(), strict=True):
        assert torch.allclose(ours, reference, rtol=1e-12, atol=1e-12)


def test_training_mode_updates_statistics_as_batch_norm_does() -> None:
    model = small_fmen().train()
    bn = model.warmup[1].bn1
    plain = copy.deepcopy(bn)
    x = image(12, 12, batch=2)
    with torch.no_grad():
        plain(model.warmup[0](model.head(x)))
        model(x)
    assert torch.allclose(bn.running_mean, plain.running_mean, atol=1e-12)
    assert torch.allclose(bn.running_var, plain.running_var, atol=1e-12)
    assert bn.num_batches_tracked == 1


def test_two_forward_passes_can_share_one_backward_pass() -> None:
    model = small_fmen().train()
    (model(image(8, 8, 2)) - model(image(9, 9, 2)).mean()).sum().backward()
    assert model.head.weight.grad is not None


def test_reparameterize_leaves_the_model_untouched() -> None:
    model = small_fmen().float().train()
    before = copy.deepcopy(model.state_dict())
    inference = reparameterize(model)
    assert model.training and not inference.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert inference.head.weight.data_ptr() != model.head.weight.data_ptr()
    again = reparameterize(inference)
    assert isinstance(again, FMEN)
    assert again is not inference


def test_inference_form_can_be_fine_tuned() -> None:
    model = reparameterize(small_fmen())
    model(image(8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def read_rgb(file: Path) -> Image:
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)


def forward(model: nn.Module, lr: Image, dtype: torch.dtype) -> Tensor:
    with torch.no_grad():
        out: Tensor = copy.deepcopy(model).to(dtype)(torch.from_numpy(lr).permute(2, 0, 1)[None].to(dtype))
    return out


def test_both_forms_give_the_same_uint8_images_on_parts_of_set5(reference: Path) -> None:
    torch.manual_seed(0)
    model = randomise(create_model("fmen-s")).eval()
    images = [read_rgb(file)[-40:, :48] for file in sorted((reference / "data/Set5/LR_bicubic/X4").glob("*.png"))]
    assert len(images) == 5
    # The output of a random network is around zero: scale it to the range of gray levels.
    out = forward(model, images[0], torch.float32)
    with torch.no_grad():
        model.tail[0].weight.mul_(60 / out.std())
        model.tail[0].bias.sub_(out.mean()).mul_(60 / out.std()).add_(128)
    inference = reparameterize(model)
    upscaler, other = Upscaler(inference, device="cpu"), Upscaler(model, device="cpu")
    for index, lr in enumerate(images):
        sr = upscaler(lr)
        assert sr.std() > 10
        assert np.array_equal(other(lr), sr), index
        training, exact = (to_image(forward(form, lr, torch.float64), 255.0) for form in (model, inference))
        assert np.array_equal(training, exact), index
        assert torch.equal(forward(model, lr, torch.float32), forward(inference, lr, torch.float32)), index


def test_both_published_layouts_of_fmen_s_load(reference: Path) -> None:
    for file in ("team03_fmen.pth", "fmen_test_weights.pt"):
        model = load(reference / "weights" / file)
        assert (model.name, model.scale, model.data_range) == ("fmen-s", 4, 255.0)


def test_layers_are_initialised_in_the_order_of_the_forward_pass() -> None:
    torch.manual_seed(0)
    model = create_model("fmen-s")
    torch.manual_seed(0)
    for name, conv in (
        ("head", nn.Conv2d(3, 50, 3)),
        ("warmup.0", nn.Conv2d(50, 50, 3)),
        ("warmup.1.squeeze", nn.Conv2d(50, 12, 3)),
    ):
        assert torch.equal(model.get_submodule(name).weight, conv.weight)


def test_sizes_may_be_integers_of_numpy() -> None:
    model = create_model("fmen-s", np.int64(4), n_feats=np.int64(8), up_blocks=[np.int64(1)] * 5)
    assert model.sizes == create_model("fmen-s", 4, n_feats=8, up_blocks=(1, 1, 1, 1, 1)).sizes
    assert json.dumps(model.sizes) and type(model.scale) is int
    assert json.dumps(create_model("fmen-s", up_blocks=np.ones(5, int)).sizes)
