"""``fmen prune``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmen.cli.options import Device, Model, Protocol, Threads, warn
from fmen.cli.train import default_recipe

if TYPE_CHECKING:
    from fmen.training.recipe import Recipe
    from fmen.training.run_folder import Run

Pruned = Annotated[str, typer.Argument(metavar="FILE|NAME", help="Weights of the trained network.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Run folder of the pruned network.")]
Channels = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Channels of the features (n_feats) that remain.")
]
Ratio = Annotated[
    float | None,
    typer.Option(metavar="SHARE", min=0.01, max=0.99, help="Share of the channels to remove, also in FMEN's branches."),
]
TrainingData = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR|sample", help="Training set for fine-tuning. Can be repeated. Default: no fine-tuning."),
]
MeasuredData = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|sample",
        help="Dataset to measure on. Default: DIV2K's validation set under data/, or the sample.",
    ),
]
RecipeName = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="Recipe for fine-tuning, as in 'fmen train'.")
]
Minutes = Annotated[float | None, typer.Option(metavar="N", help="Fine-tune for about N minutes.")]
Steps = Annotated[int | None, typer.Option(metavar="N", min=1, help="Fine-tune for N steps.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A size of the network (model_args.NAME=N) or a key of the recipe. Can be repeated.",
    ),
]


def prune(
    weights: Pruned,
    out: Out,
    model: Model = None,
    channels: Channels = None,
    ratio: Ratio = None,
    data: TrainingData = None,
    val_data: MeasuredData = None,
    recipe: RecipeName = None,
    minutes: Minutes = None,
    steps: Steps = None,
    settings: Settings = None,
    protocol: Annotated[Protocol, typer.Option(help="How PSNR and SSIM are computed.")] = Protocol.ntire,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Remove channels from a trained network.

    The channels that add least to the next layers are removed, as measured on images of the first --data or on
    synthetic ones. With --data, the narrower network is fine-tuned as 'fmen train' does. Parameters, multiply-adds,
    PSNR and SSIM before and after are printed and written to prune.json in the run folder.
    """
    from fmen.errors import UserError
    from fmen.outputs import prepare_file
    from fmen.pruning import PRUNED, REPORT, measure, narrower, narrower_sizes, table, typical_images, write_report
    from fmen.sources.datasets import measured_source, open_measured
    from fmen.sources.networks import load_network, save_network
    from fmen.sources.weights import choose_weights
    from fmen.threads import use_threads
    from fmen.training.recipe import with_settings
    from fmen.training.run_folder import Run
    from fmen_core.architecture import sr_model

    use_threads(threads)
    if not data and (recipe or minutes or steps):
        raise UserError("fine-tuning needs images: add --data, or leave --recipe, --minutes and --steps out")
    run, file = Run(out), choose_weights(weights, model=model)
    run.require_new()
    if (out / REPORT).exists():
        raise UserError(f"{out}: contains a pruned network; choose another --out")
    keys, sizes = split_settings(settings or [])
    if keys and not data:
        raise UserError(f"--set {next(iter(keys))} is for fine-tuning: add --data, or leave it out")
    network = load_network(file, model, note=warn)
    sizes = narrower_sizes(network, channels, ratio, sizes)
    images = typical_images(data[0], network) if data else None
    narrow, training = narrower(network, model, sizes, images)
    resolved = None
    if data:
        defaults = {**training, "weights": str(out / PRUNED), "val_protocol": protocol.value, "device": device}
        options = {"minutes": minutes, "steps": steps, "threads": threads, "data": tuple(data), "val_data": val_data}
        given = {key: value for key, value in options.items() if value is not None}
        resolved = fine_tuning(recipe, defaults | with_settings(given, keys))
    open_measured([measured_source(val_data, sr_model(network).scale)], sr_model(network).scale, option="--val-data")
    prepare_file(out / PRUNED, inputs=[file])
    measured = partial(measure, model=model, data=val_data, protocol=protocol.value, device=device)
    rows = [measured("before", file)]
    save_network(narrow, out / PRUNED, recipe="prune")
    rows.append(measured("pruned", out / PRUNED))
    report = partial(write_report, out / REPORT, rows, protocol.value, sizes)
    try:
        if resolved:
            rows.append(measured("fine-tuned", fine_tune(resolved, run)))
    except typer.Exit:  # interrupted: what was measured stays
        report()
        raise
    report()
    typer.echo(table(rows, protocol.value))


def split_settings(settings: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of the recipe and the sizes of the network that ``--set`` gives.

    Raises:
        UserError: A setting cannot be read.
    """
    from fmen.training.recipe import RecipeError, nested_args, parse_settings

    keys: dict[str, Any] = nested_args(parse_settings(settings, note=warn), "--set")
    sizes = keys.pop("model_args", {})
    if not isinstance(sizes, dict):
        raise RecipeError(f"--set model_args={sizes!r}: expected a mapping of names to values")
    for key in ("model", "scale", "weights"):
        if key in keys:
            raise RecipeError(f"--set {key}: the pruned network has its own; leave it out")
    return keys, sizes


def fine_tuning(recipe: str | None, overrides: dict[str, Any]) -> Recipe:
    """Return the recipe of the fine-tuning."""
    from fmen.training.recipe import load_recipe

    return load_recipe(recipe or default_recipe(overrides, warn), overrides, note=warn)


def fine_tune(recipe: Recipe, run: Run) -> Path:
    """Train; return the file of the best weights."""
    from fmen.training.loop import train

    outcome = train(recipe, run, announce=typer.echo)
    if outcome.signal is not None:
        warn(f"stopped after step {outcome.step} of {recipe.steps}; continue: fmen train --resume --out {run.folder}")
        raise typer.Exit(128 + outcome.signal)
    return outcome.weights
