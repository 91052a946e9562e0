"""Networks for efficient super-resolution: FMEN in both of its forms, its competitors, and their weights files."""

from __future__ import annotations

from typing import Any

from torch import nn

from fmen_core.architecture import Architecture
from fmen_core.checkpoint import WeightsError, load, read_metadata, read_weights, save
from fmen_core.errors import ModelError
from fmen_core.fmen_deploy import VARIANTS
from fmen_core.models import ARCHITECTURES
from fmen_core.models.fmen import FMEN
from fmen_core.pretrained import find_weights, fmen_full, fmen_s
from fmen_core.reparam import reparameterize
from fmen_core.upscaler import Upscaler

__version__ = "0.1.0"

__all__ = [
    "FMEN",
    "Architecture",
    "ModelError",
    "Upscaler",
    "WeightsError",
    "create_model",
    "find_weights",
    "fmen_full",
    "fmen_s",
    "load",
    "model_names",
    "read_metadata",
    "read_weights",
    "reparameterize",
    "save",
]


def model_names() -> tuple[str, ...]:
    """The names that ``create_model`` takes: FMEN's variants first."""
    return (*VARIANTS, *(architecture.name for architecture in ARCHITECTURES))


def create_model(name: str, scale: int = 4, **sizes: Any) -> nn.Module:
    """A freshly initialised network: FMEN in its training form, every other one in its published form.

    Args:
        name: One of ``model_names()``.
        scale: Upscaling factor.
        sizes: Sizes that differ from the published ones, by the names of the network's constructor.

    Raises:
        ModelError: No such network, or the network is not defined for this scale.
    """
    scales: tuple[int, ...] = (2, 3, 4)
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            scales = architecture.scales
    if name not in model_names():
        raise ModelError(f"no network is called {name!r}; choose one of {', '.join(model_names())}")
    if scale not in scales:
        raise ModelError(f"{name} is not defined for scale {scale}; choose one of {', '.join(map(str, scales))}")
    if name in VARIANTS:
        return FMEN(scale=scale, **{**VARIANTS[name], **sizes})
    build = next(architecture.build for architecture in ARCHITECTURES if architecture.name == name)
    return build(scale=scale, **sizes)
