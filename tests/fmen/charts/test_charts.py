"""Charts: labels clear of discs, every network named, the same bytes each time; curves; text and Markdown tables."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest

from fmen.charts.curves import POINTS, draw_lines, draw_loss, draw_psnr, draw_runs, smooth, thin
from fmen.charts.networks import Network, draw_networks, inline_networks, save_networks
from fmen.charts.style import ACCENT, GUEST, INK, inline_svg, render, thousands
from fmen.charts.tables import format_markdown

# Title, parameters, runtime in ms, memory in MiB, PSNR in dB: as measured on a CPU.
MEASURED = (
    ("FMEN-S", 341066, 233.4, 71.7, 30.13),
    ("FMEN", 769428, 304.1, 83.8, None),
    ("IMDN (baseline)", 893936, 361.9, 136.2, 30.33),
    ("E-RFDN", 433448, 446.3, 199.8, 30.25),
    ("ByteESR (RLFN_cut)", 317218, 156.7, 95.5, 30.21),
    ("NEESR (plain RFDN)", 272038, 226.3, 144.9, 29.95),
    ("Super (RePAFDN)", 326040, 201.4, 170.0, 30.23),
    ("MegSR (pruned RFDN)", 289888, 248.7, 161.7, 30.23),
    ("rainbow (IMDN+)", 275844, 263.2, 84.3, 30.23),
    ("SPAN", 150688, 137.5, 206.1, 29.85),
    ("IMDN", 715176, 385.7, 323.6, 30.30),
)


def networks() -> list[Network]:
    return [
        Network(title.lower(), title, params, runtime, round(memory * 2**20), psnr, "Set5" if psnr else "")
        for title, params, runtime, memory, psnr in MEASURED
    ]


def artists(axes: Any, prefix: str) -> dict[str, Any]:
    """The artists of a panel whose gid begins with a prefix, by the rest of the gid."""
    found = {artist.get_gid(): artist for artist in axes.get_children() if (artist.get_gid() or "").startswith(prefix)}
    return {gid.removeprefix(prefix): artist for gid, artist in found.items()}


def disc_of(axes: Any, disc: Any) -> tuple[float, float, float]:
    x, y = axes.transData.transform(disc.get_offsets()[0])
    return x, y, math.sqrt(disc.get_sizes()[0]) / 2 * axes.figure.dpi / 72


def overlap(a: Any, b: Any) -> float:
    """The smaller side of the rectangle that two boxes share, in pixels."""
    return float(min(min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)))


@pytest.mark.parametrize(
    ("settings", "panels"),
    [
        ({}, 2),
        ({"accuracy": False}, 1),
        ({"width": 1040, "height": 470, "size": 13, "accuracy": False}, 1),
        ({"width": 400, "height": 500, "size": 12, "accuracy": False}, 1),
    ],
    ids=["bench", "one panel", "wide", "narrow"],
)
def test_labels_cover_neither_discs_nor_labels_nor_the_legend(settings: dict[str, Any], panels: int) -> None:
    figure = draw_networks(networks(), **settings)
    assert len(figure.axes) == panels
    for axes in figure.axes:
        boxes = {name: text.get_window_extent() for name, text in artists(axes, "label-").items()}
        discs = {name: disc_of(axes, disc) for name, disc in artists(axes, "network-").items()}
        assert boxes.keys() == discs.keys() and len(boxes) in (10, 11)
        for (x, y, radius), box in itertools.product(discs.values(), boxes.values()):
            gap = math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
            assert gap > radius - 1
        assert all(overlap(a, b) < 1 for a, b in itertools.combinations(boxes.values(), 2))
        legend, panel = figure.legends[0].get_window_extent(), axes.get_window_extent()
        assert all(overlap(box, legend) <= 0 for box in boxes.values())
        assert all(panel.x0 <= box.x0 and box.x1 <= panel.x1 + 1 for box in boxes.values())
        assert all(panel.y0 <= box.y0 and box.y1 <= panel.y1 + 1 for box in boxes.values())


def points(figure: Any) -> tuple[float, float]:
    """Width and height of a figure in points."""
    width, height = figure.get_size_inches() * 72
    return float(width), float(height)


def test_two_panels_are_side_by_side_and_share_the_width() -> None:
    figure = draw_networks(networks())
    left, right = (axes.get_window_extent() for axes in figure.axes)
    assert points(figure) == pytest.approx((2 * 518, 400))
    assert left.x1 < right.x0 and right.width == pytest.approx(left.width)
    assert (left.width + right.width) / figure.bbox.width > 0.8
    assert {text.get_fontsize() for axes in figure.axes for text in artists(axes, "label-").values()} == {10}


@pytest.mark.parametrize(("width", "height", "size"), [(400, 500, 12), (1040, 470, 13)], ids=["narrow", "wide"])
def test_an_inline_chart_has_the_text_size_and_height_of_its_width(width: float, height: float, size: float) -> None:
    text = inline_networks(networks()[:3], "here", width)
    assert f'viewBox="0 0 {width} {height}"' in text
    assert set(re.findall(r"([0-9.]+)px", text)) == {str(size)}


def test_the_area_of_a_disc_is_proportional_to_the_parameters_and_small_discs_are_in_front() -> None:
    axes = draw_networks(networks(), accuracy=False).axes[0]
    discs = artists(axes, "network-")
    params = {row.model: row.params for row in networks()}
    areas = {disc.get_sizes()[0] / params[name] for name, disc in discs.items()}
    assert max(areas) == pytest.approx(min(areas))
    assert sorted(discs, key=lambda name: discs[name].get_zorder()) == sorted(params, key=lambda name: -params[name])
    legend = draw_networks(networks()).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["0.2 M", "0.5 M", "0.9 M parameters"]
    sizes = [handle.get_sizes()[0] for handle in legend.legend_handles]
    assert sizes == pytest.approx([min(areas) * millions * 1e6 for millions in (0.2, 0.5, 0.9)])


def test_discs_are_at_their_figures_and_a_distant_label_has_a_line_from_the_edge_of_its_disc() -> None:
    figure = draw_networks(networks())
    for axes, height in zip(figure.axes, (lambda row: row.memory_bytes / 2**20, lambda row: row.psnr), strict=True):
        labels, discs = artists(axes, "label-"), artists(axes, "network-")
        lines = [axes.transData.transform(line.get_xydata()) for line in axes.lines]
        for row in networks():
            if row.model not in discs:
                continue
            assert tuple(discs[row.model].get_offsets()[0]) == pytest.approx((row.runtime_ms, height(row)))
            x, y, radius = disc_of(axes, discs[row.model])
            box = labels[row.model].get_window_extent()
            gap = math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1)) - radius
            starts = [line for line in lines if math.dist(line[0], (x, y)) == pytest.approx(radius, rel=1e-3)]
            assert len(starts) == (gap > 10 * figure.dpi / 72)
            for _, end in starts:
                assert box.x0 - 1 <= end[0] <= box.x1 + 1 and box.y0 - 1 <= end[1] <= box.y1 + 1


def test_fmen_and_the_networks_of_the_user_are_highlighted() -> None:
    rows = [*networks(), Network("mine", "Mine", 100_000, 300, 250 * 2**20, guest=True)]
    axes = draw_networks(rows, accuracy=False).axes[0]
    shown = {name: (label.get_color(), label.get_fontweight()) for name, label in artists(axes, "label-").items()}
    assert shown["fmen-s"] == (ACCENT, "bold") and shown["mine"] == (GUEST, "bold")
    assert shown["span"] == (INK, "normal")


def test_a_panel_of_psnr_needs_two_networks_that_have_one() -> None:
    rows = networks()
    assert len(draw_networks(rows[:3]).axes) == 2
    assert len(draw_networks(rows[:2]).axes) == 1
    figure = draw_networks(rows[:3], conditions="2 threads")
    assert figure.axes[1].get_title("left") == "Accuracy on Set5" and figure.get_supxlabel() == "2 threads"
    assert figure.axes[0].get_ylim() == pytest.approx((0, 1.12 * 136.2), rel=1e-3)
    without_memory = [Network("a", "A", 10**6, 10, 0)]
    assert draw_networks(without_memory).axes[0].get_ylim() == pytest.approx((0, 1.12))


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_same_networks_give_the_same_file(tmp_path: Path, suffix: str) -> None:
    files = [tmp_path / f"{name}{suffix}" for name in ("a", "b")]
    for file in files:
        save_networks(networks()[:4], "a machine; complexity for 256x256", file)
    assert files[0].read_bytes() == files[1].read_bytes()
    if suffix == ".svg":
        text = files[0].read_text(encoding="utf-8")
        assert all(f">{row.title}</text>" in text for row in networks()[:4])
        assert ">a machine</text>" in text and "complexity" not in text and "<dc:date>" not in text


def test_an_inline_chart_follows_the_theme_and_has_tooltips_and_its_own_ids() -> None:
    text = inline_networks(networks()[:3], "here", 400)
    assert (
        text.startswith("<svg ") and 'role="img"' in text and "viewBox=" in text and "width=" not in text.split(">")[0]
    )
    assert "<title>FMEN-S: 233.4 ms, 71.7 MiB, 0.341 M parameters</title>" in text
    assert all(f"var(--{name})" in text for name in ("ink", "quiet", "rule", "paper", "accent", "others"))
    assert not re.search(r"#[0-9a-f]{6}", text) and "http" not in text and "<style" not in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids and all(name.startswith("here-") for name in ids)
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text)) == set(ids)


def test_a_name_with_markup_or_math_stays_text() -> None:
    row = Network("a&b", "<b>$x^2$</b>", 10**6, 10, 2**20)
    text = inline_networks([row], "n", 400)
    assert ">&lt;b&gt;$x^2$&lt;/b&gt;</text>" in text and "<title>&lt;b&gt;$x^2$" in text


def test_the_loss_axis_leaves_out_the_first_losses_and_the_curve_ends_in_a_mean() -> None:
    points = [(10.0, 500.0), *((float(step), 10.0 if step % 20 else 12.0) for step in range(20, 5010, 10))]
    axes = draw_loss(points).axes[0]
    logged, smoothed = (line.get_ydata() for line in axes.lines)
    assert axes.get_yscale() == "log" and max(logged) < 20
    assert abs(smoothed[-1] - smoothed[-2]) < 0.1 * abs(logged[-1] - logged[-2])
    assert [line.get_alpha() for line in axes.lines] == [0.35, 1]
    assert axes.get_xlim() == (0, 5000)


def test_the_psnr_curve_marks_its_best_value_above_the_curve() -> None:
    figure = draw_psnr([(1, 20.0), (2, 31.47), (3, 31.2)], title="Run", name="dB")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    (mark,) = axes.texts
    assert mark.get_text() == "31.47 dB" and mark.get_ha() == "right"
    curve = axes.transData.transform(axes.lines[0].get_xydata())
    assert mark.get_window_extent().y0 > max(curve[:, 1])
    assert mark.get_window_extent().y1 < axes.get_window_extent().y1
    assert axes.get_ylim()[0] == pytest.approx(31.47 - 3 - 0.3)
    assert axes.lines[0].get_marker() == "o" and axes.lines[1].get_xydata().tolist() == [[2, 31.47]]
    assert (axes.get_title("left"), axes.get_ylabel()) == ("Run", "dB")
    assert draw_psnr([(i, 30 - i / 100) for i in range(61)]).axes[0].lines[0].get_marker() == "None"


def test_a_constant_psnr_has_an_axis() -> None:
    low, high = draw_psnr([(1, 30.0), (2, 30.0)]).axes[0].get_ylim()
    assert low == pytest.approx(29.85) and high == pytest.approx(30.375)


def test_the_curves_of_several_runs_end_where_their_runs_end_and_start_near_the_best_value() -> None:
    lines = {"long": [(1, 9.0), (100, 30.0), (200, 31.0)], "short": [(1, 10.0), (50, 29.0)]}
    figure = draw_runs(lines, shown=3)
    axes = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["long", "short"]
    assert axes.get_xlim() == (0, 200) and axes.get_ylim()[0] == 28
    assert [line.get_xdata()[-1] for line in axes.lines] == [200, 50]
    assert len({line.get_color() for line in axes.lines}) == 2
    assert not draw_runs({"": lines["long"]}).legends and draw_runs(lines).axes[0].get_ylim()[0] < 9


def test_a_long_curve_is_thinned_to_means_and_keeps_its_end() -> None:
    points = [(float(step), float(step % 2)) for step in range(30_001)]
    thinned = thin(points)
    assert POINTS / 2 < len(thinned) <= POINTS + 1 and thinned[-1] == points[-1]
    assert all(0.4 < value < 0.6 for _, value in thinned[:-1])
    assert thin(points[:POINTS]) == points[:POINTS]


def test_smoothing_is_a_geometric_mean_over_four_percent_of_the_line() -> None:
    points = [(float(step), 100.0 if step == 50 else 1.0) for step in range(100)]
    values = [value for _, value in smooth(points)]
    assert values[50] == pytest.approx(100 ** (1 / 5)) and values[47] == 1 and values[48] > 1
    assert values[52] > 1 and values[53] == 1 and values[0] == 1


def test_benchmark_curves_choose_their_axes_and_name_their_lines_outside_the_plot() -> None:
    lines = {"ours": [[64, 0.01], [2048, 10]], "published": [[64, 0.02], [1024, 9]]}
    figure = draw_lines("A title", "side", "seconds", lines)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["64", "1,024", "2,048"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "published"]
    assert overlap(figure.legends[0].get_window_extent(), axes.get_window_extent()) <= 0
    assert points(figure) == pytest.approx((504, 310))  # 700 pixels wide at 100 dpi
    single = draw_lines("Other", "workers", "pairs/s", {"ours": [[1, 10], [2, 20]]})
    assert (single.axes[0].get_xscale(), single.axes[0].get_ylim()[0], single.legends) == ("linear", 0, [])
    assert single.axes[0].get_title("left") == "Other"
    above = draw_lines("Other", "step", "dB", {"ours": [[1, 28], [2, 30]]}, bottom=28.5)
    assert above.axes[0].get_ylim() == pytest.approx((28.5, 30.075))


def test_ticks_are_plain_numbers() -> None:
    values = (0.02, 5, 999, 1000, 12_000, 3e6)
    assert [thousands(value) for value in values] == ["0.02", "5", "999", "1,000", "12,000", "3M"]


def test_an_inline_curve_is_the_same_each_time() -> None:
    first, second = (inline_svg(draw_loss([(1, 9.0), (2, 5.0), (3, 4.0)]), "loss", "A <label>") for _ in range(2))
    assert first == second and 'aria-label="A &lt;label&gt;"' in first
    assert render(draw_loss([(1, 9.0), (2, 5.0)]), ".png")[:4] == b"\x89PNG"


def test_markdown_tables_escape_bars() -> None:
    assert format_markdown([("a", "b"), ("x|y", "1")]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
