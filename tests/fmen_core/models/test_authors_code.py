"""Networks of the challenges against their authors' code, with the same artificial weights in both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fmen_core import create_model

EXPECTED: dict[str, tuple[float, ...]] = {
    "slimrlfn": (
        -1.9595859314,
        710.660057319,
        -381.904851756,
        -37.0628866032,
        62.343687868,
        -156.844633429,
        14.5693706894,
    ),
    "efdn": (0.499729410694, 0.476805106853, 1, 0.782927962072, 0, 0, 0.259202674489),
    "dipnet-slim": (
        -0.00115461271994,
        2.8074703152,
        0.76495338307,
        1.20287834391,
        -1.33523087996,
        2.23531531988,
        0.90805682477,
    ),
    "spanf": (
        0.497324157818,
        0.498365322061,
        -0.820178791636,
        0.490429538463,
        0.569479365279,
        0.343823713496,
        0.394437330135,
    ),
    "safmnv3": (
        0.501236242658,
        2.77059982129,
        1.40448710078,
        0.180466510629,
        1.15690331229,
        0.19564651388,
        1.0629419326,
    ),
    "tsr": (
        0.332003192098,
        170.869899013,
        38.5284142683,
        -19.0907314629,
        9.59371314024,
        -9.01476783683,
        -33.7845226246,
    ),
    "dscf": (
        -0.525395628365,
        153.172005069,
        12.3992546033,
        23.9030391259,
        77.7804767447,
        -0.375133775516,
        10.2045340923,
    ),
    "spanv2": (
        -2467.07083227,
        413177.741132,
        -102.752832577,
        -97.1789576642,
        1.26452603642,
        2.49182400828,
        14438.1057824,
    ),
    "disp": (
        0.496636950273,
        5.17827868769,
        -6.85505392895,
        -0.207116077182,
        0.369089829086,
        1.26051294851,
        -0.0585525118483,
    ),
    "pds": (
        0.490925622048,
        0.443231369799,
        -0.447496382546,
        0.366665787033,
        0.655361945469,
        0.279748084709,
        0.655801749937,
    ),
    "pkdsr": (
        0.497258626957,
        0.463765259615,
        -0.543396380317,
        0.376399532455,
        0.50155794809,
        0.298609502819,
        0.493761837827,
    ),
    "haesr": (
        0.518143646247,
        2.60660699795,
        2.28060185566,
        0.81968031325,
        1.59818650273,
        2.30858047242,
        0.804944632645,
    ),
    "pan": (
        0.999427707023,
        1.14708673217,
        -1.83635743009,
        1.07954754174,
        0.828989200114,
        0.446131565836,
        1.30746153903,
    ),
    "msrresnet": (
        1.05962576786,
        75.908758378,
        68.81838627,
        -0.173123209659,
        0.598825584087,
        -0.354972262236,
        -3.12934768392,
    ),
}
"""The mean of the output, its standard deviation, and five of its elements, from the organisers' repositories; those of
PAN and MSRResNet from zhaohengyuan1/PAN."""


def fill(model: nn.Module) -> None:
    """Give every parameter values that depend on its key and its shape alone."""
    with torch.no_grad():
        for index, (_, parameter) in enumerate(sorted(model.named_parameters())):
            wave = torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + index).view_as(parameter)
            if parameter.dim() == 1:
                parameter.copy_(0.5 + 0.1 * wave)
            else:
                parameter.copy_(wave / parameter[0].numel() ** 0.5)


def image(data_range: float) -> Tensor:
    """An image ``(2, 3, 15, 18)`` in ``[0, data_range]``."""
    wave = torch.sin(0.37 * torch.arange(2 * 3 * 15 * 18, dtype=torch.float64) ** 1.1)
    return data_range * (0.5 + 0.5 * wave).view(2, 3, 15, 18)


def summary(output: Tensor) -> tuple[float, ...]:
    flat = output.flatten()
    return (flat.mean().item(), flat.std().item(), *flat[:: len(flat) // 5][:5].tolist())


@pytest.mark.parametrize("name", EXPECTED)
def test_network_computes_what_its_authors_code_computes(name: str) -> None:
    model = create_model(name).double().eval()
    fill(model)
    data_range = float(model.data_range)  # type: ignore[arg-type]
    with torch.no_grad():
        output = model(image(data_range))
    assert output.shape == (2, 3, 60, 72)
    assert summary(output) == pytest.approx(EXPECTED[name], rel=1e-9)
