"""The upscaler: from image to image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmen_core import FMENTraining, ModelError, Upscaler, reparameterize, upscaler


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def small() -> nn.Module:
    """A small FMEN whose output is around middle gray, where clamping hides nothing."""
    torch.manual_seed(0)
    model = FMENTraining(scale=2, n_feats=12, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_output_is_rounded_to_the_nearest_integer(dtype: type) -> None:
    class Shift(nn.Module):
        scale = 1
        data_range = 255.0

        def forward(self, x: Tensor) -> Tensor:
            return x + 0.75 * 255 / np.iinfo(dtype).max

    lr = np.full((2, 2, 3), 100, dtype)
    assert (Upscaler(Shift(), device="cpu")(lr) == 101).all()


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_a_network_gets_gray_levels_divided_as_published_code_divides_them(data_range: float) -> None:
    seen: list[Tensor] = []

    class Identity(nn.Module):
        scale = 1

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return x

    Identity.data_range = data_range  # type: ignore[attr-defined]
    lr = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert np.array_equal(Upscaler(Identity(), device="cpu")(lr), lr)
    expected = torch.from_numpy(lr).permute(2, 0, 1)[None].float()
    assert torch.equal(seen[-1], expected / 255 if data_range == 1 else expected)
    deep = lr.astype(np.uint16) * 257 + 3
    deep[-1, -1] = 65535
    assert np.array_equal(Upscaler(Identity(), device="cpu")(deep), deep)


def test_training_form_is_reparameterized_and_left_alone() -> None:
    model = FMENTraining(scale=2, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1)).train()
    lr = photograph(9, 9)
    assert np.array_equal(Upscaler(model, device="cpu")(lr), Upscaler(reparameterize(model), device="cpu")(lr))
    assert model.training


def test_sixteen_bits_come_out_as_sixteen_bits() -> None:
    lr = photograph(20, 30)
    upscaler = Upscaler(small(), device="cpu")
    coarse, fine = upscaler(lr), upscaler(lr.astype(np.uint16) * 257)
    assert fine.dtype == np.uint16
    assert np.abs(fine / 257 - coarse).max() <= 0.5 + 1e-3
    assert len(np.unique(fine)) > 3 * 256


def test_self_ensemble_is_the_mean_over_the_eight_flips_and_rotations() -> None:
    lr = photograph(17, 23)
    plain = Upscaler(small(), device="cpu")
    outputs = []
    for flipped in (False, True):
        for quarters in range(4):
            turned = np.ascontiguousarray(np.rot90(lr[:, ::-1] if flipped else lr, quarters)).astype(np.uint16) * 257
            back = np.rot90(plain(turned), -quarters)
            outputs.append(back[:, ::-1] if flipped else back)
    expected = np.mean(outputs, axis=0) / 257
    sr = Upscaler(small(), device="cpu", self_ensemble=True)(lr)
    assert np.abs(sr - expected).max() <= 0.51
    assert not np.array_equal(sr, plain(lr))
    assert len({output.tobytes() for output in outputs}) == 8


def test_self_ensemble_commutes_with_flips_and_rotations() -> None:
    upscaler = Upscaler(small(), device="cpu", self_ensemble=True)
    lr = photograph(17, 23)
    sr = upscaler(lr)
    for turn in (np.rot90, np.fliplr, np.flipud):
        difference = np.abs(upscaler(np.ascontiguousarray(turn(lr))).astype(int) - turn(sr))
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_memory_order_changes_rounding_alone() -> None:
    lr = photograph(20, 30)
    contiguous = Upscaler(small(), channels_last=False)
    assert np.abs(contiguous(lr).astype(int) - Upscaler(small())(lr)).max() <= 1


@pytest.mark.parametrize(("channels_last", "strides"), [(True, (2700, 1, 90, 3)), (False, (2700, 900, 30, 1))])
def test_the_network_gets_its_input_in_the_memory_order_asked_for(
    channels_last: bool, strides: tuple[int, ...]
) -> None:
    seen: list[tuple[int, ...]] = []
    upscaler = Upscaler(small(), device="cpu", channels_last=channels_last)
    upscaler.model.register_forward_pre_hook(lambda _, x: seen.append(x[0].stride()))
    upscaler(photograph(30, 30))
    assert seen == [strides]
    assert upscaler.model.lr_conv.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_an_output_of_another_size_is_refused() -> None:
    class Cropping(nn.Module):
        scale = 2
        data_range = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return x.repeat(1, 1, 2, 2)[..., 1:]

    with pytest.raises(ModelError, match=r"output of this x2 network is \(1, 3, 8, 9\) for an input of \(1, 3, 4, 5\)"):
        Upscaler(Cropping(), device="cpu")(photograph(4, 5))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), np.int16),
        np.zeros((0, 4, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
)
def test_an_array_that_is_not_an_rgb_image_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"expected a uint8 or uint16 \(H, W, 3\) image, got"):
        Upscaler(small(), device="cpu")(bad)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="'cuda:1' was asked for, but this PyTorch sees no CUDA GPU"):
        Upscaler(small(), device="cuda:1")
    assert Upscaler(small(), device="auto").device.type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ModelError, match="'cuda:1' does not exist; GPUs of this machine: 1"):
        Upscaler(small(), device="cuda:1")
    for unknown in ("gpu", "mps", "cuda:", "meta"):
        with pytest.raises(ModelError, match=f"device '{unknown}' is unknown; choose auto, cpu, cuda or cuda:N"):
            Upscaler(small(), device=unknown)


def test_a_result_that_does_not_fit_into_the_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    empty, lr = np.empty, photograph(40, 20)

    def full(shape: tuple[int, ...], *arguments: Any) -> np.ndarray:
        if shape == (80, 40, 3):
            raise MemoryError("8 GiB")
        return empty(shape, *arguments)

    upscaler = Upscaler(small(), device="cpu", tile=16)
    monkeypatch.setattr("fmen_core.upscaler.np.empty", full)
    with pytest.raises(ModelError, match=r"the result does not fit into memory \(8 GiB\); write it as PNG or"):
        upscaler(lr)


@pytest.mark.parametrize("tile", ["auto", 16, None])
def test_images_may_have_negative_strides(tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.upscaler.SMALL", 100)
    monkeypatch.setitem(upscaler.WHOLE_BYTES, "cpu", 0)
    monkeypatch.setitem(upscaler.STRIP_BYTES, "cpu", 0)
    network = Upscaler(small(), device="cpu", tile=tile)
    lr = photograph(20, 18)
    views = lr[..., ::-1], lr[::-1], lr[:, ::-1], lr[:1, :8][::-1], lr[:8, :1][:, ::-1]
    for view in views:
        assert np.array_equal(network(view), network(view.copy()))
    assert (network.rows_for(20, 18) is not None) == (tile == "auto")
