"""The error class of this package."""

from __future__ import annotations


class ModelError(ValueError):
    """A network, its weights or its input cannot be used. The message is one line: what is wrong, and what to do."""
