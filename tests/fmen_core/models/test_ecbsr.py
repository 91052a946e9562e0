"""ECBSR: its sizes, its anchor, its two forms, and its authors' figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fmen_core import ModelError, create_model, expand, load, reparameterize, save
from fmen_core.blocks.reparameterizable import set_collapsed
from fmen_core.models.ecbsr import ECBSR, ECBSRTraining

# Parameters of the authors' code (xindongzhang/ECBSR) with one color, by blocks, channels and scale.
PARAMETERS = {
    (4, 8): {2: 2_748, 3: 3_113, 4: 3_624},
    (4, 16): {2: 10_100, 3: 10_825, 4: 11_840},
    (10, 16): {2: 24_116, 3: 24_841, 4: 25_856},
    (10, 32): {2: 94_308, 3: 95_753, 4: 97_776},
    (16, 64): {2: 594_884, 3: 597_769, 4: 601_808},
}


def size(**sizes: int) -> int:
    model = create_model("ecbsr", **sizes)
    assert type(model) is ECBSRTraining
    return sum(parameter.numel() for parameter in reparameterize(model).parameters())


@pytest.mark.parametrize(("n_blocks", "n_feats"), PARAMETERS)
def test_inference_form_has_as_many_parameters_as_in_the_authors_code(n_blocks: int, n_feats: int) -> None:
    counts = PARAMETERS[n_blocks, n_feats]
    assert {s: size(scale=s, n_blocks=n_blocks, n_feats=n_feats, colors=1) for s in counts} == counts
    if (n_blocks, n_feats) == (4, 16):
        assert size(scale=4) == 16_768


def test_network_with_one_color_computes_what_its_authors_code_computes() -> None:
    """Mean, standard deviation and five values of the authors' M4C8 x3 on luma, with artificial weights."""
    model = create_model("ecbsr", 3, form="inference", n_feats=8, colors=1).double()
    with torch.no_grad():
        for index, (_, parameter) in enumerate(sorted(model.named_parameters())):
            wave = torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + index).view_as(parameter)
            parameter.copy_(0.5 + 0.1 * wave if parameter.dim() == 1 else wave / parameter[0].numel() ** 0.5)
        pixels = torch.sin(0.37 * torch.arange(2 * 3 * 15 * 18, dtype=torch.float64) ** 1.1)
        out = model(255 * (0.5 + 0.5 * pixels).view(2, 3, 15, 18)).flatten()
    found = (out.mean().item(), out.std().item(), *out[:: len(out) // 5][:5].tolist())
    assert found == pytest.approx(
        (76.8726493602, 19316.8137431, -179.300685187, 145.852093818, 3431.39479852, 3627.17533186, -12041.6327691),
        rel=1e-10,
    )


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_network_with_zero_weights_is_nearest_neighbour_upsampling(scale: int, colors: int) -> None:
    model = create_model("ecbsr", scale, form="inference", colors=colors)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        x = torch.rand(2, 3, 5, 4) * 255
        assert torch.equal(model(x), F.interpolate(x, scale_factor=scale, mode="nearest"))


@pytest.mark.parametrize("colors", [1, 3])
def test_both_forms_are_one_function_and_one_file_each(colors: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_blocks": 2, "n_feats": 6, "colors": colors}
    model = create_model("ecbsr", 3, ratio=3, **sizes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    inference = reparameterize(model)
    assert type(inference) is ECBSR and inference.sizes == sizes
    x = torch.rand(2, 3, 7, 9, dtype=torch.float64) * 255
    set_collapsed(model, False)
    with torch.no_grad():
        expected = inference(x)
        for training in (model, expand(inference, ratio=1)):
            assert (training(x) - expected).abs().max() < 1e-12 * expected.abs().max()
    for form, more in ((model, {"ratio": 3}), (inference, {})):
        save(form, tmp_path / "w.safetensors")
        loaded = load(tmp_path / "w.safetensors")
        assert type(loaded) is type(form) and loaded.scale == 3 and loaded.sizes == {**sizes, **more}


def test_only_one_or_three_colors_are_accepted() -> None:
    with pytest.raises(ModelError, match="ecbsr: colors is 4; choose 1 or 3"):
        create_model("ecbsr", colors=4)
