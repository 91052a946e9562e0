"""What a command raises and how it ends: one line and an exit status for the user's errors, a traceback for ours."""

from __future__ import annotations

import os
import traceback
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

DEBUG = "FMEN_DEBUG"


def user_errors() -> tuple[type[Exception], ...]:
    """The classes that stand for bad input. Imported on demand, since ``fmen --help`` does without PyTorch."""
    from fmen.errors import UserError
    from fmen_core import ModelError
    from fmen_data import DataError
    from fmen_eval import EvaluationError

    return (UserError, ModelError, DataError, EvaluationError)


class Commands(TyperGroup):
    """Turns errors of the user's input, in any command, into one line and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # reported as an error where it matters
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("stopped", 130)
        except BrokenPipeError:
            raise
        except OSError as error:
            fail(describe(error), 2)
        except ValueError as error:
            if not isinstance(error, user_errors()):
                raise
            fail(str(error), 2)


def fail(message: str, status: int) -> None:
    """Print one line, with the traceback before it when debugging, and exit."""
    if os.environ.get(DEBUG):
        traceback.print_exc()
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(status)


def describe(error: OSError) -> str:
    """What the operating system refused, with the file and, where there is one, the remedy."""
    if error.filename is None:
        return error.strerror or str(error)
    remedies = {
        "FileNotFoundError": "check the path",
        "PermissionError": "check who may read and write there",
    }
    remedy = remedies.get(type(error).__name__, "free some space or write elsewhere" if error.errno == 28 else "")
    return f"{error.filename}: {error.strerror}" + (f"; {remedy}" if remedy else "")
