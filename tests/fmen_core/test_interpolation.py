"""Networks between two networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmen_core import FMENTraining, ModelError, create_model
from fmen_core.interpolation import interpolate


def test_the_tensors_are_between_those_of_the_two_networks() -> None:
    first, second = (create_model("span", scale=4) for _ in range(2))
    mixed = interpolate(first, second, 0.25)
    for name, value in mixed.state_dict().items():
        expected = 0.75 * first.state_dict()[name] + 0.25 * second.state_dict()[name]
        assert torch.allclose(value, expected, atol=1e-6)
    for share, end in ((0.0, first), (1.0, second)):
        for name, value in interpolate(first, second, share).state_dict().items():
            assert torch.equal(value, end.state_dict()[name])


def test_the_training_form_is_averaged_without_the_counters_of_its_normalization() -> None:
    first, second = (FMENTraining(n_feats=8, mid_feats=6, down_blocks=1, up_blocks=[1, 1], ratio=2) for _ in range(2))
    nn.init.ones_(second.HFABs[0].bn1.num_batches_tracked)
    nn.init.constant_(second.HFABs[0].bn1.running_mean, 3.0)
    block = interpolate(first, second, 0.5).HFABs[0]
    assert block.bn1.num_batches_tracked == 0
    assert torch.equal(block.bn1.running_mean, torch.full_like(block.bn1.running_mean, 1.5))


def test_different_networks_and_shares_out_of_range_are_refused() -> None:
    first, second = create_model("fmen-s", scale=4), create_model("fmen-s", scale=2)
    with pytest.raises(ModelError, match="whose tensors differ in name or shape"):
        interpolate(first, second, 0.5)
    with pytest.raises(ModelError, match=r"the share 1\.1; give a number from 0 to 1"):
        interpolate(first, first, 1.1)


def test_networks_that_hold_results_of_their_last_forward_pass_are_interpolated() -> None:
    networks = [nn.utils.weight_norm(nn.Conv2d(3, 3, 1)) for _ in range(2)]
    for network in networks:
        network(torch.rand(1, 3, 4, 4))
    mixed = interpolate(*networks, 0.5).state_dict()
    for key, value in mixed.items():
        torch.testing.assert_close(value, sum(network.state_dict()[key] for network in networks) / 2)
