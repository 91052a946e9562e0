"""Random degradations: reproducible, aligned with HR, as strong as the distribution says."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from fmen_data import (
    DataError,
    Degradation,
    PatchCache,
    PatchSampler,
    imresize,
    open_dataset,
    prepare_cache,
    write_image,
)
from fmen_data.degradation import add_blur, add_jpeg, add_noise, gaussian_kernel, step_generator
from fmen_data.images import read_image
from fmen_data.sample import sample_images

Image = npt.NDArray[np.uint8]
ALWAYS = {"clean": 0.0, "twice": 1.0, "blur": 1.0, "noise": 1.0, "jpeg": 1.0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PatchCache:
    folder = tmp_path_factory.mktemp("set")
    for i, size in enumerate([(80, 120), (160, 68)]):
        write_image(folder / f"{i}.png", np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8))
    return PatchCache(prepare_cache(open_dataset(folder, scale=4), folder / "cache.h5", progress=False))


def equal(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.fixture(scope="module")
def photo() -> tuple[Image, Image]:
    hr = read_image(sample_images("val")[0])[:256, :256].copy()
    return imresize(hr, 0.25), hr


def generator(slot: int = 0) -> np.random.Generator:
    return step_generator(1, 2, slot)


def test_the_same_seed_and_step_give_the_same_samples_in_any_number_of_processes(cache: PatchCache) -> None:
    sampler = PatchSampler([cache], patch=16, batch=12, seed=7, degradation=Degradation())
    lr, hr = sampler.batch(5)
    assert equal((lr, hr), pickle.loads(pickle.dumps(sampler)).batch(5))
    for rank in range(3):
        assert equal(sampler.batch(5, rank=rank, world_size=3), (lr[rank::3], hr[rank::3]))
    assert equal(next(sampler.batches(5, 6)), (lr, hr))
    assert not torch.equal(lr, PatchSampler([cache], patch=16, batch=12, seed=8, degradation=Degradation()).batch(5)[0])


def test_no_two_samples_have_the_same_noise(tmp_path: Path) -> None:
    write_image(tmp_path / "gray.png", np.full((32, 32, 3), 128, np.uint8))
    cache = PatchCache(prepare_cache(open_dataset(tmp_path, scale=2), tmp_path / "cache.h5", progress=False))
    noisy = Degradation(clean=0, twice=0, blur=0, noise=1, noise_sigma=(9, 9), jpeg=0)
    seen = set()
    for seed, step in ((7, 0), (7, 1), (8, 0)):
        lr, _ = PatchSampler([cache], patch=16, batch=4, seed=seed, degradation=noisy).batch(step)
        seen |= {patch.numpy().tobytes() for patch in lr}
    assert len(seen) == 12


def test_degradation_changes_neither_hr_nor_the_positions(cache: PatchCache) -> None:
    plain = PatchSampler([cache], patch=16, batch=12, seed=7)
    degraded = PatchSampler([cache], patch=16, batch=12, seed=7, degradation=Degradation(**ALWAYS))
    assert torch.equal(plain.batch(3)[1], degraded.batch(3)[1])
    assert not torch.equal(plain.batch(3)[0], degraded.batch(3)[0])


def test_the_share_of_clean_samples_is_left_as_it_is(photo: tuple[Image, Image]) -> None:
    lr, hr = photo[0][:16, :16].copy(), photo[1][:64, :64].copy()
    degradation = Degradation(**{**ALWAYS, "clean": 0.3})
    same = [np.array_equal(degradation(lr, hr, generator(slot)), lr) for slot in range(400)]
    assert 0.23 < np.mean(same) < 0.37


def test_a_degraded_image_is_aligned_with_hr(photo: tuple[Image, Image]) -> None:
    """The mean of many degraded images is best matched by the LR image without a shift."""
    lr, hr = photo
    degradation = Degradation(**{**ALWAYS, "noise_sigma": (0, 3), "jpeg_quality": (80, 98)})
    mean = np.mean([degradation(lr, hr, generator(slot)) for slot in range(24)], 0)[8:-8, 8:-8]

    def error(rows: float, columns: float) -> float:
        place = [np.arange(8, 56) + shift for shift in (rows, columns)]
        image = lr.astype(float)
        for axis, at in enumerate(place):
            low = np.floor(at).astype(int)
            part = (at - low).reshape([-1 if axis == each else 1 for each in range(3)])
            image = image.take(low, axis) * (1 - part) + image.take(low + 1, axis) * part
        return float(((image - mean) ** 2).mean())

    for axis in range(2):
        forth, back = ([sign * 0.25 if axis == each else 0.0 for each in range(2)] for sign in (1, -1))
        # Interpolation blurs, and so may match a blurred image better; equally far in both directions if aligned.
        assert error(*forth) / error(*back) == pytest.approx(1, abs=0.25)


def test_an_image_may_have_any_size(photo: tuple[Image, Image]) -> None:
    lr, hr = photo[0][:37, :21].copy(), photo[1][:148, :84].copy()
    degradation = Degradation(**ALWAYS)
    for slot in range(8):
        image = degradation(lr, hr, generator(slot))
        assert image.shape == lr.shape and image.dtype == np.uint8 and image.flags.c_contiguous
    smaller = Degradation(**{**ALWAYS, "resize": (0.25, 0.25)})
    assert smaller(lr[:1, :1].copy(), hr[:4, :4].copy(), generator()).shape == (1, 1, 3)


@pytest.mark.parametrize("level", [64, 128])
def test_noise_has_the_strength_that_was_asked_for(level: int) -> None:
    flat = np.full((64, 64, 3), level, np.uint8)
    kinds = set()
    for slot in range(40):
        noise = add_noise(flat, (10, 10), generator(slot)).astype(float) - level
        gray = np.array_equal(noise[..., 0], noise[..., 1])
        poisson = level != 128 and noise.std() < 8.5
        kinds.add((gray, poisson))
        assert noise.std() == pytest.approx(10 * (level / 128) ** 0.5 if poisson else 10, rel=0.06)
        assert noise.mean() == pytest.approx(0, abs=0.6)
    assert len(kinds) == (2 if level == 128 else 4)


def test_the_strength_of_noise_is_uniform_in_its_range() -> None:
    flat = np.full((32, 32, 3), 128, np.uint8)
    strengths = [add_noise(flat, (4, 12), generator(slot)).std() for slot in range(200)]
    assert np.quantile(strengths, [0.02, 0.25, 0.5, 0.75, 0.98]) == pytest.approx([4, 6, 8, 10, 12], abs=0.9)


def test_three_of_four_jpeg_images_have_chroma_of_half_the_resolution() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = (200, 100, 100), (30, 170, 170)
    contrast = [
        float(np.abs(np.diff(add_jpeg(image, (95, 95), generator(slot))[..., 0].astype(float))).mean())
        for slot in range(400)
    ]
    assert min(abs(value - 85) for value in contrast) > 50
    assert np.mean(np.array(contrast) < 85) == pytest.approx(0.75, abs=0.05)


def test_jpeg_blocks_begin_at_random_positions(photo: tuple[Image, Image]) -> None:
    lr = photo[0]
    starts = set()
    for slot in range(60):
        difference = np.abs(np.diff(add_jpeg(lr, (10, 10), generator(slot)).astype(float), axis=1)).mean((0, 2))
        starts.add(int(np.argmax([difference[start::8].mean() for start in range(8)])))
    assert len(starts) >= 7


def test_a_lower_jpeg_quality_loses_more(photo: tuple[Image, Image]) -> None:
    errors = [((add_jpeg(photo[0], (q, q), generator()).astype(float) - photo[0]) ** 2).mean() for q in (30, 60, 95)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_blur_keeps_flat_areas_and_the_kernel_has_its_widths() -> None:
    flat = np.full((9, 9, 3), 77, np.uint8)
    assert np.array_equal(add_blur(flat, (0.3, 0.7), generator()), flat)
    kernel = gaussian_kernel(2.0, 1.0, 0.0)
    places = np.arange(len(kernel)) - len(kernel) // 2
    widths = [float((kernel.sum(axis) * places**2).sum() ** 0.5) for axis in (0, 1)]
    assert widths == pytest.approx([2.0, 1.0], rel=0.08)
    turned = gaussian_kernel(2.0, 1.0, np.pi / 2)
    assert np.allclose(turned, kernel.T)
    assert kernel.shape == gaussian_kernel(1.0, 2.0, 0.0).shape == (13, 13), "three standard deviations on either side"
    assert np.array_equal(gaussian_kernel(0.0, 0.0, 0.0), np.pad([[1.0]], 1))


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.5), (1.5, 0.7)])
def test_a_kernel_has_the_weights_of_a_gaussian_averaged_over_each_pixel(first: float, second: float) -> None:
    kernel = gaussian_kernel(first, second, 0.0)
    radius = len(kernel) // 2
    shares = []
    for sigma in (second, first):
        edges = [math.erf((place - 0.5) / sigma / 2**0.5) for place in range(-radius, radius + 2)]
        shares.append(np.diff(edges) / (edges[-1] - edges[0]))
    assert np.allclose(kernel, np.outer(*shares), atol=0.01)  # of 16 samples per pixel


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clean": 1.5}, "clean = 1.5; give a share from 0 to 1"),
        ({"noise": True}, "noise = True; give a share from 0 to 1"),
        ({"noise_sigma": [9, 3]}, r"noise_sigma = \[9, 3\]; give two numbers in ascending order, from 0 to 255"),
        ({"jpeg_quality": [0, 90]}, "in ascending order, from 1 to 100"),
        ({"blur_sigma": 0.5}, r"blur_sigma = 0.5; give two numbers, such as \[0.2, 0.7\]"),
        ({"noize": 1}, "there is no 'noize'; choose from clean, twice, resize, "),
        ({"noise_sigma": [0, float("nan")]}, "in ascending order"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"degradation: .*{message}"):
        Degradation.from_dict(values)


def test_some_values_replace_the_defaults() -> None:
    degradation = Degradation.from_dict({"noise_sigma": [0, 5]})
    assert degradation == Degradation(noise_sigma=(0.0, 5.0))
    assert Degradation.from_dict(degradation.to_dict()) == degradation


def test_degradations_come_in_any_order_as_often_as_their_probabilities_say(
    photo: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    for name in ("blur", "noise", "jpeg"):
        monkeypatch.setattr(
            f"fmen_data.degradation.add_{name}", lambda image, *_, name=name: passes.append(name) or image
        )
    lr, hr = photo[0][:8, :8], photo[1][:32, :32]
    once = Degradation.from_dict({"clean": 0, "twice": 0, "blur": 0.2, "noise": 0.9, "jpeg": 0.5})
    firsts = []
    for slot in range(1000):
        done = len(passes)
        once(lr, hr, generator(slot))
        firsts += passes[done : done + 1]
    for name, share in (("blur", 0.2), ("noise", 0.9), ("jpeg", 0.5)):
        assert abs(passes.count(name) / 1000 - share) < 0.05
        assert firsts.count(name) > 50
    passes.clear()
    twice = Degradation.from_dict({"clean": 0, "twice": 0.3, "blur": 0, "noise": 1, "jpeg": 0})
    for slot in range(1000):
        twice(lr, hr, generator(slot))
    assert abs(len(passes) / 1000 - 1.3) < 0.05


@pytest.mark.parametrize(
    ("resize", "scale", "first"), [(1.5, 4, (12, 18)), (0.9, 4, (7, 11)), (3.0, 2, (16, 24)), (4.0, 4, (32, 48))]
)
def test_the_first_of_two_passes_has_a_size_up_to_that_of_hr(
    monkeypatch: pytest.MonkeyPatch, resize: float, scale: int, first: tuple[int, int]
) -> None:
    sizes: list[tuple[int, ...]] = []
    monkeypatch.setattr("fmen_data.degradation.add_noise", lambda image, *_: sizes.append(image.shape[:2]) or image)
    twice = Degradation(clean=0, twice=1, resize=(resize, resize), blur=0, noise=1, jpeg=0)
    lr, hr = np.zeros((8, 12, 3), np.uint8), np.zeros((8 * scale, 12 * scale, 3), np.uint8)
    twice(lr, hr, generator())
    assert sizes == [first, (8, 12)]


def test_the_second_of_two_passes_follows_one_of_four_resampling_kernels(photo: tuple[Image, Image]) -> None:
    lr, hr = photo[0][:16, :24], photo[1][:64, :96]
    twice = Degradation(clean=0, twice=1, resize=(4, 4), blur=0, noise=0, jpeg=0)
    found = {twice(lr, hr, generator(slot)).tobytes() for slot in range(50)}
    kernels = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_AREA)
    expected = {np.asarray(cv2.resize(hr, (24, 16), interpolation=kernel)).tobytes() for kernel in kernels}
    assert found == expected and len(expected) == 4


@pytest.mark.parametrize(
    ("lr", "hr"),
    [
        (np.zeros((8, 8), np.uint8), np.zeros((16, 16), np.uint8)),
        (np.zeros((8, 8, 3), np.float32), np.zeros((16, 16, 3), np.float32)),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((16, 8, 3), np.uint8)),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((17, 17, 3), np.uint8)),
        (np.zeros((8, 8, 4), np.uint8), np.zeros((16, 16, 4), np.uint8)),
        (np.zeros((0, 8, 3), np.uint8), np.zeros((0, 16, 3), np.uint8)),
        (np.zeros(8, np.uint8), np.zeros(16, np.uint8)),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)),
    ],
)
@pytest.mark.parametrize("clean", [0.0, 1.0])
def test_other_images_are_refused_whatever_the_random_numbers(clean: float, lr: Image, hr: Image) -> None:
    with pytest.raises(DataError, match=r"LR is .*; give uint8 \(h, w, 3\) and \(scale \* h, scale \* w, 3\)"):
        Degradation(clean=clean)(lr, hr, generator())


def test_the_weakest_noise_changes_nothing(photo: tuple[Image, Image]) -> None:
    for slot in range(8):
        assert np.array_equal(add_noise(photo[0], (1e-8, 1e-8), generator(slot)), photo[0])
