"""The experiments by name, and the files that their results are stored in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fmen.errors import UserError
from fmen.json_file import write_json
from fmen.reproduction import ablations, accuracy, blocks, correlation, memory, spectra, table1, table2, table3, table4
from fmen.reproduction.result import Experiment, Options, Result, merged
from fmen_data.atomic import atomic_write_bytes

EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        table1.EXPERIMENT,
        table2.EXPERIMENT,
        table3.EXPERIMENT,
        accuracy.EXPERIMENT,
        table4.EXPERIMENT,
        *spectra.EXPERIMENTS,
        memory.EXPERIMENT,
        ablations.EXPERIMENT,
        blocks.EXPERIMENT,
        correlation.EXPERIMENT,
    )
}
"""All experiments, in the order of the page."""


ALIASES = {"figure1": "table4", "figure5": "table1"}
"""Other names of experiments."""


def chosen(name: str) -> list[Experiment]:
    """Return the experiment with this name, or all for ``"all"``.

    Raises:
        UserError: There is none.
    """
    if name == "all":
        return list(EXPERIMENTS.values())
    name = ALIASES.get(name, name)
    if name not in EXPERIMENTS:
        raise UserError(f"no experiment is called {name!r}; choose one of {', '.join(EXPERIMENTS)}, or all")
    return [EXPERIMENTS[name]]


def reproduce(experiment: Experiment, options: Options, command: str) -> Result:
    """Run an experiment, and store its result in ``options.out``, if it is given.

    Rows, findings and images of an earlier result that this run does not make are kept in the file, so that times and
    trained networks need not be measured together.

    Args:
        experiment: The experiment.
        options: Its options.
        command: The command line, for the rows.

    Raises:
        UserError: The file of the earlier result is not a result.
        OSError: The file cannot be written.
    """
    result = experiment.run(options)
    result = replace(result, rows=[replace(row, command=row.command or command) for row in result.rows])
    if options.out is not None and result.rows:
        file = options.out / f"{experiment.name}.json"
        stored = merged(result, read_result(file)) if file.exists() else result
        write_json(file, {"name": experiment.name, "title": experiment.title, **stored.to_dict()})
    return result


def read_result(file: Path) -> Result:
    """Read a result that :func:`reproduce` stored.

    Raises:
        UserError: It is not a result.
    """
    try:
        return Result.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a result of fmen reproduce; remove it, or choose another --out") from error


def write_page(page: Path, out: Path) -> None:
    """Write a Markdown page with all results in a folder, in the order of :data:`EXPERIMENTS`.

    Raises:
        UserError: The folder has no results, or a file is not a result.
        OSError: The page cannot be written.
    """
    files = {name: out / f"{name}.json" for name in EXPERIMENTS if (out / f"{name}.json").is_file()}
    if not files:
        raise UserError(f"{out}: no results; make them with: fmen reproduce all --out {out}")
    folder = Path(os.path.relpath(out, page.parent)).as_posix()
    sections = [INTRODUCTION.strip()]
    for name, file in files.items():
        sections.append(f"## {EXPERIMENTS[name].title}\n\n{read_result(file).markdown(folder)}")
    atomic_write_bytes(page, ("\n\n".join(sections) + "\n").encode())


INTRODUCTION = """# Reproduction

The tables and figures of the FMEN paper (Du et al., "Fast and Memory-Efficient Network Towards Efficient Image
Super-Resolution", CVPR Workshops 2022), reproduced by `fmen reproduce`. The column "difference" is the
measured value minus the published one, rounded to the published digits. Papers round or truncate; both count as equal.
The column "seconds" is the time of computing the row.

Parameters and multiply-adds follow from the architecture. Networks that are trained here are trained for some hundred
steps on a CPU, as the command says. That is not what they reach in the paper's training on GPUs.

The page is made from the JSON files of the results:
`fmen reproduce --out results/reproduction --page docs/reproduction.md`.
"""
