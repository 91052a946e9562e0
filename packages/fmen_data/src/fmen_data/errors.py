"""The error class of this package."""

from __future__ import annotations


class DataError(ValueError):
    """The user's images, folders or cache are at fault; the message is one line with the file and the remedy."""
