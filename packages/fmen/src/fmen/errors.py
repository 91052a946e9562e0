"""The application's error class for input at fault."""

from __future__ import annotations


class UserError(ValueError):
    """The user's input is at fault. The message is one line: what is wrong, where, and what to do about it.

    The command line prints it and exits with status 2. Any other exception is a bug and keeps its traceback, except
    the libraries' own error classes for bad input, which ``fmen.cli.errors`` lists.
    """
