"""The networks of a run: of several scales, each in the precision that an image needs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from fmen.sources.networks import Note, load_network
from fmen.upscaling.enlarge import OutputSize
from fmen_core import Upscaler
from fmen_core.architecture import sr_model

SCALES = (2, 3, 4)
"""The scales of the bundled networks."""


def needed_scale(factor: Fraction | None) -> int:
    """Return the smallest scale that is not below ``factor``, or else the largest one; 4 for None."""
    return next((scale for scale in SCALES if factor is not None and scale >= factor), SCALES[-1])


class Networks:
    """The networks of a run, by scale. Can be pickled until ``upscaler`` is called.

    Args:
        files: The weights files, one for each scale.
        models: The networks that were loaded from them, in this order.
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
        size: OutputSize | None = None,
        precision: str = "auto",
        **options: Any,
    ) -> None:
        self.scales = [sr_model(model).scale for model in models]
        self.files = list(files)
        self.models = list(models)
        # An output size that is the network's scale needs no resizing, and its results are those of a run without one.
        self.size = None if size == OutputSize(Fraction(self.scales[0])) and len(models) == 1 else size
        self.precision = precision
        self.options = options
        self._upscalers: dict[tuple[int, str], Upscaler] = {}

    @classmethod
    def load(
        cls, files: Sequence[Path], model: str | None = None, *, note: Note = lambda line: None, **options: Any
    ) -> Networks:
        """Load the networks from their weights files.

        Args:
            files: The weights files, one for each scale.
            model: The network, as :func:`fmen.sources.networks.load_network` takes it; required for a user's network.
            note: Called with one line about weights of another version of a user's file.
            options: Other arguments of ``Networks``.

        Raises:
            WeightsError: A file cannot be read, or is of no known network.
            UserError: The user's network cannot be used.
        """
        return cls(files, [load_network(file, model, note=note) for file in files], **options)

    def factor(self, height: int, width: int) -> Fraction | None:
        """Return the ratio of output to input for an image of this size; None for the network's scale."""
        return None if self.size is None else self.size.factor_for(height, width, max(self.scales))

    def upscaler(self, bits: int = 8, factor: Fraction | None = None) -> Upscaler:
        """Return the upscaler for an image of 8 or 16 bits per channel.

        Its scale is the smallest one that is not below ``factor``, or else the largest one.
        """
        enough = [scale for scale in self.scales if factor is not None and scale >= factor]
        scale = min(enough, default=max(self.scales))
        precision = "fp32" if self.precision == "auto" and bits == 16 else self.precision
        if (scale, precision) not in self._upscalers:
            model = self.models[self.scales.index(scale)]
            options: Any = {"precision": precision, **self.options}
            self._upscalers[scale, precision] = Upscaler(model, **options)
        return self._upscalers[scale, precision]
