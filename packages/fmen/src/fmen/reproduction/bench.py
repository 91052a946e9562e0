"""The networks of a benchmark: from files of ``fmen bench --json``, or measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmen.errors import UserError
from fmen.reproduction.result import Options

COUNTS = ("params", "flops", "activations", "convs")
"""What follows from the architecture, as ``fmen bench --json`` names it."""

MEASURED = ("runtime_ms", "peak_memory_bytes")
"""What is measured."""


def read_bench(file: Path) -> list[dict[str, Any]]:
    """Read the networks of a file of ``fmen bench --json``.

    Raises:
        UserError: The file has another content.
        OSError: The file cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = [{**row, **{key: float(row[key]) for key in (*COUNTS, *MEASURED)}} for row in content]
        named = bool(rows) and all(isinstance(row["model"], str) for row in rows)
    except (ValueError, KeyError, TypeError):
        named = False
    if not named:
        raise UserError(f"{file}: not written by 'fmen bench --json'")
    return rows


def benchmarks(options: Options, names: Sequence[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each of ``options.bench`` by its file, or those of a new benchmark by ``""``.

    Args:
        options: With neither ``bench`` nor ``runs``, there is no benchmark.
        names: The networks to measure; None for those that ``fmen bench`` measures by default.

    Raises:
        UserError: A file has another content.
    """
    if options.bench or not options.runs:
        return {str(file): read_bench(file) for file in options.bench}
    from fmen.benchmark.models import choose_models
    from fmen.benchmark.run import run_bench

    models = choose_models(names)
    return {"": run_bench(models, device=options.device, runs=options.runs, progress=options.progress).to_dicts()}


def command(name: str, file: str) -> str:
    """Return the command that makes the rows from a file; empty for a new benchmark."""
    return f"fmen reproduce {name} --bench {file}" if file else ""
