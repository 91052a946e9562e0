"""What a report reads: the JSON that ``fmen validate`` and ``fmen bench`` wrote, and the folder of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from fmen.errors import UserError
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run

T = TypeVar("T")


class ReportError(UserError):
    """What a report is to be made from is at fault; the message is one line with the file and the remedy."""


class Means(BaseModel):
    """The means over a dataset."""

    psnr: float
    ssim: float | None


class MeasuredImage(Means):
    """One image of a validation."""

    name: str


class Validated(BaseModel):
    """A file of ``fmen validate --json``."""

    model: str
    weights: str
    protocol: str
    scale: int
    mean: Means
    images: list[MeasuredImage] = Field(min_length=1)


class Benched(BaseModel):
    """A row of a file of ``fmen bench --json``."""

    model: str
    params: int = Field(gt=0)
    flops: int = Field(ge=0)
    activations: int = Field(ge=0)
    convs: int = Field(ge=0)
    runtime_ms: float = Field(gt=0)
    peak_memory_bytes: int = Field(ge=0)
    psnr: float | None = None
    dataset: str = ""
    score: float | None = None
    conditions: str = ""


class Logged(BaseModel):
    """A line of ``metrics.jsonl``; a line has a loss, a PSNR in dB, or both."""

    step: int
    seconds: float = 0.0
    loss: float | None = None
    psnr: float | None = None


def read_validation(file: Path) -> Validated:
    """Read what ``fmen validate --json`` wrote.

    Raises:
        ReportError: It is something else.
        OSError: It cannot be read.
    """
    return _checked(TypeAdapter(Validated), _parse(file), f"{file}: not written by 'fmen validate --json'")


def read_bench(file: Path) -> list[Benched]:
    """Read what ``fmen bench --json`` wrote.

    Raises:
        ReportError: It is something else, or has no rows.
        OSError: It cannot be read.
    """
    rows = _checked(TypeAdapter(list[Benched]), _parse(file), f"{file}: not written by 'fmen bench --json'")
    if not rows:
        raise ReportError(f"{file}: holds no networks; write it again with 'fmen bench --json'")
    return rows


def read_metrics(run: Run) -> list[Logged]:
    """The lines of a run's ``metrics.jsonl``, by step.

    Raises:
        ReportError: There are none, or one is no such line.
    """
    records = run.records()
    if not records:
        raise ReportError(f"{run.folder}: no run to report on (nothing in {run.metrics.name} there)")
    lines = _checked(TypeAdapter(list[Logged]), records, f"{run.metrics}: not written by 'fmen train'")
    return sorted(lines, key=lambda line: line.step)


def read_recipe(run: Run) -> Recipe | None:
    """A run's recipe; None where the folder holds the curve alone."""
    return run.recipe() if run.recipe_file.is_file() else None


def _parse(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON or bad UTF-8
        raise ReportError(f"{file}: not a JSON file ({error})") from None


def _checked(adapter: TypeAdapter[T], content: Any, blame: str) -> T:
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ReportError(f"{blame} ({place + ': ' if place else ''}{first['msg'].lower()})") from None
