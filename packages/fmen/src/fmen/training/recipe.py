"""What a training run is: one flat, validated set of keys, written as YAML.

The recipes that ship with the package lie in ``recipes/``. A recipe of one's own is a file with the same keys; a key
that it leaves out has the default below. Every key can be given on the command line with ``--set key=value``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fmen.errors import UserError

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(UserError):
    """A recipe, or a value given with ``--set``, is at fault; the message is one line and names the remedy."""


class Recipe(BaseModel):
    """A training run. Losses and norms are in gray levels, ``[0, 255]``, because FMEN takes and returns that range."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(
        "custom", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="what the run folder is called after"
    )

    variant: Literal["s", "full"] = Field("s", description="FMEN-S or FMEN")
    scale: Literal[2, 3, 4] = 4
    init: Literal["he", "default"] = Field("default", description="first weights: He et al. 2015, or PyTorch's own")
    weights: str | None = Field(None, description="start from these weights of another run, of any scale")

    data: tuple[str, ...] = Field(("data",), min_length=1, description="folders, HR_DIR,LR_DIR, or sample")
    patch: int = Field(64, ge=8, le=512, description="side of the LR patches, in pixels")
    batch: int = Field(64, ge=1, le=4096, description="patches per step, over all processes together")
    seed: int = Field(0, ge=0, lt=2**63)

    steps: int = Field(ge=1)
    loss: Literal["l1", "l2", "charbonnier"] = "l1"
    optimizer: Literal["adam", "muon"] = Field("adam", description="muon learns more per step; see the training guide")
    lr: float = Field(gt=0, le=1, description="learning rate at the end of the warm-up")
    lr_schedule: Literal["constant", "halving", "cosine"] = "cosine"
    lr_halve_every: int = Field(600_000, ge=1, description="steps between two halvings (halving)")
    lr_final: float = Field(0.0, ge=0, le=1, description="learning rate at the last step (cosine)")
    warmup: int = Field(0, ge=0, description="steps over which the learning rate rises from zero")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0, le=1)
    grad_clip: float = Field(0.0, ge=0, description="largest norm of the whole gradient, loss in gray levels; 0: none")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights, which are the ones kept; 0: none")

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("fp32", description="auto: bf16 where the device has it")
    channels_last: bool = True
    collapsed: bool = Field(True, description="run every RRRB as the one convolution that it equals")
    fused: bool = Field(False, description="Adam as one kernel over all parameters")
    compile: bool | Literal["auto"] = Field(False, description="torch.compile; auto: where a long run pays for it")

    val_data: str | None = Field(None, description="validation set; default: the one that belongs to the training data")
    val_protocol: Literal["ntire", "paper", "kair-y"] = "paper"
    val_every: int = Field(5_000, ge=0, description="steps between two validations; 0: never")
    save_every: int = Field(5_000, ge=1, description="steps between two checkpoints")
    log_every: int = Field(100, ge=1, description="steps between two lines in metrics.jsonl")
    tensorboard: bool = False

    @property
    def network(self) -> str:
        """The name under which ``fmen_core`` knows the variant."""
        return "fmen-s" if self.variant == "s" else "fmen"

    @model_validator(mode="after")
    def _keys_agree(self) -> Recipe:
        if self.lr_final > self.lr:
            raise ValueError(f"lr_final ({self.lr_final:g}) is above lr ({self.lr:g})")
        if self.warmup >= self.steps:
            raise ValueError(f"warmup ({self.warmup}) must be shorter than the run ({self.steps} steps)")
        return self


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_file: str | Path, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a shipped recipe by name, or a YAML file by path.

    Args:
        name_or_file: One of ``recipe_names()``, or a file.
        overrides: Keys that replace the file's.

    Raises:
        RecipeError: No such recipe, no YAML, an unknown key, or a value of the wrong type or out of range.
        OSError: The file cannot be read.
    """
    path = Path(name_or_file)
    source = str(path)
    if str(name_or_file) in recipe_names():
        path, source = RECIPES / f"{name_or_file}.yaml", f"recipe {name_or_file}"
    elif not path.is_file():
        hint = _nearest(str(name_or_file), recipe_names())
        raise RecipeError(
            f"no recipe {str(name_or_file)!r}{hint}: name a YAML file or one of {', '.join(recipe_names())}"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(f"{path}: a recipe is a list of 'key: value' lines")
    return make_recipe({"name": path.stem} | values | dict(overrides or {}), source=source)


def make_recipe(values: Mapping[str, object], *, source: str = "recipe") -> Recipe:
    """Validate ``values``.

    Raises:
        RecipeError: One line that starts with ``source`` and names every key at fault.
    """
    keys = list(Recipe.model_fields)
    for key in values:
        if key not in keys:
            raise RecipeError(f"{source}: unknown key {key!r}{_nearest(key, keys)}; the keys are {', '.join(keys)}")
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise RecipeError(f"{source}: {'; '.join(_fault(item) for item in error.errors())}") from None


def parse_settings(settings: Sequence[str]) -> dict[str, object]:
    """Turn ``["lr=1e-3", "data=[a, b]"]`` into values, each read as YAML reads it.

    Raises:
        RecipeError: An item without ``=``, or a value that is no YAML.
    """
    values: dict[str, object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {setting!r}: write it as key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise RecipeError(f"--set {setting!r}: the value is not valid YAML; put it in quotes") from None
        values[key.strip()] = _as_number(value)
    if isinstance(values.get("data"), str):
        values["data"] = (values["data"],)
    return values


def dump_recipe(recipe: Recipe) -> str:
    """``recipe`` as YAML with every key written out, which ``load_recipe`` reads back as the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _as_number(value: object) -> object:
    """YAML 1.1 reads ``1e-3`` as text for want of a dot; people mean the number."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _nearest(word: str, words: Sequence[str]) -> str:
    last = word.rpartition(".")[2]  # optimizer.lr means lr
    match = [last] if last in words else difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _fault(item: Any) -> str:
    """One entry of pydantic's error list in words."""
    message: str = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not item["loc"]:
        return message
    key = ".".join(str(part) for part in item["loc"])
    return f"{key} is missing" if item["type"] == "missing" else f"{key} = {item['input']!r}: {message}"
