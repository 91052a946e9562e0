"""Training: a few steps of FMEN-S on tiny patches of synthetic images."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmen.training.distributed import Processes
from fmen.training.ema import Ema
from fmen.training.feed import open_patches, open_validation, parse_source
from fmen.training.initialization import initial_network, initialise_he
from fmen.training.logger import Journal
from fmen.training.loop import TrainingError, compiles, make_state, to_device, train
from fmen.training.recipe import Recipe, RecipeError, make_recipe
from fmen.training.run_folder import Run, RunError, new_run, newest_run, newest_weights, resumed_recipe
from fmen.training.schedule import learning_rate
from fmen.training.signals import StopRequest
from fmen_core import FMENTraining, load, read_metadata, reparameterize, save
from fmen_data import write_image

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two smooth images of 48x64 and 64x48 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, height, width in (("one", 48, 64), ("two", 64, 48)):
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        write_image(
            folder / f"{name}.png", coarse[np.ix_(np.arange(height) * 4 // height, np.arange(width) * 4 // width)]
        )
    return folder


@pytest.fixture
def tiny(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Recipe]:
    """Make a recipe of six quick steps, with other keys at will."""
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    fixed = {"data": (str(photos),), "patch": 8, "batch": 2, "steps": 6, "lr": 1e-3, "device": "cpu", "log_every": 2}

    def make(**keys: object) -> Recipe:
        return make_recipe(fixed | keys)

    return make


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Send this process a signal while ``step`` is done, once."""
    tick, calls = Journal.tick, iter(range(1, 1_000))

    def interrupting_tick(self: Journal) -> None:
        tick(self)
        if next(calls) == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Journal, "tick", interrupting_tick)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load(path).state_dict()


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_training_lowers_the_loss_and_writes_the_whole_run(tiny: RecipeMaker, tmp_path: Path) -> None:
    recipe = tiny(steps=30, val_data=str(tiny().data[0]), val_every=15, warmup=3, ema=0.9)
    outcome = train(recipe, Run(tmp_path / "run"))
    run = Run(tmp_path / "run")
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "recipe.yaml",
        "resume.pt",
        "versions.json",
    ]
    records = run.records()
    assert [record["step"] for record in records] == [*range(2, 15, 2), 15, *range(16, 31, 2)]
    assert records[-1]["loss"] < 0.7 * records[0]["loss"]
    assert {"step", "seconds", "loss", "lr", "steps_per_second", "psnr"} == records[-1].keys()
    assert outcome.best == max(record["psnr"] for record in records if "psnr" in record)
    assert (outcome.step, outcome.signal, outcome.weights) == (30, None, run.best)
    assert read_metadata(run.best)["recipe"] == "custom"
    assert isinstance(load(run.best), FMENTraining)
    assert run.recipe() == recipe
    assert json.loads(run.versions.read_text())["torch"] == torch.__version__


@pytest.mark.parametrize(("number", "optimizer"), [(signal.SIGINT, "adam"), (signal.SIGTERM, "muon")])
def test_a_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, optimizer: str
) -> None:
    recipe = tiny(ema=0.9, grad_clip=50.0, warmup=2, log_every=2, optimizer=optimizer)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(recipe, whole)
    stop_at(3, monkeypatch, number)
    stopped = train(recipe, parts)
    assert (stopped.step, stopped.signal) == (3, number)
    seconds = parts.records()[-1]["seconds"]
    parts.log({"step": 4, "loss": 0.0})  # what a run writes that is killed before its next checkpoint
    with parts.metrics.open("a") as file:
        file.write('{"step": 5, "lo')
    train(parts.recipe(), parts, resume=True)

    assert_equal(weights_of(parts.last), weights_of(whole.last))
    found, expected = (torch.load(run.resume, weights_only=True) for run in (parts, whole))
    assert_equal(found["model"], expected["model"])
    for index, moments in expected["optimizer"]["state"].items():
        assert_equal(found["optimizer"]["state"][index], moments)
    assert [(r["step"], r["loss"], r["lr"]) for r in parts.records()] == [
        (r["step"], r["loss"], r["lr"]) for r in whole.records()
    ]
    assert parts.records()[-1]["seconds"] > seconds


def test_only_a_long_run_on_a_machine_with_a_compiler_is_compiled(
    tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert compiles(tiny(compile="auto", steps=2_000), cpu)
    assert not compiles(tiny(compile="auto", steps=1_999), cpu)
    assert compiles(tiny(compile=True, steps=1), cpu)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not compiles(tiny(compile="auto", steps=2_000), cpu)


def test_a_finished_run_goes_on_with_more_steps(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=2), run)
    assert train(resumed_recipe(run, {"steps": 4}), run, resume=True).step == 4
    assert [record["step"] for record in run.records()] == [2, 4]
    assert run.recipe().steps == 4


