"""Blocks that equal one convolution: both forms, gradients, and the formulas of their papers."""

from __future__ import annotations

import copy
import random

import cv2
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.bases import FilterBases
from fmen_core.blocks.by_name import BLOCKS
from fmen_core.blocks.reparameterizable import ACB, DBB, ECB, RRRB, PlainConv, ReparamConv2d, RepVGG

KINDS = ("rrrb", "ecb", "repvgg", "acb", "dbb", "plain", "bases")


def random_block(kind: str, seed: int) -> tuple[ReparamConv2d, Tensor]:
    """A block of random sizes, with parameters far from their initial values, and an input of a random size."""
    draw = random.Random(f"{kind} {seed}")
    torch.manual_seed(seed)
    inputs, outputs, ratio = draw.randint(1, 7), draw.randint(1, 7), draw.randint(1, 3)
    if kind == "rrrb":
        block: ReparamConv2d = RRRB(inputs, ratio)
    elif kind == "ecb":
        block = ECB(inputs, outputs, ratio)
        if draw.random() < 0.5:
            block = ECB(inputs, inputs, ratio, identity=True)
    elif kind == "bases":
        block = FilterBases(inputs, outputs, ratio)
    else:
        makers = {"repvgg": RepVGG, "acb": ACB, "dbb": DBB, "plain": PlainConv}
        block = makers[kind](inputs, inputs if draw.random() < 0.5 else outputs)
    block.double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.uniform_(-1, 1)
    x = torch.randn(draw.randint(1, 2), inputs, draw.randint(1, 7), draw.randint(1, 7), dtype=torch.float64)
    return block, x


@pytest.mark.parametrize("kind", KINDS)
def test_merged_block_equals_its_layers_borders_included(kind: str) -> None:
    for seed in range(25):
        block, x = random_block(kind, seed)
        merged = block(x)
        fused = block.fused().get_submodule(block.fused_name)
        assert isinstance(fused, nn.Conv2d) and fused.kernel_size == (3, 3)
        block.collapsed = False
        expected = block(x)
        for out in (merged, fused(x)):
            assert (out - expected).abs().max() < 1e-12 * max(1, expected.abs().max()), seed


@pytest.mark.parametrize("kind", KINDS)
def test_merged_block_has_the_gradients_of_its_layers(kind: str) -> None:
    for seed in range(10):
        block, x = random_block(kind, seed)
        layers = copy.deepcopy(block)
        layers.collapsed = False
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for model, own in zip((block, layers), inputs, strict=True):
            model(own).sin().sum().backward()
        assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-10, atol=1e-11)
        for (name, ours), reference in zip(block.named_parameters(), layers.parameters(), strict=True):
            assert ours.grad is not None and reference.grad is not None, name
            assert torch.allclose(ours.grad, reference.grad, rtol=1e-10, atol=1e-11), (name, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_block_takes_over_any_kernel(kind: str) -> None:
    block = BLOCKS[kind](5, 2).double()
    fused = block.fused()
    conv = fused.get_submodule(block.fused_name)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.uniform_(-1, 1)
    block.expand_from(fused, {})
    x = torch.randn(1, 5, 4, 6, dtype=torch.float64)
    assert (block(x) - conv(x)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_a_fresh_block_gets_a_gradient(kind: str) -> None:
    torch.manual_seed(0)
    block = BLOCKS[kind](6, 2)
    block(torch.randn(1, 6, 5, 5)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def conv(x: Tensor, layer: nn.Module) -> Tensor:
    """Convolve without padding, with the kernel of ``layer``."""
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d(x, layer.weight, layer.bias)


def with_border(x: Tensor, values: Tensor | None) -> Tensor:
    """Copy ``x`` into the middle of a tensor that is filled with ``values`` per channel."""
    assert values is not None
    out = values.view(1, -1, 1, 1).repeat(len(x), 1, x.shape[2] + 2, x.shape[3] + 2)
    out[..., 1:-1, 1:-1] = x
    return out


def test_blocks_equal_the_formulas_of_their_papers() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 6, 5)
    bordered = F.pad(x, (1, 1, 1, 1))
    three = {kind: block(4, 4) for kind, block in (("repvgg", RepVGG), ("acb", ACB), ("dbb", DBB))}
    repvgg, acb, dbb = three["repvgg"], three["acb"], three["dbb"]
    assert torch.allclose(repvgg(x), conv(bordered, repvgg.conv3x3) + conv(x, repvgg.conv1x1) + x, atol=1e-5)
    row, column = F.pad(x, (1, 1, 0, 0)), F.pad(x, (0, 0, 1, 1))
    expected = conv(bordered, acb.conv3x3) + conv(row, acb.conv1x3) + conv(column, acb.conv3x1)
    assert torch.allclose(acb(x), expected, atol=1e-5)
    pair, average = dbb.conv1x1_3x3, dbb.conv1x1_average
    assert torch.equal(pair.conv1x1.weight.flatten(1), torch.eye(4))
    expected = conv(bordered, dbb.conv3x3) + conv(x, dbb.conv1x1)
    expected += conv(with_border(conv(x, pair.conv1x1), pair.conv1x1.bias), pair.conv3x3)
    expected += F.avg_pool2d(conv(x, average.conv1x1), 3, stride=1, padding=1)
    assert torch.allclose(dbb(x), expected, atol=1e-5)


def test_edge_filters_of_ecb_are_those_of_opencv() -> None:
    torch.manual_seed(0)
    block = ECB(1, 1).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    image = torch.rand(1, 1, 7, 6, dtype=torch.float64)
    array, zeros = image[0, 0].numpy(), cv2.BORDER_CONSTANT
    edges = {
        "sobel_x": -cv2.Sobel(array, cv2.CV_64F, 1, 0, borderType=zeros),
        "sobel_y": -cv2.Sobel(array, cv2.CV_64F, 0, 1, borderType=zeros),
        "laplacian": cv2.Laplacian(array, cv2.CV_64F, borderType=zeros),
    }
    for name, expected in edges.items():
        branch = block.get_submodule(f"conv1x1_{name}")
        with torch.no_grad():
            branch.conv1x1.weight.fill_(1)
            branch.scale.fill_(2)
            assert torch.allclose(block(image)[0, 0], 2 * torch.from_numpy(expected), atol=1e-12), name
            branch.scale.zero_()


def test_only_blocks_with_equal_channels_have_an_identity() -> None:
    assert RepVGG(4, 4).identity and not RepVGG(4, 5).identity and not ECB(4, 4).identity
    with pytest.raises(ValueError, match="a block from 4 to 5 channels has no identity branch"):
        ECB(4, 5, identity=True)
