"""Training of networks other than FMEN, those of the user's included."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.sources.networks import load_network, user_module
from fmen.training.initialization import initial_network
from fmen.training.loop import TrainingError, train
from fmen.training.recipe import Recipe, RecipeError, load_recipe, make_recipe, parse_settings
from fmen.training.run_folder import Run, new_run, resumed_recipe
from fmen.training.step import gray_levels
from fmen_core import create_model, load, model_names, read_metadata, reparameterize, save

RecipeMaker = Callable[..., Recipe]

MINE = """
import torch
from torch import nn
import torch.nn.functional as F

class Mine(nn.Module):
    def __init__(self, scale=4, width=4):
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.tail = nn.Conv2d(width, 3 * scale**2, 3, padding=1)

    def forward(self, x):
        y = self.tail(self.norm(self.conv(x)))
        return F.pixel_shuffle(y, self.scale) + F.interpolate(x, scale_factor=self.scale)

class Masked(Mine):
    def __init__(self, scale=4, width=4):
        super().__init__(scale, width)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

class Remembering(Mine):
    # Holds its last features, and has the older form of weight normalization.

    def __init__(self, scale=4, width=4):
        super().__init__(scale, width)
        self.conv = nn.utils.weight_norm(self.conv)

    def forward(self, x):
        self.last = self.conv(x)
        return super().forward(x)

class Random(Mine):
    def forward(self, x):
        return super().forward(F.dropout2d(x, 0.5, self.training))

class Complex(Mine):
    def __init__(self, scale=4, width=4):
        super().__init__(scale, width)
        self.gain = nn.Parameter(torch.ones(3, 1, 1, dtype=torch.cfloat))

    def forward(self, x):
        return super().forward((x * self.gain).real)

class Growing(Mine):
    def forward(self, x):
        self.register_buffer("grid", torch.ones(x.shape[2:]), persistent=False)
        return super().forward(x * self.grid)

class Wide(Mine):
    data_range = 255

    def forward(self, x):
        return 255 * super().forward(x / 255)
"""


@pytest.fixture
def mine(recipe_of: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecipeMaker:
    """Make a recipe of six steps for the network in ``mine.py``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("mine.py").write_text(MINE)
    return partial(recipe_of, model="mine.py:Mine", model_args={"width": 5}, schedule="constant")


