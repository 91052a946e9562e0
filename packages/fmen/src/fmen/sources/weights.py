"""Select the weights that a command uses, and download published ones."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from fmen.sources.runs import RUNS, weights_of_runs
from fmen_core import WeightsError, download_weights, find_weights, read_metadata
from fmen_core.pretrained import PUBLISHED, bundled


def choose_weights(weights: str | Path | None, scale: int | None = None, model: str | None = None) -> Path:
    """Return the weights file that a command uses.

    Args:
        weights: A file or a name. None for the best weights of the newest run or, without a run, the bundled ones.
        scale: Upscaling factor. The newest run with this scale precedes bundled weights, and they precede runs with
            another scale. None for the newest run whatever its scale, and for bundled weights of x4.
        model: The network of the bundled weights, FMEN-S by default. A user's network has none.

    Raises:
        WeightsError: The file or the name does not exist, or there are no weights.
    """
    if weights is not None:
        return find_weights(weights)
    runs = weights_of_runs()
    matching = [file for file in runs if scale is None or read_metadata(file).get("scale") == str(scale)]
    inside = bundled().get(f"{model or 'fmen-s'}_x{scale or 4}")
    chosen = [*matching[:1], *([inside] if inside else []), *runs[:1]]
    if not chosen:
        available = ", ".join(bundled()) or "none"
        wanted = f"{model or 'fmen-s'} x{scale or 4}"
        raise WeightsError(
            f"no trained weights for {wanted}: bundled are {available}, and there is no run under {RUNS}/; "
            "name some with --weights ('fmen weights list' shows published ones)"
        )
    return chosen[0]


def is_bundled(file: Path) -> bool:
    """Return whether a weights file is one of the bundled ones."""
    return file in bundled().values()


def weights_title(file: Path) -> str:
    """Return what a command calls a weights file: its path, or the name of bundled or downloaded weights."""
    if is_bundled(file):
        return f"{file.stem} (bundled)"
    name = next((entry.name for entry in PUBLISHED if entry.file == file), None)
    return str(file) if name is None else f"{name} (downloaded)"


def download(name: str, *, progress: bool = True, url: str | None = None) -> Path:
    """Return the file of published weights, downloaded if necessary.

    Args:
        name: The name of the weights.
        progress: Show a progress bar on stderr.
        url: Another address of the same file.

    Raises:
        WeightsError: There are no such weights, or the server does not send the file.
    """
    with tqdm(desc=name, unit="B", unit_scale=True, disable=not progress) as bar:

        def show(received: int, total: int) -> None:
            bar.total = total
            bar.update(received - bar.n)

        return download_weights(name, url=url, on_progress=show)
