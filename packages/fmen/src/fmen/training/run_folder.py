"""The folder of a training run: what lies in it, and how it is found again.

| file | what it is |
|---|---|
| ``recipe.yaml`` | the resolved recipe, every key written out |
| ``versions.json`` | the software and the machine that started the run |
| ``metrics.jsonl`` | one JSON object per line: ``step``, ``seconds``, ``loss``, ``lr``, ``psnr`` and more |
| ``best.safetensors`` | the weights with the best validation PSNR, training form |
| ``last.safetensors`` | the weights of the last checkpoint, training form |
| ``resume.pt`` | everything that continuing needs: network, optimizer, average, scaler, step |
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fmen.errors import UserError
from fmen.training.recipe import Recipe, dump_recipe, load_recipe, make_recipe
from fmen_data.atomic import atomic_write_bytes

RUNS = Path("runs")
"""Where runs go unless ``--out`` says otherwise, and where the newest one is looked for."""

RESUMABLE = ("steps", "val_every", "save_every", "log_every", "val_data", "val_protocol", "tensorboard")
"""Keys that a resumed run may change: how far it goes, and what it reports on the way."""

PACKAGES = ("fmen", "fmen-core", "fmen-data", "fmen-eval", "torch", "numpy", "opencv-python-headless", "h5py")


class RunError(UserError):
    """There is no run, or already one; the message is one line and names the remedy."""


class Run:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_file = folder / "recipe.yaml"
        self.versions = folder / "versions.json"
        self.metrics = folder / "metrics.jsonl"
        self.best = folder / "best.safetensors"
        self.last = folder / "last.safetensors"
        self.resume = folder / "resume.pt"

    @property
    def weights(self) -> Path:
        """The best weights, or the last ones of a run that does not validate."""
        return self.best if self.best.is_file() else self.last

    def begin(self, recipe: Recipe, machine: Mapping[str, object], resumed_from: int | None = None) -> None:
        """Write down what is going to happen.

        Args:
            recipe: What the run follows from now on.
            machine: Entries for ``versions.json``.
            resumed_from: The checkpoint's step; the lines of ``metrics.jsonl`` behind it are going to be written again.

        """
        if resumed_from is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(self.versions, (json.dumps(versions() | dict(machine), indent=2) + "\n").encode())
        else:
            kept = [json.dumps(record) + "\n" for record in self.records() if record["step"] <= resumed_from]
            atomic_write_bytes(self.metrics, "".join(kept).encode())
        atomic_write_bytes(self.recipe_file, dump_recipe(recipe).encode())

    def require_new(self) -> None:
        """Raise RunError if there is a run in the folder."""
        if self.recipe_file.exists():
            raise RunError(f"{self.folder}: holds a run; continue it with --resume, or name another folder with --out")

    def recipe(self) -> Recipe:
        """The recipe that the run follows.

        Raises:
            RunError: There is no run in the folder.
        """
        if not self.recipe_file.is_file():
            raise RunError(f"{self.folder}: no run to resume (no {self.recipe_file.name} there)")
        return load_recipe(self.recipe_file)

    def log(self, record: Mapping[str, object]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; one that a full disk or a power cut broke off is left out."""
        records = []
        if self.metrics.is_file():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                try:
                    records.append(json.loads(line))
                except json.JSONDecodeError:
                    continue
        return records


def new_run(recipe: Recipe, root: Path = RUNS) -> Run:
    """The first free folder among ``fmen-s_x4_quick``, ``fmen-s_x4_quick-2``, and so on."""
    name = f"{recipe.network}_x{recipe.scale}_{recipe.name}"
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return Run(folder)


def newest_run(root: Path = RUNS) -> Run:
    """The run that wrote a checkpoint last.

    Raises:
        RunError: There is none.
    """
    found = _newest(root, "resume.pt")
    if found is None:
        raise RunError(f"no run under {root}/ to resume: start one with 'fmen train', or name its folder with --out")
    return Run(found)


def resumed_recipe(run: Run, overrides: Mapping[str, object]) -> Recipe:
    """The recipe of a run that goes on: its own, save for the keys that change no step of it.

    Raises:
        RunError: Another key is given a value that differs from the run's.
    """
    recipe = run.recipe()
    wanted = make_recipe(recipe.model_dump() | dict(overrides), source="--resume")
    for key in overrides:
        if key not in RESUMABLE and getattr(wanted, key) != getattr(recipe, key):
            raise RunError(
                f"{run.folder}: its {key} is {getattr(recipe, key)!r} and cannot change on the way; "
                f"leave it out, or start a new run ({', '.join(RESUMABLE)} may change)"
            )
    return wanted


def newest_weights(root: Path = RUNS) -> Path:
    """The best weights of the run that last found better ones.

    Raises:
        RunError: There are none.
    """
    found = _newest(root, "best.safetensors") or _newest(root, "last.safetensors")
    if found is None:
        raise RunError(f"no trained weights under {root}/: train with 'fmen train', or name a file with --weights")
    return Run(found).weights


def versions() -> dict[str, object]:
    """The versions of Python and of the packages that decide a result, and the machine."""
    found: dict[str, object] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}


def _newest(root: Path, file: str) -> Path | None:
    files = sorted(root.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
    return files[-1].parent if files else None
