"""Random degradations of LR images: blur, noise, resizing and JPEG, in random order and strength.

A degraded image passes once through blur, noise and JPEG in random order, each with a probability of its own. A part of
the images passes twice, as the second-order degradation of Real-ESRGAN (Wang et al. 2021, section 3.2) does: first in
a size between LR and HR, to which the HR image is reduced, and again after resizing to the LR size. The random order is
that of BSRGAN (Zhang et al. 2021, section 3). Blur is weaker than in both papers: removing strong blur costs PSNR on
sharp images. Resizing maps the borders of an image to each other, so that LR and HR stay aligned.

Every step of the pipeline is uint8, as images between two programs are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from .bicubic import Image
from .errors import DataError

Range = tuple[float, float]

GRAY = 0.4
"""Share of noise that is the same in the three channels."""

POISSON = 0.3
"""Share of noise whose variance is proportional to the brightness."""

SUBSAMPLED = 0.75
"""Share of JPEG images with chroma of half the resolution."""

KERNELS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_AREA)
"""Kernels that resize to the LR size."""

MCU = 16
"""Side of the blocks of JPEG with subsampled chroma; without subsampling it is half of this."""

MIDDLE_GRAY = 128.0

INVISIBLE = 1e-6
"""A standard deviation of noise that rounds to no gray level, and is too small for NumPy's Poisson distribution."""

LIMITS: Mapping[str, Range] = {"blur_sigma": (0.0, 10.0), "noise_sigma": (0.0, 255.0), "jpeg_quality": (1.0, 100.0)}
"""Least and largest values of the ranges."""


@dataclass(frozen=True)
class Degradation:
    """The distribution of random degradations.

    Attributes:
        clean: Share of images that stay as they are.
        twice: Share of the other images that pass twice.
        resize: Range of the size in the first of two passes, as a multiple of the LR size; at most the scale.
        blur: Probability of blur in a pass.
        blur_sigma: Range of the Gaussian's standard deviations, in pixels.
        noise: Probability of noise in a pass.
        noise_sigma: Range of the noise's standard deviation, in gray levels; Poisson noise has it at middle gray.
        jpeg: Probability of JPEG in a pass.
        jpeg_quality: Range of libjpeg's quality.
    """

    clean: float = 0.35
    twice: float = 0.05
    resize: Range = (0.9, 2.0)
    blur: float = 0.05
    blur_sigma: Range = (0.2, 0.7)
    noise: float = 0.5
    noise_sigma: Range = (0.0, 17.0)
    jpeg: float = 0.7
    jpeg_quality: Range = (45.0, 99.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(field.default, float):
                if not _is_number(value) or not 0 <= value <= 1:
                    raise DataError(f"degradation: {field.name} = {value!r}; give a share from 0 to 1")
                continue
            default: Any = field.default
            least, largest = LIMITS.get(field.name, (0.25, 4.0))
            if not isinstance(value, Sequence) or len(value) != 2 or not all(map(_is_number, value)):
                raise DataError(f"degradation: {field.name} = {value!r}; give two numbers, such as {list(default)}")
            if not least <= value[0] <= value[1] <= largest:
                raise DataError(
                    f"degradation: {field.name} = {list(value)}; give two numbers in ascending order, "
                    f"from {least:g} to {largest:g}"
                )
            object.__setattr__(self, field.name, (float(value[0]), float(value[1])))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Degradation:
        """Create a distribution from some of its attributes; the others have their defaults.

        Raises:
            DataError: An attribute is unknown or out of range.
        """
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in values if name not in names]:
            raise DataError(f"degradation: there is no {unknown[0]!r}; choose from {', '.join(names)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes."""
        return asdict(self)

    def __call__(self, lr: Image, hr: Image, generator: np.random.Generator) -> Image:
        """Return a degraded LR image.

        Args:
            lr: uint8 ``(h, w, 3)`` RGB, without degradation.
            hr: uint8 ``(scale * h, scale * w, 3)``.
            generator: Decides kind and strength.

        Returns:
            uint8 ``(h, w, 3)``, aligned with ``hr``; ``lr`` itself if it stays as it is.

        Raises:
            DataError: The images are of another type or shape.
        """
        scale = len(hr) // len(lr) if lr.ndim == 3 and lr.size else 0
        expected = tuple(scale * side for side in lr.shape[:2])
        if (
            lr.dtype != np.uint8
            or hr.dtype != np.uint8
            or not scale
            or {lr.shape[2:], hr.shape[2:]} != {(3,)}
            or (hr.shape[:2] != expected)
        ):
            raise DataError(
                f"LR is {lr.dtype} {lr.shape} and HR {hr.dtype} {hr.shape}; give uint8 (h, w, 3) and "
                "(scale * h, scale * w, 3)"
            )
        if generator.random() < self.clean:
            return lr
        image = lr
        if generator.random() < self.twice:
            factor = min(generator.uniform(*self.resize), scale)
            height, width = (max(1, round(side * factor)) for side in lr.shape[:2])
            image = self._degrade(_resize(hr, height, width, cv2.INTER_AREA), generator)
            image = _resize(image, len(lr), lr.shape[1], KERNELS[generator.integers(len(KERNELS))])
        return self._degrade(image, generator)

    def _degrade(self, image: Image, generator: np.random.Generator) -> Image:
        """Pass once through blur, noise and JPEG, in random order."""
        kinds = (
            (self.blur, self.blur_sigma, add_blur),
            (self.noise, self.noise_sigma, add_noise),
            (self.jpeg, self.jpeg_quality, add_jpeg),
        )
        for index in generator.permutation(len(kinds)):
            probability, strength, function = kinds[index]
            if generator.random() < probability:
                image = function(image, strength, generator)
        return image


def step_generator(seed: int, step: int, slot: int) -> np.random.Generator:
    """Return the generator of a slot of a step. It is independent of that of the patches' positions."""
    counter = np.array([0, 0, slot + 1, 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64), counter=counter))


