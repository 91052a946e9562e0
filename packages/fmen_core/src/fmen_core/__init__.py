"""Networks for efficient super-resolution: FMEN in both of its forms, its competitors, and their weights files."""

from __future__ import annotations

from fmen_core.architecture import Architecture, SRModel
from fmen_core.checkpoint import WeightsError, load, read_metadata, read_weights, save
from fmen_core.errors import ModelError
from fmen_core.fmen_deploy import FMEN
from fmen_core.models import create_model, model_names
from fmen_core.models.fmen import FMENTraining
from fmen_core.pretrained import download_weights, find_weights, fmen_full, fmen_s
from fmen_core.pruning import prune
from fmen_core.reparam import expand, reparameterize
from fmen_core.upscaler import Upscaler

__version__ = "0.1.0"

__all__ = [
    "FMEN",
    "Architecture",
    "FMENTraining",
    "ModelError",
    "SRModel",
    "Upscaler",
    "WeightsError",
    "create_model",
    "download_weights",
    "expand",
    "find_weights",
    "fmen_full",
    "fmen_s",
    "load",
    "model_names",
    "prune",
    "read_metadata",
    "read_weights",
    "reparameterize",
    "save",
]
