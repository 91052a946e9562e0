"""Read what a report shows: the JSON of ``fmen validate`` and ``fmen bench``, and the folder of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from fmen.errors import UserError
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen_eval import Protocol

T = TypeVar("T")

Decibels = Annotated[float, BeforeValidator(lambda value: math.inf if value is None else value)]
"""A PSNR. JSON has no infinity: null is the PSNR of identical images."""


class ReportError(UserError):
    """The input of a report cannot be used; the message is one line with the file and what to do."""


class Means(BaseModel):
    """Mean PSNR in dB and SSIM."""

    psnr: Decibels
    ssim: float | None


class ImageRow(Means):
    """One image of a validation."""

    name: str


class ValidationRow(BaseModel):
    """A dataset in a file of ``fmen validate --json``; one row of the report's table."""

    model: str
    weights: str
    protocol: Protocol
    scale: int
    mean: Means
    images: list[ImageRow] = Field(min_length=1)
    dataset: str = ""


class BenchRow(BaseModel):
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


class LogRow(BaseModel):
    """A line of ``metrics.jsonl``, which has a loss, PSNRs in dB, or both; its other values are not shown."""

    model_config = ConfigDict(extra="allow")

    step: int
    seconds: float = 0.0
    loss: float | None = None
    lr: float | None = None
    psnr: float | None = None

    @property
    def further(self) -> dict[str, float]:
        """The PSNRs besides the first, by ``psnr/SET/PROTOCOL``; infinite ones are left out."""
        extra = self.model_extra or {}
        return {name: value for name, value in extra.items() if name.startswith("psnr/") and math.isfinite(value)}


def read_validation(file: Path) -> list[ValidationRow]:
    """Read a file of ``fmen validate --json``: one dataset, or a list of them.

    Raises:
        ReportError: The file has another content.
        OSError: The file cannot be read.
    """
    content, blame = _parse(file), f"{file}: not written by 'fmen validate --json'"
    if isinstance(content, list) and content:
        return _checked(TypeAdapter(list[ValidationRow]), content, blame)
    return [_checked(TypeAdapter(ValidationRow), content, blame)]


def read_bench(file: Path) -> list[BenchRow]:
    """Read a file of ``fmen bench --json``.

    Raises:
        ReportError: The file has another content, or no rows.
        OSError: The file cannot be read.
    """
    rows = _checked(TypeAdapter(list[BenchRow]), _parse(file), f"{file}: not written by 'fmen bench --json'")
    if not rows:
        raise ReportError(f"{file}: no networks in it; write it again with 'fmen bench --json'")
    return rows


def read_metrics(run: Run) -> list[LogRow]:
    """Read the lines of a run's ``metrics.jsonl``, sorted by step.

    Raises:
        ReportError: The file is missing or empty, or a line has another content.
    """
    records = run.records()
    if not records:
        raise ReportError(f"{run.folder}: no run to report on (nothing in {run.metrics.name} there)")
    lines = _checked(TypeAdapter(list[LogRow]), records, f"{run.metrics}: not written by 'fmen train'")
    return sorted(lines, key=lambda line: line.step)


def read_recipe(run: Run) -> Recipe | None:
    """Read a run's recipe; None if the folder has ``metrics.jsonl`` alone."""
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
