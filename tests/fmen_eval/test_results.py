"""Results of measurements."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from fmen_eval.complexity import Complexity, Layer
from fmen_eval.memory import MemoryReport, NodeMemory
from fmen_eval.runtime import ChallengeRuntime, PeakMemory, Runtime
from fmen_eval.validation import ImageResult, ValidationResult


@pytest.mark.parametrize(
    "result",
    [
        Layer("conv", "Conv2d", 1, 1, 1, 1, (1, 3, 8, 8)),
        Complexity(1, 1, 1, 1, 1, ()),
        NodeMemory("conv", "convolution", 1, 1, 1, 1, 1, 1),
        MemoryReport(()),
        PeakMemory(1),
        Runtime((1.0,), PeakMemory(1)),
        ChallengeRuntime(1.0, 1, 1),
        ImageResult("a", 30.0, 0.9, 0.1),
        ValidationResult("ntire", 4, ()),
    ],
    ids=lambda result: type(result).__name__,
)
def test_a_result_is_immutable(result: Any) -> None:
    for field in fields(result):
        with pytest.raises(FrozenInstanceError):
            setattr(result, field.name, getattr(result, field.name))
