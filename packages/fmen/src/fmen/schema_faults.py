"""Describe to a user what pydantic finds wrong in a recipe or in ``team.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

REMEDIES = {
    "int_type": "give an integer",
    "int_parsing": "give an integer",
    "int_from_float": "give an integer",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "finite_number": "give a finite number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "string_type": "give text",
    "string_too_short": "give text",
    "tuple_type": "give a list",
    "dict_type": "give a mapping of names to values",
    "model_type": "give a mapping of names to values",
    "too_short": "give {min_length} or more",
    "greater_than": "give more than {gt:g}",
    "greater_than_equal": "give at least {ge:g}",
    "less_than": "give less than {lt:g}",
    "less_than_equal": "give at most {le:g}",
    "literal_error": "give {expected}",
}
"""What to do, by pydantic's type of error. Errors of other types keep pydantic's words."""

ALTERNATIVE = re.compile(r"constrained-\w+|bool|literal\[.*\]")
"""What pydantic appends to the path of a value for each of the types that it may have."""


@dataclass(frozen=True)
class Fault:
    """A value at fault.

    Attributes:
        path: The keys and indices that lead to it.
        kind: Pydantic's type of error.
        value: The value.
        remedy: What to do.
    """

    path: tuple[int | str, ...]
    kind: str
    value: Any
    remedy: str

    @property
    def key(self) -> str:
        """The path as one word, such as ``"betas.1"``."""
        return ".".join(map(str, self.path))

    def __str__(self) -> str:
        if self.kind == "missing":
            return f"{self.key} is missing"
        return f"{self.key} = {self.value!r}: {self.remedy}" if self.path else self.remedy


def faults_of(error: ValidationError) -> list[Fault]:
    """Return the values at fault, each once. A list is not called too short for elements that are at fault."""
    faults: dict[tuple[int | str, ...], Fault] = {}
    for item in error.errors():
        path = tuple(part for part in item["loc"] if not ALTERNATIVE.fullmatch(str(part)))
        fault = Fault(path, item["type"], item["input"], remedy(item))
        if path in faults:
            both = f"{faults[path].remedy} or {fault.remedy.removeprefix('give ')}"
            faults[path] = replace(faults[path], remedy=both)
        elif item["type"] != "too_short" or not any(other[: len(path)] == path for other in faults):
            faults[path] = fault
    return list(faults.values())


def remedy(item: ErrorDetails) -> str:
    """Return what to do about one of pydantic's errors."""
    if item["type"] in REMEDIES:
        return REMEDIES[item["type"]].format(**item.get("ctx", {}))
    message = item["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
