"""The networks of the AIM 2020 challenge: the trunks of MSRResNet, PAN's upsampler, and FIMDN's two forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core import ModelError, create_model, expand, load, reparameterize, save
from fmen_core.blocks.asymmetric import NormalizedACB
from fmen_core.blocks.lightweight import GhostConv, IdleBlock
from fmen_core.models.fimdn import FIMDN, FIMDNTraining
from fmen_core.models.imdn_baseline import IMDNBaseline
from fmen_core.models.msrresnet import MARKS, MSRResNet
from fmen_core.models.pan import PAN
from fmen_core.reparam import synthetic_images

PARAMETERS = {
    "conv": 1_517_571,
    "ghost": 936_963,
    "separable": 489_475,
    "self-calibrated": 1_519_619,
    "inverted": 1_190_915,
    "idle": 566_787,
}
"""Of MSRResNet x4 with 16 blocks of 64 channels, as in docs/networks.md."""


@pytest.mark.parametrize("block", MARKS)
def test_every_trunk_of_msrresnet_is_recognised_and_learns(block: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("msrresnet", 3, n_feats=8, n_blocks=3, block=block)
    x = torch.rand(1, 3, 9, 11)
    out = model(x)
    assert out.shape == (1, 3, 27, 33)
    out.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    save(model, tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors")
    assert (loaded.name, loaded.scale) == ("msrresnet", 3)
    assert loaded.sizes == {"n_feats": 8, "n_blocks": 3, "block": block}
    assert torch.equal(loaded(x), out)


def test_smaller_blocks_have_the_parameters_that_the_documentation_states() -> None:
    with torch.device("meta"):
        models = {block: create_model("msrresnet", block=block) for block in MARKS}
    assert {block: sum(map(Tensor.numel, model.parameters())) for block, model in models.items()} == PARAMETERS


def test_trunk_of_msrresnet_consists_of_the_named_block() -> None:
    ghosts = create_model("msrresnet", n_feats=8, n_blocks=2, block="ghost").recon_trunk.modules()
    assert sum(isinstance(module, GhostConv) for module in ghosts) == 4
    model = create_model("msrresnet", n_feats=8, n_blocks=3, block="idle")
    assert isinstance(model, MSRResNet)
    sides = [module.first for module in model.recon_trunk.modules() if isinstance(module, IdleBlock)]
    assert sides == [False, True, False]
    x = torch.randn(1, 8, 5, 5)
    assert (model.recon_trunk(x) != x).any((0, 2, 3)).all()


def test_unknown_block_and_unfit_channels_are_refused() -> None:
    names = "conv, ghost, separable, self-calibrated, inverted, idle"
    message = f"msrresnet: there is no block 'plain'; choose one of {names}"
    with pytest.raises(ModelError, match=message):
        create_model("msrresnet", block="plain")
    with pytest.raises(ModelError, match="msrresnet: a self-calibrated convolution has even channels, not 7 and 7"):
        create_model("msrresnet", n_feats=7, block="self-calibrated")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_upsampler_of_pan_repeats_pixels_and_refines_them_with_attention(scale: int) -> None:
    torch.manual_seed(0)
    model = PAN(scale, n_feats=8, up_feats=6, n_blocks=1).double()
    features = torch.randn(1, 8, 3, 4, dtype=torch.float64)
    expected = found = features
    factors = [2, 2] if scale == 4 else [scale]
    for step, factor in enumerate(factors, 1):
        repeated = expected.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        conv, attention, last = (model.get_submodule(f"{name}{step}") for name in ("upconv", "att", "HRconv"))
        assert isinstance(attention.conv, nn.Conv2d)
        enlarged = conv(repeated)
        weights = torch.sigmoid(F.conv2d(enlarged, attention.conv.weight, attention.conv.bias))
        expected = F.leaky_relu(last(F.leaky_relu(enlarged * weights, 0.2)), 0.2)
        found = model.enlarge(found, factor, step)
        assert torch.allclose(found, expected, atol=1e-12)
    assert expected.shape == (1, 6, 3 * scale, 4 * scale)


def test_the_scale_of_pan_is_read_from_its_weights(tmp_path: Path) -> None:
    for scale in (2, 3, 4):
        save(create_model("pan", scale, n_feats=8, up_feats=6, n_blocks=1), tmp_path / "w.safetensors")
        assert load(tmp_path / "w.safetensors").scale == scale


def trained_fimdn() -> nn.Module:
    """A small FIMDN in its training form, with other BatchNorm statistics and affine parameters than initial ones."""
    torch.manual_seed(0)
    model = create_model("fimdn", n_feats=8).train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.1, 0.1)
    for _ in range(3):
        model(synthetic_images(2, 32))
    return model.eval()


def layered(model: nn.Module, x: Tensor) -> Tensor:
    """Run a training form in eval mode, layer by layer."""
    for module in model.modules():
        if isinstance(module, NormalizedACB):
            module.collapsed = False
    with torch.no_grad():
        out: Tensor = model(x)
    return out


def test_fimdn_is_merged_to_the_simplified_imdn_with_six_blocks(tmp_path: Path) -> None:
    model, x = trained_fimdn(), torch.rand(1, 3, 13, 10)
    assert type(model) is FIMDNTraining
    assert sum(isinstance(module, NormalizedACB) for module in model.modules()) == 6 * 4
    merged = reparameterize(model)
    assert type(merged) is FIMDN and merged.sizes == {"n_feats": 8}
    with torch.no_grad():
        assert (merged(x) - layered(model, x)).abs().max() < 1e-5
        plain = IMDNBaseline(4, 8, 6)
        plain.load_state_dict(merged.state_dict())
        assert torch.equal(plain(x), merged(x))
    for form in (model, merged):
        save(form, tmp_path / "w.safetensors")
        assert type(load(tmp_path / "w.safetensors")) is type(form)


def test_fimdn_is_expanded_to_a_training_form_of_the_same_function() -> None:
    merged, x = reparameterize(trained_fimdn()), torch.rand(1, 3, 13, 10)
    training = expand(merged)
    assert type(training) is FIMDNTraining
    with torch.no_grad():
        assert (training(x) - merged(x)).abs().max() < 1e-5
