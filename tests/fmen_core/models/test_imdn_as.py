"""IMDN-AS: its parameters, its published key names, images of any size, and a scale that its weights do not show."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fmen_core import create_model, load, save
from fmen_core.models.imdn_as import IMDNAS, part_length


@pytest.fixture(scope="module")
def network() -> IMDNAS:
    """IMDN-AS with 16 channels, for images of their final size."""
    torch.manual_seed(0)
    return IMDNAS(1, n_feats=16).double().eval()


@torch.no_grad()
def enhanced(network: IMDNAS, image: Tensor) -> Tensor:
    out = network(image)
    assert isinstance(out, Tensor)
    return out


def test_it_has_the_parameters_and_the_key_names_of_the_authors_network() -> None:
    """Those of IMDN x4 and a second convolution at the input, 64 x 64 x 9 + 64; no buffers."""
    state, imdn = (create_model(name, 4).state_dict() for name in ("imdn-as", "imdn"))
    assert sum(value.numel() for value in state.values()) == 715_176 + 36_928
    heads = {f"fea_conv.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert state.keys() == {key for key in imdn if not key.startswith("fea_conv")} | heads


def test_sides_that_are_multiples_of_four_are_not_cut(network: IMDNAS) -> None:
    image = torch.rand(2, 3, 72, 84, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(enhanced(network, image), network.enhance(image))


@pytest.mark.parametrize(("height", "width"), [(71, 84), (72, 83), (90, 201)])
def test_other_images_are_put_together_from_their_four_corners(network: IMDNAS, height: int, width: int) -> None:
    """The authors' parts: half of each side and 32 pixels, rounded down to a multiple of four."""
    image = torch.rand(1, 3, height, width, dtype=torch.float64)
    out = enhanced(network, image)
    assert out.shape == image.shape
    rows, columns = (min((side // 2 + 32) // 4 * 4, side // 4 * 4) for side in (height, width))
    with torch.no_grad():
        for vertical in (slice(0, rows), slice(height - rows, height)):
            for horizontal in (slice(0, columns), slice(width - columns, width)):
                part = torch.zeros_like(image)
                part[..., vertical, horizontal] = network.enhance(image[..., vertical, horizontal])
                top = slice(0, height // 2) if vertical.start == 0 else slice(height // 2, height)
                left = slice(0, width // 2) if horizontal.start == 0 else slice(width // 2, width)
                assert torch.allclose(out[..., top, left], part[..., top, left], rtol=0, atol=1e-12)


def test_images_of_every_small_size_are_enhanced(network: IMDNAS) -> None:
    for height in range(1, 10):
        for width in (1, 3, 6):
            assert enhanced(network, torch.rand(1, 3, height, width, dtype=torch.float64)).shape[2:] == (height, width)


def test_a_part_has_at_least_half_of_a_side_and_not_more_than_the_side() -> None:
    for length in range(4, 200):
        assert part_length(length) % 4 == 0 and length - length // 2 <= part_length(length) <= length


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_scale_is_read_from_the_metadata_of_the_weights(network: IMDNAS, scale: int, tmp_path: Path) -> None:
    save(network.at_scale(scale), tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors")
    assert (loaded.scale, loaded.sizes) == (scale, {"n_feats": 16})
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert load(tmp_path / "w.pth").scale == 4


def test_at_another_scale_the_image_is_enlarged_first(network: IMDNAS) -> None:
    image = torch.rand(1, 3, 10, 9, dtype=torch.float64)
    three = network.at_scale(3)
    assert torch.equal(enhanced(three, image), enhanced(network, three.bicubic(image)))
