"""The folder of a training run.

| file | content |
|---|---|
| ``recipe.yaml`` | the resolved recipe, with every key |
| ``versions.json`` | the software and the machine on which the run started, and the checksums of its teachers |
| ``metrics.jsonl`` | one JSON object per line: ``step``, ``seconds``, ``loss``, ``lr``, ``psnr`` and more |
| ``best.safetensors`` | the weights with the best validation PSNR, training form |
| ``last.safetensors`` | the weights of the last checkpoint, training form |
| ``resume.pt`` | the newest checkpoint: network, optimizer, average, scaler, step |
| ``wandb-id.txt`` | the ID of the run at Weights & Biases, if it is logged there |
| ``resume-1.pt`` | the checkpoint before, then ``resume-2.pt``; as many as ``keep_checkpoints`` says |
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fmen.sources.runs import BEST, LAST, RUNS, RunError, newest_folders
from fmen.training.recipe import Recipe, current_keys, dump_recipe, load_recipe, make_recipe
from fmen.training.schedule import cosine_length
from fmen_data.atomic import atomic_write_bytes, make_folder
from fmen_data.datasets import parse_source

RESUMABLE = (
    "steps",
    "schedule_steps",
    "threads",
    "feed",
    "val_every",
    "save_every",
    "keep_checkpoints",
    "log_every",
    "val_data",
    "val_protocol",
    "tensorboard",
)
"""Keys that a resumed run may change. ``steps`` alone leaves the learning rate of every step unchanged; ``threads``
changes the last bits of the results."""

PACKAGES = (
    "fmen",
    "fmen-core",
    "fmen-data",
    "fmen-eval",
    "torch",
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "h5py",
)


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_file = folder / "recipe.yaml"
        self.versions = folder / "versions.json"
        self.metrics = folder / "metrics.jsonl"
        self.best = folder / BEST
        self.last = folder / LAST
        self.resume = self.checkpoint(0)

    @property
    def weights(self) -> Path:
        """The file of the best weights, or of the last weights of a run that does not validate."""
        return self.best if self.best.is_file() else self.last

    def checkpoint(self, age: int) -> Path:
        """Return the path of a checkpoint; the newest has the age 0, the one before 1."""
        return self.folder / (f"resume-{age}.pt" if age else "resume.pt")

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints, newest first. A crash while one is saved can leave a gap in their numbers."""
        found = [path for path in self.folder.glob("resume-*.pt") if path.stem.removeprefix("resume-").isdecimal()]
        older = sorted(found, key=lambda path: int(path.stem.removeprefix("resume-")))
        return [path for path in (self.resume, *older) if path.is_file()]

    def begin(self, recipe: Recipe, machine: Mapping[str, object], resumed_from: int | None = None) -> None:
        """Write the recipe, and the versions of a new run, which takes the folder.

        Args:
            recipe: The resolved recipe.
            machine: Entries for ``versions.json``.
            resumed_from: The checkpoint's step. Later lines of ``metrics.jsonl`` are removed, as the run repeats them.

        Raises:
            RunError: Another process has begun a run in the folder since ``require_new``.
        """
        if resumed_from is None:
            make_folder(self.folder)
            try:
                self.recipe_file.touch(exist_ok=False)
            except FileExistsError:
                self.require_new()
            atomic_write_bytes(self.versions, (json.dumps(versions() | dict(machine), indent=2) + "\n").encode())
        else:
            lines = [json.dumps(record) + "\n" for record in self.records() if step_of(record) <= resumed_from]
            atomic_write_bytes(self.metrics, "".join(lines).encode())
        atomic_write_bytes(self.recipe_file, dump_recipe(recipe).encode())

    def require_new(self) -> None:
        """Raise RunError if there is a run in the folder, or weights that a run would overwrite."""
        if self.recipe_file.exists():
            raise RunError(f"{self.folder}: contains a run; continue it with --resume, or choose another --out")
        for file in (self.best, self.last):
            if file.exists():
                raise RunError(f"{file}: would be overwritten; choose another --out")

    def require_teachers(self, checksums: Mapping[str, str]) -> None:
        """Raise RunError if the weights file of a teacher is not the one that the run started with.

        Args:
            checksums: SHA-256 by the teacher's name in the recipe. Runs of earlier versions recorded none.
        """
        try:
            known = bool(checksums) and self.versions.is_file()
            facts = json.loads(self.versions.read_text(encoding="utf-8")) if known else {}
        except ValueError:
            raise RunError(f"{self.versions}: damaged; remove it, and the teachers are not compared") from None
        for name, checksum in checksums.items():
            if facts.get("teachers", {}).get(name, checksum) != checksum:
                raise RunError(
                    f"{self.folder}: the weights file of its teacher {name} has changed since the run started; "
                    "restore the file, or start a new run with another --out"
                )

    def clear(self) -> None:
        """Remove the files of a run that was killed before its first checkpoint.

        Raises:
            RunError: There are weights, which are written after the first checkpoint.
        """
        if self.last.exists():
            raise RunError(
                f"{self.folder}: has weights but no checkpoint; choose another --out, or remove {self.last.name}"
            )
        for file in (self.recipe_file, self.metrics, self.folder / "wandb-id.txt"):
            file.unlink(missing_ok=True)

    def recipe(self) -> Recipe:
        """Return the run's recipe.

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

    def records(self) -> list[Any]:
        """Return the lines of ``metrics.jsonl``, without those that a full disk or a power failure damaged."""
        records: list[Any] = []
        if self.metrics.is_file():
            for line in self.metrics.read_bytes().splitlines():
                try:
                    records.append(json.loads(line))
                except ValueError:
                    continue
        return records


def step_of(record: Any) -> float:
    """Return the step of a line of ``metrics.jsonl``; infinity if the line is damaged."""
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else math.inf


def new_run(recipe: Recipe, root: Path = RUNS) -> Run:
    """Return the first free folder among ``fmen-s_x4_quick``, ``fmen-s_x4_quick-2``, and so on."""
    name = run_name(recipe)
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return Run(folder)


def run_name(recipe: Recipe) -> str:
    """Return the name of a run's folder."""
    return f"{recipe.network}_x{recipe.scale}_{recipe.name}"


