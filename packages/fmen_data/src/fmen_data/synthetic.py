"""Training images that are drawn by code, reproducible from a seed and free of licences.

``leaves`` is the dead leaves model, opaque shapes whose sizes follow a power law, which has statistics of natural
images; networks can be trained on it alone (Achddou, Gousseau and Ladjal, "Synthetic images as a regularity prior for
image restoration neural networks", SSVM 2021). The other kinds have what photographs lack: letters, lines, screentone,
repeated structures and flat colours. Everything is drawn at three times the size and reduced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from string import ascii_letters, digits, punctuation
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .bicubic import imresize
from .errors import DataError
from .images import image_size, write_image

Generator: TypeAlias = np.random.Generator
Canvas: TypeAlias = npt.NDArray[np.uint8]
Color: TypeAlias = tuple[int, int, int]

OVERSAMPLING = 3
SMALLEST_SIDE = 64
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)
LEAF_RADII = (1.0, 0.25)
"""Smallest radius of a leaf in pixels of the image, and the largest as a share of its side."""


def draw_image(kind: str, number: int, *, side: int = 480, seed: int = 0) -> Canvas:
    """Return the image of a kind and a number: ``(side, side, 3)`` RGB, uint8.

    Args:
        kind: A name in `KINDS`.
        number: Which image of the kind.
        side: Height and width in pixels, at least `SMALLEST_SIDE`.
        seed: Seed of the series. Kinds with text also depend on the installed fonts.

    Raises:
        DataError: There is no such kind or image, or the kind has text, and Pillow or fonts are missing.
    """
    if kind not in KINDS:
        raise DataError(f"there is no kind {kind!r}; choose from {', '.join(KINDS)}")
    if number < 0 or side < SMALLEST_SIDE or seed < 0:
        raise DataError(
            f"number {number}, side {side}, seed {seed}: give a side of at least {SMALLEST_SIDE} and no negative number"
        )
    generator = np.random.default_rng([seed, list(KINDS).index(kind), number])
    canvas = KINDS[kind](OVERSAMPLING * side, generator)
    return imresize(canvas, 1 / OVERSAMPLING)


def write_images(
    folder: str | Path, count: int, *, kinds: Sequence[str] = (), side: int = 480, seed: int = 0, progress: bool = True
) -> int:
    """Write images of several kinds in turn as ``KIND_NUMBER.png``; existing files are skipped.

    Args:
        folder: The folder, which is created.
        count: Number of images in the folder afterwards.
        kinds: Names in `KINDS`; all by default.
        side: Height and width in pixels.
        seed: Seed of the series.
        progress: Show a progress bar.

    Returns:
        The number of images written.

    Raises:
        DataError: An existing image has another size, or an image cannot be drawn; see `draw_image`.
    """
    kinds = kinds or list(KINDS)
    names = [(kinds[place % len(kinds)], place // len(kinds)) for place in range(count)]
    files = {Path(folder) / f"{kind}_{number:05}.png": (kind, number) for kind, number in names}
    missing = [(file, *image) for file, image in files.items() if not file.is_file()]
    for file in filter(Path.is_file, files):
        if (found := image_size(file)) != (side, side):
            raise DataError(f"{file} is {found[1]}x{found[0]}, not {side}x{side}; choose its size or another folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file, kind, number in tqdm(missing, unit="image", disable=not progress):
        write_image(file, draw_image(kind, number, side=side, seed=seed))
    return len(missing)


def draw_leaves(side: int, generator: Generator) -> Canvas:
    """Draw textured ellipses and polygons that cover each other; their radii follow a power law with exponent -3."""
    low, high = LEAF_RADII[0] * OVERSAMPLING, LEAF_RADII[1] * side
    count = 4000
    uniform = generator.random(count)
    radii = (low**-2 + uniform * (high**-2 - low**-2)) ** -0.5  # the inverse of the distribution function
    places = generator.uniform(0, side, (count, 2))
    labels = np.zeros((side, side), np.int32)
    for label, (radius, (x, y)) in enumerate(zip(radii, places, strict=True), 1):
        corners = int(generator.choice([3, 4, 5, 40]))  # 40 for ellipses
        turn, stretch = generator.uniform(0, 2 * np.pi), generator.uniform(0.4, 1)
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        shape = np.stack([radius * np.cos(angles), stretch * radius * np.sin(angles)])
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        cv2.fillPoly(labels, [((rotation @ shape).T + np.array([x, y])).astype(np.int32)], label)
    palette = draw_palette(8, generator)
    colors = palette[generator.integers(len(palette), size=count + 1)] + generator.normal(0, 12, (count + 1, 3))
    contrast = generator.gamma(1, 14, count + 1) * (generator.random(count + 1) < 0.7)
    texture = np.stack([draw_texture(side, exponent, generator) for exponent in (0.5, 1.0, 1.5)])
    chosen = generator.integers(len(texture), size=count + 1)
    grain = np.take_along_axis(texture, chosen[labels][None], 0)[0] * contrast[labels]
    return as_canvas(colors[labels] + grain[..., None])


def draw_text(side: int, generator: Generator) -> Canvas:
    """Draw a page of text in several fonts and sizes, dark on light or light on dark."""
    paper, ink = contrasting_colors(generator)
    page, size = new_page(side, paper), 0
    y = int(generator.integers(0, 40))
    while y < side:
        if generator.random() < 0.25 or not size:
            size, font = int(generator.integers(8, 28)) * OVERSAMPLING, int(generator.integers(1 << 30))
        write_line(page, (int(generator.integers(0, 60)), y), size, ink, random_words(generator, 14), font)
        y += int(size * generator.uniform(1.15, 1.5))
    return page


def draw_lines(side: int, generator: Generator) -> Canvas:
    """Draw a page of line art: closed curves filled with white, black, screentone or hatching, and single strokes."""
    page = new_page(side, (255, 255, 255))
    for _ in range(int(generator.integers(12, 30))):
        curve = random_curve(side, generator)
        left, top = np.clip(curve.min(0), 0, side)
        right, bottom = np.clip(curve.max(0) + 1, 0, side)
        inside = np.zeros((bottom - top, right - left), np.uint8)
        if inside.size:
            cv2.fillPoly(inside, [curve - np.array([left, top], np.int32)], 1)
            page[top:bottom, left:right][inside > 0] = draw_fill(inside.shape, generator)[inside > 0, None]
        cv2.polylines(page, [curve], True, (0, 0, 0), int(generator.integers(2, 14)))
    for _ in range(int(generator.integers(20, 80))):
        curve = random_curve(side // 3, generator) + np.int32(generator.integers(0, side, 2))
        cv2.polylines(page, [curve[: len(curve) // 3]], False, (0, 0, 0), int(generator.integers(1, 8)))
    return page


def draw_fill(shape: tuple[int, ...], generator: Generator) -> Canvas:
    """Return white, black, screentone or hatching of a shape ``(height, width)``."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    period, angle = generator.uniform(3, 9) * OVERSAMPLING, generator.uniform(0, np.pi)
    across = np.cos(2 * np.pi / period * (np.cos(angle) * columns + np.sin(angle) * rows))
    along = np.cos(2 * np.pi / period * (np.cos(angle) * rows - np.sin(angle) * columns))
    kind, threshold = generator.choice(4, p=[0.3, 0.1, 0.35, 0.25]), generator.uniform(-1.2, 1.2)
    if kind < 2:
        return np.full(shape, (255, 0)[kind], np.uint8)
    white = across + along > threshold if kind == 2 else across > 0.5 * threshold
    return np.where(white, 255, 0).astype(np.uint8)


