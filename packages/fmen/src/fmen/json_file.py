"""JSON files that every JSON parser reads: no ``NaN`` and no ``Infinity``, which Python writes and the format lacks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fmen_data.atomic import atomic_write_bytes


def dump_json(content: Any, indent: int = 2) -> str:
    """Serialize to JSON text that ends in a newline; numbers that are not finite become ``null``."""
    return json.dumps(finite_or_none(content), indent=indent, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write :func:`dump_json`'s text to ``path``, as a whole or not at all."""
    atomic_write_bytes(path, dump_json(content).encode())


def finite_or_none(content: Any) -> Any:
    """Replace each float that is infinite or NaN by None, in nested dicts, lists and tuples."""
    if isinstance(content, dict):
        return {key: finite_or_none(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite_or_none(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
