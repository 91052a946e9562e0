"""The published weights of the compared networks give their published figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmen_core import Upscaler, load
from fmen_core.pretrained import published
from fmen_data import open_dataset
from fmen_eval import ValidationResult, validate

SET5_PSNR = {
    "imdn_baseline.pth": 32.2468,
    "rfdn_baseline.pth": 32.1589,
    "team04_rlfn.pth": 32.0973,
    "team05_efdn.pt": 31.8548,
    "team10_repafdn.pth": 32.1378,
    "team39_imdn_plus.pth": 32.1327,
    "team40_rfdn_pruned.pth": 32.1452,
    "ntire2026_span.pth": 31.7390,
}
"""PSNR in dB under protocol paper at x4."""

SET5_AND_SET14_PSNR = {
    "ntire2024_team21_slimrlfn.pth": (31.9748, 28.5938),
    "ntire2025_team15_dipnet_slim.pt": (32.0396, 28.5384),
    "ntire2025_team24_spanf.pth": (31.7748, 28.3641),
    "ntire2025_team19_safmnv3.pth": (32.0309, 28.4617),
    "ntire2025_team31_tsr.pth": (31.8834, 28.4411),
    "ntire2025_team23_dscf.pth": (31.7462, 28.3419),
    "ntire2026_team22_spanv2.pth": (31.7681, 28.3805),
    "ntire2026_team18_disp.pth": (31.9377, 28.4654),
    "ntire2026_team01_pds.pth": (31.7614, 28.3613),
    "efdn": (32.0758, 28.5820),
    "pkdsr": (31.7706, 28.3654),
    "haesr": (32.4595, 28.8091),
}
"""Of the authors' own code, at x4 under the paper protocol: files, and names of weights that ``fmen weights get`` has
downloaded."""

IMDN_PAPER = {"IMDN_x2.pth": (38.00, 0.9605), "IMDN_x3.pth": (34.36, 0.9270), "IMDN_x4.pth": (32.21, 0.8948)}
"""PSNR and SSIM on Set5 from Table 5 of IMDN's paper, as published with these weights."""


def measure(weights: Path, benchmark: Path, *, ssim: bool = False) -> ValidationResult:
    upscaler = Upscaler(load(weights), device="cpu")
    dataset = open_dataset(benchmark, scale=upscaler.scale)
    return validate(upscaler, dataset, scale=upscaler.scale, protocol="paper", progress=False, measure_ssim=ssim)


@pytest.mark.parametrize("file", SET5_PSNR)
def test_challenge_weights_give_their_psnr_on_set5(reference: Path, file: str) -> None:
    # CPUs sum in different orders, which changes the rounding of a few pixels: at most 1e-4 dB.
    assert measure(reference / "weights" / file, reference / "data" / "Set5").psnr == pytest.approx(
        SET5_PSNR[file], abs=1e-4
    )


@pytest.mark.parametrize("weights", SET5_AND_SET14_PSNR)
def test_released_weights_give_the_psnr_of_their_authors_code_on_set5_and_set14(reference: Path, weights: str) -> None:
    file = reference / "weights" / weights
    if not file.suffix:
        file = published(weights).file
        if not file.is_file():
            pytest.skip(f"get the weights with: fmen weights get {weights}")
    psnr = [measure(file, reference / "data" / name).psnr for name in ("Set5", "Set14")]
    assert psnr == pytest.approx(SET5_AND_SET14_PSNR[weights], abs=1e-4)


@pytest.mark.parametrize("file", IMDN_PAPER)
def test_imdn_gives_the_figures_of_its_paper_on_set5(reference: Path, file: str) -> None:
    result = measure(reference / "weights" / file, reference / "data" / "Set5", ssim=True)
    assert result.ssim is not None
    assert (round(result.psnr, 2), round(result.ssim, 4)) == IMDN_PAPER[file]
