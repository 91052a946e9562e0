"""The error class of this package."""

from __future__ import annotations


class EvaluationError(ValueError):
    """Images or a network cannot be measured; the message is one line that names fault and remedy."""
