"""Turn exceptions into exit statuses: one line and status 2 for bad input, a traceback and status 1 for a bug."""

from __future__ import annotations

import errno
import logging
import os
import traceback
import warnings
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

UsageError: Any = typer.BadParameter.__base__  # of Click, which newer versions of Typer include

DEBUG = "FMEN_DEBUG"

ADVICE = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "write elsewhere",
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
}
"""What to do about an error of the operating system, by its number."""

NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)
"""Errors of the machine that carry no file name when a read or write on an open file fails."""


class Commands(TyperGroup):
    """The group of all commands; reports bad input in any of them as one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        silence_decoders()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted", 130)
        except UsageError as error:
            error.message = error.message.removeprefix("Value error, ")  # from the pydantic of newer versions
            raise
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            fail(message, 2)


def silence_decoders() -> None:
    """Turn off the messages of OpenCV, Pillow and PyTorch about bad files, unless debugging.

    The libraries report such files in their exceptions. OpenCV reads the variable when it is imported.
    """
    if os.environ.get(DEBUG):
        return
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "Detected pickle protocol")


def explain(error: Exception) -> str | None:
    """Return the line about bad input or a failure of the machine; None if ``error`` is a bug."""
    if isinstance(error, bad_input_classes()):
        return str(error)
    if isinstance(error, OSError):
        return explain_os_error(error)
    from fmen_core.tiling import is_out_of_memory

    if is_out_of_memory(error):
        return "out of memory; use smaller images, tiles or batches, or free memory on the device"
    return None


def bad_input_classes() -> tuple[type[Exception], ...]:
    """Return the error classes that stand for bad input. Imported late: ``fmen --help`` does not import PyTorch."""
    from fmen.errors import UserError
    from fmen_core import ModelError
    from fmen_data import DataError
    from fmen_eval import EvaluationError

    return (UserError, ModelError, DataError, EvaluationError)


def explain_os_error(error: OSError) -> str | None:
    """Describe the failure, the file and what to do.

    None for an error without a file name, such as a failed system call on a socket or a child process, unless the
    machine lacks space or file handles. A broken pipe is left to typer, which exits silently.
    """
    if error.filename is None and error.errno not in NAMELESS:
        return None
    where = "" if error.filename is None else f"{error.filename}: "
    advice = ADVICE.get(error.errno or 0)
    return f"{where}{error.strerror}" + (f"; {advice}" if advice else "")


def fail(message: str, status: int) -> None:
    """Print ``message`` as one line, after the traceback when debugging, and exit.

    Paths below the working folder are shown relative to it.
    """
    if os.environ.get(DEBUG):
        traceback.print_exc()
    message = message.replace(f"{Path.cwd()}{os.sep}", "")
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(status)
