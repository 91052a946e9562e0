"""Pruning: which channels are removed, which are tied, and what the narrower network computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmen_core import FMEN, ModelError, create_model, prune, reparameterize
from fmen_core.channel_graph import record_channels, shares
from fmen_core.pruning import choose, copy_channels, scores

SIZES: dict[str, Any] = {"n_feats": 8, "mid_feats": 8, "down_blocks": 1, "up_blocks": (1, 2)}

TRUNK = {
    ("head", "lr_conv"),
    ("warmup.0", "warmup.1.excitate"),
    ("ERBs.0.conv1.rep_conv",),
    ("ERBs.0.conv2.rep_conv", "HFABs.0.excitate"),
}
"""The convolutions of FMEN whose outputs are tied, in the trunk."""


def filters(network: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight.data, conv.bias.data


@pytest.fixture
def network() -> FMEN:
    """A small FMEN in its inference form, in float64."""
    torch.manual_seed(0)
    model = create_model("fmen", 2, form="inference", **SIZES).double().eval()
    assert isinstance(model, FMEN)
    return model


def shrink(network: nn.Module, channels: dict[str, list[int]], factor: float) -> None:
    """Multiply the filters of some channels by a factor, those in front of ``network``'s reading layers."""
    for names in TRUNK:
        for name in names:
            weight, bias = filters(network, name)
            weight[channels[names[0]]] *= factor
            bias[channels[names[0]]] *= factor


IMAGES = 255 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

REMOVED = {"head": [0, 5], "warmup.0": [1, 2], "ERBs.0.conv1.rep_conv": [6, 7], "ERBs.0.conv2.rep_conv": [3, 4]}


def test_removing_channels_of_zeros_changes_nothing(network: FMEN) -> None:
    shrink(network, REMOVED, 0.0)
    narrow = prune(network, IMAGES, n_feats=6)
    assert (narrow.name, narrow.sizes) == ("fmen", {**SIZES, "n_feats": 6})
    image = 255 * torch.rand(1, 3, 13, 9, dtype=torch.float64)
    assert torch.allclose(narrow(image), network(image), rtol=0, atol=1e-11)
    assert not torch.allclose(prune(network, IMAGES, n_feats=5)(image), network(image), rtol=0, atol=1e-3)


def test_the_channels_that_add_least_to_the_next_layers_are_removed_wherever_they_are_tied(network: FMEN) -> None:
    shrink(network, REMOVED, 0.01)
    narrow = prune(network, IMAGES, n_feats=6)
    for names in TRUNK:
        remaining = [channel for channel in range(8) if channel not in REMOVED[names[0]]]
        for name in names:
            assert torch.equal(filters(narrow, name)[1], filters(network, name)[1][remaining]), name
    read = [channel for channel in range(8) if channel not in REMOVED["ERBs.0.conv2.rep_conv"]]
    squeezed = filters(narrow, "HFABs.0.squeeze")[0]
    assert torch.equal(squeezed, filters(network, "HFABs.0.squeeze")[0][:, read])


def test_the_channels_of_an_attention_branch_are_removed_independently_of_the_trunk(network: FMEN) -> None:
    for name in ("HFABs.0.squeeze", "warmup.1.squeeze"):
        filters(network, name)[0][:2] = 0
        filters(network, name)[1][:2] = 0
    narrow = prune(network, IMAGES, mid_feats=6)
    assert torch.equal(filters(narrow, "HFABs.0.squeeze")[0], filters(network, "HFABs.0.squeeze")[0][2:])
    assert torch.equal(filters(narrow, "warmup.1.squeeze")[0], filters(network, "warmup.1.squeeze")[0][2:])
    assert torch.equal(filters(narrow, "head")[0], filters(network, "head")[0])


def test_the_outputs_of_convolutions_that_are_added_or_multiplied_are_tied(network: FMEN) -> None:
    graph = record_channels(network, torch.zeros(1, 3, 8, 8))
    first = {use.name.removesuffix(".weight"): graph.group_of[use.channels[0]] for use in graph.uses if not use.axis}
    tied = {tuple(name for name in first if first[name] == group and ".bias" not in name) for group in first.values()}
    assert {tuple(sorted(names)) for names in tied} >= {tuple(sorted(names)) for names in TRUNK}


