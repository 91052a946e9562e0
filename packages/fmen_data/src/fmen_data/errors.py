"""The error class of this package."""

from __future__ import annotations


class DataError(ValueError):
    """The user's images, folders or cache are at fault. The message is one line: what is wrong, where, what to do."""
