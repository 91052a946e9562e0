"""Train FMEN-S with every re-parameterizable block, by one recipe at one budget, and draw the curves.

    python tools/compare_blocks.py --data photos --val-data Set5 --steps 3000

The runs have the same recipe, steps, seed and patches; only the blocks of the ERBs differ, and all networks have the
same inference form. Each run is a folder under ``--out``; the script continues where it was stopped. It writes
``results/blocks/fmen-s_x4.json`` and ``docs/images/blocks.png``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmen.charts.curves import draw_lines
from fmen.charts.style import save_figure
from fmen.json_file import write_json
from fmen.training.loop import train
from fmen.training.recipe import Recipe, load_recipe, parse_settings
from fmen.training.run_folder import Run, RunError, resumed_recipe, versions
from fmen_core import create_model
from fmen_core.blocks.reparameterizable import BLOCKS

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"rrrb": "RRRB", "ecb": "ECB", "repvgg": "RepVGG", "acb": "ACB", "dbb": "DBB", "plain": "plain 3x3"}
MODEL = "fmen-s"

SHOWN_DB = 2.5
"""The PSNR axis starts this far below the best value."""


def recipe_for(block: str, name: str, overrides: Mapping[str, object]) -> Recipe:
    """Return a recipe with FMEN-S made of ``block``."""
    return load_recipe(name, {**overrides, "model": MODEL, "model_args": {"block": block}})


def train_block(recipe: Recipe, run: Run) -> list[tuple[int, float]]:
    """Train, continue or read a run; return its PSNR by step.

    Raises:
        RunError: The folder has a run of another length.
    """
    if run.recipe_file.is_file() and run.recipe().steps != recipe.steps:
        raise RunError(f"{run.folder}: contains a run of {run.recipe().steps} steps; choose another --out")
    done = run.records()
    if not done or done[-1]["step"] < recipe.steps:
        resumes = bool(run.checkpoints())
        train(resumed_recipe(run, {}) if resumes else recipe, run, resume=resumes)
    return [(record["step"], record["psnr"]) for record in run.records() if "psnr" in record]


def describe(recipe: Recipe, curves: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """Return the JSON record."""
    keys = recipe.model_dump(mode="json", exclude={"model_args", "data", "val_data"})
    blocks = {
        block: {
            "training_params": sum(parameter.numel() for parameter in create_model(MODEL, block=block).parameters()),
            "psnr": curve[-1][1],
            "curve": curve,
        }
        for block, curve in curves.items()
    }
    return {"recipe": keys, "versions": versions(), "blocks": blocks}


def draw(record: Mapping[str, Any], picture: Path) -> None:
    """Draw the PSNR of all blocks by step; the best one comes first."""
    recipe = record["recipe"]
    ranked = sorted(record["blocks"].items(), key=lambda item: -item[1]["psnr"])
    lines = {f"{TITLES[name]}, {block['psnr']:.2f} dB": block["curve"] for name, block in ranked}
    best = max(value for line in lines.values() for _, value in line)
    title = f"FMEN-S x{recipe['scale']} with other blocks: {recipe['steps']:,} steps of {recipe['batch']} patches"
    name = f"PSNR, dB ({recipe['val_protocol']})"
    save_figure(draw_lines(title, "step", name, lines, bottom=best - SHOWN_DB), picture)


def main() -> None:
    """Read the command line, train, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="training set; can be repeated")
    parser.add_argument("--val-data", required=True, help="validation set")
    parser.add_argument("--steps", type=int, required=True, help="budget of each run")
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
        "steps": options.steps,
        "warmup": min(200, options.steps // 10),
        "val_every": max(1, options.steps // 12),
        **parse_settings(options.set),
    }
    curves = {}
    for block in options.blocks:
        recipe = recipe_for(block, options.recipe, overrides)
        curves[block] = train_block(recipe, Run(options.out / block))
        print(f"{TITLES[block]}: {curves[block][-1][1]:.3f} dB", file=sys.stderr)
    record = describe(Run(options.out / options.blocks[0]).recipe(), curves)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.json, record)
    draw(record, options.picture)


if __name__ == "__main__":
    main()
