"""Check an unpacked package: its files, its network, and its declared figures against measured ones.

The package's code runs in a separate process (``probe``), which cannot import this project's packages and has a time
limit.
"""

from __future__ import annotations

import ast
import importlib
import json
import math
import os
import re
import subprocess
from pathlib import Path

import torch

from fmen.submission.check import probe
from fmen.submission.check.findings import Finding, abbreviate, psnr_findings
from fmen.submission.check.observations import read_observations, read_sr
from fmen.submission.images import SplitImages, open_images
from fmen.submission.metrics import Metrics, require_fvcore
from fmen.submission.rules import DEFAULT, LAYOUTS, SCALE, Layout
from fmen.submission.sandbox import PROJECT_PACKAGES, find_bubblewrap, run_fresh
from fmen.submission.source_file import imported_names, imports_in, is_allowed
from fmen_data import write_image
from fmen_data.datasets import Source
from fmen_eval import psnr

TOLERANCE = 1e-3
"""Largest difference in dB between a declared and a measured PSNR: rounding differs slightly between machines."""

WEIGHTS = (".pth", ".pt", ".ckpt")
ORGANISERS_PYTHON = (3, 9)
"""The version that the organisers of 2026 state in their README."""

FIGURES = {"params": "parameters", "flops": "FLOPs", "activations": "activations", "convs": "convolutions"}
UNITS = {"G": 1e9, "M": 1e6, "": 1.0}
ROWS = {"Parameters": "params", "FLOPs": "flops", "Activations": "activations", "Convolutions": "convs", "PSNR": "psnr"}
ROW = re.compile(
    rf"^\|\s*({'|'.join(ROWS)})\b[^|]*\|\s*(\d[\d,]*(?:\.(\d+))?)\s*(G|M|dB)?\s*\|", re.MULTILINE | re.ASCII
)
"""A row of ``metrics.figures_table``: title, number, its decimals, unit."""


UNPROTECTED = "its code ran without protection, as bubblewrap (bwrap) is not installed or not allowed here"
NOT_RUN = "its code has not been run: --run-code runs it, protected by bubblewrap, and measures its figures"


def check_package(
    work: Path,
    names: list[str],
    layout: Layout | None,
    data: Source | None,
    *,
    run_code: bool,
    cuda: bool,
    timeout: float,
) -> list[Finding]:
    """Check the package in ``work/package``; see :func:`fmen.submission.check.run.check_submission`."""
    package = work / "package"
    metrics, findings = read_metrics(package)
    named = LAYOUTS.get(str(metrics.get("layout")))
    if named and layout not in (None, named):
        findings.append(Finding("warning", "metrics.json", f"the package is for {named.name}, not {layout.name}"))
    layout = layout or named or LAYOUTS[DEFAULT]
    if layout.flops_rule == "fvcore":
        require_fvcore()
    images = None if data is None else open_images(data, layout)
    models = [name for name in names if name.startswith("models/") and name.endswith(".py") and "__init__" not in name]
    weights = [name for name in names if name.startswith("model_zoo/") and name.endswith(WEIGHTS)]
    findings += check_files(names, models, weights)
    findings += check_texts(package, metrics)
    if len(models) == 1:
        findings += check_source(package, models[0])
    if not run_code:
        findings.append(Finding("info", "models/", NOT_RUN))
        if data is not None:
            findings.append(
                Finding("warning", "models/", "PSNR is not measured: with a package, --data needs --run-code")
            )
    elif len(models) == len(weights) == 1 and not any(f.severity == "fatal" and f.where in models for f in findings):
        findings += check_network(work, models[0], weights[0], metrics, layout, images, cuda, timeout)
    return findings