def test_resuming_with_another_network_or_rate_is_refused(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    assert resumed_recipe(run, {"lr": 1e-3, "log_every": 7}).log_every == 7
    with pytest.raises(RunError, match=r"its lr is 0\.001 and cannot change"):
        resumed_recipe(run, {"lr": 2e-3})


def test_a_damaged_checkpoint_is_refused_in_one_line(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    run.resume.write_bytes(run.resume.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"resume\.pt: not a checkpoint of this run") as caught:
        train(run.recipe(), run, resume=True)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_a_run_is_not_overwritten(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    before = run.last.read_bytes()
    with pytest.raises(RunError, match="holds a run; continue it with --resume"):
        train(tiny(steps=2), run)
    assert run.last.read_bytes() == before


def test_a_full_disk_leaves_the_last_checkpoint_and_no_half_file(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    before = run.resume.read_bytes()
    write_bytes = Path.write_bytes

    def write_to_full_disk(self: Path, content: bytes) -> int:
        write_bytes(self, content[: len(content) // 2])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    with pytest.raises(OSError, match="No space left"):
        train(run.recipe().model_copy(update={"steps": 2}), run, resume=True)
    assert run.resume.read_bytes() == before
    assert not list(run.folder.glob("*.tmp")) and not list(run.folder.glob(".*.tmp"))


def test_a_loss_that_is_no_number_stops_the_run(tiny: RecipeMaker, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+: start again with a lower lr"):
        train(tiny(loss="l2", lr=1.0, lr_schedule="constant", steps=40), Run(tmp_path / "run"))


@pytest.mark.parametrize(
    "keys",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"channels_last": False},
        {"fused": True},
        {"collapsed": False},
        pytest.param({"compile": True}, marks=pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")),
    ],
    ids=str,
)
def test_every_way_to_compute_a_step_gives_nearly_the_same_loss(
    tiny: RecipeMaker, tmp_path: Path, keys: dict[str, Any]
) -> None:
    losses = []
    for name, extra in (("plain", {}), ("other", keys)):
        run = Run(tmp_path / name)
        train(tiny(steps=2, log_every=1, **extra), run)
        losses.append([record["loss"] for record in run.records()])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=5e-3)
    # fp16 finds the scale of its gradients by skipping steps that overflow.
    assert losses[1][1] == pytest.approx(losses[0][1], rel=0.02 if keys.get("precision") != "fp16" else 0.2)


def test_two_processes_train_as_one_that_normalizes_each_half_of_the_batch(tiny: RecipeMaker, tmp_path: Path) -> None:
    recipe = tiny(batch=4, steps=3, lr_schedule="constant")
    run_processes(2, recipe, tmp_path)
    expected = train_on_halves(recipe)
    for name, found in weights_of(tmp_path / "run" / "last.safetensors").items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-6)
    assert [record["step"] for record in Run(tmp_path / "run").records()] == [2, 3]


def run_processes(count: int, recipe: Recipe, folder: Path) -> None:
    """Start ``count`` processes as torchrun does, and wait for them."""
    from fmen.training.recipe import dump_recipe

    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "fmen", "train", "--recipe", "recipe.yaml", "--out", "run"]
    started = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    for process in started:
        assert process.wait(timeout=120) == 0, process.communicate()[1].decode()


def train_on_halves(recipe: Recipe) -> dict[str, torch.Tensor]:
    """The same steps in one process: the gradients and statistics of both halves of each batch, averaged."""
    state, sampler = make_state(recipe, CPU), open_patches(recipe, Processes())
    for step in range(recipe.steps):
        halves = []
        for rank in range(2):
            model = copy.deepcopy(state.model)
            lr, hr = to_device(*sampler.batch(step, rank=rank, world_size=2), recipe, CPU)
            torch.nn.functional.l1_loss(model(lr), hr).backward()
            halves.append(model)
        for parameter, first, second in zip(
            state.model.parameters(), halves[0].parameters(), halves[1].parameters(), strict=True
        ):
            assert first.grad is not None and second.grad is not None
            parameter.grad = (first.grad + second.grad) / 2
        for buffer, first, second in zip(*(model.buffers() for model in (state.model, *halves)), strict=True):
            buffer.copy_((first + second) / 2)
        state.optimizer.param_groups[0]["lr"] = learning_rate(recipe, step)
        state.optimizer.step()
    return state.model.state_dict()


def test_a_batch_that_processes_cannot_share_is_refused(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmen.training.loop import check_split

    with pytest.raises(RecipeError, match="batch = 3 cannot be shared by 2 processes"):
        check_split(tiny(batch=3), Processes(0, 2))


def test_an_average_follows_weights_and_statistics_and_ends_on_them() -> None:
    model = torch.nn.BatchNorm2d(2)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3)
        model.running_mean = torch.full((2,), 8.0)
    ema.update(model, step=0)  # decay 0.1
    assert ema.model.weight.tolist() == pytest.approx([2.8, 2.8])
    for step in range(100, 160):
        ema.update(model, step)
    assert ema.model.running_mean is not None
    assert ema.model.running_mean.tolist() == pytest.approx([8, 8])
    assert model.weight.requires_grad and not ema.model.weight.requires_grad


def test_he_initialisation_keeps_biases_at_zero_and_the_signal_in_bounds() -> None:
    torch.manual_seed(0)
    model = FMENTraining()
    initialise_he(model)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    head = model.head.weight
    assert head.std().item() == pytest.approx((1 / 27) ** 0.5, rel=0.1)
    out = model.train()(torch.rand(2, 3, 16, 16) * 255)
    assert 10 < out.std().item() < 1_000


def test_tensorboard_that_is_not_installed_is_asked_for_by_name(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RecipeError, match=r"pip install 'fmen\[tensorboard\]'"):
        train(tiny(tensorboard=True), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_cuda_that_is_not_there_is_refused(tiny: RecipeMaker, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="no GPU"):
        train(tiny(device="cuda"), Run(tmp_path / "run"))


def test_a_second_signal_acts_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_runs_are_numbered_and_the_newest_is_found(tmp_path: Path) -> None:
    recipe = Recipe(name="quick", steps=1, lr=1e-3)
    with pytest.raises(RunError, match="no trained weights under"):
        newest_weights(tmp_path)
    with pytest.raises(RunError, match="no run under"):
        newest_run(tmp_path)
    names = []
    for age in (30, 10, 20):
        run = new_run(recipe, tmp_path)
        run.folder.mkdir()
        names.append(run.folder.name)
        for file in (run.best, run.resume):
            file.write_bytes(b"")
            os.utime(file, (1e9 - age, 1e9 - age))
    assert names == ["fmen-s_x4_quick", "fmen-s_x4_quick-2", "fmen-s_x4_quick-3"]
    assert newest_weights(tmp_path) == tmp_path / "fmen-s_x4_quick-2" / "best.safetensors"
    assert newest_run(tmp_path).folder.name == "fmen-s_x4_quick-2"


def test_validation_images_are_those_of_the_training_data(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_validation(tiny()) is None
    sample = open_validation(tiny(data=("sample",)))
    assert sample is not None and sample.name == "sample-val"
    image = np.zeros((32, 32, 3), np.uint8)
    for folder, name in (("DIV2K_train_HR", "0001"), ("DIV2K_valid_HR", "0801")):
        (tmp_path / "d" / folder).mkdir(parents=True)
        write_image(tmp_path / "d" / folder / f"{name}.png", image)
    div2k = open_validation(tiny(data=("d",)))
    assert div2k is not None and [pair.name for pair in div2k.pairs] == ["0801"]


def test_a_source_is_a_folder_or_two(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert parse_source("sample") == "sample"
    assert parse_source("x,y") == (Path("x"), Path("y"))
    assert parse_source(str(tmp_path / "a,b")) == str(tmp_path / "a,b")


def test_a_run_starts_from_the_weights_of_another(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    first = initial_network(tiny(seed=1))
    save(first, tmp_path / "first.safetensors")
    second = initial_network(tiny(seed=2, weights=str(tmp_path / "first.safetensors")))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_a_run_of_another_scale_takes_all_but_the_last_convolution(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    first = initial_network(tiny(seed=1))
    save(first, tmp_path / "first.safetensors")
    second = initial_network(tiny(seed=2, scale=2, weights=str(tmp_path / "first.safetensors")))
    assert torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(second.tail[0].weight, initial_network(tiny(seed=2, scale=2)).tail[0].weight)


@pytest.mark.parametrize("other", ["fmen", "inference"])
def test_weights_of_another_network_or_form_are_no_start(
    tiny: Callable[..., Recipe], tmp_path: Path, other: str
) -> None:
    model = initial_network(tiny(variant="full" if other == "fmen" else "s"))
    save(reparameterize(model) if other == "inference" else model, tmp_path / "other.safetensors")
    with pytest.raises(RecipeError, match="starts from fmen-s in its training form"):
        initial_network(tiny(weights=str(tmp_path / "other.safetensors")))
