"""The spectrum of a network's features: mean feature maps before and after each block, and their power by frequency.

The feature map of a block is the mean over its channels. The power spectral density is the squared magnitude of its
discrete Fourier transform, averaged over concentric rings around the zero frequency. A frequency of 1 is the Nyquist
frequency, and a density of 1 that of white noise with the variance of the map: an attention block makes all values
smaller, so that only the shapes of two spectra can be compared.

Source: Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", NTIRE 2022, figures 6
to 8. Maps are drawn divided by their largest absolute value, as the caption of figure 8 says.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fmen.charts.spectra import BlockPanel, Curve, Map
from fmen.errors import UserError
from fmen_core.architecture import sr_model
from fmen_core.device import device_of

HIGH = 0.5
"""Frequencies above this share of the Nyquist frequency are high."""


@dataclass(frozen=True)
class BlockFeatures:
    """The mean feature maps of one block.

    Attributes:
        name: Its dotted name in the network.
        kind: Its class.
        number: Its place among the blocks of that class, from 1.
        before, after: ``(H, W)``: the mean over the channels of its input and of its output.
    """

    name: str
    kind: str
    number: int
    before: Map
    after: Map

    @property
    def title(self) -> str:
        """Class and number, as in ``HFAB2``."""
        return f"{self.kind}{self.number}"

    @property
    def raised(self) -> float:
        """Share of high frequencies after the block, divided by the share before it."""
        before = high_share(self.before)
        return high_share(self.after) / before if before else float("nan")

    def panel(self) -> BlockPanel:
        """Return the block as :func:`fmen.charts.spectra.draw_spectra` draws it."""
        before, after = (Curve(*radial_density(standardized(features))) for features in (self.before, self.after))
        return BlockPanel(self.title, before, after)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON; ``density`` is that of the map divided by ``deviation``."""
        sides = {}
        for side, features in (("before", self.before), ("after", self.after)):
            frequency, density = radial_density(standardized(features))
            sides[side] = {
                "size": list(features.shape),
                "mean": float(features.mean()),
                "deviation": float(features.std()),
                "high_share": high_share(features),
                "frequency": frequency.tolist(),
                "density": density.tolist(),
            }
        return {"block": self.name, "kind": self.kind, "raised": self.raised, **sides}


def normalized(features: Map) -> Map:
    """Divide a map by its largest absolute value; a map of zeros stays as it is."""
    peak = np.abs(features).max()
    return features / peak if peak else features


def standardized(features: Map) -> Map:
    """Return a map with mean 0 and variance 1; a constant map becomes zeros."""
    centred = features - features.mean()
    # The mean of equal values has a rounding error.
    return centred / centred.std() if np.ptp(features) else np.zeros_like(features)


def power_spectrum(features: Map) -> tuple[Map, Map]:
    """Return the frequency and the power of each Fourier coefficient of an ``(H, W)`` map.

    The frequency is the distance from zero in units of the Nyquist frequency, at most ``sqrt(2)``. The sum of the
    powers is that of the squared values of the map.
    """
    height, width = features.shape
    frequency = 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    return frequency, np.abs(np.fft.fft2(features, norm="ortho")) ** 2


def radial_density(features: Map) -> tuple[Map, Map]:
    """Return the mean power over concentric rings of an ``(H, W)`` map.

    Ring ``k`` of ``n = min(H, W) // 2`` has the frequencies nearest to ``k / n``; the corners beyond the Nyquist
    frequency are left out.

    Returns:
        The frequency of each ring, from 0 to 1, and its mean power, both ``(n + 1,)``.
    """
    rings = min(features.shape) // 2
    frequency, power = power_spectrum(features)
    index = np.rint(frequency * rings).astype(int)
    inside = index <= rings
    total = np.bincount(index[inside], power[inside], rings + 1)
    return np.arange(rings + 1) / max(rings, 1), total / np.bincount(index[inside], minlength=rings + 1)