def test_the_shares_of_independent_channels_add_up_to_one_whatever_the_scale_of_the_weights() -> None:
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 3]).view(3, 1, 1)
    weight = torch.eye(3).view(3, 3, 1, 1)
    for factor in (1, 10):
        found = torch.tensor(shares(x, factor * weight, factor * x))
        assert torch.allclose(found, torch.tensor([1, 4, 9]) / 14, rtol=0, atol=0.02)


def test_a_training_form_is_pruned_in_its_inference_form() -> None:
    model = create_model("fmen", 2, **SIZES)
    narrow = prune(model, IMAGES, n_feats=6, mid_feats=6)
    assert type(narrow) is FMEN and not narrow.training and narrow.sizes["mid_feats"] == 6
    wide = reparameterize(model).train()
    assert copy_channels(wide, reparameterize(create_model("fmen", 2, **SIZES)), IMAGES) is not wide and wide.training
    same = prune(wide, IMAGES, n_feats=6, mid_feats=6).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in narrow.state_dict().items())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("imdn", {"n_feats": 48}),
        ("rfdn", {"n_feats": 40, "esa_feats": 10}),
        ("span", {"n_feats": 24}),
        ("rlfn-cut", {"mid_feats": 40}),
        ("edsr-baseline", {"n_feats": 12}),
        ("carn", {"n_feats": 12}),
        ("safmnv3", {"n_feats": 36}),
    ],
)
@torch.no_grad()
def test_other_networks_without_channels_of_zeros_compute_the_same(
    name: str, sizes: dict[str, int], small: Callable[[str], dict[str, int]]
) -> None:
    torch.manual_seed(0)
    model = create_model(name, 2, form="inference", **small(name)).double().eval()
    narrow = create_model(name, 2, form="inference", **{**model.sizes, **sizes}).double().eval()
    image = model.data_range * torch.rand(1, 3, 16, 15, dtype=torch.float64)
    wide = record_channels(model, image)
    kept = choose(wide, record_channels(narrow, image), scores(wide)).values()
    for use in filter(lambda use: use.axis == 0, wide.uses):
        removed = [entry for entry, channel in enumerate(use.channels) if wide.group_of[channel] not in kept]
        model.state_dict()[use.name][removed] = 0
    expected = model(image)
    assert torch.allclose(copy_channels(model, narrow, image)(image), expected, rtol=0, atol=1e-9 * model.data_range)
    assert sum(map(torch.numel, narrow.parameters())) < sum(map(torch.numel, model.parameters()))


class Two(nn.Module):
    """Two convolutions with a function in between."""

    scale, data_range, name = 1, 1.0, "two"

    def __init__(self, width: int, between: str = "relu") -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 1), nn.Conv2d(width, 3, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x.softmax(1) if self.between == "softmax" else x.relu()
        x = self.last(x)
        return x.relu() if self.between == "longer" else x


@pytest.mark.parametrize(
    ("wide", "narrow", "reason"),
    [
        (Two(4, "softmax"), Two(3, "softmax"), "channels cannot be followed through aten._softmax.default"),
        (Two(4), Two(5), "5 channels where the network has 4"),
        (Two(4), Two(3, "longer"), "the narrower network has other operations"),
    ],
)
def test_what_cannot_be_pruned_is_refused_with_its_reason(wide: Two, narrow: Two, reason: str) -> None:
    with pytest.raises(ModelError, match=f"two cannot be pruned to these sizes: {reason}"):
        copy_channels(wide, narrow)


def test_sizes_that_the_network_cannot_have_are_refused(network: FMEN) -> None:
    with pytest.raises(ModelError, match="has no size called 'width'"):
        prune(network, width=3)
    with pytest.raises(ModelError, match="10 channels where the network has 8"):
        prune(network, IMAGES, n_feats=10)
    with pytest.raises(ModelError, match="Two is not a network of this package"):
        prune(Two(4))
