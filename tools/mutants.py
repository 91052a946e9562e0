"""Find out which faults the tests notice: put random one-token faults into a package, one at a time, and run its tests.

    python tools/mutants.py fmen_data --count 100 --seed 5 --list results/mutants/fmen_data.txt
    python tools/mutants.py named --list results/mutants/named.txt

A fault replaces one operator, number or truth value: ``<`` by ``<=``, ``+`` by ``-``, 4 by 5, ``and`` by ``or``,
``not x`` by ``x``. The tests that execute the changed line run, the quickest first; for a line that runs when the
module is imported, the tests that execute another line of the file, and then all tests of the package. Works on a copy
of the tree. Needs ``pip install pytest-cov``.

``named`` takes the faults of ``NAMED`` instead, each of which takes away what a user asked for.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import cv2  # noqa: F401  loaded for the processes that run the tests
import h5py  # noqa: F401
import pytest
import torch  # noqa: F401
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fmen_core", "fmen_data", "fmen_eval", "fmen")
SWAPS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "**": "*", "%": "*", "<": "<=", "<=": "<", ">": ">=", ">=": ">",
    "==": "!=", "!=": "==", "and": "or", "or": "and", "is": "is not", "is not": "is", "in": "not in", "not in": "in",
    "<<": ">>", ">>": "<<", "&": "|",
}  # fmt: skip
TRAINING = "packages/fmen/src/fmen/training"
UPSCALE = "packages/fmen/src/fmen/cli/upscale.py"
CORE = "packages/fmen_core/src/fmen_core"
NAMED = (
    (f"{TRAINING}/loop.py", "set_learning_rate(state.optimizer, rate)", "pass"),
    (f"{TRAINING}/step.py", "nn.utils.clip_grad_norm_(state.model.parameters(), recipe.grad_clip)", "pass"),
    (f"{TRAINING}/step.py", "state.ema.update(state.model, state.step)", "pass"),
    (f"{TRAINING}/step.py", 'enabled=recipe.precision != "fp32"', "enabled=False"),
    (f"{TRAINING}/optimizers.py", '"muon": Muon', '"muon": torch.optim.Adam'),
    ("packages/fmen/src/fmen/cli/validate.py", "precision=precision.value", 'precision="fp32"'),
    (UPSCALE, '"precision": precision.value', '"precision": "fp32"'),
    (UPSCALE, '"tile": side', '"tile": "auto"'),
    (UPSCALE, '"self_ensemble": ensemble', '"self_ensemble": False'),
    (f"{CORE}/prepared.py", "convert(model, precision)", "pass"),
    (
        f"{CORE}/upscaler.py",
        "if tile is None else self._rows_of_tiles(rest, tile, on_tile)",
        "if True else self._rows_of_tiles(rest, tile, on_tile)",
    ),
    (f"{CORE}/upscaler.py", "if self.self_ensemble else", "if False else"),
)
"""Faults by file, text, which stands there once, and what replaces it."""

AT_ONCE = 30
"""Tests of a line that one run takes, the quickest first; most faults are noticed by the first run."""
TIMEOUT = 300
"""Seconds of CPU time, and tens of seconds, that a run may take: a fault that makes a test hang is noticed."""


@dataclass(frozen=True)
class Mutant:
    """A fault and what noticed it; ``killed_by`` is empty if nothing did."""

    file: str
    line: int
    before: str
    after: str
    start: int
    end: int
    text: str = ""
    killed_by: str = ""

    def __str__(self) -> str:
        """The fault, the line and the test that noticed it, in a line."""
        change = f"{self.before} -> {self.after or 'nothing'}"
        return f"{self.file}:{self.line}: {change} in: {self.text} => {self.killed_by or 'SURVIVED'}"


def mutants_of(file: Path) -> Iterator[Mutant]:
    """All faults that can be put into a file."""
    source = file.read_text(encoding="utf-8")
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def offset(node: ast.expr, *, end: bool = False) -> int:
        if end:
            assert node.end_lineno is not None and node.end_col_offset is not None
            return starts[node.end_lineno - 1] + node.end_col_offset
        return starts[node.lineno - 1] + node.col_offset

    def fault(start: int, end: int, after: str, line: int) -> Mutant:
        text = source.splitlines()[line - 1].strip()
        before = source.encode()[start:end].decode()
        return Mutant(str(file.relative_to(ROOT)), line, before, after, start, end, text)

    def between(left: ast.expr, right: ast.expr) -> Iterator[Mutant]:
        low, high = offset(left, end=True), offset(right)
        operator = source.encode()[low:high].decode().strip("() \n\\")
        if operator in SWAPS:
            start = source.encode().index(operator.encode(), low)
            line = source.encode()[:start].count(b"\n") + 1
            yield fault(start, start + len(operator), SWAPS[operator], line)

    for node in code_in(ast.parse(source)):
        if isinstance(node, ast.BinOp):
            yield from between(node.left, node.right)
        elif isinstance(node, ast.Compare):
            for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
                yield from between(left, right)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from between(left, right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield fault(offset(node), offset(node.operand), "", node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            after = str(not node.value) if isinstance(node.value, bool) else str(node.value + 1)
            yield fault(offset(node), offset(node, end=True), after, node.lineno)


def named_mutants() -> list[Mutant]:
    """The faults of ``NAMED``."""
    found = []
    for file, before, after in NAMED:
        source = (ROOT / file).read_bytes()
        start = source.index(before.encode())
        line = source[:start].count(b"\n") + 1
        found.append(Mutant(file, line, before, after, start, start + len(before.encode()), before))
    return found


def code_in(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``tree`` without annotations, which have no effect at run time."""
    for name, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in ("annotation", "returns", "type_comment"):
                yield child
                yield from code_in(child)


