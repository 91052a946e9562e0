"""Networks for luma, and bicubic interpolation inside a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fmen_core import create_model, load, save
from fmen_core.blocks.luma import TO_RGB, TO_YCBCR, Bicubic, bicubic_scale, mixed
from fmen_data import imresize


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_that_of_matlab_except_at_the_border(scale: int) -> None:
    image = np.random.default_rng(0).integers(60, 190, (9, 11, 3), np.uint8)
    ours = Bicubic(scale)(torch.from_numpy(image).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0).numpy()
    inner = slice(2 * scale, -2 * scale)
    # MATLAB rounds to integers after each of the two passes.
    difference = np.abs(ours - imresize(image, scale).astype(np.float32))[inner, inner]
    assert difference.max() < 1.5


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_leaves_a_constant_as_it_is(scale: int) -> None:
    out = Bicubic(scale)(torch.full((1, 2, 1, 3), 0.25))
    assert out.shape == (1, 2, scale, 3 * scale) and torch.allclose(out, torch.tensor(0.25))


def test_luma_is_that_of_bt601() -> None:
    image = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    red, green, blue = image[0]
    ycbcr = mixed(image, TO_YCBCR)
    assert torch.allclose(255 * ycbcr[0, 0], 65.481 * red + 128.553 * green + 24.966 * blue)
    assert torch.allclose(mixed(ycbcr, TO_RGB), image)
    assert torch.allclose(
        mixed(torch.ones(1, 3, 1, 1, dtype=torch.float64), TO_YCBCR)[0, 1:], torch.zeros(2, 1, 1).double()
    )


def test_a_network_that_adds_nothing_to_luma_is_bicubic_interpolation() -> None:
    model = create_model("vdsr", 3, n_feats=2, n_layers=2)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.rand(2, 3, 6, 7)
    assert torch.allclose(model(image), Bicubic(3)(image), atol=1e-6)


def test_the_networks_convolve_luma_between_16_and_235() -> None:
    model, seen = create_model("srcnn", 2, n_feats=2), list[torch.Tensor]()
    model.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for color in (0.0, 1.0):
        model(torch.full((1, 3, 2, 2), color))
    assert [round(255 * luma.mean().item(), 3) for luma in seen] == [16, 235]


def test_a_weights_file_of_a_luma_network_has_its_scale(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save(create_model("vdsr", 3, n_feats=2, n_layers=3), file)
    assert load(file).scale == 3 and bicubic_scale(create_model("fsrcnn", 2).state_dict()) == 2
    assert bicubic_scale(create_model("span").state_dict()) is None
