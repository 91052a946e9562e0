"""Networks between two networks."""

from __future__ import annotations

import pytest
import torch

from fmen_core import ModelError, create_model
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


def test_different_networks_and_shares_out_of_range_are_refused() -> None:
    first, second = create_model("fmen-s", scale=4), create_model("fmen-s", scale=2)
    with pytest.raises(ModelError, match="whose tensors differ in name or shape"):
        interpolate(first, second, 0.5)
    with pytest.raises(ModelError, match=r"the share 1\.1; give a number from 0 to 1"):
        interpolate(first, first, 1.1)
