"""Dashboards that show a run's curves and images: TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run

Image = npt.NDArray[np.uint8]

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
"""The Python modules of the dashboards, by their recipe keys. The extra that installs one has the key's name."""


class Board(Protocol):
    """A dashboard."""

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""

    def show(self, name: str, image: Image, step: int) -> None:
        """Add an image ``(H, W, 3)``."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Writes the folder ``tensorboard`` of a run; discards later points of an earlier process, which are repeated."""

    def __init__(self, run: Run, recipe: Recipe, step: int) -> None:
        writer: Any = importlib.import_module(MODULES["tensorboard"]).SummaryWriter
        self.writer = writer(str(run.folder / "tensorboard"), purge_step=step + 1)

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def show(self, name: str, image: Image, step: int) -> None:
        """Add an image ``(H, W, 3)``."""
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class WeightsAndBiases:
    """Logs to the project ``fmen``, under the name of the run's folder, in which the local files and the ID are."""

    def __init__(self, run: Run, recipe: Recipe, step: int) -> None:
        file = run.folder / "wandb-id.txt"
        if not file.exists():
            file.write_text(run.folder.name if step else uuid.uuid4().hex[:8])  # earlier versions took the name
        self.module: Any = importlib.import_module(MODULES["wandb"])
        self.session = self.module.init(
            project="fmen",
            name=run.folder.name,
            dir=str(run.folder),
            config=recipe.model_dump(mode="json"),
            id=file.read_text(),
            resume="allow",
        )

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        self.session.log(dict(values), step=step)

    def show(self, name: str, image: Image, step: int) -> None:
        """Add an image ``(H, W, 3)``."""
        self.session.log({name: self.module.Image(image)}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self.session.finish()


def open_boards(run: Run, recipe: Recipe, step: int) -> list[Board]:
    """Open the dashboards of a recipe for a run that has done ``step`` steps."""
    boards: list[Board] = []
    if recipe.tensorboard:
        boards.append(TensorBoard(run, recipe, step))
    if recipe.wandb:
        boards.append(WeightsAndBiases(run, recipe, step))
    return boards


def missing_boards(recipe: Recipe) -> list[str]:
    """Return the keys of the dashboards that the recipe asks for and that are not installed."""
    missing = []
    for key, module in MODULES.items():
        if getattr(recipe, key):
            try:
                importlib.import_module(module)
            except ImportError:
                missing.append(key)
    return missing
