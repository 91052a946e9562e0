"""Types of recipe keys, and the keys that a stage may set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer

from fmen_data import DataError, Degradation

T = TypeVar("T")

OneOrMore = Annotated[tuple[T, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""A list, or the only element of one."""

FirstAndMore = Annotated[
    OneOrMore[T],
    PlainSerializer(lambda values: values[0] if len(values) == 1 else values),
]
"""A list, written as its only element where it has one."""

STAGE_KEYS = (
    "steps",
    "data",
    "data_weights",
    "degradation",
    "patch",
    "batch",
    "accumulate",
    "loss",
    "teacher",
    "teacher_weight",
    "learning_rate",
    "schedule",
    "schedule_steps",
    "halve_every",
    "final_learning_rate",
    "warmup",
    "betas",
    "eps",
    "optimizer_args",
    "grad_clip",
)
"""Keys that may differ between the stages of a run."""


Optimizer = Literal[
    "adam",
    "muon",
    "adamw",
    "nadam",
    "radam",
    "adamax",
    "sgd",
    "rmsprop",
    "adagrad",
    "adadelta",
    "adafactor",
    "asgd",
    "rprop",
]
"""Names of optimizers; all but Muon are classes of ``torch.optim``, in lower case."""

LOSS_NAMES = ("l1", "l2", "charbonnier", "fft", "psnr")


def _loss_weights(value: object) -> object:
    """Convert the name of a loss to weights by name, and check the names."""
    weights = {value: 1.0} if isinstance(value, str) else value
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError("give the name of a loss, or weights by name such as {l1: 1, fft: 0.05}")
    if unknown := [name for name in weights if name not in LOSS_NAMES]:
        raise ValueError(f"there is no loss {unknown[0]!r}; choose from {', '.join(LOSS_NAMES)}")
    return dict(weights)


Loss = Annotated[
    dict[str, Annotated[float, Field(gt=0)]],
    BeforeValidator(_loss_weights),
    PlainSerializer(lambda weights: next(iter(weights)) if list(weights.values()) == [1.0] else weights),
]
"""Weights by the names of loss functions; a name alone has the weight 1."""

REAL = "real"


def _degradation(value: object) -> object:
    """Convert the name of a degradation, or some of its values, to all values, and check them."""
    if value is None:
        return None
    given = {} if value == REAL else value
    if not isinstance(given, Mapping):
        raise ValueError("give real, or some of its values such as {noise_sigma: [0, 10], clean: 0.5}")
    try:
        return Degradation.from_dict(given).to_dict()
    except DataError as error:
        raise ValueError(str(error).removeprefix("degradation: ")) from None


Degraded = Annotated[dict[str, Any] | None, BeforeValidator(_degradation)]
"""The values of a ``fmen_data.Degradation``; the name ``real`` stands for its defaults."""
