"""What ``fmen train --keys`` and ``--help`` print: the keys of a recipe, and the bundled recipes."""

from __future__ import annotations

import textwrap
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fmen.training.recipe import RECIPES, Recipe, recipe_names
from fmen.training.recipe_types import STAGE_KEYS

NAMES = {int: "integer", float: "number", str: "text", bool: "true|false", types.NoneType: "null"}


def key_table(width: int) -> str:
    """Return a block per key: name, type and default, then its meaning. ``*`` marks the keys that a stage may set.

    Args:
        width: Columns of the terminal.
    """
    blocks = []
    for name, field in Recipe.model_fields.items():
        star = "*" if name in STAGE_KEYS else ""
        value = (
            "required" if field.is_required() else f"default {as_yaml(field.get_default(call_default_factory=True))}"
        )
        meaning = textwrap.fill(field.description or "", width, initial_indent="    ", subsequent_indent="    ")
        blocks.append(f"{name}{star}: {type_name(field.annotation)}, {value}\n{meaning}")
    return "\n".join([*blocks, "", "Keys with * may differ between the stages of a run."])


def type_name(annotation: Any) -> str:
    """Return a type in words, or the values that are allowed."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(map(type_name, arguments)))
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    return NAMES.get(annotation, str(annotation))


def as_yaml(value: object) -> str:
    """Return a default as a recipe writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_yaml(each)}' for key, each in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def recipe_summaries() -> list[tuple[str, str]]:
    """Return the bundled recipes, each with its first line of comment."""
    return [
        (name, (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
        for name in recipe_names()
    ]
