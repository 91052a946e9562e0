"""The image cache: what it holds, when it is rebuilt, what it refuses, and that nothing half-written stays."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from fmen_data import DataError, PairDataset, PatchCache, open_dataset, prepare_cache, write_image
from fmen_data.cache import FORMAT, VERSION, Source, _record, _recorded, default_cache_path


def noise(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def dataset(tmp_path: Path) -> PairDataset:
    """Three images with LR files, of sizes that are no multiples of the scale."""
    for i in range(3):
        write_image(tmp_path / f"set/HR/{i}.png", noise(25 + i, 35, i))
        write_image(tmp_path / f"set/LR_bicubic/X4/{i}x4.png", noise(6, 8, 10 + i))
    return open_dataset(tmp_path / "set")


def prepare(dataset: PairDataset, path: Path) -> PatchCache:
    return PatchCache(prepare_cache(dataset, path, progress=False))


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_the_cache_holds_the_pairs_of_the_dataset(dataset: PairDataset, tmp_path: Path) -> None:
    cache = prepare(dataset, tmp_path / "c.h5")
    assert (cache.dataset, cache.scale, cache.names, len(cache)) == ("set", 4, ("0", "1", "2"), 3)
    for index, (_, lr, hr) in enumerate(dataset):
        assert np.array_equal(cache.lr[index], lr)
        assert np.array_equal(cache.hr[index], hr)


def test_the_file_layout_is_as_documented(dataset: PairDataset, tmp_path: Path) -> None:
    with h5py.File(prepare_cache(dataset, tmp_path / "c.h5", progress=False)) as file:
        assert (file.attrs["format"], file.attrs["version"]) == (FORMAT, VERSION)
        assert (file.attrs["scale"], file.attrs["dataset"]) == (4, "set")
        image, recorded = file["hr/1"], file["lr"].attrs
        assert image.chunks is None and image.dtype == np.uint8 and image.shape == (24, 32, 3)
        source = tmp_path / "set/LR_bicubic/X4/1x4.png"
        assert recorded["source"][1] == str(source)
        assert recorded["source_size"][1] == source.stat().st_size
        assert len(recorded["source_checksum"][1]) == 32


def test_images_are_read_from_a_memory_map_and_chunked_ones_through_h5py(dataset: PairDataset, tmp_path: Path) -> None:
    plain = prepare(dataset, tmp_path / "c.h5")
    assert all(isinstance(image, np.ndarray) for image in (*plain.lr, *plain.hr))
    with h5py.File(tmp_path / "c.h5") as old, h5py.File(tmp_path / "z.h5", "w") as new:
        new.attrs.update(old.attrs)
        for name in ("lr", "hr"):
            for key, image in old[name].items():
                new.create_dataset(f"{name}/{key}", data=image[()], compression="gzip")
            new[name].attrs.update(old[name].attrs)
    packed = PatchCache(tmp_path / "z.h5")
    for one, other in zip((*plain.lr, *plain.hr), (*packed.lr, *packed.hr), strict=True):
        assert isinstance(other, h5py.Dataset)
        assert np.array_equal(one[2:5, 1:4], other[2:5, 1:4])


def test_a_current_cache_is_left_alone(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    before = identity(path)
    prepare_cache(dataset, path, progress=False)
    assert identity(path) == before


def test_a_touched_source_of_equal_content_is_not_stale(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    before = identity(path)
    os.utime(dataset.pairs[0].hr, (1, 1))
    prepare_cache(dataset, path, progress=False)
    assert identity(path) == before


@pytest.mark.parametrize("change", ["content of equal size", "size", "one more image"])
def test_a_stale_cache_is_noticed_and_rebuilt(dataset: PairDataset, tmp_path: Path, change: str) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    if change == "one more image":
        write_image(tmp_path / "set/HR/3.png", noise())
        write_image(tmp_path / "set/LR_bicubic/X4/3x4.png", noise(6, 8))
        dataset = open_dataset(tmp_path / "set")
    else:
        size = dataset.pairs[1].hr.stat().st_size
        write_image(dataset.pairs[1].hr, noise(26, 35, 99) if change.startswith("content") else noise(26, 35) // 9)
        assert (dataset.pairs[1].hr.stat().st_size == size) == change.startswith("content")
        with pytest.raises(DataError, match=r"stale: .*1\.png has changed"):
            PatchCache(path)
    cache = prepare(dataset, path)
    assert len(cache) == len(dataset)
    for index, (_, _, hr) in enumerate(dataset):
        assert np.array_equal(cache.hr[index], hr)


def test_a_cache_of_another_format_version_is_refused_and_rebuilt(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = VERSION + 1
    with pytest.raises(DataError, match="format version 2, not 1"):
        PatchCache(path)
    assert len(prepare(dataset, path)) == 3


def test_a_cache_serves_without_its_sources(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    shutil.rmtree(tmp_path / "set")
    assert len(PatchCache(path)) == 3


def test_a_file_of_something_else_is_neither_opened_nor_overwritten(dataset: PairDataset, tmp_path: Path) -> None:
    text, other = tmp_path / "text.h5", tmp_path / "other.h5"
    text.write_text("my notes")
    with h5py.File(other, "w") as file:
        file["x"] = 1
    for path in (text, other):
        content = path.read_bytes()
        for function in (PatchCache, lambda path: prepare_cache(dataset, path)):
            with pytest.raises(DataError, match=f"{path.name} is .*no.* image cache"):
                function(path)
        assert path.read_bytes() == content


def test_the_cache_of_another_scale_is_not_overwritten(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    with pytest.raises(DataError, match="the cache of set at scale 4, not of set at scale 2"):
        prepare_cache(open_dataset(tmp_path / "set", scale=2), path)


def test_a_missing_cache_is_named() -> None:
    with pytest.raises(DataError, match=r"no cache at absent\.h5; make it with: fmen data prepare"):
        PatchCache("absent.h5")


def test_the_default_place_differs_between_scales_and_folders(
    dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "caches"))
    shutil.copytree(tmp_path / "set", tmp_path / "copy/set")
    datasets = [dataset, open_dataset(tmp_path / "set", scale=2), open_dataset(tmp_path / "copy/set")]
    paths = {default_cache_path(each) for each in datasets}
    assert len(paths) == 3 and {path.parent for path in paths} == {tmp_path / "caches"}
    assert prepare_cache(dataset, progress=False) in paths


def test_a_damaged_image_is_named_and_leaves_no_file(dataset: PairDataset, tmp_path: Path) -> None:
    data = dataset.pairs[2].hr.read_bytes()
    dataset.pairs[2].hr.write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"2\.png is truncated"):
        prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_leaves_no_file(dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fmen_data.cache.match_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_is_too_small_is_said_before_the_work(
    dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("fmen_data.cache.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"0\.0 GB free; free some space or set FMEN_CACHE"):
        prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_no_file(tmp_path: Path) -> None:
    write_image(tmp_path / "set/a.png", np.zeros((1200, 1200, 3), np.uint8))
    dataset = open_dataset(tmp_path / "set")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # writing beyond fails as on a full disk
    try:
        with pytest.raises(DataError, match=r"cannot write the cache .*c\.h5: .*free some space"):
            prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_pickled_cache_opens_its_file_again(dataset: PairDataset, tmp_path: Path) -> None:
    cache = prepare(dataset, tmp_path / "c.h5")
    copy = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(copy.hr[1], cache.hr[1])


def test_the_sources_of_thousands_of_images_fit_into_the_attributes(tmp_path: Path) -> None:
    sources = [Source(Path("/a/rather/long/folder/name") / f"{i:06d}.png", i, i, "0" * 32) for i in range(5000)]
    with h5py.File(tmp_path / "c.h5", "w", libver="latest") as file:
        _record([*sources, None], file.attrs)
        assert _recorded(file.attrs) == sources