def check_files(names: list[str], models: list[str], weights: list[str]) -> list[Finding]:
    """Check that there is one model file and one weights file, named as the organisers require."""
    findings = []
    for folder, found, what in (("models/", models, "model file"), ("model_zoo/", weights, "weights file")):
        if not found:
            findings.append(Finding("fatal", folder, f"no {what}; the challenge requires exactly one"))
        if len(found) > 1:
            findings.append(Finding("fatal", folder, f"{len(found)} {what}s instead of one: {abbreviate(found)}"))
    findings += [
        Finding("fatal", name, "must be named teamNN_NAME.py, with the team's number NN in two digits")
        for name in models
        if not re.fullmatch(r"models/team\d\d_\w+\.py", name)
    ]
    if len(models) == len(weights) == 1 and Path(models[0]).stem != Path(weights[0]).stem:
        findings.append(Finding("warning", weights[0], f"not named like the model file {models[0]}"))
    junk = [name for name in names if re.search(r"(^|/)(\.DS_Store|__MACOSX|__pycache__|\.git|\.idea)(/|$)", name)]
    if junk:
        findings.append(Finding("warning", junk[0], "does not belong in a submission"))
    return findings


def check_source(package: Path, model: str) -> list[Finding]:
    """Check that the model file is self-contained Python, and of a version that the organisers have."""
    code = (package / model).read_bytes()
    try:
        tree = ast.parse(code, model)
    except (SyntaxError, ValueError) as error:
        return [Finding("fatal", model, f"not valid Python ({error})")]
    findings = []
    for name in dict.fromkeys(name for imported in imports_in(tree) for name in imported_names(imported)):
        top = name.partition(".")[0]  # empty for a relative import
        if top in ("", *PROJECT_PACKAGES, "models", "utils"):
            findings.append(Finding("fatal", model, f"imports {top or name}; it must be self-contained"))
        elif not is_allowed(top):
            findings.append(Finding("warning", model, f"imports {top}, which the organisers may not have installed"))
    try:
        ast.parse(code, feature_version=ORGANISERS_PYTHON)
    except SyntaxError as error:
        fault = f"not valid in the organisers' Python {'.'.join(map(str, ORGANISERS_PYTHON))} ({error.msg})"
        findings.append(Finding("warning", model, fault))
    return findings


def read_metrics(package: Path) -> tuple[Metrics, list[Finding]]:
    """Read ``metrics.json``, and check that its mean PSNR is that of its images."""
    path = package / "metrics.json"
    if not path.is_file():
        return {}, [Finding("info", "metrics.json", "missing; there are no declared figures to compare")]
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        values = [psnr_value(image["psnr"]) for image in metrics.get("images", {}).values()]
        declared = psnr_value(metrics["psnr"]) if values else 0.0
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return {}, [Finding("fatal", "metrics.json", f"unexpected content ({type(error).__name__}: {error})")]
    if values and not psnr_agrees(declared, sum(values) / len(values)):
        mean = sum(values) / len(values)
        fault = f"declares a mean PSNR of {declared:.4f} dB, but the mean of its images is {mean:.4f} dB"
        return metrics, [Finding("fatal", "metrics.json", fault)]
    return metrics, []


def psnr_value(declared: float | None) -> float:
    """Return a PSNR in dB from ``metrics.json``, where ``null`` stands for infinity."""
    return math.inf if declared is None else float(declared)


def psnr_agrees(a: float, b: float) -> bool:
    """Whether two PSNRs are equal up to ``TOLERANCE``."""
    return a == b or (math.isfinite(a) and math.isfinite(b) and abs(a - b) <= TOLERANCE)


def check_texts(package: Path, metrics: Metrics) -> list[Finding]:
    """Check the tables of the README and the factsheet against ``metrics.json``."""
    findings = []
    for name in ("README.md", "factsheet.md"):
        text = (package / name).read_text(encoding="utf-8", errors="replace") if (package / name).is_file() else ""
        for title, number, decimals, unit in ROW.findall(text):
            key, factor = ROWS[title], UNITS.get(unit, 1.0)
            stated, declared = float(number.replace(",", "")), metrics.get(key)
            if isinstance(declared, (int, float)) and abs(declared / factor - stated) > 0.51 * 10.0 ** -len(decimals):
                fault = f"{title} is {number} {unit}".rstrip() + f", but {declared / factor:,.4f} in metrics.json"
                findings.append(Finding("fatal", name, fault))
    return findings