def run_tests(tree: Path, tests: list[str], *options: str, timeout: int = TIMEOUT) -> tuple[int, str]:
    """Run pytest in a copy of the tree; its exit status and its output.

    The process is a fork of this one, which has PyTorch loaded: a new interpreter takes seconds to load it.
    """
    log = tree / "tests.log"
    arguments = ["-q", "-p", "no:cacheprovider", *options, *tests]
    process = multiprocessing.get_context("fork").Process(target=run_pytest, args=(tree, arguments, log, timeout))
    process.start()
    process.join(10 * timeout)
    if process.exitcode is None:
        os.killpg(cast(int, process.pid), signal.SIGKILL)
        process.join()
    if process.exitcode in (-signal.SIGKILL, -signal.SIGXCPU):
        return 1, "FAILED (timeout) - "
    return process.exitcode, log.read_text(encoding="utf-8", errors="replace")


def run_pytest(tree: Path, arguments: list[str], log: Path, seconds: int) -> None:
    """Run pytest with the packages of ``tree`` in this process, a new one, and write its output to ``log``."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    paths = [str(tree), *(str(tree / "packages" / package / "src") for package in PACKAGES)]
    sys.path[:0] = paths
    sys.dont_write_bytecode = True
    os.environ.update({"PYTHONPATH": os.pathsep.join(paths[1:]), "PYTHONDONTWRITEBYTECODE": "1"})
    os.environ.setdefault("FMEN_REFERENCE", str(ROOT.parent / "shared"))
    sys.exit(int(pytest.main(arguments)))


def tests_by_line(tree: Path, folders: list[str]) -> tuple[dict[tuple[str, int], set[str]], dict[str, float]]:
    """The tests that execute each line, by ``(file, line)``, and the seconds of each test."""
    from coverage import CoverageData

    report = tree / "durations.xml"
    options = ("--cov=packages", "--cov-context=test", "--cov-report=", f"--junitxml={report}")
    status, output = run_tests(tree, folders, *options, timeout=3600)
    if status:
        raise SystemExit(f"the tests fail without any fault:\n{output[-2000:]}")
    data = CoverageData(str(tree / ".coverage"))
    data.read()
    lines: dict[tuple[str, int], set[str]] = {}
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            names = {context.rpartition("|")[0] for context in contexts if context}
            lines[str(Path(file).relative_to(tree)), line] = names
    seconds: dict[str, float] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        seconds[case.attrib["name"]] = float(case.attrib["time"])
    return lines, seconds


def kill(tree: Path, mutant: Mutant, batches: list[list[str]]) -> str:
    """The first test that fails with the fault in place, or nothing."""
    file = tree / mutant.file
    source = file.read_bytes()
    file.write_bytes(source[: mutant.start] + mutant.after.encode() + source[mutant.end :])
    try:
        for batch in batches:
            status, output = run_tests(tree, batch, "-x")
            if status:
                failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return failed[0].split(" - ")[0].split(" ", 1)[-1] if failed else "the tests cannot be run"
        return ""
    finally:
        file.write_bytes(source)


def main() -> None:
    """Draw the faults, run the tests, write the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=(*PACKAGES, "named"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", type=Path, help="file to write: a line per fault with the test that notices it")
    options = parser.parse_args()
    if options.package == "named":
        folders = ["tests/fmen/training/test_step.py", "tests/fmen/cli/test_validate.py", "tests/fmen/upscaling"]
        folders += [
            "tests/fmen_core/test_upscaler.py",
            "tests/fmen_core/test_tiling.py",
            "tests/fmen_core/test_streaming.py",
            "tests/fmen_core/test_precision.py",
        ]
        chosen = named_mutants()
    else:
        folders = [f"tests/{options.package}"]
        files = sorted((ROOT / "packages" / options.package / "src").rglob("*.py"))
        faults = [mutant for file in files for mutant in mutants_of(file)]
        chosen = random.Random(options.seed).sample(faults, min(options.count, len(faults)))
    results: list[Mutant] = []
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "fmen").resolve()
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "__pycache__", ".venv"), symlinks=True)
        lines, seconds = tests_by_line(tree, folders)
        with tqdm(chosen, unit="fault") as bar:
            for mutant in bar:
                tests = lines.get((mutant.file, mutant.line)) or set().union(
                    *(found for (file, _), found in lines.items() if file == mutant.file)
                )
                quickest = sorted(tests, key=lambda test: seconds.get(test.rpartition("::")[2], 0.0))
                batches = [quickest[i : i + AT_ONCE] for i in range(0, len(quickest), AT_ONCE)]
                if not lines.get((mutant.file, mutant.line)):
                    batches.append(folders)
                results.append(replace(mutant, killed_by=kill(tree, mutant, batches)))
                if not results[-1].killed_by:
                    bar.write(str(results[-1]), file=sys.stdout)
                bar.set_postfix_str(f"{sum(bool(result.killed_by) for result in results)} noticed")
    print(f"{sum(bool(result.killed_by) for result in results)} of {len(results)} faults are noticed")
    if options.list:
        options.list.parent.mkdir(parents=True, exist_ok=True)
        options.list.write_text("".join(f"{result}\n" for result in results), encoding="utf-8")


if __name__ == "__main__":
    main()
