"""A small network, and the command ``fmen upscale``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen_core import FMENTraining

Command = Callable[..., tuple[str, str]]


@pytest.fixture(scope="session")
def network() -> FMENTraining:
    """A small x2 network that returns something like its input enlarged."""
    torch.manual_seed(0)
    model = FMENTraining(scale=2, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
    with torch.no_grad():
        model.head.weight.zero_()
        model.lr_conv.weight.zero_()
        model.lr_conv.bias.zero_()
        model.tail[0].weight.zero_()
        for channel in range(3):
            model.head.weight[channel, channel, 1, 1] = 1.0
            model.tail[0].weight[4 * channel : 4 * channel + 4, channel, 1, 1] = 1.0
        model.head.bias.zero_()
        model.tail[0].bias.zero_()
    return model


@pytest.fixture
def upscale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``fmen upscale`` with the bundled weights in an empty working folder; returns its output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FMEN_DEBUG", raising=False)

    def run(*arguments: str | Path, status: int = 0) -> tuple[str, str]:
        result = CliRunner().invoke(app, ["upscale", *map(str, arguments), "--device", "cpu"])
        assert result.exit_code == status, result.output
        return result.stdout, result.stderr

    return run
