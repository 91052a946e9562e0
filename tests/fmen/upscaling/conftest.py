"""The command ``fmen upscale`` for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app

Command = Callable[..., tuple[str, str]]


@pytest.fixture
def upscale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``fmen upscale`` with the bundled weights in an empty working folder; returns its output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FMEN_DEBUG", raising=False)
    torch.set_num_threads(1)

    def run(*arguments: str | Path, status: int = 0) -> tuple[str, str]:
        result = CliRunner().invoke(app, ["upscale", *map(str, arguments), "--device", "cpu"])
        assert result.exit_code == status, result.output
        return result.stdout, result.stderr

    return run
