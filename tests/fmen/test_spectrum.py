"""The spectrum of features: exact on known signals, the right tensors of every kind of network, clear errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.spectrum import BlockFeatures, Map, block_features, choose_blocks, high_share, power_spectrum, radial_density
from fmen_core import create_model, reparameterize

SIZES = {"n_feats": 8, "mid_feats": 8, "down_blocks": 2, "up_blocks": (1, 1, 1)}


def wave(periods: int, side: int = 32) -> Map:
    """A cosine along the rows, ``(side, side)``."""
    return np.tile(np.cos(2 * np.pi * periods * np.arange(side) / side), (side, 1))


def image(height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_cosine_has_its_power_in_the_ring_of_its_frequency() -> None:
    frequency, density = radial_density(wave(4))
    power = density * np.bincount(np.rint(power_spectrum(wave(4))[0] * 16).astype(int).ravel())[:17]
    assert frequency[4] == 0.25
    assert power[4] == pytest.approx(32 * 32 / 2)  # the sum of the squared cosine
    assert np.delete(power, 4) == pytest.approx(np.zeros(16), abs=1e-9)


def test_the_spectrum_has_the_power_of_the_map() -> None:
    features = np.random.default_rng(1).normal(size=(11, 18))
    assert power_spectrum(features)[1].sum() == pytest.approx((features**2).sum())


def test_white_noise_has_the_same_density_in_every_ring() -> None:
    _, density = radial_density(np.random.default_rng(2).normal(size=(256, 256)))
    assert density[40:] == pytest.approx(np.ones(89), abs=0.35)


def test_rings_are_circles_on_maps_that_are_not_square() -> None:
    tall, wide = wave(8), np.tile(np.cos(2 * np.pi * 16 * np.arange(64) / 64), (32, 1))
    assert radial_density(tall)[1].argmax() == radial_density(wide)[1].argmax() == 8


@pytest.mark.parametrize(("periods", "share"), [(3, 0.0), (8, 0.0), (9, 1.0), (16, 1.0)])
def test_the_share_of_high_frequencies_ignores_the_mean_and_the_size_of_a_map(periods: int, share: float) -> None:
    assert high_share(wave(periods)) == pytest.approx(share)
    assert high_share(7 - 5 * wave(periods)) == pytest.approx(share)
    assert high_share(wave(3) + 2 * wave(12)) == pytest.approx(0.8)


def test_the_spectrum_of_a_block_is_independent_of_level_and_size_of_its_values() -> None:
    features = np.random.default_rng(3).normal(size=(16, 24))
    block = BlockFeatures("a", "A", 1, features, 40 + 0.01 * features)
    panel, record = block.panel(), block.to_dict()
    assert panel.after.density[1:] == pytest.approx(panel.before.density[1:])
    assert panel.before.density[1:].mean() == pytest.approx(1, abs=0.2)
    assert block.raised == pytest.approx(1)
    assert record["after"]["deviation"] == pytest.approx(0.01 * record["before"]["deviation"])
    assert record["after"]["density"] == pytest.approx(list(panel.after.density))


def test_a_constant_map_has_no_high_frequencies() -> None:
    assert high_share(np.full((9, 9), 0.1)) == 0
    assert math.isnan(BlockFeatures("a", "A", 1, np.ones((4, 4)), wave(3)).raised)


@pytest.mark.parametrize("form", ["training", "inference"])
def test_the_features_of_fmen_are_those_of_its_blocks_in_both_forms(form: str) -> None:
    torch.manual_seed(0)
    model = create_model("fmen", scale=2, **SIZES).eval()
    pixels = torch.from_numpy(image()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        features = model.warmup[0](model.head(pixels))
        expected = []
        for block in (model.warmup[1], model.ERBs[0], model.HFABs[0], model.ERBs[1], model.HFABs[1]):
            after = block(features.clone())
            expected.append((features, after))
            features = after
    found = block_features(model if form == "training" else reparameterize(model), image())
    assert [block.name for block in found] == ["warmup.1", "ERBs.0", "HFABs.0", "ERBs.1", "HFABs.1"]
    assert [block.title for block in found] == ["HFAB1", "ERB1", "HFAB2", "ERB2", "HFAB3"]
    for block, (before, after) in zip(found, expected, strict=True):
        for side, tensor in ((block.before, before), (block.after, after)):
            assert side == pytest.approx(tensor[0].mean(0).numpy(), abs=1e-3 * float(tensor.abs().max()))


def test_the_features_of_a_network_with_range_1_are_those_of_an_image_in_its_range() -> None:
    bright = block_features(Strange(), np.full((16, 16, 3), 255, np.uint8), ["used"])
    assert bright[0].before == pytest.approx(np.ones((16, 16)))


def test_patterns_choose_modules_by_class_or_name_and_the_outermost_ones() -> None:
    model = create_model("fmen", scale=2, **SIZES)
    assert list(choose_blocks(model, ["HFAB"])) == ["warmup.1", "HFABs.0", "HFABs.1"]
    assert list(choose_blocks(model, ["ERBs.1.*"])) == ["ERBs.1.conv1", "ERBs.1.conv2"]
    assert list(choose_blocks(create_model("rfdn"))) == ["B1", "B2", "B3", "B4"]


class Strange(nn.Module):
    """A network with a block that does not run, and one that takes no tensor."""

    data_range, scale, name = 1.0, 1, "strange"

    class Pair(nn.Module):
        def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
            return x[0] + x[1]

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.pair = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), self.Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.pair((self.used(x), x))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["nothing"], "--layers nothing: no module has this name or class; classes are Conv2d, Pair"),
        (["unused"], "unused does not run"),
        (["Pair"], r"input and output of pair are not \(N, C, H, W\)"),
    ],
)
def test_modules_without_features_are_an_error_of_the_user(patterns: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        block_features(Strange(), image(), patterns)


def test_an_image_that_the_network_cannot_take_is_an_error_of_the_user() -> None:
    network = Strange()
    network.used = nn.Sequential(nn.Conv2d(3, 3, 33))  # type: ignore[assignment]
    with pytest.raises(UserError, match="the network cannot run on 16x12 pixels for its features: "):
        block_features(network, image(), ["used"])


def test_a_network_of_plain_layers_must_be_asked_for_its_modules() -> None:
    with pytest.raises(UserError, match="no blocks of its own; name modules with --layers"):
        choose_blocks(nn.Sequential(nn.Conv2d(3, 3, 1)))
    network = Strange()
    assert block_features(network, image(), ["used"])[0].before.shape == (12, 16)
    assert not any(module._forward_hooks for module in network.modules())