@pytest.mark.parametrize("name", model_names())
def test_every_network_of_the_zoo_can_be_trained(
    recipe_of: RecipeMaker, small: Callable[[str], dict[str, int]], name: str
) -> None:
    model = initial_network(recipe_of(model=name, model_args=small(name))).train()
    out = gray_levels(model, 255 * torch.rand(1, 3, 24, 24), model.data_range)  # type: ignore[arg-type]
    out.mean().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_run_of_a_user_network_writes_weights_that_its_file_loads(mine: RecipeMaker, tmp_path: Path) -> None:
    recipe = mine(val_data=mine().data[0])
    run = new_run(recipe, tmp_path / "runs")
    outcome = train(recipe, run)
    assert run.folder.name == "Mine_x4_custom" and outcome.best is not None
    network = load_network(run.best, "mine.py:Mine")
    record = user_module(network)
    assert record is not None and read_metadata(run.best)["module_sha256"] == record.sha256
    assert (network.scale, network.sizes) == (4, {"width": 5})
    assert all(
        torch.equal(value, network.state_dict()[key])
        for key, value in torch.load(run.resume, weights_only=True)["model"].items()
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", ["Masked", "Remembering", "Complex", "Growing"])
@pytest.mark.parametrize("ema", [0, 0.9])
def test_unusual_networks_are_trained_validated_and_loaded(
    mine: RecipeMaker, tmp_path: Path, name: str, ema: float
) -> None:
    recipe = mine(model=f"mine.py:{name}", ema=ema, fused=True, val_data=mine().data[0])
    outcome = train(recipe, Run(tmp_path / "run"))
    assert outcome.best is not None and load_network(outcome.weights, f"mine.py:{name}")
    if name == "Complex" and ema:
        states = torch.load(tmp_path / "run/resume.pt", weights_only=True)
        assert not torch.equal(states["ema"]["gain"], states["model"]["gain"])


def test_a_network_with_dropout_resumes_with_the_same_bits(mine: RecipeMaker, tmp_path: Path) -> None:
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(mine(model="mine.py:Random"), whole)
    train(mine(model="mine.py:Random", steps=3, schedule_steps=6), parts)
    torch.rand(5)
    train(resumed_recipe(parts, {"steps": 6}), parts, resume=True)
    first, second = (load_network(run.last, "mine.py:Random").state_dict() for run in (whole, parts))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_losses_are_in_gray_levels_for_every_data_range(mine: RecipeMaker, tmp_path: Path) -> None:
    losses = []
    for class_name in ("Mine", "Wide"):
        run = Run(tmp_path / class_name)
        train(mine(model=f"mine.py:{class_name}"), run)
        losses.append([record["loss"] for record in run.records()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert 20 < losses[0][0] < 200


def test_a_stopped_run_of_a_user_network_resumes_with_the_same_bits(mine: RecipeMaker, tmp_path: Path) -> None:
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(mine(ema=0.9), whole)
    train(mine(ema=0.9, steps=3, schedule_steps=6), parts)
    (tmp_path / "elsewhere").mkdir()
    Path("mine.py").rename("elsewhere/mine.py")
    train(resumed_recipe(parts, {"steps": 6, "model": "elsewhere/mine.py:Mine"}), parts, resume=True)
    first, second = (load_network(run.last, "elsewhere/mine.py:Mine").state_dict() for run in (whole, parts))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_resuming_after_a_change_of_the_file_is_noted(mine: RecipeMaker, tmp_path: Path) -> None:
    train(mine(steps=2), Run(tmp_path / "run"))
    resume = ["train", "--resume", "--out", "run", "--set", "steps=3"]
    assert "note" not in CliRunner().invoke(app, resume).stderr
    Path("mine.py").write_text(MINE + "\n# changed\n")
    result = CliRunner().invoke(app, [*resume[:-1], "steps=4"])
    assert result.exit_code == 0, result.output
    assert "note: run/last.safetensors: they were trained with another version of mine.py:Mine\n" in result.stderr
    Path("mine.py").write_text(MINE.replace("self.norm", "self.batch_norm"))
    result = CliRunner().invoke(app, [*resume[:-1], "steps=5"])
    assert result.exit_code == 2
    assert "not a checkpoint of this run" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("scale", [2, 4])
def test_a_run_of_a_user_network_starts_from_the_weights_of_another(mine: RecipeMaker, scale: int) -> None:
    first = initial_network(mine(seed=1, scale=scale))
    record = user_module(first)
    assert record is not None
    save(first, "first.safetensors", metadata=record.metadata())
    second = initial_network(mine(seed=2, weights="first.safetensors"))
    assert torch.equal(first.conv.weight, second.conv.weight)  # type: ignore[union-attr,arg-type]
    assert torch.equal(second.tail.weight, (first if scale == 4 else initial_network(mine(seed=2))).tail.weight)  # type: ignore[union-attr,arg-type]


def test_a_run_of_a_user_network_with_blocks_starts_from_its_merged_weights(mine: RecipeMaker) -> None:
    blocks = MINE.replace("nn.Conv2d(3, width, 3, padding=1)", "RepVGG(3, width)")
    Path("mine.py").write_text("from fmen_core.blocks.reparameterizable import RepVGG\n" + blocks)
    first = initial_network(mine(seed=1)).eval()
    merged, record = reparameterize(first), user_module(first)
    assert record is not None and merged.state_dict().keys() != first.state_dict().keys()
    save(merged, "merged.safetensors", metadata=record.metadata())
    second = initial_network(mine(seed=2, weights="merged.safetensors")).eval()
    assert second.state_dict().keys() == first.state_dict().keys()
    x = torch.rand(1, 3, 12, 12)
    assert torch.allclose(second(x), first(x), atol=1e-5)
    other = initial_network(mine(seed=2, scale=2, weights="merged.safetensors")).eval()
    assert torch.allclose(other.conv(x), first.conv(x), atol=1e-5)  # type: ignore[operator]


def test_tensors_that_match_are_loaded_from_a_user_network_of_other_arguments(mine: RecipeMaker) -> None:
    first = initial_network(mine(seed=1))
    record = user_module(first)
    assert record is not None
    first.register_buffer("index", torch.arange(3))
    save(first, "first.safetensors", metadata=record.metadata())
    Path("mine.py").write_text(MINE.replace("width=4", "depth=5").replace("width", "depth"))
    recipe = mine(seed=2, weights="first.safetensors", weights_strict=False, model_args={"depth": 5})
    second = initial_network(recipe)
    assert torch.equal(first.tail.weight, second.tail.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    ("old", "new", "keys", "message"),
    [
        (
            "",
            "",
            {"model": "mine.py:Other"},
            "mine.py:Other: no class Other in mine.py; its networks are Mine, Masked,",
        ),
        ("width=4", "*, width", {"model_args": {}}, "it needs the arguments width"),
        ("scale**2", "(scale + 1)**2", {}, "it fails on an image of 64x48 pixels"),
        ("return F", "return torch.nan * F", {}, "its output contains NaN or infinity"),
        ("return F", "return 1e4 * F", {}, r"its output reaches .* for an image in \[0, 1\]"),
        ("return F", "return F.max_pool2d(x, 20).mean() + F", {}, "it fails on an image of 8x8 pixels"),
        ("return F", "if self.training: return x\n        return F", {}, "in training mode, it upscales by 1, not 4"),
        ("return F", "torch.set_grad_enabled(False); return F", {}, "its output has no gradient"),
        ("self.scale = scale", "self.scale = scale; self.requires_grad_(False)", {}, None),
        ("", "", {"model": "mine.py"}, "mine.py: expected FILE.py:CLASS"),
        ("", "", {"model": "fmen-t"}, "no network is called 'fmen-t'"),
        ("", "", {"model_args": {"depth": 3}}, "it has no argument 'depth'; its arguments are width"),
    ],
)
def test_an_unusable_model_is_refused_in_one_line_before_anything_is_written(
    mine: RecipeMaker, tmp_path: Path, old: str, new: str, keys: dict[str, object], message: str | None
) -> None:
    Path("mine.py").write_text(MINE.replace(old, new, 1))
    if message is None:
        Path("mine.py").write_text(MINE + "\n    def parameters(self, recurse=True):\n        return iter(())\n")
        keys, message = {"model": "mine.py:Wide"}, "the network has no parameters to train"
    with torch.enable_grad(), pytest.raises(ValueError, match=message) as caught:
        train(mine(**keys), Run(tmp_path / "run"))
    assert "\n" not in str(caught.value) and not isinstance(caught.value, TrainingError)
    assert not (tmp_path / "run").exists()


def test_a_setting_of_one_argument_leaves_the_recipes_others(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("steps: 9\nlearning_rate: 0.001\nmodel: span\nmodel_args:\n  n_feats: 8\n")
    assert load_recipe(file, parse_settings(["model_args.depth=2"])).model_args == {"n_feats": 8, "depth": 2}
    assert load_recipe(file, parse_settings(["model_args={}", "model_args.n_feats=9"])).model_args == {"n_feats": 9}
    assert load_recipe(file, parse_settings(["model_args.up_blocks=[1, 2]"])).model_args["up_blocks"] == [1, 2]
    with pytest.raises(RecipeError, match="model_args = 3: expected a mapping"):
        load_recipe(file, parse_settings(["model_args=3", "model_args.n_feats=9"]))
    with pytest.raises(RecipeError, match="model_args = 3: give a mapping of names to values"):
        load_recipe(file, parse_settings(["model_args=3"]))


@pytest.mark.parametrize(("variant", "model"), [("s", "fmen-s"), ("s48", "fmen-s48"), ("full", "fmen")])
def test_the_former_key_variant_is_read_with_a_note(tmp_path: Path, variant: str, model: str) -> None:
    file, notes = tmp_path / "r.yaml", list[str]()
    file.write_text(yaml.safe_dump({"steps": 9, "learning_rate": 1e-3, "variant": variant}))
    assert load_recipe(file, note=notes.append).model == model
    assert notes == [f"note: {file}: variant is now called model"]


def test_a_former_variant_at_fault_is_named() -> None:
    for value in ("x", ["s"]):
        with pytest.raises(RecipeError, match=r"variant = .*: expected s, s48 or full; set model instead"):
            make_recipe({"steps": 9, "learning_rate": 1e-3, "variant": value})
    with pytest.raises(RecipeError, match="variant is the former name of model; give only model"):
        make_recipe({"steps": 9, "learning_rate": 1e-3, "variant": "s", "model": "span"})


def test_a_run_folder_with_the_former_key_resumes(recipe_of: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(recipe_of(steps=1, schedule_steps=2), run)
    former = yaml.safe_load(run.recipe_file.read_text())
    del former["model"], former["model_args"]
    run.recipe_file.write_text(yaml.safe_dump(former | {"variant": "s"}))
    assert train(resumed_recipe(run, {"steps": 2}), run, resume=True).step == 2
    assert load(run.last).name == "fmen-s"


def test_variant_and_model_exclude_each_other() -> None:
    result = CliRunner().invoke(app, ["train", "--variant", "full", "--model", "span"])
    assert result.exit_code == 2
    assert result.stderr == "error: --variant full is short for --model fmen; give only one\n"


def test_the_command_line_trains_a_named_network_of_other_sizes(recipe_of: RecipeMaker, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    values = recipe_of(steps=2).model_dump(mode="json", exclude={"name"})
    file.write_text(yaml.safe_dump(values))
    command = ["train", "--recipe", str(file), "--model", "span", "--set", "model_args.n_feats=8"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert f"run {tmp_path / 'run'}: span x4, 2 steps" in result.stdout
    trained = load(tmp_path / "run/last.safetensors")
    assert (trained.name, trained.sizes) == ("span", {"n_feats": 8})
    assert trained.state_dict().keys() == create_model("span").state_dict().keys()