def high_share(features: Map) -> float:
    """Return the share of the power above :data:`HIGH` in all power but that of the mean; 0 for a constant map."""
    frequency, power = power_spectrum(standardized(features))
    return float(power[frequency > HIGH].sum()) / features.size


def choose_blocks(network: nn.Module, patterns: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Return the outermost modules that match, by their dotted names.

    Args:
        network: The network.
        patterns: Shell patterns of dotted names or class names, such as ``HFAB`` or ``ERBs.*``. Without any, the
            modules with a class of their own: all but those of ``torch.nn``.

    Raises:
        UserError: A pattern matches nothing, or there is no such module.
    """

    def fits(name: str, module: nn.Module, pattern: str) -> bool:
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(type(module).__name__, pattern)

    inner = [(name, module) for name, module in network.named_modules() if name]
    known = ", ".join(sorted({type(module).__name__ for _, module in inner}))
    for pattern in patterns:
        if not any(fits(*each, pattern) for each in inner):
            raise UserError(f"--layers {pattern}: no module has this name or class; classes are {known}")
    chosen: dict[str, nn.Module] = {}
    for name, module in inner:
        own = not type(module).__module__.startswith("torch.")
        matches = any(fits(name, module, pattern) for pattern in patterns) if patterns else own
        if matches and not any(name.startswith(f"{outer}.") for outer in chosen):
            chosen[name] = module
    if not chosen:
        raise UserError(f"this network has no blocks of its own; name modules with --layers, classes are {known}")
    return chosen


@torch.no_grad()
def block_features(
    network: nn.Module, image: npt.NDArray[np.uint8], patterns: Sequence[str] = ()
) -> list[BlockFeatures]:
    """Run a network on an image and return the mean feature maps of its blocks, in the order of the calls.

    Args:
        network: Maps RGB ``(N, 3, H, W)`` in ``[0, data_range]`` to an SR image.
        image: uint8 ``(H, W, 3)`` RGB.
        patterns: The blocks, as for :func:`choose_blocks`.

    Raises:
        UserError: The network does not run on an image of this size, a block does not run, or its input or output are
            no feature maps.
        ModelError: The network does not state its data range.
    """
    blocks = choose_blocks(network, patterns)
    device = device_of(network)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().to(device)
    height, width = image.shape[:2]
    with recording(blocks) as records:
        try:
            network(pixels * (sr_model(network).data_range / 255))
        except RuntimeError as error:
            reason = str(error).split("\n", maxsplit=1)[0]
            raise UserError(f"the network cannot run on {width}x{height} pixels for its features: {reason}") from error
    silent = [name for name in blocks if name not in records]
    if silent:
        raise UserError(f"--layers: {silent[0]} does not run; choose other modules")
    for name, sides in records.items():
        if not all(isinstance(side, np.ndarray) for side in sides):
            raise UserError(f"--layers: input and output of {name} are not (N, C, H, W); choose other modules")
    kinds = [type(blocks[name]).__name__ for name in records]
    return [
        BlockFeatures(name, kinds[place], kinds[: place + 1].count(kinds[place]), *sides)
        for place, (name, sides) in enumerate(records.items())
    ]


@contextmanager
def recording(blocks: dict[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Record ``[before, after]`` of each block while the context is active, by name.

    The first input and the last output of the block and all modules within are recorded: a network may call the
    convolutions of a block instead of the block, as the inference form of FMEN does with its ERBs.
    """
    records: dict[str, list[Any]] = {}

    def recorder(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def start(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if name not in records:
                records[name] = [mean_map(inputs[0] if inputs else None), None]

        def end(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            records[name][1] = mean_map(output)

        return start, end

    handles = []
    for name, block in blocks.items():
        start, end = recorder(name)
        for module in block.modules():
            handles += [module.register_forward_pre_hook(start), module.register_forward_hook(end)]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def mean_map(features: Any) -> Map | None:
    """Return the mean over images and channels of an ``(N, C, H, W)`` tensor; None for anything else."""
    if not isinstance(features, Tensor) or features.ndim != 4:
        return None
    return np.asarray(features.double().mean(dim=(0, 1)).cpu().numpy(), np.float64)
