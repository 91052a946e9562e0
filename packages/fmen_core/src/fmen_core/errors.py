"""The error class of this package."""

from __future__ import annotations


class ModelError(ValueError):
    """A network, its weights or its input cannot be used; the message is one line that names fault and remedy."""
