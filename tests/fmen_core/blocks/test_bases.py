"""Filter decomposition: a filter that is a sum of filters, to which more are added."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmen_core import create_model, expand, load, reparameterize, save
from fmen_core.blocks.bases import FilterBases


def trained_block(bases: int) -> FilterBases:
    torch.manual_seed(0)
    block = FilterBases(3, 4, bases).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.uniform_(-1, 1)
    return block


@pytest.mark.parametrize("bases", [1, 2, 5])
def test_filter_is_the_sum_of_its_bases_times_their_coefficients(bases: int) -> None:
    block = trained_block(bases)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    kernels, biases = block.bases.weight.view(bases, 4, 3, 3, 3), block.bases.bias.view(bases, 4)
    weight = sum(block.coefficients[k] * kernels[k] for k in range(bases))
    bias = sum(block.coefficients[k] * biases[k] for k in range(bases))
    assert torch.allclose(block(x), F.conv2d(x, weight, bias, padding=1), atol=1e-12)
    assert torch.allclose(block.expanded(x), block.fused()(x), atol=1e-12)


def test_only_the_first_of_fresh_bases_contributes_and_every_coefficient_learns() -> None:
    block = FilterBases(3, 4, 3)
    assert block.coefficients.tolist() == [1, 0, 0]
    block(torch.randn(2, 3, 6, 5)).square().sum().backward()
    assert block.coefficients.grad is not None and block.coefficients.grad.all()


def test_trained_bases_take_over_any_kernel() -> None:
    block, conv = trained_block(3), nn.Conv2d(3, 4, 3, padding=1).double()
    block.expand_from(conv, {})
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    assert torch.allclose(block(x), conv(x), atol=1e-9)


def test_bases_are_added_without_changing_the_output_and_merged_at_the_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_feats": 10, "mid_feats": 8, "down_blocks": 2, "up_blocks": (2, 1, 1)}
    model = create_model("fmen", block="bases", ratio=1, **sizes).double().eval()
    x = 255 * torch.rand(1, 3, 9, 8, dtype=torch.float64)
    for bases in (2, 3):
        with torch.no_grad():
            for block in model.modules():
                if isinstance(block, FilterBases):
                    block.coefficients.uniform_(0.5, 1)
        expected = model(x)
        model = expand(reparameterize(model), block="bases", ratio=bases)
        assert {len(block.coefficients) for block in model.modules() if isinstance(block, FilterBases)} == {bases}
        assert (model(x) - expected).abs().max() < 1e-9
    save(model, tmp_path / "training.safetensors")
    assert load(tmp_path / "training.safetensors").sizes["ratio"] == 3
    merged = reparameterize(model)
    assert not any(isinstance(module, FilterBases) for module in merged.modules())
    assert (merged(x) - model(x)).abs().max() < 1e-9


def test_filter_without_bases_is_refused() -> None:
    with pytest.raises(ValueError, match="bases is 0; choose 1 or more"):
        FilterBases(3, 4, 0)
