"""The challenges of each year: networks, baseline, FLOPs rule, and score.

Sources: the READMEs of the organisers' repositories, ``ofsoundof/NTIRE2022_ESR`` and ``Amazingren/NTIRE2024_ESR`` to
``NTIRE2026_ESR``, and for 2022's ranks Li et al., "NTIRE 2022 Challenge on Efficient Super-Resolution: Methods and
Results", CVPR Workshops 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from fmen.errors import UserError


class Figures(NamedTuple):
    """What the challenges rank: lower is better."""

    runtime: float
    flops: float
    params: float
    activations: float
    memory: float


@dataclass(frozen=True)
class Challenge:
    """The rules of one year.

    Attributes:
        year: The year.
        baseline: The network that the others are compared with.
        published: What the organisers measured for the baseline: runtime and device.
        networks: The names of its networks, the baseline first.
        flops_rule: How FLOPs are counted: ``"challenge"`` (modules only) or ``"fvcore"``.
        weights: The weights of runtime, FLOPs and parameters in the score. None: the score is the sum of the ranks in
            runtime, FLOPs, parameters, activations and memory.
        remarks: What a reader must know about a network's figures, by its name.
    """

    year: int
    baseline: str
    published: str
    networks: tuple[str, ...]
    flops_rule: Literal["challenge", "fvcore"] = "fvcore"
    weights: tuple[float, float, float] | None = (0.7, 0.15, 0.15)
    remarks: Mapping[str, str] = field(default_factory=dict)

    def scores(self, figures: Mapping[str, Figures]) -> dict[str, float]:
        """Return the score of each network by its name, relative to those given; lower is better.

        Args:
            figures: The figures of each network by its name, among them the baseline.
        """
        if self.weights is None:
            columns = list(zip(*figures.values(), strict=True))
            return {name: rank_sum(own, columns) for name, own in figures.items()}
        base = figures[self.baseline]
        return {
            name: sum(
                weight * exponential(2 * value / reference)
                for weight, value, reference in zip(self.weights, own[:3], base[:3], strict=True)
            )
            for name, own in figures.items()
        }

    def describe(self, runtime_ms: float) -> str:
        """Describe the rules in one sentence, given the baseline's runtime in this run."""
        flops = "fvcore" if self.flops_rule == "fvcore" else "the challenge's own rule"
        baseline = (
            f"baseline {self.baseline}: {runtime_ms:.2f} ms in this run, {self.published} at the organisers'; "
            f"FLOPs by {flops}"
        )
        if self.weights is None:
            return f"{self.year}: score = sum of the ranks in runtime, FLOPs, params, activations, memory; {baseline}"
        runtime, counted, params = self.weights
        terms = f"{runtime:g} e^(2 runtime) + {counted:g} e^(2 FLOPs) + {params:g} e^(2 params)"
        return f"{self.year}: score = {terms}, each relative to the baseline; {baseline}"


def rank_sum(own: Sequence[float], columns: Sequence[Sequence[float]]) -> float:
    """Return the sum of the ranks of ``own`` in each column; equal figures share a rank."""
    return sum(1 + sum(other < value for other in column) for value, column in zip(own, columns, strict=True))


def exponential(x: float) -> float:
    """Return ``math.exp(x)``, or infinity where that raises OverflowError, for ``x`` above 709."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


CHALLENGES = {
    challenge.year: challenge
    for challenge in (
        Challenge(
            2022,
            baseline="imdn-baseline",
            published="50.86 ms on a Titan Xp",
            networks=(
                *("imdn-baseline", "rfdn", "efdn", "fmen-s", "rlfn-cut", "neesr", "repafdn", "imdn-plus"),
                "rfdn-pruned",
            ),
            flops_rule="challenge",
            weights=None,
        ),
        Challenge(
            2024,
            baseline="rlfn-cut",
            published="13.54 ms on an RTX 3090",
            networks=("rlfn-cut", "slimrlfn", "span"),
        ),
        Challenge(
            2025,
            baseline="efdn",
            published="16.69 ms on an RTX A6000",
            networks=("efdn", "dipnet-slim", "safmnv3", "dscf", "spanf", "tsr", "disp"),
        ),
        Challenge(
            2026,
            baseline="span",
            published="7.74 ms on an RTX A6000",
            networks=("span", "pds", "haesr", "pkdsr", "disp", "spanv2"),
            weights=(0.8, 0.1, 0.1),
            remarks={
                "spanv2": "1.59 G FLOPs in the organisers' table, where fvcore does not see its CUDA operator; its "
                "authors state 9.11 G, and all of its operations are counted here"
            },
        ),
    )
}
"""The challenges by year. In 2023 the organisers published no repository of networks."""


def challenge_of(year: int) -> Challenge:
    """Return the challenge of a year.

    Raises:
        UserError: The year has none.
    """
    if year not in CHALLENGES:
        raise UserError(f"--year {year}: choose one of {', '.join(map(str, CHALLENGES))}")
    return CHALLENGES[year]
