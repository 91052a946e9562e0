"""Select the weights that a command uses, and download published ones."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from fmen.sources.runs import RunError, newest_weights
from fmen_core import WeightsError, download_weights, find_weights
from fmen_core.pretrained import bundled


def choose_weights(weights: str | None, scale: int, model: str | None = None) -> Path:
    """Return the weights file to upscale with.

    Args:
        weights: A file or a name. None for the bundled FMEN-S or, without one for this scale, the best weights of the
            newest run.
        scale: Upscaling factor; ignored if ``weights`` is given.
        model: Without ``weights``: the network, instead of FMEN-S. A user's network has no bundled weights.

    Raises:
        WeightsError: The file or the name does not exist, or there are no weights.
    """
    if weights is not None:
        return find_weights(weights)
    names = [model] if model else ["fmen-s", "fmen"]
    path = next((bundled()[f"{name}_x{scale}"] for name in names if f"{name}_x{scale}" in bundled()), None)
    if path is not None:
        return path
    try:
        return newest_weights()
    except RunError:
        available = ", ".join(bundled()) or "none"
        raise WeightsError(
            f"no trained weights for x{scale}: bundled are {available}, and there is no run under runs/; "
            "name some with --weights ('fmen weights list' shows published ones)"
        ) from None


def weights_of_all_scales() -> list[Path]:
    """Return the bundled weights of FMEN-S for every scale; without any, the best weights of the newest run.

    Raises:
        WeightsError: There are none.
    """
    found = [path for scale in (2, 3, 4) if (path := bundled().get(f"fmen-s_x{scale}"))]
    return found or [choose_weights(None, 4)]


def named_or_newest_weights(weights: Path | None) -> Path:
    """Return the weights file to measure or to pack: a file, a name, or the best weights of the newest run.

    Raises:
        WeightsError: The file or the name does not exist.
        RunError: ``weights`` is None and there is no run.
    """
    return newest_weights() if weights is None else find_weights(weights)


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
