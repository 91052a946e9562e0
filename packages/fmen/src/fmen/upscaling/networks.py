"""The networks of a run: of several scales, for clean and degraded images, each in the precision that it needs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from fmen.sources.networks import Note, load_network
from fmen.sources.openvino_file import runnable_network, upscaler_for
from fmen.sources.weights import weights_title
from fmen.upscaling.condition import HALF_BELOW_QUALITY, REAL_BELOW_QUALITY, Degradation, degradation_of
from fmen.upscaling.enlarge import OutputSize
from fmen.upscaling.photo import Photo
from fmen_core import Upscaler
from fmen_core.architecture import sr_model
from fmen_core.interpolation import interpolate
from fmen_core.models.imdn_as import IMDNAS

SCALES = (2, 3, 4)
"""The scales of the bundled networks."""

_CREATION = threading.Lock()
"""Held while an upscaler is created: not an attribute of ``Networks``, which is pickled."""


def needed_scale(factor: Fraction | None) -> int:
    """Return the smallest scale that is not below ``factor``, or else the largest one; 4 for None."""
    return next((scale for scale in SCALES if factor is not None and scale >= factor), SCALES[-1])


class Networks:
    """The networks of a run, by scale. Can be pickled until ``upscaler`` is called.

    A network of any scale, IMDN-AS, runs at the scale 1, on an image that was resized to its final size before.

    Args:
        files: The weights files, one for each scale.
        models: The networks that were loaded from them, in this order.
        real: The weights file for degraded images, its network, and the network for clean images with which it is
            blended; None to upscale degraded images as all others.
        denoise: Share of ``real`` in a blend for all images; None to upscale only degraded images with it.
        size: The output size; None for the network's scale.
        precision: As of ``Upscaler``, except that ``"auto"`` is fp32 for images of 16 bits per channel: bf16 and fp16
            have 8 and 11 significant bits.
        options: Other arguments of ``Upscaler``.
    """

    def __init__(
        self,
        files: Sequence[Path],
        models: Sequence[Any],
        *,
        real: tuple[Path, Any, Any] | None = None,
        denoise: float | None = None,
        size: OutputSize | None = None,
        precision: str = "auto",
        **options: Any,
    ) -> None:
        self.scales = [sr_model(model).scale for model in models]
        self.files = list(files)
        self.models = list(models)
        self.titles = [weights_title(file) for file in files]
        self.real = real
        if real and denoise is not None:
            self.titles = [f"{1 - denoise:g} of {self.titles[0]} and {denoise:g} of {weights_title(real[0])}"]
            self.models = [interpolate(real[2], real[1], denoise)]
            self.real = None
        self.models = [model.at_scale(1) if isinstance(model, IMDNAS) else model for model in self.models]
        alike = {*self.scales, *([sr_model(self.real[1]).scale] if self.real else [])}
        # An output size that is the network's scale needs no resizing, and its results are those of a run without one.
        self.size = None if size == OutputSize(Fraction(self.scales[0])) and len(alike) == 1 else size
        self.precision = precision
        self.options = options
        self._upscalers: dict[tuple[float, int, str], Upscaler] = {}

    @classmethod
    def load(
        cls,
        files: Sequence[Path],
        model: str | None = None,
        *,
        blended: tuple[Path, Path] | None = None,
        note: Note = lambda line: None,
        **options: Any,
    ) -> Networks:
        """Load the networks from their weights files.

        Args:
            files: The weights files, one for each scale.
            model: The network, as :func:`fmen.sources.networks.load_network` takes it; required for a user's network.
            blended: The weights files for clean and for degraded images, of which degraded images get a blend.
            note: Called with one line about weights of another version of a user's file.
            options: Other arguments of ``Networks``.

        Raises:
            WeightsError: A file cannot be read, or is of no known network.
            UserError: The user's network cannot be used.
        """
        models = [runnable_network(file, model, note=note) for file in files]
        if blended is None:
            return cls(files, models, **options)
        clean, real = blended
        return cls(files, models, real=(real, load_network(real), load_network(clean)), **options)

    def lines(self, where: str = "") -> list[str]:
        """Return a line about each network for the user; ``where`` follows what is computed where."""
        if self.size and self.size.factor and self.size.factor <= 1:
            return ["resized without a network"]
        scales = ["any scale" if isinstance(model, IMDNAS) else f"x{model.scale}" for model in self.models]
        lines = [
            f"weights {title}: {model.name} {scale}{where}"
            for title, model, scale in zip(self.titles, self.models, scales, strict=True)
        ]
        if len(self.models) > 1:
            lines.append("each image uses the smallest scale that reaches its output size")
        if self.real:
            use = f"for noisy images and JPEGs of quality below {REAL_BELOW_QUALITY}"
            half = f"blended by half below {HALF_BELOW_QUALITY}"
            lines.append(f"weights {weights_title(self.real[0])}: {use}; {half} (--weights clean turns this off)")
        return lines

    def degradation(self, photo: Photo) -> Degradation | None:
        """Return how a photograph is degraded; None if it is not, or if all images have the same network."""
        return degradation_of(photo) if self.real else None

    def factor(self, height: int, width: int) -> Fraction | None:
        """Return the ratio of output to input for an image of this size; None for the network's scale."""
        return None if self.size is None else self.size.factor_for(height, width, max(self.scales))

    def upscaler(self, bits: int = 8, factor: Fraction | None = None, *, share: float = 0.0) -> Upscaler:
        """Return the upscaler for an image of 8 or 16 bits per channel.

        Its scale is the smallest one that is not below ``factor``, or else the largest one; with a ``share`` of the
        network for degraded images above 0, the scale of that network. Threads may call it at the same time.
        """
        enough = [scale for scale in self.scales if factor is not None and scale >= factor]
        scale = max(self.scales) if share else min(enough, default=max(self.scales))
        precision = "fp32" if self.precision == "auto" and bits == 16 else self.precision
        key = (share, scale, precision)
        with _CREATION:
            if key not in self._upscalers:
                model = self.models[self.scales.index(scale)]
                if self.real and share:
                    model = interpolate(self.real[2], self.real[1], share)
                options: Any = {"precision": precision, **self.options}
                self._upscalers[key] = upscaler_for(model, **options)
        return self._upscalers[key]
