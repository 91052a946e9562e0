"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published weights and benchmark images: ``FMEN_REFERENCE``, or else ``../shared``."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("FMEN_REFERENCE", root.parent / "shared")).resolve()
    if not (folder / "weights").is_dir():
        pytest.skip(f"no reference material at {folder}: set FMEN_REFERENCE to the folder of weights/ and data/")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``cuda`` where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA GPU"))
