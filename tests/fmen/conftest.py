"""Weights that tests of several folders use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fmen_core


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FMEN-S in its training form, with batch statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = fmen_core.create_model("fmen-s").train()
    with torch.no_grad():
        for _ in range(3):
            model(255 * torch.rand(2, 3, 16, 16))
    path = tmp_path_factory.mktemp("weights") / "training.safetensors"
    fmen_core.save(model.eval(), path)
    return path
