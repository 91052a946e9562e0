"""Depthwise, Ghost and self-calibrated convolution, inverted residuals and IdleBlocks: the formulas of their papers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.lightweight import (
    CONVS,
    DepthwiseSeparableConv,
    GhostConv,
    IdleBlock,
    InvertedResidual,
    SelfCalibratedConv,
)


def image(channels: int, height: int = 8, width: int = 12) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, channels, height, width, dtype=torch.float64)


def params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", CONVS)
def test_every_convolution_returns_the_channels_that_are_asked_for_and_the_size_of_its_input(name: str) -> None:
    for height, width in ((1, 1), (5, 7), (8, 4)):
        assert CONVS[name](6, 10)(torch.zeros(2, 6, height, width)).shape == (2, 10, height, width)


def test_separable_convolution_filters_each_channel_and_mixes_the_channels_of_each_pixel() -> None:
    block, x = DepthwiseSeparableConv(3, 5).double(), image(3)
    filtered = torch.cat(
        [F.conv2d(x[:, [i]], block.depthwise.weight[[i]], block.depthwise.bias[[i]], padding=1) for i in range(3)], 1
    )
    mixed = torch.einsum("oi,nihw->nohw", block.pointwise.weight[..., 0, 0], filtered)
    assert torch.allclose(block(x), mixed + block.pointwise.bias.view(1, -1, 1, 1), atol=1e-12)
    assert params(block) == 3 * 10 + 5 * 4


@pytest.mark.parametrize(("outputs", "ratio", "primary"), [(8, 2, 4), (7, 2, 4), (9, 3, 3), (8, 3, 3)])
def test_cheap_channels_of_a_ghost_convolution_are_depthwise_convolutions_of_the_primary_ones(
    outputs: int, ratio: int, primary: int
) -> None:
    block, x = GhostConv(5, outputs, ratio).double(), image(5)
    out = block(x)
    assert out.shape[1] == outputs and block.primary.out_channels == primary
    expected = F.conv2d(x, block.primary.weight, block.primary.bias, padding=1)
    assert torch.allclose(out[:, :primary], expected, atol=1e-12)
    for channel in range(primary, outputs):
        index = channel - primary
        source = expected[:, [index // (ratio - 1)]]
        cheap = F.conv2d(source, block.cheap.weight[[index]], block.cheap.bias[[index]], padding=1)
        assert torch.allclose(out[:, [channel]], cheap, atol=1e-12), channel
    assert params(block) == primary * (5 * 9 + 1) + (ratio - 1) * primary * 10


def test_ghost_convolution_without_cheap_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio is 1; choose 2 or more"):
        GhostConv(4, 4, 1)


def test_self_calibrated_convolution_equals_the_equations_of_its_paper() -> None:
    block, x = SelfCalibratedConv(6, 8).double(), image(6)
    first, second = x[:, :3], x[:, 3:]
    pooled = first.reshape(2, 3, 2, 4, 3, 4).mean((3, 5))
    enlarged = F.interpolate(block.k2(pooled), scale_factor=4, mode="bilinear", align_corners=False)
    calibrated = block.k4(block.k3(first) / (1 + torch.exp(-first - enlarged)))
    assert torch.allclose(block(x), torch.cat([calibrated, block.k1(second)], 1), atol=1e-12)


def test_windows_at_the_border_of_a_self_calibrated_convolution_average_their_own_pixels() -> None:
    block = SelfCalibratedConv(2, 2).double()
    constant = torch.ones(1, 2, 7, 5, dtype=torch.float64)
    seen: list[Tensor] = []
    block.k2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(constant)
    assert torch.equal(seen[0], torch.ones(1, 1, 2, 2, dtype=torch.float64))


def test_self_calibrated_convolution_of_odd_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="has even channels, not 6 and 7"):
        SelfCalibratedConv(6, 7)


def test_inverted_residual_widens_filters_and_narrows_with_activations_between_0_and_6() -> None:
    block, x = InvertedResidual(3, ratio=4).double(), 20 * image(3)
    wide = torch.einsum("oi,nihw->nohw", block.expand.weight[..., 0, 0], x) + block.expand.bias.view(1, -1, 1, 1)
    filtered = F.conv2d(wide.clamp(0, 6), block.depthwise.weight, block.depthwise.bias, padding=1, groups=12)
    narrow = torch.einsum("oi,nihw->nohw", block.project.weight[..., 0, 0], filtered.clamp(0, 6))
    assert torch.allclose(block(x), x + narrow + block.project.bias.view(1, -1, 1, 1), atol=1e-12)
    assert (wide > 6).any() and params(block) == 12 * 4 + 12 * 10 + 3 * 13


@pytest.mark.parametrize("first", [True, False])
def test_idle_channels_pass_unchanged_and_the_others_through_an_inverted_residual(first: bool) -> None:
    block, x = IdleBlock(8, 0.25, first=first).double(), image(8)
    idle, active = (slice(0, 2), slice(2, 8)) if first else (slice(6, 8), slice(0, 6))
    out = block(x)
    assert torch.equal(out[:, idle], x[:, idle])
    assert torch.equal(out[:, active], block.active(x[:, active]))
    assert (out[:, active] != x[:, active]).any((0, 2, 3)).all()


def test_idle_block_has_idle_and_active_channels() -> None:
    for share in (0.0, 0.01, 1.0):
        with pytest.raises(ValueError, match=r"idle is .* of 8 channels are idle; choose another share"):
            IdleBlock(8, share)
