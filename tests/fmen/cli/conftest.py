"""Fixtures that several tests of commands use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fmen_data import imresize, write_image


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with two photographs in ``photos/``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FMEN_DEBUG", raising=False)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("one", "two"):
        write_image(tmp_path / "photos" / f"{name}.png", imresize(rng.integers(0, 256, (6, 8, 3), np.uint8), 8))
    return tmp_path
