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


def newest_folders(root: Path, *names: str) -> list[Path]:
    """Return the folders under ``root`` that have a file of one of these names; the last written file's is first."""
    files = [file for name in names for file in root.glob(f"*/{name}")]
    ordered = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    return list(dict.fromkeys(file.parent for file in ordered))


def weights_of_runs(root: Path = RUNS) -> list[Path]:
    """Return the weights of every run, the best ones if there are any. The run that wrote weights last is first."""
    return [folder / (BEST if (folder / BEST).is_file() else LAST) for folder in newest_folders(root, BEST, LAST)]