def check_network(
    work: Path,
    model: str,
    weights: str,
    metrics: Metrics,
    layout: Layout,
    images: SplitImages | None,
    cuda: bool,
    timeout: float,
) -> list[Finding]:
    """Run the probe on the package, and compare its figures with the declared ones."""
    arguments = [str(work), Path(model).stem, Path(weights).name, layout.name]
    if images is not None:
        for index, name in enumerate(images.names):  # the package's code must not see the HR images
            write_image(work / "lr" / f"{name}.png", images.read(index)[0])
        arguments.append(str(work / "lr"))
    packages = import_folders()
    program = [str(Path(probe.__file__)), os.pathsep.join(map(str, packages)), *arguments]
    threads = torch.get_num_threads()
    try:
        run = run_fresh(program, folder=work, threads=threads, cuda=cuda, timeout=timeout, readable=packages)
    except subprocess.TimeoutExpired:
        return [Finding("fatal", model, f"not finished after {timeout:.0f} seconds")]
    found = read_observations(work / "probe.json")
    if found is None:
        reason = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        return [Finding("fatal", model, f"terminated the process that ran it: {reason}")]
    findings = [] if find_bubblewrap() else [Finding("warning", model, UNPROTECTED)]
    if found.fault:
        where, message = found.fault
        findings.append(Finding("fatal", weights if where == "weights" else model, message))
    if found.select_model is not None:
        findings.append(Finding("warning", "test_demo.py", f"select_model fails: {found.select_model}"))
    if found.data_range_from == "":
        findings.append(Finding("warning", model, "no data range is declared; 1 is assumed"))
    if found.counts:
        findings += compare_counts(found.counts.model_dump(), metrics, model)
    if images is not None and not found.fault:
        findings += compare_psnr(work / "sr", model, metrics, layout, images)
    return findings


def import_folders() -> list[Path]:
    """Return the folders of this process's own packages: an isolated process would import installed ones instead."""
    packages = (importlib.import_module(name) for name in PROJECT_PACKAGES)
    return [Path(str(package.__file__)).resolve().parents[1] for package in packages]


def compare_counts(counts: Metrics, metrics: Metrics, model: str) -> list[Finding]:
    """Compare the measured complexity with the declared one."""
    measured = (
        f"{counts['params']:,} parameters, {counts['flops'] / 1e9:.4f} G FLOPs, "
        f"{counts['activations'] / 1e6:.4f} M activations, {counts['convs']} convolutions"
    )
    return [Finding("info", model, measured)] + [
        Finding("fatal", "metrics.json", f"declares {metrics[key]:,} {what}, measured {counts[key]:,}")
        for key, what in FIGURES.items()
        if isinstance(metrics.get(key), (int, float)) and metrics[key] != counts[key]
    ]


def compare_psnr(sr_folder: Path, model: str, metrics: Metrics, layout: Layout, images: SplitImages) -> list[Finding]:
    """Compare the measured PSNR with the declared one and with the challenge's threshold."""
    measured: dict[str, float] = {}
    for index, name in enumerate(images.names):
        sr, (lr, hr) = read_sr(sr_folder / f"{name}.png"), images.read(index)
        if sr is None:
            return [Finding("fatal", model, f"the SR image of {name} is missing or damaged")]
        height, width = SCALE * lr.shape[0], SCALE * lr.shape[1]
        if sr.shape[:2] != (height, width):
            fault = f"the SR image of {name} is {sr.shape[1]}x{sr.shape[0]}, not {width}x{height}"
            return [Finding("fatal", model, fault)]
        if hr is None:
            return [Finding("info", model, f"{images.name} has no HR images; PSNR is not measured")]
        measured[name] = psnr(sr, hr, border=SCALE)
    mean = sum(measured.values()) / len(measured)
    findings = psnr_findings(mean, len(measured), layout, "valid", images, model)
    declared = metrics.get("images", {})
    for name in measured.keys() & declared.keys():
        stated = psnr_value(declared[name]["psnr"])
        if not psnr_agrees(stated, measured[name]):
            fault = f"declares {stated:.4f} dB for {name}, measured {measured[name]:.4f} dB"
            findings.append(Finding("fatal", "metrics.json", fault))
    if declared and not measured.keys() & declared.keys():
        findings.append(Finding("info", "metrics.json", f"declares PSNR on other images ({metrics.get('dataset')})"))
    if not declared and isinstance(metrics.get("psnr"), (int, float)) and not psnr_agrees(metrics["psnr"], mean):
        findings.append(Finding("warning", "metrics.json", f"declares {metrics['psnr']:.4f} dB without naming images"))
    return findings
