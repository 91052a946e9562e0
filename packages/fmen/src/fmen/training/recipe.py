"""The recipe of a training run: one flat, validated set of keys, written as YAML.

The bundled recipes are in ``recipes/``. Any YAML file with the same keys is a recipe; a key that it omits has the
default below. ``--set key=value`` overrides any key on the command line.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fmen.errors import UserError
from fmen.schema_faults import Fault, faults_of
from fmen.training.recipe_types import STAGE_KEYS, Degraded, FirstAndMore, Loss, OneOrMore, Optimizer
from fmen.yaml_file import load_yaml

RECIPES = Path(__file__).parent / "recipes"

RENAMED = {
    "lr": "learning_rate",
    "lr_schedule": "schedule",
    "lr_halve_every": "halve_every",
    "lr_final": "final_learning_rate",
    "variant": "model",
}
"""Former names of keys, which are still read."""

VARIANTS = {"s": "fmen-s", "s48": "fmen-s48", "full": "fmen"}
"""The values of the former key ``variant``, and of ``fmen train --variant``."""

ARGS = "model_args."
"""The prefix of a key that sets one of the model's arguments."""

Note = Callable[[str], None]


class RecipeError(UserError):
    """A recipe, or a value given with ``--set``, is at fault. The message is one line and names the remedy."""