def draw_facade(side: int, generator: Generator) -> Canvas:
    """Draw a wall with rows of windows, in perspective."""
    wall, frame, glass = as_colors(draw_palette(3, generator))
    page = new_page(2 * side, wall)
    noise = draw_texture(2 * side, 0.5, generator)[..., None] * generator.uniform(0, 10)
    page = as_canvas(page + noise)
    width, height = (int(generator.integers(14, 60)) * OVERSAMPLING for _ in range(2))
    gap, bars = int(generator.integers(3, 20)) * OVERSAMPLING, int(generator.integers(0, 4))
    for top in range(gap, 2 * side, height + gap):
        cv2.line(page, (0, top - gap // 2), (2 * side, top - gap // 2), frame, int(generator.integers(1, 6)))
        for left in range(gap, 2 * side, width + gap):
            shade = int(generator.integers(-40, 40))
            pane = tuple(int(np.clip(value + shade, 0, 255)) for value in glass)
            cv2.rectangle(page, (left, top), (left + width, top + height), pane, -1)
            for bar in range(bars + 2):
                x = left + bar * width // (bars + 1)
                cv2.line(page, (x, top), (x, top + height), frame, OVERSAMPLING)
            cv2.rectangle(page, (left, top), (left + width, top + height), frame, 2 * OVERSAMPLING)
    corners = np.array([[0, 0], [2 * side, 0], [2 * side, 2 * side], [0, 2 * side]], np.float32)
    moved = corners / 2 + generator.uniform(-0.6, 0.1, (4, 2)).astype(np.float32) * side * np.sign(side - corners)
    seen = cv2.warpPerspective(page, cv2.getPerspectiveTransform(corners, moved), (side, side), flags=cv2.INTER_AREA)
    return np.asarray(seen, np.uint8)


def draw_diagram(side: int, generator: Generator) -> Canvas:
    """Draw charts with curves, bars, a grid and labels in flat colours."""
    page = new_page(side, (255, 255, 255))
    cell = side // int(generator.integers(1, 4))
    for top in range(0, side, cell):
        for left in range(0, side, cell):
            low, high = (left + cell // 8, top + cell // 8), (left + 7 * cell // 8, top + 7 * cell // 8)
            draw_chart(page, low, high, generator)
            font = int(generator.integers(1 << 30))
            write_line(page, (low[0], high[1] + OVERSAMPLING), cell // 16, (0, 0, 0), random_words(generator, 3), font)
            write_line(page, (low[0], top), cell // 12, (0, 0, 0), random_words(generator, 2), font)
    return page


def draw_chart(page: Canvas, low: tuple[int, int], high: tuple[int, int], generator: Generator) -> None:
    """Draw up to three series of values as bars or curves between two corners ``(x, y)``."""
    (left, top), (right, bottom) = low, high
    for y in np.linspace(top, bottom, int(generator.integers(2, 8))).astype(int):
        cv2.line(page, (left, y), (right, y), (210, 210, 210), OVERSAMPLING)
    count, thickness = int(generator.integers(3, 16)), int(generator.integers(1, 3)) * OVERSAMPLING
    columns = np.linspace(left, right, count).astype(int)
    for color in as_colors(draw_palette(int(generator.integers(1, 4)), generator)):
        points = np.stack([columns, generator.integers(top, bottom, count)], 1)
        if generator.random() < 0.4:
            width = int(0.8 * (columns[1] - columns[0]))
            for x, y in points[:-1].tolist():
                cv2.rectangle(page, (x, y), (x + width, bottom), color, -1)
            continue
        cv2.polylines(page, [points.astype(np.int32)], False, color, thickness)
        for point in points.tolist():
            cv2.circle(page, point, 2 * thickness, color, -1)
    cv2.rectangle(page, low, high, (0, 0, 0), OVERSAMPLING)


def draw_interface(side: int, generator: Generator) -> Canvas:
    """Draw a user interface: a title bar, and cards with a disc and short texts."""
    paper, ink = contrasting_colors(generator)
    accents = as_colors(draw_palette(4, generator))
    page, n, font = new_page(side, paper), OVERSAMPLING, int(generator.integers(1 << 30))
    cv2.rectangle(page, (0, 0), (side, 28 * n), accents[0], -1)
    write_line(page, (12 * n, 6 * n), 15 * n, (255, 255, 255), random_words(generator, 4), font)
    width, height = (int(generator.integers(70, 240)) * n for _ in range(2))
    for top in range(40 * n, side, height + 12 * n):
        for left in range(12 * n, side, width + 12 * n):
            shade = tuple(int(np.clip(value + generator.integers(-14, 15), 0, 255)) for value in paper)
            cv2.rectangle(page, (left, top), (left + width, top + height), shade, -1)
            cv2.rectangle(page, (left, top), (left + width, top + height), ink, int(generator.integers(1, n + 1)))
            accent = accents[int(generator.integers(4))]
            radius = int(generator.integers(8, 20)) * n
            cv2.circle(page, (left + 8 * n + radius, top + 8 * n + radius), radius, accent, -1)
            for line in range(int(generator.integers(1, 8))):
                at = left + 8 * n, top + 2 * radius + (14 + 15 * line) * n
                if at[1] + 14 * n < min(top + height, side):
                    write_line(page[:, : left + width - 4 * n], at, 11 * n, ink, random_words(generator, 8), font)
    return page


KINDS: dict[str, Callable[[int, Generator], Canvas]] = {
    "leaves": draw_leaves,
    "text": draw_text,
    "lines": draw_lines,
    "facade": draw_facade,
    "diagram": draw_diagram,
    "interface": draw_interface,
}
"""The kinds of images. A function draws a square of a side in pixels."""


def new_page(side: int, color: Color) -> Canvas:
    """Return a square of one colour."""
    return np.full((side, side, 3), color, np.uint8)


def as_canvas(values: npt.NDArray[Any]) -> Canvas:
    """Round to uint8."""
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def draw_palette(count: int, generator: Generator) -> npt.NDArray[np.float64]:
    """Return colours ``(count, 3)`` from 0 to 255, as in photographs more often grey than saturated."""
    lightness = 255 * generator.beta(1.3, 1.5, (count, 1))
    hue = generator.normal(0, 1, (count, 3))
    saturation = generator.gamma(1.5, 18, (count, 1))
    return np.asarray(np.clip(lightness + saturation * (hue - hue.mean(1, keepdims=True)), 0, 255))


def as_colors(palette: npt.NDArray[Any]) -> list[Color]:
    """Return the rows of ``(count, 3)`` as OpenCV takes colours."""
    return [(int(red), int(green), int(blue)) for red, green, blue in palette]


def contrasting_colors(generator: Generator) -> tuple[Color, Color]:
    """Return a light and a dark colour, more often the light one first."""
    light, dark = generator.integers(200, 256, 3), generator.integers(0, 90, 3)
    first, second = as_colors(np.stack([light, dark] if generator.random() < 0.75 else [dark, light]))
    return first, second


def draw_texture(side: int, exponent: float, generator: Generator) -> npt.NDArray[np.float32]:
    """Return noise ``(side, side)`` of unit variance; its amplitude is the frequency to the power ``-exponent``."""
    spectrum = np.fft.rfft2(generator.standard_normal((side, side)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency**-exponent, (side, side))
    return np.asarray(noise / noise.std(), np.float32)


def random_curve(side: int, generator: Generator) -> npt.NDArray[np.int32]:
    """Return a smooth closed curve as points ``(240, 2)``."""
    angles, points = np.linspace(0, 2 * np.pi, 240), generator.uniform(0, side, (1, 2)).repeat(240, 0)
    for order in range(1, 5):
        size = side / 4 * generator.normal(0, 1 / order**1.5, (2, 2))
        points = points + np.cos(order * angles)[:, None] * size[0] + np.sin(order * angles)[:, None] * size[1]
    return points.astype(np.int32)


def random_words(generator: Generator, count: int) -> str:
    """Return up to ``count`` words of random letters, digits and signs, lower case most of the time."""
    words = []
    for _ in range(int(generator.integers(1, count + 1))):
        word = "".join(generator.choice(list(ascii_letters[:26]), int(generator.integers(1, 11))))
        kind = generator.random()
        if kind < 0.25:
            word = word.capitalize() if kind < 0.15 else word.upper()
        elif kind < 0.4:
            word = "".join(generator.choice(list(digits + punctuation), len(word)))
        words.append(word)
    return " ".join(words)


@lru_cache(1)
def installed_fonts() -> list[str]:
    """Return the files of the TrueType and OpenType fonts of this computer, without those of bitmaps and damaged ones.

    Raises:
        DataError: There are none.
    """
    from PIL import ImageFont

    def usable(file: str) -> bool:
        try:
            ImageFont.truetype(file, 24)
        except OSError:
            return False
        return True

    folders = [Path(folder) for folder in FONT_FOLDERS] + [Path.home() / ".fonts", Path.home() / ".local/share/fonts"]
    files = sorted(str(file) for folder in folders for file in folder.rglob("*.[to]tf"))
    fonts = list(filter(usable, files))
    if not fonts:
        raise DataError(
            "no fonts are installed; install some, such as Debian's fonts-dejavu, or leave out kinds with text"
        )
    return fonts


def write_line(page: Canvas, at: tuple[int, int], size: int, color: Color, text: str, font: int) -> None:
    """Write a line of text into ``page``; ``font`` modulo the number of installed fonts selects one.

    Raises:
        DataError: Pillow or fonts are missing.
    """
    try:
        from PIL import Image as PillowImage
        from PIL import ImageDraw, ImageFont
    except ImportError as error:
        raise DataError("images with text need Pillow; install it: pip install Pillow") from error
    fonts = installed_fonts()
    letters = ImageFont.truetype(fonts[font % len(fonts)], max(size, 1))
    height, width = page.shape[0] - at[1], page.shape[1] - at[0]
    if min(height, width) <= 0:
        return
    mask = PillowImage.new("L", (width, min(height, 2 * size)))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=letters)
    share = np.asarray(mask, np.float32)[..., None] / 255
    target = page[at[1] : at[1] + share.shape[0], at[0] :]
    target[:] = as_canvas(share * np.array(color) + (1 - share) * target)
