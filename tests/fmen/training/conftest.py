"""Images, a small network and recipes of a few steps for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fmen.training.recipe import Recipe, make_recipe
from fmen_data import write_image


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of 48x64 and 64x48 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, height, width in (("one", 48, 64), ("two", 64, 48)):
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        write_image(
            folder / f"{name}.png", coarse[np.ix_(np.arange(height) * 4 // height, np.arange(width) * 4 // width)]
        )
    return folder


@pytest.fixture
def recipe_of(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Recipe]:
    """Make a recipe of six steps with FMEN-S, with other keys as given."""
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    fixed = {"data": (str(photos),), "patch": 8, "batch": 2, "steps": 6, "device": "cpu", "log_every": 2}

    def make(**keys: object) -> Recipe:
        return make_recipe({**fixed, "learning_rate": 1e-3, **keys})

    return make


@pytest.fixture
def tiny(recipe_of: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """Make such a recipe with an FMEN of 8 channels instead of FMEN-S."""
    small = {"n_feats": 8, "mid_feats": 6, "down_blocks": 1, "up_blocks": [1, 1]}
    return partial(recipe_of, model_args=small)