class Recipe(BaseModel):
    """A training run. Losses and norms are in gray levels, ``[0, 255]``, the range of FMEN's images."""

    # pydantic before 2.10 reserves names that begin with "model_", and warns about model_args.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    name: str = Field("custom", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="part of the run folder's name")

    model: str = Field("fmen-s", min_length=1, description="a network of 'fmen models', or FILE.py:CLASS")
    model_args: dict[str, Any] = Field(default_factory=dict, description="arguments of the model's constructor")
    scale: Literal[2, 3, 4] = Field(4, description="upscaling factor")
    init: Literal["he", "default"] = Field("default", description="initial weights: He et al. 2015, or PyTorch's own")
    weights: str | None = Field(
        None, description="start from these weights: a file or a name, in either form, of any scale"
    )
    weights_strict: bool = Field(
        True, description="false: load the tensors that match by name and shape, of any network"
    )

    data: OneOrMore[str] = Field(("data",), min_length=1, description="folders, HR_DIR,LR_DIR, or sample")
    skip_bad: bool = Field(False, description="leave out training images that cannot be used, and name them")
    data_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None, description="share of each dataset in the patches, one number per dataset; default: all images equally"
    )
    degradation: Degraded = Field(
        None, description="degrade LR patches and validation images: real (blur, noise, JPEG), or some of its values"
    )
    patch: int = Field(64, ge=8, le=512, description="side of the LR patches, in pixels")
    batch: int = Field(64, ge=1, le=4096, description="patches per step, over all processes together")
    accumulate: int = Field(
        1, ge=1, le=4096, description="parts in which a process computes its batch, to need less memory"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="decides the initial weights and all samples")

    steps: int = Field(ge=1, description="length of the run; with stages, their sum")
    minutes: float | None = Field(
        None, gt=0, description="time for the run; its steps are then those that fit, by the rate of the first ones"
    )
    stages: tuple[dict[str, Any], ...] = Field(
        (), description="parts of the run, one after the other, each with its steps and other values of some keys"
    )
    loss: Loss = Field(
        {"l1": 1.0},
        description="l1, l2 (mean squared error), charbonnier, fft, psnr, or their weights: {l1: 1, fft: 0.05}",
    )
    teacher: OneOrMore[str] = Field(
        (), description="weights of stronger networks, names or files; the mean of their outputs is a second target"
    )
    teacher_weight: float = Field(0.5, ge=0, le=1, description="share of the loss against the teacher's output")
    optimizer: Optimizer = Field(
        "adam", description="muon learns more per step (see the training guide); the others are torch.optim's"
    )
    optimizer_args: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the optimizer, such as {weight_decay: 0.01}"
    )
    learning_rate: float = Field(gt=0, le=1, description="learning rate at the end of the warm-up")
    schedule: Literal["constant", "halving", "cosine"] = Field(
        "cosine", description="course of the learning rate after the warm-up"
    )
    schedule_steps: int | None = Field(None, ge=1, description="length of the cosine; default: steps")
    halve_every: int = Field(600_000, ge=1, description="steps between two halvings (halving)")
    final_learning_rate: float = Field(0.0, ge=0, le=1, description="learning rate at the end of the cosine")
    warmup: int = Field(0, ge=0, description="steps over which the learning rate rises from zero")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="decay rates of the moments of Adam and its relatives"
    )
    eps: float = Field(1e-8, gt=0, le=1, description="added to the root of their second moment")
    grad_clip: float = Field(0.0, ge=0, description="largest norm of the whole gradient, loss in gray levels; 0: none")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights, which are then saved; 0: none")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto", description="threads of a step on the CPU; auto: 1 or one per core, whichever is faster at the start"
    )
    feed: Literal["auto", "cpu", "device"] = Field(
        "auto", description="where patches are cut; auto: on a GPU whose memory holds all images"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("fp32", description="auto: bf16 where the device has it")
    tf32: bool = Field(False, description="compute float32 convolutions and matrix products as TF32 on a GPU")
    channels_last: bool = Field(True, description="store the channels of a pixel together, which is faster")
    sync_batchnorm: bool = Field(False, description="BatchNorm over the batch of all processes; on GPUs")
    frozen_norms: bool = Field(
        False, description="BatchNorm by the running statistics that the run starts with; for fine-tuning"
    )
    collapsed: bool = Field(True, description="run re-parameterizable blocks as the convolution that each equals")
    fused: bool = Field(False, description="Adam as one kernel over all parameters")
    compile: bool | Literal["auto"] = Field(False, description="torch.compile; auto: for long runs")
    cuda_graph: bool | Literal["auto"] = Field(
        "auto", description="run a step as one CUDA graph; auto: on one GPU, except in fp16"
    )

    val_data: FirstAndMore[str] | None = Field(
        None, description="validation sets, each with a curve; default: the one that belongs to the training data"
    )
    val_protocol: FirstAndMore[Literal["ntire", "paper", "kair-y"]] = Field(
        ("paper",),
        min_length=1,
        description="RGB (ntire), luma not rounded (paper) or luma rounded (kair-y); the first, on the first set, is "
        "the one by which the best weights are chosen",
    )
    val_every: int = Field(5_000, ge=0, description="steps between two validations; 0: after the last step only")
    save_every: int = Field(5_000, ge=1, description="steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="newest checkpoints that stay in the run folder")
    log_every: int = Field(100, ge=1, description="steps between two lines in metrics.jsonl")
    tensorboard: bool = Field(False, description="write curves and images for TensorBoard, into the run folder")
    wandb: bool = Field(False, description="log curves and images to Weights & Biases")

    @property
    def network(self) -> str:
        """The name of the network: that of a network of ``fmen models``, or the class of the user's."""
        return self.model.rpartition(":")[2]

    @property
    def loss_title(self) -> str:
        """The loss as a report shows it, such as ``L1 + 0.05 FFT``."""
        terms = [("" if weight == 1 else f"{weight:g} ") + name.upper() for name, weight in self.loss.items()]
        return " + ".join(terms)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The training data of all stages."""
        return tuple(dict.fromkeys(source for part in self.stage_recipes() for source in part.data))

    def stage_recipes(self) -> tuple[Recipe, ...]:
        """Return one recipe per stage, without stages of its own; ``self`` alone if there are none."""
        if not self.stages:
            return (self,)
        common = self.model_dump(exclude={"stages", "steps", "schedule_steps"})
        return tuple(Recipe.model_validate(common | stage) for stage in self.stages)

    @field_validator("model_args")
    @classmethod
    def _arguments_can_be_saved(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Refuse what is another value after it was saved as JSON, such as a date or a mapping of numbers."""
        try:
            same = json.loads(json.dumps(values)) == _with_lists(values)
        except TypeError:
            same = False
        if not same:
            raise ValueError("give numbers, text, lists, and mappings whose keys are text")
        return values

    @model_validator(mode="before")
    @classmethod
    def _steps_are_those_of_the_stages(cls, values: Any) -> Any:
        """Check the keys of the stages, whose values are checked later, and add up their steps."""
        stages = values.get("stages")
        if not stages:
            return values
        if not isinstance(stages, list | tuple) or not all(isinstance(stage, dict) for stage in stages):
            raise ValueError("stages is not a list of 'key: value' lines; start each stage with '- steps: N'")
        stages = [current_keys(stage, source=f"stage {number}") for number, stage in enumerate(stages, 1)]
        if faults := [fault for number, stage in enumerate(stages, 1) for fault in _stage_faults(number, stage)]:
            raise ValueError("; ".join(faults))
        implied: dict[str, object] = {"steps": sum(stage["steps"] for stage in stages)}
        if all("learning_rate" in stage for stage in stages):
            implied["learning_rate"] = stages[0]["learning_rate"]
        return {**implied, **values, "stages": stages}

    @model_validator(mode="after")
    def _stages_agree(self) -> Recipe:
        faults = []
        for number, stage in enumerate(self.stages, 1):
            try:
                Recipe.model_validate(self.model_dump(exclude={"stages", "steps", "schedule_steps"}) | stage)
            except ValidationError as error:
                faults.append(f"stage {number}: {'; '.join(map(_describe, faults_of(error)))}")
        total = sum(stage["steps"] for stage in self.stages)
        if self.stages and self.steps != total:
            faults.append(f"steps ({self.steps}) is not the sum of the stages' steps ({total}); leave steps out")
        if self.stages and self.schedule_steps:
            faults.append("schedule_steps is a key of each stage, and not of a run with stages")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _keys_agree(self) -> Recipe:
        if self.stages:
            return self
        faults = []
        if self.data_weights is not None and len(self.data_weights) != len(self.data):
            faults.append(f"data_weights has {len(self.data_weights)} numbers for {len(self.data)} datasets")
        if self.data_weights is not None and not sum(self.data_weights):
            faults.append("data_weights are all 0; give one dataset a weight above 0")
        if self.degradation is not None and self.feed == "device":
            faults.append("degradation is applied on the CPU; leave feed = 'device' out")
        if self.final_learning_rate > self.learning_rate:
            faults.append(
                f"final_learning_rate ({self.final_learning_rate:g}) is above learning_rate ({self.learning_rate:g})"
            )
        if self.warmup >= self.steps:
            faults.append(f"warmup ({self.warmup}) must be shorter than the run ({self.steps} steps)")
        length = self.schedule_steps or self.steps
        if self.schedule == "cosine" and not self.final_learning_rate and self.steps > length:
            faults.append(
                f"steps ({self.steps}) exceeds schedule_steps ({length}), where the cosine reaches 0; "
                f"set schedule_steps={self.steps} to stretch the cosine, or a final_learning_rate"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self


def recipe_names() -> list[str]:
    """Return the names of the bundled recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(
    name_or_file: str | Path, overrides: Mapping[str, object] | None = None, *, note: Note | None = None
) -> Recipe:
    """Read a bundled recipe by name, or a YAML file by path.

    Args:
        name_or_file: One of ``recipe_names()``, or a file.
        overrides: Values that replace the file's.
        note: Called with one line if the file has keys under former names.

    Raises:
        RecipeError: There is no such recipe, it is not YAML, or its keys or values are at fault.
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
        values = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(f"{path}: a recipe is a list of 'key: value' lines")
    values = {"name": path.stem} | current_keys(values, source=source, note=note)
    overrides = current_keys(overrides or {}, source="overrides")
    if "stages" in overrides and "steps" not in overrides:
        values.pop("steps", None)  # the stages have their own
    return make_recipe(values | overrides, source=source)


def make_recipe(values: Mapping[str, object], *, source: str = "recipe") -> Recipe:
    """Validate ``values``.

    Raises:
        RecipeError: One line that starts with ``source`` and names every key at fault.
    """
    try:
        return Recipe.model_validate(nested_args(current_keys(values, source=source), source))
    except ValidationError as error:
        raise RecipeError(f"{source}: {'; '.join(map(_describe, faults_of(error)))}") from None


def current_keys(values: Mapping[str, object], *, source: str, note: Note | None = None) -> dict[str, object]:
    """Return ``values`` with former names of keys replaced by current ones.

    Args:
        values: Keys and values of a recipe.
        source: Where they come from, for messages.
        note: Called with one line if a key was replaced.

    Raises:
        RecipeError: A key is given under both names.
    """
    former = [key for key in values if key in RENAMED]
    for key in former:
        if RENAMED[key] in values:
            raise RecipeError(f"{source}: {key} is the former name of {RENAMED[key]}; give only {RENAMED[key]}")
    if "variant" in values and str(values["variant"]) not in VARIANTS:
        raise RecipeError(f"{source}: variant = {values['variant']!r}: expected s, s48 or full; set model instead")
    if former and note:
        note(f"note: {source}: " + ", ".join(f"{key} is now called {RENAMED[key]}" for key in former))
    renamed = {RENAMED.get(key, key): value for key, value in values.items()}
    return renamed | ({"model": VARIANTS[str(values["variant"])]} if "variant" in values else {})


def nested_args(values: Mapping[str, object], source: str) -> dict[str, object]:
    """Return ``values`` with every key ``model_args.NAME`` moved into ``model_args``.

    Raises:
        RecipeError: ``model_args`` is not a mapping.
    """
    flat = {key: value for key, value in values.items() if not key.startswith(ARGS)}
    single = {key.removeprefix(ARGS): value for key, value in values.items() if key.startswith(ARGS)}
    if not single:
        return flat
    args = flat.get("model_args") or {}
    if not isinstance(args, Mapping):
        raise RecipeError(f"{source}: model_args = {args!r}: expected a mapping of names to values")
    return flat | {"model_args": {**args, **single}}


def parse_settings(settings: Sequence[str], *, note: Note | None = None) -> dict[str, object]:
    """Convert ``["learning_rate=1e-3", "data=[a, b]"]`` to keys and values, parsed as YAML.

    Args:
        settings: Items ``key=value``.
        note: Called with one line if a key has its former name.

    Raises:
        RecipeError: An item has no ``=``, or its value is not YAML.
    """
    values: dict[str, object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {setting!r}: write it as key=value")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            raise RecipeError(f"--set {setting!r}: the value is not valid YAML; put it in quotes") from None
        values[key.strip()] = _as_number(value)
    if isinstance(values.get("data"), str):
        values["data"] = (values["data"],)
    return current_keys(values, source="--set", note=note)


def with_settings(options: Mapping[str, object], settings: Mapping[str, object]) -> dict[str, object]:
    """Return the keys that options give, and those that ``--set`` gives.

    Raises:
        RecipeError: Both give a key, and different values.
    """
    for key, value in settings.items():
        if key in options and options[key] != value:
            raise RecipeError(f"--set {key}={value}: an option gives {options[key]}; leave one of them out")
    return {**options, **settings}


def dump_recipe(recipe: Recipe) -> str:
    """Return ``recipe`` as YAML with every key; ``load_recipe`` reads it back as the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _as_number(value: object) -> object:
    """Convert text such as ``1e-3``, in which YAML 1.1 sees no number because it has no dot."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _with_lists(value: Any) -> Any:
    """Return ``value`` with lists in the place of tuples."""
    if isinstance(value, Mapping):
        return {key: _with_lists(each) for key, each in value.items()}
    return [_with_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _nearest(word: str, words: Sequence[str]) -> str:
    last = word.rpartition(".")[2]  # optimizer.eps is meant as eps.
    match = [last] if last in words else difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _stage_faults(number: int, stage: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the keys of a stage and with its steps."""
    faults = []
    for key in stage:
        if key not in Recipe.model_fields:
            keys = ", ".join(STAGE_KEYS)
            faults.append(
                f"stage {number}: unknown key {key!r}{_nearest(str(key), STAGE_KEYS)}; a stage may set {keys}"
            )
        elif key not in STAGE_KEYS:
            faults.append(f"stage {number}: {key} cannot change between stages; give it once, above them")
    steps = stage.get("steps")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        found = f"steps = {steps!r}" if "steps" in stage else "steps is missing"
        faults.append(f"stage {number}: {found}; give a number of steps, 1 or more")
    return faults


def _describe(fault: Fault) -> str:
    """Describe a fault; for an unknown key, name the key that was meant."""
    if fault.kind != "extra_forbidden":
        return str(fault)
    near = _nearest(fault.key, list(Recipe.model_fields))
    return f"unknown key {fault.key!r}{near}; 'fmen train --keys' lists the keys"
