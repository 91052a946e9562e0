"""The folders of training runs: where they are, and which is the newest."""

from __future__ import annotations

from pathlib import Path

from fmen.errors import UserError

RUNS = Path("runs")
"""The default parent of run folders."""

BEST, LAST = "best.safetensors", "last.safetensors"
"""The weights of a run with the best validation PSNR, and those of its last checkpoint."""


class RunError(UserError):
    """A run is missing, exists already, or cannot be resumed. The message is one line and names the remedy."""


def newest_folder(root: Path, *names: str) -> Path | None:
    """Return the folder under ``root`` with the newest file of one of these names."""
    files = [file for name in names for file in root.glob(f"*/{name}")]
    return max(files, key=lambda file: file.stat().st_mtime).parent if files else None


def newest_weights(root: Path = RUNS) -> Path:
    """Return the best weights of the run that wrote weights last.

    Raises:
        RunError: There are no weights.
    """
    found = newest_folder(root, BEST, LAST)
    if found is None:
        raise RunError(f"no trained weights under {root}/: train with 'fmen train', or name a file with --weights")
    return found / BEST if (found / BEST).is_file() else found / LAST
