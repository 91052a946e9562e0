"""The error class of this package, and what its messages advise."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class ModelError(ValueError):
    """A network, its weights or its input cannot be used. The message is one line: what is wrong, and what to do."""


def suggest(word: str, names: Sequence[str]) -> str:
    """Return the advice for an unknown name: the nearest of ``names`` as a question, or all of them."""
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), lower, 1)
    return f"did you mean {lower[near[0]]}?" if near else f"choose one of {', '.join(names)}"
