"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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


SMALL: dict[str, dict[str, int]] = {
    "vdsr": {"n_feats": 8, "n_layers": 6},
    "drcn": {"n_feats": 8, "n_recursions": 3},
    "lapsrn": {"n_feats": 8, "depth": 3},
    "drrn": {"n_feats": 8, "n_units": 3},
    "memnet": {"n_feats": 8, "n_blocks": 3, "n_recursions": 2},
    "edsr-baseline": {"n_feats": 16, "n_blocks": 3},
    "idn": {"n_feats": 16, "n_blocks": 2},
    "carn": {"n_feats": 16},
    "msrresnet": {"n_feats": 16, "n_blocks": 3},
    "pan": {"n_blocks": 3},
    "fimdn": {"n_feats": 16},
}
"""Sizes for tests of networks that take seconds at their published sizes, most of which compute at HR size."""


@pytest.fixture(scope="session")
def small() -> Callable[[str], dict[str, int]]:
    """Return the sizes that a network is tested with, by its name; empty for its published sizes."""
    return lambda name: SMALL.get(name, {})


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
