"""Train FMEN-S with every re-parameterizable block, by one recipe in the same time, and draw the curves.

    python tools/compare_blocks.py --data photos --val-data Set5 --minutes 10

The runs have the same recipe, seed and patches; only the blocks of the ERBs differ, and all networks have the same
inference form. The steps of each block are those that fit into the time, measured for all blocks before the first run.
Each run is a folder under ``--out``; the script continues where it was stopped. It writes
``results/blocks/fmen-s_x4.json`` and ``docs/images/blocks.png``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmen.charts.curves import draw_lines
from fmen.charts.style import save_figure
from fmen.json_file import write_json
from fmen.training.distributed import join
from fmen.training.loop import prepare, train
from fmen.training.recipe import Recipe, load_recipe, make_recipe, parse_settings
from fmen.training.run_folder import Run, resumed_recipe, versions
from fmen_core import create_model
from fmen_core.blocks.reparameterizable import BLOCKS

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"rrrb": "RRRB", "ecb": "ECB", "repvgg": "RepVGG", "acb": "ACB", "dbb": "DBB", "plain": "plain 3x3"}
MODEL = "fmen-s"

Curve = Sequence[tuple[int, float]]

SHOWN_DB = 2.5
"""The PSNR axis starts this far below the best value."""


def recipe_for(block: str, name: str, overrides: Mapping[str, object]) -> Recipe:
    """Return a recipe with FMEN-S made of ``block``."""
    return load_recipe(name, {**overrides, "model": MODEL, "model_args": {"block": block}})


def fitted_recipe(recipe: Recipe, run: Run) -> Recipe:
    """Return the recipe with the steps that fit into its minutes; they are measured once for each run."""
    file = run.folder.with_suffix(".steps.json")
    if not file.is_file():
        with tempfile.TemporaryDirectory() as folder, join() as processes:
            fitted = prepare(recipe, Run(Path(folder) / "run"), processes, print, resume=False).recipe
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"minutes": recipe.minutes, "recipe": fitted.model_dump(mode="json")})
    return make_recipe(json.loads(file.read_text())["recipe"], source=str(file))


def train_block(recipe: Recipe, run: Run) -> list[tuple[int, float]]:
    """Train, continue or read a run; return its PSNR by step."""
    done = run.records()
    if not done or done[-1]["step"] < recipe.steps:
        resumes = bool(run.checkpoints())
        train(resumed_recipe(run, {}) if resumes else recipe, run, resume=resumes)
    return [(record["step"], record["psnr"]) for record in run.records() if "psnr" in record]


def describe(minutes: float, recipes: Mapping[str, Recipe], curves: Mapping[str, Curve]) -> dict[str, Any]:
    """Return the JSON record; ``curve`` has the PSNR in dB by step."""
    first = next(iter(recipes.values()))
    blocks = {
        block: {
            "training_params": sum(parameter.numel() for parameter in create_model(MODEL, block=block).parameters()),
            "steps": recipes[block].steps,
            "psnr": curve[-1][1],
            "curve": curve,
        }
        for block, curve in curves.items()
    }
    return {"minutes": minutes, "recipe": shared_keys(first), "versions": versions(), "blocks": blocks}


def shared_keys(recipe: Recipe) -> dict[str, Any]:
    """Return the keys of a recipe that are equal for all blocks."""
    own = {"model_args", "data", "val_data", "minutes", "steps", "schedule_steps", "warmup"}
    own |= {"val_every", "save_every", "log_every"}
    return recipe.model_dump(mode="json", exclude=own)


def draw(record: Mapping[str, Any], picture: Path) -> None:
    """Draw the PSNR of all blocks by time, which passes evenly over the steps; the best one comes first."""
    recipe, minutes = record["recipe"], record["minutes"]
    ranked = sorted(record["blocks"].items(), key=lambda item: -item[1]["psnr"])
    lines = {
        f"{TITLES[name]}, {block['psnr']:.2f} dB": [
            (minutes * step / block["steps"], psnr) for step, psnr in block["curve"] if step
        ]
        for name, block in ranked
    }
    best = max(value for line in lines.values() for _, value in line)
    title = f"FMEN-S x{recipe['scale']} with other blocks: {minutes:g} minutes of the recipe {recipe['name']} each"
    name = f"PSNR, dB ({recipe['val_protocol']})"
    save_figure(draw_lines(title, "minutes", name, lines, bottom=best - SHOWN_DB), picture)


def main() -> None:
    """Read the command line, train, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="training set; can be repeated")
    parser.add_argument("--val-data", required=True, help="validation set")
    parser.add_argument("--minutes", type=float, required=True, help="budget of each run")
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/blocks"), help="folder of the runs")
    parser.add_argument("--json", type=Path, default=ROOT / f"results/blocks/{MODEL}_x4.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/images/blocks.png")
    options = parser.parse_args()

    overrides = {
        "data": tuple(options.data),
        "val_data": options.val_data,
        "minutes": options.minutes,
        **parse_settings(options.set),
    }
    runs = {block: Run(options.out / block) for block in options.blocks}
    recipes = {block: fitted_recipe(recipe_for(block, options.recipe, overrides), run) for block, run in runs.items()}
    curves = {}
    for block, run in runs.items():
        curves[block] = train_block(recipes[block], run)
        print(f"{TITLES[block]}: {recipes[block].steps} steps, {curves[block][-1][1]:.3f} dB", file=sys.stderr)
    record = describe(options.minutes, recipes, curves)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.json, record)
    draw(record, options.picture)


if __name__ == "__main__":
    main()
