"""Random patches: aligned, in all eight orientations, and a function of seed, step and slot only."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fmen_data import DataError, PatchCache, PatchSampler, imresize, open_dataset, prepare_cache, write_image
from fmen_data.patches import place_patch


def make_cache(folder: Path, sizes: list[tuple[int, int]], scale: int = 4) -> PatchCache:
    """The HR images are the LR images with every pixel repeated, so that alignment can be checked exactly."""
    generator = np.random.default_rng(len(sizes))
    for i, size in enumerate(sizes):
        lr = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        write_image(folder / f"HR/{i}.png", lr.repeat(scale, 0).repeat(scale, 1))
        write_image(folder / f"LR_bicubic/X{scale}/{i}x{scale}.png", lr)
    dataset = open_dataset(folder, scale=scale)
    return PatchCache(prepare_cache(dataset, folder / "cache.h5", progress=False))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PatchCache:
    return make_cache(tmp_path_factory.mktemp("set"), [(20, 30), (16, 16), (40, 17)])


@pytest.fixture
def sampler(cache: PatchCache) -> PatchSampler:
    return PatchSampler([cache], patch=16, batch=12, seed=7)


def equal(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_lr_and_hr_patches_have_the_same_position_and_orientation(sampler: PatchSampler) -> None:
    for step in range(20):
        lr, hr = sampler.batch(step)
        assert torch.equal(lr.repeat_interleave(4, 2).repeat_interleave(4, 3), hr)


def test_batches_are_uint8_in_channels_last_memory(sampler: PatchSampler) -> None:
    for tensor, side in zip(sampler.batch(0), (16, 64), strict=True):
        assert tensor.dtype == torch.uint8 and tensor.shape == (12, 3, side, side)
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_patches_are_cut_from_the_images(sampler: PatchSampler, cache: PatchCache) -> None:
    lr, _ = sampler.batch(3)
    for slot, (image, top, left, orientation) in enumerate(sampler.draw(3).tolist()):
        patch = np.empty((16, 16, 3), np.uint8)
        place_patch(cache.lr[image][top : top + 16, left : left + 16], patch, orientation)
        assert np.array_equal(lr[slot].permute(1, 2, 0).numpy(), patch)


@pytest.mark.parametrize("side", [1, 5, 64])
def test_the_eight_orientations_are_the_flips_and_rotations_of_the_square(side: int) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (side + 3, side + 5, 3), dtype=np.uint8)
    source, seen = wide[2 : 2 + side, 1 : 1 + side], set()
    for orientation in range(8):
        expected = source[:, ::-1] if orientation & 1 else source
        expected = expected[::-1] if orientation & 2 else expected
        expected = expected.swapaxes(0, 1) if orientation & 4 else expected
        out = np.zeros((side, side, 3), np.uint8)
        place_patch(source, out, orientation)
        assert np.array_equal(out, expected)
        seen.add(out.tobytes())
    assert len(seen) == (1 if side == 1 else 8)


def test_a_step_does_not_depend_on_earlier_steps_or_on_the_process(cache: PatchCache, sampler: PatchSampler) -> None:
    first = sampler.batch(5)
    sampler.batch(6)
    assert equal(first, sampler.batch(5))
    assert equal(first, PatchSampler([cache], patch=16, batch=12, seed=7).batch(5))
    assert equal(first, pickle.loads(pickle.dumps(sampler)).batch(5))
    assert not equal(first, sampler.batch(6))
    assert not equal(first, PatchSampler([cache], patch=16, batch=12, seed=8).batch(5))


def test_a_slot_does_not_depend_on_the_size_of_the_batch(cache: PatchCache, sampler: PatchSampler) -> None:
    small = PatchSampler([cache], patch=16, batch=4, seed=7)
    assert np.array_equal(small.draw(2), sampler.draw(2)[:4])


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_slots_of_a_step(sampler: PatchSampler, world_size: int) -> None:
    lr, hr = sampler.batch(9)
    for rank in range(world_size):
        part = sampler.batch(9, rank=rank, world_size=world_size)
        assert equal(part, (lr[rank::world_size], hr[rank::world_size]))


def test_images_positions_and_orientations_are_uniform(sampler: PatchSampler) -> None:
    draws = np.concatenate([sampler.draw(step) for step in range(1000)])
    for column, choices in ((draws[:, 0], 3), (draws[:, 3], 8), (draws[draws[:, 0] == 0, 1], 5)):
        counts = Counter(column.tolist())
        assert sorted(counts) == list(range(choices))
        assert max(counts.values()) < 1.15 * len(column) / choices


def test_two_caches_are_sampled_as_one(cache: PatchCache, tmp_path: Path) -> None:
    other = make_cache(tmp_path, [(16, 20)])
    draws = PatchSampler([cache, other], patch=16, batch=64).draw(0)
    assert set(draws[:, 0].tolist()) == {0, 1, 2, 3}


@pytest.fixture
def weighted(cache: PatchCache, tmp_path: Path) -> PatchSampler:
    """Three images with a weight of 1 together, and two with a weight of 3."""
    other = make_cache(tmp_path, [(16, 20), (20, 16)])
    return PatchSampler([cache, other], patch=16, batch=12, seed=7, weights=[1, 3])


def test_weights_are_the_shares_of_the_caches_and_the_images_of_a_cache_are_uniform(weighted: PatchSampler) -> None:
    draws = np.concatenate([weighted.draw(step) for step in range(2000)])
    shares = np.bincount(draws[:, 0]) / len(draws)
    assert shares == pytest.approx([1 / 12] * 3 + [3 / 8] * 2, abs=0.01)
    assert np.bincount(draws[:, 3]) / len(draws) == pytest.approx([1 / 8] * 8, abs=0.01)


def test_a_weighted_sample_depends_on_seed_step_and_slot_alone(weighted: PatchSampler) -> None:
    again = pickle.loads(pickle.dumps(weighted))
    assert equal(weighted.batch(5), again.batch(5)) and not equal(weighted.batch(5), weighted.batch(6))
    small = PatchSampler(weighted.caches, patch=16, batch=4, seed=7, weights=[2, 6])
    assert np.array_equal(small.draw(5), weighted.draw(5)[:4])
    lr, _ = weighted.batch(9)
    assert torch.equal(weighted.batch(9, rank=1, world_size=2)[0], lr[1::2])


def test_weights_change_the_image_of_a_sample_alone(weighted: PatchSampler) -> None:
    plain = PatchSampler(weighted.caches, patch=16, batch=12, seed=7)
    assert np.array_equal(plain.draw(0)[:, 3], weighted.draw(0)[:, 3])
    assert not np.array_equal(plain.draw(0)[:, 0], weighted.draw(0)[:, 0])


def test_without_weights_the_samples_are_those_of_the_first_release(cache: PatchCache) -> None:
    draws = PatchSampler([cache], patch=16, batch=4, seed=7).draw(5)
    assert draws.tolist() == [[0, 4, 5, 2], [0, 2, 10, 7], [1, 0, 0, 5], [1, 0, 0, 5]]


def test_a_cache_of_weight_0_is_never_sampled(weighted: PatchSampler) -> None:
    for weights, images in (([0, 1], {3, 4}), ([1, 0], {0, 1, 2})):
        sampler = PatchSampler(weighted.caches, patch=16, batch=500, weights=weights)
        assert set(sampler.draw(0)[:, 0].tolist()) == images


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, np.inf], [1, np.nan]])
def test_invalid_shares_are_refused(weighted: PatchSampler, weights: list[float]) -> None:
    with pytest.raises(DataError, match="must be 2 numbers of at least 0"):
        PatchSampler(weighted.caches, patch=16, weights=weights)


def test_the_largest_random_number_stays_within_the_last_image(weighted: PatchSampler) -> None:
    sampler = PatchSampler(weighted.caches, patch=16, weights=[1, 8])
    below = np.nextafter([1 / 9, 1.0], 0.0)
    assert sampler._images(np.array([0.0, below[0], 1 / 9, below[1]])).tolist() == [0, 2, 3, 4]


def test_batches_are_made_ahead_up_to_the_given_number(sampler: PatchSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    batch = sampler.batch

    def recorded(step: int, **arguments: int) -> tuple[torch.Tensor, torch.Tensor]:
        made.append(step)
        return batch(step, **arguments)

    monkeypatch.setattr(sampler, "batch", recorded)
    batches = sampler.batches(0, 100, prefetch=3)
    next(iter(batches))
    batches.close()  # type: ignore[attr-defined]
    assert made[0] == 0 and len(made) <= 4


def test_prefetched_batches_are_those_of_the_steps_in_order(sampler: PatchSampler) -> None:
    batches = list(sampler.batches(4, 14, rank=1, world_size=2, prefetch=3, threads=2))
    assert len(batches) == 10
    for step, batch in enumerate(batches, 4):
        assert equal(batch, sampler.batch(step, rank=1, world_size=2))
    (alone,) = sampler.batches(4, 5)
    assert equal(alone, sampler.batch(4)) and len(alone[0]) == 12


def test_closing_the_iterator_ends_its_threads(sampler: PatchSampler) -> None:
    batches = sampler.batches(0, 1000, threads=2)
    next(iter(batches))
    batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("patches") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_image_smaller_than_a_patch_is_named(cache: PatchCache) -> None:
    with pytest.raises(DataError, match=r"image 1 of .* is 16x16 in LR, smaller than a 17x17 patch; remove it"):
        PatchSampler([cache], patch=17)


@pytest.fixture
def uneven(tmp_path: Path) -> list[PatchCache]:
    """The images 1 and 2 of four are smaller than a 16x16 patch."""
    return [make_cache(tmp_path / "one", [(16, 16)]), make_cache(tmp_path / "two", [(20, 15), (15, 9), (16, 16)])]


def test_every_image_of_the_caches_is_checked_and_all_small_ones_are_named(uneven: list[PatchCache]) -> None:
    message = (
        "2 problems: image 0 of two is 15x20 in LR, smaller than a 16x16 patch; remove it or choose a smaller patch; "
        "image 1 of two is 9x15 in LR"
    )
    with pytest.raises(DataError, match=message):
        PatchSampler(uneven, patch=16)
    with pytest.raises(DataError, match=r"^image 1 of two is 9x15 in LR, smaller than a 10x10 patch; remove it"):
        PatchSampler(uneven, patch=10)


@pytest.mark.parametrize(("weights", "share"), [(None, 1 / 2), ([1, 3], 3 / 4)])
def test_small_images_are_left_out_on_request(
    uneven: list[PatchCache], weights: list[float] | None, share: float
) -> None:
    lines: list[str] = []
    sampler = PatchSampler(uneven, patch=16, batch=2000, weights=weights, on_skip=lines.append)
    assert [line[:34] for line in lines] == ["image 0 of two is 15x20 in LR, sma", "image 1 of two is 9x15 in LR, smal"]
    draws = pickle.loads(pickle.dumps(sampler)).draw(0)
    assert set(draws[:, 0].tolist()) == {0, 3} and (draws[:, 0] == 3).mean() == pytest.approx(share, abs=0.05)
    with pytest.raises(DataError, match="image 0 of one is 16x16 in LR"):
        PatchSampler(uneven, patch=17, on_skip=lines.append)


@pytest.mark.parametrize("argument", [{"patch": 0}, {"batch": 0}, {"seed": -1}, {"seed": 2**64}])
def test_arguments_out_of_range_are_refused(cache: PatchCache, argument: dict[str, int]) -> None:
    with pytest.raises(DataError, match="must be at least 1, and seed"):
        PatchSampler([cache], **argument)
    smallest = PatchSampler([cache], patch=1, batch=1, seed=2**64 - 1).batch(0)
    assert [tuple(tensor.shape) for tensor in smallest] == [(1, 3, 1, 1), (1, 3, 4, 4)]


def test_every_position_is_sampled_up_to_the_last(cache: PatchCache) -> None:
    sampler = PatchSampler([cache], patch=15, batch=500)
    draws = np.concatenate([sampler.draw(step) for step in range(4)])
    for image, (height, width) in enumerate([(20, 30), (16, 16), (40, 17)]):
        positions = draws[draws[:, 0] == image, 1:3]
        assert positions.min(0).tolist() == [0, 0]
        assert positions.max(0).tolist() == [height - 15, width - 15]


def test_the_samples_of_a_seed_never_change(cache: PatchCache) -> None:
    """A run that resumes with another version of this package sees the same samples."""
    assert PatchSampler([cache], patch=8, batch=3, seed=5).draw(1000).tolist() == [
        [1, 0, 4, 6],
        [2, 16, 8, 3],
        [1, 5, 6, 4],
    ]


def test_caches_of_two_scales_or_none_are_refused(cache: PatchCache, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"caches of the scales \[2, 4\]; give one or more caches of one scale"):
        PatchSampler([cache, make_cache(tmp_path, [(16, 16)], scale=2)], patch=16)
    with pytest.raises(DataError, match="cannot sample from no cache"):
        PatchSampler([])


def test_the_lr_images_of_the_sample_cache_are_made_by_imresize(tmp_path: Path) -> None:
    dataset = open_dataset("sample", scale=2)
    cache = PatchCache(prepare_cache(dataset, tmp_path / "c.h5", progress=False))
    lr, hr = PatchSampler([cache], patch=48, batch=4).batch(0)
    assert lr.shape == (4, 3, 48, 48) and hr.shape == (4, 3, 96, 96)
    assert np.array_equal(cache.lr[0], imresize(np.asarray(cache.hr[0]), 0.5))


@pytest.mark.parametrize(("step", "rank", "world_size"), [(-1, 0, 1), (0, 1, 1), (0, -1, 2), (0, 3, 2)])
def test_an_impossible_rank_or_step_is_refused(sampler: PatchSampler, step: int, rank: int, world_size: int) -> None:
    with pytest.raises(DataError, match=f"step {step}, rank {rank} of {world_size}: give a step from 0"):
        sampler.batch(step, rank=rank, world_size=world_size)


def test_a_pickled_sampler_does_not_depend_on_the_working_folder(
    cache: PatchCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cache.path.parent)
    sampler = PatchSampler([PatchCache(cache.path.name)], patch=8, batch=4)
    pickled = pickle.dumps(sampler)
    monkeypatch.chdir(tmp_path)
    assert equal(pickle.loads(pickled).batch(0), sampler.batch(0))
