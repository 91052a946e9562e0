"""The error class of this package."""

from __future__ import annotations


class EvaluationError(ValueError):
    """Raised when images or a network cannot be measured. The message is one line: what is wrong, and what to do."""
