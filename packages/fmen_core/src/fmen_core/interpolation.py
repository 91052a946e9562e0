"""Interpolate between the weights of two networks."""

from __future__ import annotations

from torch import nn

from fmen_core.architecture import copy_of
from fmen_core.errors import ModelError


def interpolate(first: nn.Module, second: nn.Module, share: float) -> nn.Module:
    """Return a network whose tensors are ``(1 - share) * first + share * second``; counters are those of ``first``.

    The result is useful if one network was fine-tuned from the other (Wang et al. 2019, "Deep Network Interpolation").

    Args:
        first: A network.
        second: A network of the same class, scale and sizes.
        share: From 0 (``first``) to 1 (``second``).

    Raises:
        ModelError: The networks differ in a tensor's name or shape, or the share is outside of its range.
    """
    if not 0 <= share <= 1:
        raise ModelError(f"cannot interpolate with the share {share}; give a number from 0 to 1")
    start, end = first.state_dict(), second.state_dict()
    if {key: value.shape for key, value in start.items()} != {key: value.shape for key, value in end.items()}:
        raise ModelError("cannot interpolate between two networks whose tensors differ in name or shape")
    mixed = copy_of(first)
    weights = {key: value for key, value in start.items() if value.is_floating_point()}
    mixed.load_state_dict({**start, **{key: value.lerp(end[key].to(value), share) for key, value in weights.items()}})
    return mixed
