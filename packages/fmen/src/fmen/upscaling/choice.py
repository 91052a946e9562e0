"""Choose the weights of ``fmen upscale``: for clean images, for degraded ones, or a blend of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmen.errors import UserError
from fmen.sources.weights import choose_weights, is_bundled
from fmen.upscaling.enlarge import OutputSize
from fmen.upscaling.networks import SCALES, needed_scale
from fmen_core import WeightsError
from fmen_core.pretrained import bundled

AUTO, CLEAN, REAL = "auto", "clean", "real"

NETWORK = "fmen-s"
"""The network of the bundled weights."""

REAL_SCALE = 4
"""The scale of the bundled weights for degraded images. Other factors are reached by resizing their results."""


@dataclass(frozen=True)
class Choice:
    """The weights files of a run.

    Attributes:
        files: One for each scale.
        blended: The files for clean and for degraded images, of which degraded images get a blend; None to upscale them
            as all others.
    """

    files: tuple[Path, ...]
    blended: tuple[Path, Path] | None = None

    @property
    def all_files(self) -> list[Path]:
        """All weights files, each once."""
        return list(dict.fromkeys([*self.files, *(self.blended or [])]))


def choose(
    weights: str | None,
    model: str | None = None,
    *,
    scale: int | None = None,
    size: OutputSize | None = None,
    denoise: float | None = None,
) -> Choice:
    """Choose the weights files.

    Args:
        weights: ``"clean"`` and ``"real"`` for the bundled weights of this kind, ``"auto"`` for both; a file or a name.
            None for the newest run, and without a run as ``"auto"``.
        model: The network; only a user's network must be named.
        scale: Upscaling factor, as of ``choose_weights``.
        size: The output size.
        denoise: Share of ``real`` in a blend of the bundled weights.

    Raises:
        WeightsError: There are no such weights.
        UserError: The arguments contradict each other.
    """
    if denoise is not None and (weights is not None or model is not None):
        raise UserError("--denoise blends two bundled networks; leave --weights and --model out")
    if weights in (AUTO, CLEAN, REAL) and model not in (None, NETWORK):
        raise UserError(f"--weights {weights} is of {NETWORK}; leave --model out, or name a weights file")
    if denoise is not None:
        return Choice((weights_of(CLEAN, REAL_SCALE),), both_weights())
    if weights == REAL:
        return Choice((weights_of(REAL, REAL_SCALE),))
    named = weights in (AUTO, CLEAN)
    factor = size.factor if size else None
    wanted: tuple[int | None, ...] = (scale or (needed_scale(factor) if factor else None),)
    if (weights is None or named) and model is None and scale is None and size and (size.width or size.max_side):
        wanted = SCALES  # the factor depends on the image
    found = [
        weights_of(CLEAN, each or REAL_SCALE) if named else choose_weights(weights, each, model) for each in wanted
    ]
    files = tuple(dict.fromkeys(found))
    automatic = weights == AUTO or (weights is None and model is None and all(map(is_bundled, files)))
    present = all(name_of(kind, REAL_SCALE) in bundled() for kind in (CLEAN, REAL))
    return Choice(files, both_weights() if automatic and present else None)


def both_weights() -> tuple[Path, Path]:
    """Return the files of the bundled weights of which degraded images get a blend: for clean, for degraded images."""
    return weights_of(CLEAN, REAL_SCALE), weights_of(REAL, REAL_SCALE)


def name_of(kind: str, scale: int) -> str:
    """Return the name of the bundled weights for clean or for degraded images."""
    return f"{NETWORK}_x{scale}" + ("" if kind == CLEAN else f"_{kind}")


def weights_of(kind: str, scale: int) -> Path:
    """Return the file of the bundled weights for clean or for degraded images.

    Raises:
        WeightsError: The package has none.
    """
    name = name_of(kind, scale)
    if name not in bundled():
        raise WeightsError(f"the package has no weights {name}; bundled are {', '.join(bundled()) or 'none'}")
    return bundled()[name]
