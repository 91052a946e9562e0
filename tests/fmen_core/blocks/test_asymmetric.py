"""The asymmetric convolution block with BatchNorm: its three branches, its merged form, and its expansion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.asymmetric import NormalizedACB
from fmen_core.blocks.reparameterizable import Statistics


def trained_block(inputs: int = 5, outputs: int = 7) -> NormalizedACB:
    """A block with random BatchNorms: factors, shifts and running statistics."""
    torch.manual_seed(0)
    block = NormalizedACB(inputs, outputs)
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.uniform_(tensor, -1, 1)
            nn.init.uniform_(norm.running_var, 0.1, 3)
    return block


def formula(block: NormalizedACB, x: Tensor, normalize: bool) -> Tensor:
    """The sum of the branches; with the statistics of the batch if ``normalize``, else with the running ones."""
    total = torch.zeros(())
    for conv, norm, (rows, columns) in (
        (block.conv3x3, block.norm3x3, (1, 1)),
        (block.conv1x3, block.norm1x3, (0, 1)),
        (block.conv3x1, block.norm3x1, (1, 0)),
    ):
        out = F.conv2d(F.pad(x, (columns, columns, rows, rows)), conv.weight)
        mean, var = (out.mean((0, 2, 3)), out.var((0, 2, 3), correction=0)) if normalize else (None, None)
        mean, var = (norm.running_mean, norm.running_var) if mean is None else (mean, var)
        assert mean is not None and var is not None
        out = (out - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + 1e-5).sqrt()
        total = total + out * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    return total


@pytest.mark.parametrize("training", [True, False])
def test_block_is_the_sum_of_three_normalized_convolutions(training: bool) -> None:
    block, x = trained_block().double().train(training), torch.randn(3, 5, 6, 4, dtype=torch.float64)
    expected = formula(block, x, normalize=training)
    for collapsed in (True, False):
        block.collapsed = collapsed
        assert (block(x) - expected).abs().max() < 1e-12


def test_merged_block_equals_its_branches_with_batchnorm_border_included() -> None:
    block, x = trained_block().eval(), torch.randn(2, 5, 9, 8)
    conv = block.fused()
    assert isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)
    assert (conv(x) - block.expanded(x)).abs().max() < 1e-5
    assert (block(x) - block.expanded(x)).abs().max() < 1e-5


def test_running_statistics_are_updated_in_training_mode_alone() -> None:
    block, x = trained_block(), torch.randn(2, 5, 9, 8)
    before = block.norm1x3.running_mean.clone()
    block.eval()(x)
    assert torch.equal(block.norm1x3.running_mean, before)
    block.train()(x)
    assert not torch.equal(block.norm1x3.running_mean, before)


def test_expanded_block_computes_the_same_in_both_modes_and_all_its_branches_learn() -> None:
    torch.manual_seed(0)
    conv, block = nn.Conv2d(5, 7, 3, padding=1).double(), NormalizedACB(5, 7).double()
    x = torch.randn(4, 5, 6, 7, dtype=torch.float64)
    out = conv(x).detach()
    mean, var = out.mean((0, 2, 3)), out.var((0, 2, 3), correction=0)
    block.expand_from(conv, {conv: (Statistics(mean, var, 0.0), Statistics(mean, var, 0.0))})
    for training in (False, True):
        assert (block.train(training)(x) - out).abs().max() < 1e-9, training
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in block.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        block(x).sin().sum().backward()
        optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, block.parameters(), strict=True))
