"""What the rest of the software needs to know about a network: how to build it and how to recognise its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fmen_core.errors import ModelError

StateDict = Mapping[str, Tensor]
"""Tensors by parameter name, as ``nn.Module.state_dict`` gives them."""


@dataclass(frozen=True)
class Architecture:
    """One family of networks in one form.

    Every module that ``build`` returns maps RGB ``(N, 3, H, W)`` in ``[0, data_range]`` to ``(N, 3, scale*H, scale*W)``
    in the same range, and carries the attributes ``name: str``, ``scale: int`` and ``data_range: float``.

    Attributes:
        name: What ``create_model`` takes, e.g. ``"imdn-baseline"``.
        title: How tables print it, e.g. ``"IMDN (baseline)"``.
        source: The publication and the team, in a few words.
        data_range: The value that stands for white at the network's input and output: 1.0 or 255.0.
        scales: The scales that the network is defined for.
        build: ``build(scale=4, **sizes)`` returns a freshly initialised network.
        detect: Given a state dict in this architecture's own key names, the arguments of ``build`` that reproduce it,
            or None if the dict belongs to another network. It looks at key names and shapes alone.
    """

    name: str
    title: str
    source: str
    data_range: float
    scales: tuple[int, ...]
    build: Callable[..., nn.Module]
    detect: Callable[[StateDict], dict[str, Any] | None]


def scale_and_range(model: nn.Module) -> tuple[int, float]:
    """The ``scale`` and the ``data_range`` that every network of this package carries.

    Raises:
        ModelError: The module carries none.
    """
    scale, data_range = getattr(model, "scale", None), getattr(model, "data_range", None)
    if not isinstance(scale, int) or not isinstance(data_range, float):
        raise ModelError(f"{type(model).__name__} needs the attributes scale (an int) and data_range (1.0 or 255.0)")
    return scale, data_range
