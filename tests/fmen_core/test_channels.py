"""Channels of zeros leave FMEN's function unchanged."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fmen_core import Upscaler, channels, fmen_s
from fmen_core.channels import pad_channels
from fmen_core.fmen_deploy import FMEN
from fmen_core.precision import FP16_LARGEST, HEADROOM, largest_outputs, rescale_for_fp16


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def pretrained() -> FMEN:
    model = fmen_s(scale=4, pretrained=True)
    assert isinstance(model, FMEN)
    return model


@pytest.mark.parametrize("multiple", [8, 16])
def test_padded_channels_compute_the_same(multiple: int) -> None:
    model = pretrained().double()
    padded = copy.deepcopy(model)
    pad_channels(padded, multiple)
    x = 255 * torch.rand(2, 3, 17, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = model(x), padded(x)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def test_all_features_have_a_multiple_of_channels_and_images_have_three() -> None:
    model = pretrained()
    pad_channels(model, 8)
    convs = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convs) == 34
    assert {conv.out_channels for conv in convs} == {16, 48, 56}  # 12 and 16, 3 * 4 * 4, and 50
    assert {conv.in_channels for conv in convs} == {3, 16, 56}
    assert all(conv.weight.shape[:2] == (conv.out_channels, conv.in_channels) for conv in convs)


def test_padded_features_are_rescaled_for_fp16() -> None:
    model = pretrained()
    pad_channels(model, 8)
    assert rescale_for_fp16(model)
    peaks = largest_outputs(model)  # the last convolution is computed in float32
    assert max(peak for conv, peak in peaks.items() if conv is not model.tail[0]) <= FP16_LARGEST / HEADROOM


def test_an_upscaler_on_a_gpu_has_padded_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lr = pretrained(), np.random.default_rng(0).integers(96, 160, (20, 24, 3), np.uint8)
    plain = Upscaler(model, device="cpu", precision="bf16")
    monkeypatch.setattr(channels, "PADDED_ON", ("cpu",))
    padded = Upscaler(model, device="cpu", precision="bf16")
    assert (plain.model.head.out_channels, padded.model.head.out_channels) == (50, 56)
    assert padded.model.head.weight.dtype == plain.model.head.weight.dtype
    difference = np.abs(plain(lr).astype(int) - padded(lr))
    assert difference.max() <= 2 and difference.mean() < 0.1
    assert model.head.out_channels == 50
    assert Upscaler(model, device="cpu", precision="fp32").model.head.out_channels == 50
