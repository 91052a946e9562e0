"""How well parameters, FLOPs and activations predict the runtime of networks: Spearman's rank coefficient.

Source: Zhang et al., "AIM 2020 Challenge on Efficient Super-Resolution: Methods and Results", ECCV Workshops 2020,
which reports the number of activations because it follows the runtime better than FLOPs and parameters do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmen.charts.runtime import draw_runtimes
from fmen.charts.style import save_figure
from fmen.errors import UserError
from fmen.reproduction.bench import benchmarks, command
from fmen.reproduction.result import Experiment, Options, Result, Row

QUANTITIES = {"params": "parameters", "flops": "FLOPs", "activations": "activations"}
"""What is compared with the runtime: keys of ``fmen bench --json``, and their names."""


def ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the rank of each value, 1 for the smallest; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return mean


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation coefficient: that of the ranks; NaN if all values of one side are equal."""
    first, second = ranks(a), ranks(b)
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale else float("nan")


def run(options: Options) -> Result:
    """Compare the networks of ``options.bench``, or those of a benchmark with ``options.runs`` timed runs.

    Raises:
        UserError: A file cannot be used, or has fewer than three networks.
    """
    tables = benchmarks(options)
    if not tables:
        return Result([], ["Name results with --bench FILE.json, or measure the networks with --runs 10."])
    rows, images, findings = [], {}, {}
    for file, table in tables.items():
        name = Path(file or "bench").stem
        if len(table) < 3:
            raise UserError(f"{file}: {len(table)} networks; a correlation needs at least three")
        runtimes, found = [row["runtime_ms"] for row in table], correlations(table)
        rows += [
            Row(name, f"rank correlation of {label} and runtime", rho, digits=3, command=command("correlation", file))
            for label, rho in found.items()
        ]
        findings[name] = verdict(name, table)
        if options.out is not None:
            points = {label: [row[key] for row in table] for key, label in QUANTITIES.items()}
            picture = f"correlation_{name}.svg"
            save_figure(draw_runtimes(runtimes, points, found), options.out / picture)
            caption = f"Runtime of {len(table)} networks by parameters, FLOPs and activations ({name})"
            images[caption] = picture
    return Result(rows, images=images, findings=findings)


def correlations(table: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the rank correlation of each quantity with the runtime, by the quantity's name."""
    runtimes = [row["runtime_ms"] for row in table]
    return {label: spearman([row[key] for row in table], runtimes) for key, label in QUANTITIES.items()}


def verdict(name: str, table: Sequence[dict[str, Any]]) -> str:
    """Say which quantity fits best, how much that depends on single networks, and whether the challenge agrees."""
    found = correlations(table)
    best = max(found, key=lambda label: found[label])
    without_one = [correlations([*table[:place], *table[place + 1 :]]) for place in range(len(table))]
    cases = sum(others[best] == max(others.values()) for others in without_one)
    agrees = "This agrees" if best == "activations" else "This does not agree"
    return (
        f"{name}: among {len(table)} networks, {best} have the highest rank correlation with the runtime, "
        f"{found[best]:.3f}; with one network left out, they have it in {cases} of {len(table)} cases. "
        f"{agrees} with the AIM 2020 report, where activations do. "
        f"Measured on: {table[0].get('conditions', 'unknown')}."
    )


EXPERIMENT = Experiment("correlation", "AIM 2020: which of parameters, FLOPs and activations follows the runtime", run)
