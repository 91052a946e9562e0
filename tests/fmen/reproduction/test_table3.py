"""Table 3's counts against the published figures."""

from __future__ import annotations

import pytest
import torch

from fmen.reproduction.published import TABLE3, Published
from fmen.reproduction.result import Options
from fmen.reproduction.table3 import count_macs, count_parameters, rows, run

DIFFERENT = {
    ("LapSRN x2", "parameters"): -377,
    ("LapSRN x2", "multiply-adds"): 116.1,
    ("LapSRN x4", "parameters"): 59,
    ("LapSRN x4", "multiply-adds"): 33.0,
    ("MemNet x2", "multiply-adds"): -0.1,
    ("MemNet x3", "multiply-adds"): -0.1,
    ("MemNet x4", "multiply-adds"): -0.1,
    ("IDN x4", "multiply-adds"): 15.4,
    ("EDSR-baseline x2", "multiply-adds"): -0.1,
    ("RFDN x4", "multiply-adds"): 7.2,
}
"""Our figure minus the published one, where they differ; the notes of the rows say why."""


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, int], Published]:
    """The entries of the table by network and scale."""
    return {(entry.title, entry.scale): entry for entry in TABLE3}


def test_every_published_figure_comes_out_to_the_digit_except_those_with_a_reason() -> None:
    result = run(Options())
    different = {row.key: row.difference for row in result.rows if row.difference}
    assert different == DIFFERENT
    assert all(row.note for row in result.rows if row.difference)
    assert len(result.rows) == 2 * 14 * 3
    assert result.remarks[0].startswith("62 of 72 published figures come out to the digit. In 27 of 42 cells")


@pytest.mark.parametrize(
    ("title", "scale", "params"),
    [
        ("SRCNN", 2, 57_184),
        ("FSRCNN", 4, 12_464),
        ("VDSR", 3, 664_704),
        ("DRCN", 2, 1_774_080),
        ("DRRN", 4, 297_216),
        ("MemNet", 2, 676_992),
        ("IDN", 4, 552_769),
        ("EDSR-baseline", 2, 1_369_859),
        ("CARN", 2, 1_591_939),
        ("IMDN", 3, 703_059),
        ("LatticeNet", 4, 776_944),
        ("RFDN", 4, 549_624),
        ("FMEN", 2, 748_656),
    ],
)
def test_parameters_are_counted_as_the_source_counts_them(
    published: dict[tuple[str, int], Published], title: str, scale: int, params: int
) -> None:
    assert count_parameters(published[title, scale]) == params


def test_multiply_adds_of_srcnn_are_its_weights_at_every_pixel(published: dict[tuple[str, int], Published]) -> None:
    for scale in (2, 3, 4):
        assert count_macs(published["SRCNN", scale]) == pytest.approx(57_184 * 1280 * 720, rel=1e-6)


def test_a_row_has_no_difference_where_no_figure_is_published(published: dict[tuple[str, int], Published]) -> None:
    parameters, macs = rows(published["LapSRN", 3])
    assert parameters.published is macs.published is parameters.difference is None


def test_counting_allocates_no_weights(published: dict[tuple[str, int], Published]) -> None:
    before = torch.get_rng_state()
    count_macs(published["IMDN", 4])
    assert torch.equal(before, torch.get_rng_state())