def add_blur(image: Image, sigma: Range, generator: np.random.Generator) -> Image:
    """Blur with a Gaussian, isotropic or with two standard deviations and a random direction."""
    first, second = generator.uniform(*sigma, 2)
    if generator.random() < 0.5:
        second = first
    angle = generator.uniform(0, np.pi)
    kernel = gaussian_kernel(first, second, angle)
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def gaussian_kernel(first: float, second: float, angle: float) -> npt.NDArray[np.float64]:
    """Return a Gaussian kernel of sum 1, averaged over the area of each pixel.

    Args:
        first: Standard deviation along ``angle``, in pixels.
        second: Standard deviation at right angles to it.
        angle: In radians.
    """
    fine = 4  # samples per pixel and direction; a kernel much narrower than a pixel would otherwise have no width
    radius = max(1, int(np.ceil(3 * max(first, second))))
    side = 2 * radius + 1
    places = (np.arange(side * fine) + 0.5) / fine - side / 2
    x, y = np.meshgrid(places, places)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    values = np.exp(-0.5 * ((along / max(first, 1e-3)) ** 2 + (across / max(second, 1e-3)) ** 2))
    kernel = values.reshape(side, fine, side, fine).sum((1, 3))
    total = kernel.sum()
    if total == 0:
        kernel[radius, radius] = total = 1.0
    return np.asarray(kernel / total, np.float64)


def add_noise(image: Image, sigma: Range, generator: np.random.Generator) -> Image:
    """Add Gaussian or Poisson noise, independent in the three channels or the same in them."""
    strength = generator.uniform(*sigma)
    poisson, gray = generator.random(2) < (POISSON, GRAY)
    if strength < INVISIBLE:
        return image
    shape = (*image.shape[:2], 1) if gray else image.shape
    if poisson:
        level = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if gray else image, np.float64)
        gain = strength**2 / MIDDLE_GRAY  # gray levels per photon
        noise = generator.poisson(level / gain) * gain - level
    else:
        noise = generator.normal(0, strength, shape)
    return np.asarray(np.clip(np.rint(image + noise), 0, 255), np.uint8)


def add_jpeg(image: Image, quality: Range, generator: np.random.Generator) -> Image:
    """Compress with JPEG. The blocks begin at a random position."""
    strength = round(generator.uniform(*quality))
    top, left = generator.integers(0, MCU, 2).tolist()
    subsampling = "420" if generator.random() < SUBSAMPLED else "444"
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, top, -(top + height) % MCU, left, -(left + width) % MCU, cv2.BORDER_REFLECT)
    content = simplejpeg.encode_jpeg(np.ascontiguousarray(padded), quality=strength, colorsubsampling=subsampling)
    return np.ascontiguousarray(simplejpeg.decode_jpeg(content)[top : top + height, left : left + width])


def _resize(image: Image, height: int, width: int, kernel: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=kernel), np.uint8)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
