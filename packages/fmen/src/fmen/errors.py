"""The application's error class for bad input."""

from __future__ import annotations


class UserError(ValueError):
    """The user's input is invalid. The message is one line: what is wrong, where, and how to fix it.

    The command line prints it and exits with status 2. Any other exception is a bug and keeps its traceback, except
    the libraries' error classes and the failures of the machine that ``fmen.cli.errors`` lists.
    """
