"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: on tiny images, networks lose more time to synchronization than they gain from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA GPU"))
