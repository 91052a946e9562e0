"""Where patches come from: the same samples from the CPU and from images on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fmen.training.distributed import Processes
from fmen.training.feed import (
    VALIDATION_SEED,
    ResidentPatches,
    batches,
    open_patches,
    open_validation,
    parse_source,
    read_validation,
    resident,
    resident_patches,
)
from fmen.training.recipe import Recipe, RecipeError
from fmen.training.stages import Stage
from fmen_data import DataError, Degradation, write_image
from fmen_data.degradation import step_generator

RecipeMaker = Callable[..., Recipe]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALONE = Processes()


def test_patches_cut_on_the_device_are_those_of_the_cpu_bit_for_bit(tiny: RecipeMaker) -> None:
    sampler = open_patches([Stage(tiny(batch=32))], ALONE)[0]
    patches = ResidentPatches(sampler, CPU)
    orientations = {int(row[3]) for step in range(4) for row in sampler.draw(step)}
    assert orientations == set(range(8))
    for step in range(4):
        for rank in range(2):
            found = patches.batch(step, rank=rank, world_size=2)
            for mine, expected in zip(found, sampler.batch(step, rank=rank, world_size=2), strict=True):
                assert mine.dtype == torch.uint8 and torch.equal(mine, expected)
    assert torch.equal(patches.batch(0)[1], sampler.batch(0)[1])


@pytest.mark.parametrize("device", [CPU, pytest.param(CUDA, marks=pytest.mark.cuda)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_both_feeds_yield_the_same_floats_from_the_given_step_to_the_last(
    tiny: RecipeMaker, channels_last: bool, device: torch.device
) -> None:
    keys = {"steps": 5, "batch": 4, "channels_last": channels_last}
    found = {}
    for feed in ("cpu", "device"):
        recipe = tiny(feed=feed, **keys)
        sampler = open_patches([Stage(recipe)], ALONE)[0]
        found[feed] = [pair for _, *pair in batches([Stage(recipe)], [sampler], Processes(1, 2), device, start=2)]
    assert len(found["cpu"]) == len(found["device"]) == 3
    for step, (mine, theirs) in enumerate(zip(found["device"], found["cpu"], strict=True), 2):
        expected = sampler.batch(step, rank=1, world_size=2)
        for one, other, reference in zip(mine, theirs, expected, strict=True):
            assert one.dtype == other.dtype == torch.float32 and one.device.type == other.device.type == device.type
            assert torch.equal(one, other) and torch.equal(one.cpu(), reference.float())
            layout = torch.channels_last if channels_last else torch.contiguous_format
            assert one.is_contiguous(memory_format=layout) and other.is_contiguous(memory_format=layout)


def test_images_stay_on_a_gpu_that_has_twice_their_memory_free(
    tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = open_patches([Stage(tiny())], ALONE)[0]
    needed = 2 * 48 * 64 * 3 * 17 // 16  # Two HR images, and LR images of a sixteenth of their pixels.
    free = 2 * needed
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    assert resident(tiny(), sampler, CUDA)
    assert resident(tiny(feed="device"), sampler, CUDA)
    assert not resident(tiny(feed="cpu"), sampler, CUDA)
    assert not resident(tiny(), sampler, CPU)
    assert resident(tiny(feed="device"), sampler, CPU)
    free -= 1
    assert not resident(tiny(), sampler, CUDA)
    with pytest.raises(RecipeError, match=r"feed = 'device': the images take .*use --set feed=cpu"):
        resident(tiny(feed="device"), sampler, CUDA)


def test_the_seed_decides_the_samples(tiny: RecipeMaker) -> None:
    first, same, other = (open_patches([Stage(tiny(seed=seed, batch=16))], ALONE)[0].draw(0) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_validation_images_are_those_of_the_training_data(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_validation(tiny()) == []
    (sample,) = open_validation(tiny(data=("sample",)))
    assert sample.name == "sample-val"
    image = np.zeros((32, 32, 3), np.uint8)
    for folder, name in (("DIV2K_train_HR", "0001"), ("DIV2K_valid_HR", "0801")):
        (tmp_path / "d" / folder).mkdir(parents=True)
        write_image(tmp_path / "d" / folder / f"{name}.png", image)
    (div2k,) = open_validation(tiny(data=("d",)))
    assert [pair.name for pair in div2k.pairs] == ["0801"]
    (tmp_path / "d").rename(tmp_path / "data")
    (default,) = open_validation(tiny())
    assert [pair.name for pair in default.pairs] == ["0801"]


def test_a_named_validation_set_comes_first(tiny: RecipeMaker, photos: Path) -> None:
    (dataset,) = open_validation(tiny(data=("sample",), val_data=str(photos), scale=2))
    assert [pair.name for pair in dataset.pairs] == ["one", "two"]
    assert dataset.scale == 2


def test_a_source_is_a_folder_or_two(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert parse_source("sample") == "sample"
    assert parse_source("x,y") == (Path("x"), Path("y"))
    assert parse_source(str(tmp_path / "a,b")) == str(tmp_path / "a,b")


def test_patches_are_sampled_with_the_recipes_weights(tiny: RecipeMaker, photos: Path) -> None:
    recipe = tiny(data=(str(photos), "sample"), data_weights=[1, 0], batch=200)
    sampler = open_patches([Stage(recipe)], Processes())[0]
    assert sampler.weights == (1, 0)
    assert set(sampler.draw(0)[:, 0].tolist()) == {0, 1}


def test_images_that_cannot_be_used_are_left_out_on_request(
    recipe_of: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "set/good.png", np.zeros((48, 48, 3), np.uint8))
    (tmp_path / "set/bad.png").write_bytes(b"")
    write_image(tmp_path / "set/small.png", np.zeros((16, 16, 3), np.uint8))
    recipe = recipe_of(data=[str(tmp_path / "set")], patch=8, skip_bad=True)
    sampler, _ = open_patches([Stage(recipe), Stage(recipe)], Processes())
    assert sampler.caches[0].names == ("good", "small") and set(sampler.draw(0)[:, 0].tolist()) == {0}
    assert capsys.readouterr().err == (
        f"left out: {tmp_path}/set/bad.png is empty; get the file again or remove it\n"
        "left out: image small of set is 4x4 in LR, smaller than a 8x8 patch; remove it or choose a smaller patch\n"
    )
    with pytest.raises(DataError, match="is empty"):
        open_patches([Stage(recipe.model_copy(update={"skip_bad": False}))], Processes())


def test_images_that_do_not_fit_on_the_device_are_refused_with_both_sizes(
    tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [SimpleNamespace(size=3 * 2**30)]
    sampler = SimpleNamespace(caches=[SimpleNamespace(lr=images, hr=images)])
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (7 * 2**30, 8 * 2**30))
    said = r"the images take 6\.0 GiB, more than half of the GPU's 7\.0 free GiB; use --set feed=cpu"
    with pytest.raises(RecipeError, match=said):
        resident(tiny(feed="device"), sampler, CUDA)  # type: ignore[arg-type]
    assert resident(tiny(feed="auto"), sampler, CUDA) is False  # type: ignore[arg-type]


def test_a_degradation_changes_the_lr_patches_of_its_stage_alone(tiny: RecipeMaker) -> None:
    always = {"clean": 0.0, "noise": 1.0, "noise_sigma": [20, 20]}
    stages = [Stage(tiny()), Stage(tiny(degradation=always), start=6)]
    (plain, hr), (noisy, same) = (sampler.batch(3) for sampler in open_patches(stages, ALONE))
    assert torch.equal(hr, same)
    assert (noisy.float() - plain.float()).std() > 8


def test_a_stage_with_a_degradation_does_not_take_the_images_on_the_device(tiny: RecipeMaker) -> None:
    stages = [Stage(tiny()), Stage(tiny(degradation="real"), start=6)]
    clean, degraded = open_patches(stages, ALONE)
    on_device = ResidentPatches(clean, CPU)
    assert resident_patches(stages[0].recipe, clean, CPU, on_device) is on_device
    assert resident_patches(stages[1].recipe, degraded, CPU, on_device) is None


def test_degraded_patches_are_never_cut_on_a_gpu(tiny: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    recipe = tiny(degradation="real")
    assert not resident(recipe, open_patches([Stage(recipe)], ALONE)[0], CUDA)


def test_validation_images_are_degraded_always_in_the_same_way(tiny: RecipeMaker, photos: Path) -> None:
    plain, degraded = tiny(val_data=str(photos)), tiny(val_data=str(photos), degradation={"clean": 0.0, "noise": 1.0})
    (images,) = open_validation(degraded)
    for index in range(2):
        lr, hr = read_validation(degraded, images, index)
        again, _ = read_validation(degraded.model_copy(update={"seed": 5}), images, index)
        clean, reference = read_validation(plain, images, index)
        assert np.array_equal(lr, again) and np.array_equal(hr, reference)
        assert not np.array_equal(lr, clean)


def test_no_two_images_are_degraded_alike_in_validation_and_none_as_in_training(
    tiny: RecipeMaker, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        write_image(tmp_path / f"{name}.png", np.full((32, 32, 3), 128, np.uint8))
    noisy = {"clean": 0.0, "noise": 1.0, "noise_sigma": [9, 9]}
    recipe = tiny(val_data=str(tmp_path), degradation=noisy)
    (images,) = open_validation(recipe)
    one, two = (read_validation(recipe, images, index)[0] for index in range(2))
    assert one.std() > 4 and not np.array_equal(one, two)
    trained = Degradation(**noisy)(*images.read(0), step_generator(recipe.seed, 0, 0))
    assert trained.std() > 4 and not np.array_equal(one, trained)
    with pytest.raises(RecipeError, match="seed = "):
        tiny(seed=VALIDATION_SEED)
