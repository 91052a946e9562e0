"""Table 3's counts against the published figures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmen.reproduction.published import TABLE3, Published
from fmen.reproduction.result import Options
from fmen.reproduction.table3 import SCALES, build, count_macs, count_parameters, run

DIFFERENT = {
    **{(f"SRCNN x{scale}", "parameters"): 49 for scale in SCALES},
    **{(f"DRCN x{scale}", "multiply-adds"): 8185.6 for scale in SCALES},
    ("LapSRN x2", "parameters"): 183,
    ("LapSRN x3", "parameters"): 228,
    ("LapSRN x4", "parameters"): 329,
    ("LapSRN x2", "multiply-adds"): 41.1,
    ("LapSRN x3", "multiply-adds"): 59.4,
    ("LapSRN x4", "multiply-adds"): 43.1,
    **{(f"MemNet x{scale}", "multiply-adds"): 2038.4 for scale in SCALES},
    ("IDN x2", "parameters"): -26,
    ("IDN x3", "parameters"): -35,
    ("IDN x4", "parameters"): -47,
    ("IDN x2", "multiply-adds"): 6.7,
    ("IDN x3", "multiply-adds"): 11.5,
    ("IDN x4", "multiply-adds"): 13.2,
    ("RFDN x2", "multiply-adds"): -2.1,
    ("RFDN x3", "multiply-adds"): -0.9,
    ("RFDN x4", "multiply-adds"): -0.5,
}
"""Our figure minus the published one, where they differ; the notes of the rows say why."""

HR_PIXELS = 1280 * 720


@pytest.fixture(scope="module")
def published() -> dict[str, Published]:
    """The entries of the table by network."""
    return {entry.network: entry for entry in TABLE3}


def test_every_published_figure_comes_out_to_the_digit_except_those_with_a_reason() -> None:
    result = run(Options())
    different = {row.key: row.difference for row in result.rows if row.difference}
    assert different == DIFFERENT
    assert all(row.note for row in result.rows if row.difference)
    assert len(result.rows) == 2 * 14 * 3 and all(row.published for row in result.rows)
    assert result.remarks[0].startswith("60 of 84 published figures come out to the digit. In 24 of 42 cells")


@pytest.mark.parametrize(
    ("network", "scale", "params"),
    [
        ("srcnn", 2, 57_281),
        ("fsrcnn", 4, 12_773),
        ("vdsr", 3, 665_921),
        ("drcn", 2, 1_774_080),
        ("drrn", 4, 298_369),
        ("memnet", 2, 678_209),
        ("idn", 4, 552_769),
        ("edsr-baseline", 2, 1_369_859),
        ("carn", 2, 1_591_939),
        ("imdn", 3, 703_059),
        ("latticenet", 4, 776_944),
        ("rfdn-cca", 4, 549_624),
        ("fmen", 2, 748_656),
    ],
)
def test_parameters_are_counted_as_the_paper_counts_them(
    published: dict[str, Published], network: str, scale: int, params: int
) -> None:
    assert count_parameters(published[network], scale) == params


def test_multiply_adds_of_srcnn_are_its_weights_at_every_pixel(published: dict[str, Published]) -> None:
    for scale in SCALES:
        assert count_macs(published["srcnn"], scale) == pytest.approx(57_184 * HR_PIXELS, rel=1e-6)


def weights(network: nn.Module) -> dict[str, int]:
    """Count the weights of each convolution."""
    convs = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}
    return {name: conv.weight.numel() for name, conv in convs.items()}


def test_counts_of_recursive_networks_fit_what_their_notes_say(published: dict[str, Published]) -> None:
    drcn = weights(build(published["drcn"], 4))
    once = count_macs(published["drcn"], 4) - 15 * HR_PIXELS * (drcn["reconstruct1"] + drcn["reconstruct2"])
    assert round(once / 1e9, 1) == 9788.7
    assert round(sum(weights(build(published["memnet"], 4)).values()) * HR_PIXELS / 1e9, 1) == 623.9


def test_counts_of_lapsrn_fit_what_its_note_says() -> None:
    lr_weights, hr_weights = 3 * 64 * 9 + 5 * 64 * 64 * 9, 64 * 64 * 16 + 64 * 3 * 9 + 3 * 16
    assert round((lr_weights + hr_weights) / 1e3, 1) == 253.4
    assert round((lr_weights / 4 + hr_weights) * HR_PIXELS / 1e9, 1) == 104.9


@pytest.mark.parametrize("scale", SCALES)
def test_counts_of_idn_fit_what_its_note_says(published: dict[str, Published], scale: int) -> None:
    entry, network = published["idn"], build(published["idn"], scale)
    body = sum(weights(network).values()) - weights(network)["deconv"] + 2 * 64 * 9
    fit = body + 64 * 64 * 9 + 64 * 3 * scale**2 * 9
    biases = count_parameters(entry, scale) - sum(weights(network).values()) - 1 + 64 + 3 * scale**2
    assert round((fit + biases) / 1e3) == entry.params[scale - 2]
    assert round(fit * lr_pixels(scale) / 1e9, 1) == entry.macs[scale - 2]


@pytest.mark.parametrize("scale", SCALES)
def test_counts_of_rfdn_fit_what_its_note_says(published: dict[str, Published], scale: int) -> None:
    entry = published["rfdn-cca"]
    attention_biases = 6 * (12 + 48)
    fit = (count_parameters(entry, scale) - attention_biases) * lr_pixels(scale)
    assert round(fit / 1e9, 1) == entry.macs[scale - 2]


def lr_pixels(scale: int) -> int:
    """Return the pixels of the LR image, whose width is rounded up."""
    return -(-1280 // scale) * (720 // scale)


def test_counting_allocates_no_weights(published: dict[str, Published]) -> None:
    before = torch.get_rng_state()
    count_macs(published["imdn"], 4)
    assert torch.equal(before, torch.get_rng_state())
