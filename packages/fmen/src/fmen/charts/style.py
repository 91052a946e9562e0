"""The style that all charts share, and the conversion of figures to files and to parts of an HTML page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from fmen_data.atomic import atomic_write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")

INK, QUIET, RULE, PAPER = "#1f2937", "#5b6570", "#e5e7eb", "#ffffff"
ACCENT, OTHERS, GUEST = "#c2410c", "#64748b", "#0f766e"

VARIABLES = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    ACCENT: "var(--accent)",
    OTHERS: "var(--others)",
}
"""The CSS variables that replace the colors in a page, so that a chart follows the page's light or dark theme."""

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


@contextmanager
def chart_style(size: float = 10.0) -> Iterator[None]:
    """Set matplotlib's parameters for a chart while the context is active.

    Args:
        size: Font size in points.
    """
    import matplotlib

    parameters: Any = {
        "font.family": "DejaVu Sans",
        "font.size": size,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "savefig.dpi": 200,
        "svg.fonttype": "none",
        "svg.hashsalt": "fmen",
    }
    with matplotlib.rc_context(parameters):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, ``width`` x ``height`` points, that opens no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, place: tuple[int, int, int] = (1, 1, 1)) -> Axes:
    """Add axes with a grid and without a background."""
    axes = figure.add_subplot(*place)
    axes.patch.set_visible(False)
    axes.grid()
    return axes


def thousands(value: float, _position: object = None) -> str:
    """Format a tick: ``0.02``, ``5``, ``12,000``, ``3M``."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a file of a format of :data:`FORMATS`; the same figure gives the same bytes."""
    undated: dict[str, None] = {"Software": None} if suffix == ".png" else {"Creator": None, "Producer": None}
    if suffix == ".svg":
        undated = {"Creator": None, "Date": None}
    elif suffix == ".pdf":
        undated["CreationDate"] = None
    content = io.BytesIO()
    with chart_style():
        figure.savefig(content, format=suffix[1:], metadata=undated)
    return content.getvalue()


def save_figure(figure: Figure, file: Path) -> None:
    """Write a PNG, PDF or SVG file, by its suffix."""
    atomic_write_bytes(file, render(figure, file.suffix.lower()))


def inline_svg(figure: Figure, name: str, label: str, notes: Mapping[str, str] | None = None) -> str:
    """Return a figure as an ``<svg>`` element for an HTML page.

    Text stays text, colors become the CSS variables of :data:`VARIABLES`, and the element fills its container's width.

    Args:
        figure: The chart.
        name: Prefix of the element ids, unique in the page.
        label: Text alternative.
        notes: Tooltips, by the ``gid`` of the artists that they describe.
    """
    figure.patch.set_visible(False)
    root = ElementTree.fromstring(render(figure, ".svg"))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}metadata", f"{SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        note = (notes or {}).get(element.get("id", ""))
        if note is not None:
            title = ElementTree.Element("title")
            title.text = note
            element.insert(0, title)
        for key, value in list(element.attrib.items()):
            if key == f"{XLINK}href":
                element.set("href", value.replace("#", f"#{name}-"))
                del element.attrib[key]
            elif key == "id":
                element.set(key, f"{name}-{value}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": label})
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if f"#{match[1]}" in text else "", text)
    return re.sub("|".join(VARIABLES), lambda match: VARIABLES[match[0]], text)
