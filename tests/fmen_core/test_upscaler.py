"""The upscaler: whole images, tiles, precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmen_core import FMEN, Upscaler, create_model, load, reparameterize
from fmen_core.fmen_deploy import FMEN as InferenceFMEN
from fmen_core.precision import fit_half
from fmen_core.steady import SteadySigmoids
from fmen_core.tiling import needed_bytes, receptive_radius, recycled_memory, windows


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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
    whole = Upscaler(model, device="cpu", tile=None)(lr)
    assert whole.std() > 1
    tiled = Upscaler(model, device="cpu", tile=tile)(lr)
    # A processor may form sums in an order that depends on the image's size, which can turn a pixel half-way between
    # two grays; a margin one pixel too narrow is off by far more, along every seam.
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-4


@pytest.mark.parametrize("length", [1, 50, 63, 64, 1000, 32768, 65537, 100_003, 200_001])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_sigmoid_does_not_depend_on_where_a_float_lies(length: int, threads: int) -> None:
    x = 4 * torch.randn(length, generator=torch.Generator().manual_seed(0))
    vectors = nn.functional.pad(x, (0, -length % 64)).split(64)
    expected = torch.cat([part.sigmoid() for part in vectors])[:length]
    torch.set_num_threads(threads)
    try:
        with SteadySigmoids():
            assert torch.equal(torch.sigmoid(x), expected)
            silu = nn.SiLU()(x)
            assert torch.equal(silu[64:], nn.SiLU()(x[64:])) and (silu - x * expected).abs().max() < 1e-5
            assert torch.equal(x.sigmoid_(), expected) and torch.equal(x, expected)
    finally:
        torch.set_num_threads(1)


def test_a_sigmoid_keeps_the_order_of_memory_and_works_on_any_view() -> None:
    x = torch.randn(1, 5, 7, 9).contiguous(memory_format=torch.channels_last)
    with SteadySigmoids():
        for view in (x, x[..., ::2], x.double()):
            assert torch.allclose(torch.sigmoid(view), 1 / (1 + (-view).exp()), atol=1e-6)
            assert torch.sigmoid(view).stride() == view.sigmoid().stride()
        assert torch.sigmoid(x).is_contiguous(memory_format=torch.channels_last)


def test_memory_is_recycled_only_as_long_as_asked_for() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with recycled_memory():
        pass  # gives back what earlier tests have left
    before = resident()
    with recycled_memory():
        torch.ones(30_000_000)
        assert resident() > before + 100_000_000
    assert resident() < before + 20_000_000


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


def small() -> nn.Module:
    """A small network with the structure of FMEN."""
    torch.manual_seed(0)
    return visible(FMEN(scale=2, n_feats=12, mid_feats=8, down_blocks=1, up_blocks=(1, 1)))


@pytest.mark.parametrize(
    ("length", "tile", "margin"), [(100, 32, 5), (33, 32, 20), (7, 32, 5), (64, 64, 8), (65, 16, 3), (130, 16, 34)]
)
def test_windows_cover_a_side_once_and_have_their_margins(length: int, tile: int, margin: int) -> None:
    parts = list(windows(length, tile, margin))
    assert [pixel for start, stop, _, _ in parts for pixel in range(start, stop)] == list(range(length))
    for start, stop, first, last in parts:
        assert 0 <= first <= max(0, start - margin) and min(length, stop + margin) <= last <= length
    sizes = {last - first for _, _, first, last in parts}
    assert len(sizes) == 1 and max(sizes) <= tile + 2 * margin


def test_an_image_that_does_not_fit_is_tiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    lr, seen = photograph(70, 50), []
    monkeypatch.setattr("fmen_core.upscaler.SMALL", 0)
    upscaler = Upscaler(small(), device="cpu")
    whole = upscaler(lr, on_tile=lambda done, total: seen.append((done, total)))
    assert not seen
    monkeypatch.setattr("fmen_core.upscaler.CPU_BUDGET", 0)
    tiled = upscaler(lr, on_tile=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_the_memory_of_fmen_s_is_three_feature_maps_and_a_branch() -> None:
    maps = needed_bytes(reparameterize(create_model("fmen-s"))) / (1.5 * 50 * 4)
    assert 3 <= maps <= 3.5  # features of the start, the block's, and its attention map; 16 channels of the branch
    model = reparameterize(create_model("fmen-s")).bfloat16()
    assert needed_bytes(model, torch.bfloat16) / (1.5 * 50 * 2) == pytest.approx(maps)


def test_a_network_that_cannot_be_tiled_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.upscaler.free_memory", lambda device: 10_000_000)
    with pytest.raises(
        ValueError, match=r"200x300 pixels need 0\.\d GB, 0\.0 GB are free, and this network cannot be tiled"
    ):
        Upscaler(create_model("rlfn-cut"), device="cpu")(photograph(300, 200))


def test_sixteen_bits_come_out_as_sixteen_bits() -> None:
    lr = photograph(20, 30)
    upscaler = Upscaler(small(), device="cpu")
    coarse, fine = upscaler(lr), upscaler(lr.astype(np.uint16) * 257)
    assert fine.dtype == np.uint16
    assert np.abs(fine / 257 - coarse).max() <= 0.5 + 1e-3
    assert len(np.unique(fine)) > 3 * 256


def test_ensemble_commutes_with_flips_and_rotations() -> None:
    upscaler = Upscaler(small(), device="cpu", ensemble=True)
    lr = photograph(17, 23)
    sr = upscaler(lr)
    assert not np.array_equal(sr, Upscaler(small(), device="cpu")(lr))
    for turn in (np.rot90, np.fliplr, np.flipud):
        difference = np.abs(upscaler(np.ascontiguousarray(turn(lr))).astype(int) - turn(sr))
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_memory_order_changes_rounding_alone() -> None:
    lr = photograph(20, 30)
    assert np.abs(Upscaler(small(), channels_last=False)(lr).astype(int) - Upscaler(small())(lr)).max() <= 1


def exploding() -> InferenceFMEN:
    """FMEN in its inference form whose features grow into the millions and come back at the end."""
    torch.manual_seed(0)
    model = InferenceFMEN(scale=2, n_feats=12, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
    with torch.no_grad():
        model.warmup[0].weight.mul_(1e5)
        model.HFABs[0].squeeze.weight.mul_(1e4)
        model.HFABs[0].excitate.weight.mul_(1e-8)
        model.warmup[1].squeeze.weight.mul_(1e-4)
        model.lr_conv.weight.mul_(1e-5)
    return visible(model)


def test_half_precision_is_made_to_fit_without_changing_a_bit() -> None:
    model, fitted = exploding(), exploding()
    x = 255 * torch.rand(1, 3, 20, 24)
    assert fit_half(fitted)
    assert fitted.warmup[0].weight.abs().max() < model.warmup[0].weight.abs().max()
    with torch.no_grad():
        assert torch.equal(model(x), fitted(x))
        assert not model.half()(x.half()).isfinite().all()
        assert fitted.half()(x.half()).isfinite().all()


@pytest.mark.parametrize(("precision", "most"), [("fp16", 1), ("bf16", 8)])
def test_half_precision_stays_close_to_single(precision: str, most: int) -> None:
    lr = photograph(24, 20)
    sr = Upscaler(exploding(), device="cpu")(lr).astype(int)
    assert np.abs(Upscaler(exploding(), device="cpu", precision=precision)(lr) - sr).max() <= most


def test_released_fmen_s_in_half_precision_differs_by_a_gray_level(reference: Path) -> None:
    model = load(reference / "weights" / "team03_fmen.pth")
    lr = photograph(24, 24)
    sr = Upscaler(model, device="cpu")(lr).astype(int)
    assert np.abs(Upscaler(model, device="cpu", precision="fp16")(lr) - sr).max() <= 1


def test_a_network_that_leaves_half_precision_is_refused() -> None:
    model = create_model("span")
    with torch.no_grad():
        model.conv_1.eval_conv.weight.mul_(1e6)
    with pytest.raises(ValueError, match="larger than fp16 can hold; choose bf16 or fp32"):
        Upscaler(model, device="cpu", precision="fp16")


def test_automatic_precision_is_what_the_processor_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.upscaler.has_bf16", lambda device: True)
    assert Upscaler(small(), device="cpu", precision="auto").precision == "bf16"
    monkeypatch.setattr("fmen_core.upscaler.has_bf16", lambda device: False)
    assert Upscaler(small(), device="cpu", precision="auto").precision == "fp32"
    assert Upscaler(small(), device="cpu").precision == "fp32"


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_rgb_image_is_refused(bad: np.ndarray) -> None:
    model = FMEN(scale=2, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
    with pytest.raises(ValueError, match="uint8"):
        Upscaler(model, device="cpu")(bad)


def test_unknown_precision_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="choose one of fp32, bf16, fp16"):
        Upscaler(create_model("fmen-s"), precision="int8")
