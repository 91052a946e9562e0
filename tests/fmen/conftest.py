"""Weights that tests of several folders use, and the usual effect of SIGINT."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fmen_core


@pytest.fixture(autouse=True)
def usual_interrupts() -> Iterator[None]:
    """A background job ignores SIGINT; the tests send it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
