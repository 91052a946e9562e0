"""The upscaler: whole images, tiles, precisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmen_core import FMEN, Upscaler, create_model, reparameterize
from fmen_core.upscale import receptive_radius


def photograph(height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, 3), np.uint8)


def visible(model: nn.Module) -> nn.Module:
    """Shift a random network's output to middle gray, where clamping hides nothing."""
    with torch.no_grad():
        model.tail[0].bias.add_(128)
    return model


def test_upscaler_rounds_and_clamps_what_the_network_returns() -> None:
    class Ramp(nn.Module):
        scale = 1
        data_range = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return x * 3 - 1

    lr = np.array([[[0] * 3, [64] * 3, [100] * 3, [255] * 3]], np.uint8)
    assert Upscaler(Ramp(), device="cpu")(lr)[0, :, 0].tolist() == [0, 0, 45, 255]


@pytest.mark.parametrize("tile", [16, 24])
def test_tiles_meet_without_a_seam(tile: int) -> None:
    torch.manual_seed(0)
    model = visible(FMEN(scale=3, n_feats=12, mid_feats=8, down_blocks=2, up_blocks=(1, 1, 1)))
    lr = photograph(61, 47)
    whole = Upscaler(model, device="cpu")(lr)
    assert whole.std() > 1
    tiled = Upscaler(model, device="cpu", tile=tile)(lr)
    # Convolutions sum in an order that depends on the image's size, which can turn a pixel half-way between two grays;
    # a margin one pixel too narrow is off by far more, along every seam.
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-4


def test_receptive_radius_of_fmen_s_is_the_number_of_its_convolutions_in_a_row() -> None:
    # head, warm-up, the first HFAB's 6, four times an ERB's 2 and an HFAB's 4, lr_conv, tail
    assert receptive_radius(create_model("fmen-s")) == 1 + 1 + 6 + 4 * (2 + 4) + 1 + 1


def test_a_network_that_sees_everything_is_not_tiled() -> None:
    class Average(nn.Module):
        scale = 1
        data_range = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean((2, 3), keepdim=True)

    assert receptive_radius(Average()) is None
    with pytest.raises(ValueError, match="cannot be tiled"):
        Upscaler(Average(), tile=32)


def test_training_form_is_reparameterized_and_left_alone() -> None:
    model = FMEN(scale=2, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1)).train()
    lr = photograph(9, 9)
    assert np.array_equal(Upscaler(model, device="cpu")(lr), Upscaler(reparameterize(model), device="cpu")(lr))
    assert model.training


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_rgb_image_is_refused(bad: np.ndarray) -> None:
    model = FMEN(scale=2, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
    with pytest.raises(ValueError, match="uint8"):
        Upscaler(model, device="cpu")(bad)


def test_unknown_precision_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="choose one of fp32, bf16, fp16"):
        Upscaler(create_model("fmen-s"), precision="int8")