def newest_run(root: Path = RUNS) -> Run:
    """Return the run with the newest checkpoint.

    Raises:
        RunError: There is no run.
    """
    found = newest_folders(root, "resume.pt", "resume-1.pt")
    if not found:
        raise RunError(f"no run under {root}/ to resume: start one with 'fmen train', or name its folder with --out")
    return Run(found[0])


def resumed_recipe(run: Run, overrides: Mapping[str, object]) -> Recipe:
    """Return the recipe of a run that continues: its own, with new values of the keys in ``RESUMABLE``.

    Raises:
        RunError: Another key has a value that differs from the run's, or its data is missing.
        RecipeError: A key or value is at fault.
    """
    recipe = run.recipe()
    for name in recipe.datasets:
        source = parse_source(name)
        folders = [Path(folder) for folder in (source if isinstance(source, tuple) else (source,))]
        if name != "sample" and not all(folder.exists() for folder in folders):
            where = "" if all(map(Path.is_absolute, folders)) else "; resume in the folder where the run began"
            raise RunError(f"{run.recipe_file}: its data {name!r} does not exist{where}")
    recipe = recipe.model_copy(update={"schedule_steps": cosine_length(recipe)})
    overrides = current_keys(overrides, source="--resume")
    # The run's recipe has what "auto" was at its start.
    overrides = {key: value for key, value in overrides.items() if value != "auto" or key == "feed"}
    wanted = make_recipe(recipe.model_dump() | dict(overrides), source="--resume")
    for key in (key.partition(".")[0] for key in overrides):
        moved = key == "model" and wanted.network == recipe.network  # the user's file has another path now
        if key not in RESUMABLE and getattr(wanted, key) != getattr(recipe, key) and not moved:
            raise RunError(
                f"{run.folder}: its {key} is {getattr(recipe, key)!r} and cannot change; "
                f"leave it out, or start a new run ({', '.join(RESUMABLE)} may change)"
            )
    return wanted


def versions() -> dict[str, object]:
    """Return the versions of Python and of the packages that affect a result, and the machine."""
    found: dict[str, object] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
