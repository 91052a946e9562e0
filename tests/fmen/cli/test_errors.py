"""Exit statuses: one line and 2 for bad input or an exhausted machine, a traceback and 1 for a bug."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from fmen.cli.errors import Commands
from fmen.export.run import ExportError
from fmen.sources.runs import RunError
from fmen.submission.rules import SubmissionError
from fmen_core import ModelError, WeightsError
from fmen_data import DataError
from fmen_eval import EvaluationError


def run_raising(error: BaseException) -> tuple[int, str]:
    """Run a command that raises ``error``; its exit status and what it wrote to standard error."""
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @app.callback()
    def options() -> None:
        pass

    @app.command()
    def command() -> None:
        raise error

    result = CliRunner().invoke(app, ["command"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    "kind",
    [SubmissionError, ExportError, RunError, ModelError, WeightsError, DataError, EvaluationError],
)
def test_bad_input_is_one_line_and_status_2(kind: type[Exception]) -> None:
    assert run_raising(kind("a.png: damaged\n  in two lines")) == (2, "error: a.png: damaged in two lines\n")


@pytest.mark.parametrize(
    "bug",
    [
        ValueError("operands could not be broadcast"),
        KeyError("psnr"),
        RuntimeError("size mismatch"),
        OSError(errno.ECHILD, "No child processes"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError("raised by hand"),
    ],
    ids=repr,
)
def test_a_bug_keeps_its_exception(bug: Exception) -> None:
    with pytest.raises(type(bug)) as caught:
        run_raising(bug)
    assert caught.value is bug


FULL = "No space left on device; free some space or write elsewhere"


@pytest.mark.parametrize(
    ("number", "file", "line"),
    [
        (errno.ENOENT, "a.png", "a.png: No such file or directory; check the path"),
        (errno.EACCES, "/a", "/a: Permission denied; check the permissions"),
        (errno.ENOTDIR, "a/b", "a/b: Not a directory"),
        (errno.ENOSPC, "a", f"a: {FULL}"),
        (errno.ENOSPC, None, FULL),
        (errno.EMFILE, None, "Too many open files"),
    ],
)
def test_a_refusal_of_the_system_names_the_file_and_what_to_do(number: int, file: str | None, line: str) -> None:
    assert run_raising(OSError(number, os.strerror(number), file)) == (2, f"error: {line}\n")


def cpu_out_of_memory() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), cpu_out_of_memory()]
)
def test_exhausted_memory_is_one_line_and_status_2(error: Exception) -> None:
    status, line = run_raising(error)
    assert status == 2
    assert line.startswith("error: out of memory; ") and line.count("\n") == 1


def test_ctrl_c_is_status_130_without_a_traceback() -> None:
    assert run_raising(KeyboardInterrupt()) == (130, "error: interrupted\n")


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMEN_DEBUG", "1")
    status, text = run_raising(DataError("no images"))
    assert status == 2
    assert text.startswith("Traceback") and text.endswith("error: no images\n")


BUG = """
import fmen.doctor
def fail(): raise ValueError("of the program's own")
fmen.doctor.examine = fail
from fmen.cli.main import main
main()
"""


def test_a_value_error_inside_a_command_is_a_traceback_and_status_1() -> None:
    run = subprocess.run([sys.executable, "-c", BUG, "doctor"], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("Traceback") and run.stderr.endswith("ValueError: of the program's own\n")


def test_a_reader_that_closes_the_pipe_gets_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-m", "fmen", "doctor"]
        run = subprocess.run(command, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "")
