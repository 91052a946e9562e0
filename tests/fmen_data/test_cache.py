"""The image cache: its content, when it is rebuilt, what it refuses, and that a failed write leaves nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import resource
import shutil
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from fmen_data import DataError, Pair, PairDataset, PatchCache, PatchSampler, open_dataset, prepare_cache, write_image
from fmen_data import prepare as prepare_module
from fmen_data.cache import FORMAT, VERSION
from fmen_data.prepare import _decode_all, default_cache_path


def noise(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def dataset(tmp_path: Path) -> PairDataset:
    """Three images with LR files, of sizes that are not multiples of the scale."""
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
        assert (file.attrs["format"].decode(), file.attrs["version"]) == (FORMAT, VERSION)
        assert (file.attrs["scale"], file.attrs["dataset"].decode()) == (4, "set")
        image, index = file["hr/1"], json.loads(file["index"][()].tobytes())
        assert image.chunks is None and image.dtype == np.uint8 and image.shape == (24, 32, 3)
        source = tmp_path / "set/LR_bicubic/X4/1x4.png"
        assert index["names"] == ["0", "1", "2"]
        row = [blake2b(file["lr/1"][()]), str(source), source.stat().st_size, source.stat().st_mtime_ns]
        assert index["lr"][1] == [*row, blake2b(source.read_bytes())]


def blake2b(data: bytes | np.ndarray) -> str:
    return hashlib.blake2b(memoryview(data), digest_size=16).hexdigest()


def test_images_are_read_from_a_memory_map_and_chunked_ones_through_h5py(dataset: PairDataset, tmp_path: Path) -> None:
    plain = prepare(dataset, tmp_path / "c.h5")
    assert all(isinstance(image, np.ndarray) for image in (*plain.lr, *plain.hr))
    with h5py.File(tmp_path / "c.h5") as old, h5py.File(tmp_path / "z.h5", "w") as new:
        new.attrs.update(old.attrs)
        old.copy("index", new)
        for name in ("lr", "hr"):
            for key, image in old[name].items():
                new.create_dataset(f"{name}/{key}", data=image[()], compression="gzip")
    packed = PatchCache(tmp_path / "z.h5")
    for one, other in zip((*plain.lr, *plain.hr), (*packed.lr, *packed.hr), strict=True):
        assert isinstance(other, h5py.Dataset)
        assert np.array_equal(one[2:5, 1:4], other[2:5, 1:4])


def test_an_up_to_date_cache_is_left_unchanged(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    before = identity(path)
    prepare_cache(dataset, path, progress=False)
    assert identity(path) == before


def test_two_nodes_may_make_the_same_cache_at_the_same_time(
    dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, together, opened = prepare_module._build, threading.Barrier(2, timeout=20), []

    def simultaneous(*arguments: object, **options: object) -> object:
        together.wait()
        return build(*arguments, **options)  # type: ignore[arg-type]

    def node() -> None:
        opened.append(prepare(dataset, tmp_path / "c.h5"))

    monkeypatch.setattr(prepare_module, "_build", simultaneous)
    nodes = [threading.Thread(target=node) for _ in range(2)]
    for thread in nodes:
        thread.start()
    for thread in nodes:
        thread.join()
    assert len(opened) == 2 and {file.name for file in tmp_path.iterdir()} == {"set", "c.h5"}
    for cache in (*opened, PatchCache(tmp_path / "c.h5")):
        for index, (_, _, hr) in enumerate(dataset):
            assert np.array_equal(cache.hr[index], hr)


def test_a_touched_source_of_equal_content_is_not_stale(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    before = identity(path)
    os.utime(dataset.pairs[0].hr, (1, 1))
    prepare_cache(dataset, path, progress=False)
    assert identity(path) == before


@pytest.mark.parametrize("change", ["content of equal size", "size", "one more image"])
def test_a_stale_cache_is_refused_and_rebuilt(dataset: PairDataset, tmp_path: Path, change: str) -> None:
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
    with pytest.raises(DataError, match="format version 3, not 2"):
        PatchCache(path)
    assert len(prepare(dataset, path)) == 3


def test_a_cache_opens_without_its_source_files(dataset: PairDataset, tmp_path: Path) -> None:
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


def test_a_cache_that_another_set_of_files_was_decoded_into_is_rebuilt(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    shutil.copytree(tmp_path / "set", tmp_path / "copy/set")
    copy = open_dataset(tmp_path / "copy/set")
    assert not PatchCache(path).belongs_to(copy)
    assert not PatchCache(path).belongs_to(open_dataset(tmp_path / "set", scale=2))
    assert prepare(copy, path).belongs_to(copy)


def test_an_lr_image_that_was_made_has_no_source(tmp_path: Path) -> None:
    write_image(tmp_path / "set/a.png", noise())
    write_image(tmp_path / "set/b.png", noise(seed=1))
    dataset = open_dataset(tmp_path / "set")
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    with h5py.File(path) as file:
        index = json.loads(file["index"][()].tobytes())
    assert [row[1:] for row in index["lr"]] == [["", 0, 0, ""]] * 2
    assert [row[1] for row in index["hr"]] == [str(tmp_path / "set/a.png"), str(tmp_path / "set/b.png")]
    before = identity(path)
    prepare_cache(dataset, path, progress=False)
    assert identity(path) == before


def test_more_images_than_threads_are_decoded_in_order(tmp_path: Path) -> None:
    for i in range(9):
        write_image(tmp_path / f"set/{i}.png", noise(seed=i))
    dataset = open_dataset(tmp_path / "set")
    cache = PatchCache(prepare_cache(dataset, tmp_path / "c.h5", workers=1, progress=False))
    assert [np.array_equal(hr, noise(seed=i)) for i, hr in enumerate(cache.hr)] == [True] * 9


def test_few_images_are_decoded_ahead_and_closing_ends_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(9):
        write_image(tmp_path / f"set/{i}.png", noise(seed=i))
    started: list[str] = []
    finished: list[str] = []

    def slow(pair: Pair, scale: int) -> str:
        started.append(pair.name)
        time.sleep(0.05)
        finished.append(pair.name)
        return pair.name

    monkeypatch.setattr("fmen_data.prepare._decode", slow)
    decoded = _decode_all(open_dataset(tmp_path / "set"), 2)
    assert next(decoded) == "0"  # type: ignore[comparison-overlap]
    deadline = time.monotonic() + 10
    while len(finished) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(started) == ["0", "1", "2", "3", "4"]  # the one that was taken, and two for each thread
    next(decoded)
    while len(started) < 6 and time.monotonic() < deadline:
        time.sleep(0.001)
    decoded.close()  # type: ignore[attr-defined]
    assert sorted(started) == sorted(finished) == ["0", "1", "2", "3", "4", "5"]


def test_closing_cancels_what_has_not_been_decoded_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        write_image(tmp_path / f"set/{i}.png", noise(seed=i))
    started: list[str] = []
    release = threading.Event()

    def blocked(pair: Pair, scale: int) -> None:
        started.append(pair.name)
        if len(started) > 1:
            release.wait(10)

    monkeypatch.setattr(prepare_module, "_decode", blocked)
    decoded = _decode_all(open_dataset(tmp_path / "set"), 1)
    next(decoded)
    threading.Timer(0.3, release.set).start()
    decoded.close()  # type: ignore[attr-defined]
    assert "2" not in started


def test_the_progress_is_shown_on_request(
    dataset: PairDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_cache(dataset, tmp_path / "a.h5", progress=False)
    assert capsys.readouterr().err == ""
    prepare_cache(dataset, tmp_path / "b.h5")
    assert "cache set x4: 100%" in capsys.readouterr().err


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
    assert default_cache_path(dataset).name.startswith("set-x4-")
    monkeypatch.delenv("FMEN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_path(dataset).parent == tmp_path / ".cache/fmen"


def test_a_damaged_image_is_named_and_leaves_no_file(dataset: PairDataset, tmp_path: Path) -> None:
    data = dataset.pairs[2].hr.read_bytes()
    dataset.pairs[2].hr.write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"2\.png is truncated"):
        prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_every_damaged_image_is_named_at_once(dataset: PairDataset, tmp_path: Path) -> None:
    for file in ("HR/0.png", "LR_bicubic/X4/2x4.png"):
        data = (tmp_path / "set" / file).read_bytes()
        (tmp_path / "set" / file).write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"^2 problems: .*HR/0\.png is truncated.*; .*X4/2x4\.png is truncated"):
        prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["set"]


def test_ctrl_c_leaves_no_file(dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fmen_data.prepare.match_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_too_little_free_space_is_an_error_before_any_work(
    dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 3 * (3 * 24 * 32 + 3 * 6 * 8)  # three images, HR and LR
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("fmen_data.prepare.shutil.disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(DataError, match=r"takes 0\.0 GB, but .* has 0\.0 GB free; free some space or set FMEN_CACHE"):
        prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("fmen_data.prepare.shutil.disk_usage", lambda folder: usage._replace(free=needed))
    assert prepare_cache(dataset, tmp_path / "out/c.h5", progress=False).exists()
    monkeypatch.setattr("fmen_data.prepare.shutil.disk_usage", lambda folder: usage._replace(free=2_500_000_000))
    monkeypatch.setattr("fmen_data.prepare.check_pair_sizes", lambda pair, scale: (10_000, 10_000))
    with pytest.raises(DataError, match=r"takes 15\.3 GB, but .* has 2\.5 GB free"):
        prepare_cache(dataset, tmp_path / "another.h5", progress=False)


@pytest.mark.parametrize("size", [0, 100, 3_000, 100_000, 1_000_000, 3_000_000])
def test_a_disk_that_fills_up_is_one_line_and_leaves_no_file(
    tmp_path: Path, size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """HDF5 prints tracebacks and may crash after a failed write, when its objects are deallocated."""
    for name in "abcd":
        write_image(tmp_path / f"set/{name}.png", np.zeros((600, 600, 3), np.uint8))
    dataset = open_dataset(tmp_path / "set")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))  # writing beyond fails as on a full disk
    try:
        with pytest.raises(DataError) as error:
            prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    reason = "File too large; free some space or set FMEN_CACHE to another disk"
    assert str(error.value) == f"cannot write the cache {tmp_path}/out/c.h5: {reason}"
    assert list((tmp_path / "out").iterdir()) == []
    del error  # and with it the traceback that refers to HDF5's objects
    assert capfd.readouterr().err == ""


def test_decoding_stops_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(30):
        write_image(tmp_path / f"set/{i:02}.png", np.zeros((64, 64, 3), np.uint8))
    decoded: list[str] = []
    decode = prepare_module._decode

    def recorded(pair: Pair, scale: int) -> object:
        decoded.append(pair.name)
        return decode(pair, scale)

    monkeypatch.setattr(prepare_module, "_decode", recorded)
    dataset = open_dataset(tmp_path / "set")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError, match="File too large"):
            prepare_cache(dataset, tmp_path / "c.h5", workers=1, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(decoded) < 8


def test_a_cache_that_cannot_be_created_is_one_line(dataset: PairDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot write the cache .*file/c\.h5: Not a directory; choose another file"):
        prepare_cache(dataset, tmp_path / "file/c.h5", progress=False)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("a bug"), FileNotFoundError(2, "a bug", "other")])
def test_an_error_while_decoding_is_not_taken_for_a_full_disk(
    dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("fmen_data.prepare.match_pair", broken)
    with pytest.raises(type(error), match="a bug") as caught:
        prepare_cache(dataset, tmp_path / "out/c.h5", progress=False)
    assert caught.value is error
    assert list((tmp_path / "out").iterdir()) == []


def rewrite(path: Path, name: str, image: np.ndarray | None) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        if image is not None:
            file[name] = image


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("hr/1", noise().astype(np.float32), r"/hr/1 is float32 \(24, 32, 3\), not uint8 \(h, w, 3\)"),
        ("lr/1", noise(6, 8).astype(np.int8), r"/lr/1 is int8 \(6, 8, 3\), not uint8 \(h, w, 3\)"),
        ("lr/1", noise(6, 8)[..., 0], r"/lr/1 is uint8 \(6, 8\), not uint8 \(h, w, 3\)"),
        ("lr/1", noise(6, 8)[..., :2], r"/lr/1 is uint8 \(6, 8, 2\), not uint8 \(h, w, 3\)"),
        ("lr/1", noise(8, 6), r"image 1 is \(8, 6, 3\) in lr and \(24, 32, 3\) in hr"),
        ("lr/1", noise(6, 7), r"image 1 is \(6, 7, 3\) in lr and \(24, 32, 3\) in hr"),
        ("lr/1", None, "image 1 is not in lr, hr and the index"),
        ("hr/1", None, "image 1 is not in lr, hr and the index"),
        ("lr", None, "an attribute or group is missing or malformed"),
    ],
)
def test_a_damaged_cache_is_refused_and_rebuilt(
    dataset: PairDataset, tmp_path: Path, name: str, image: np.ndarray | None, message: str
) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    rewrite(path, name, image)
    with pytest.raises(DataError, match=rf"c\.h5 is damaged: {message}; run: fmen data prepare"):
        PatchCache(path)
    assert np.array_equal(prepare(dataset, path).hr[1], dataset.read(1)[1])


def test_a_group_in_the_place_of_an_image_is_refused(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    rewrite(path, "lr/1", None)
    with h5py.File(path, "r+") as file:
        file.create_group("lr/1")
    with pytest.raises(DataError, match="/lr/1 is not an image"):
        PatchCache(path)


@pytest.mark.parametrize("attribute", ["scale", "dataset", "index_checksum"])
def test_a_cache_without_an_attribute_is_refused_and_rebuilt(
    dataset: PairDataset, tmp_path: Path, attribute: str
) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    with h5py.File(path, "r+") as file:
        del file.attrs[attribute]
    with pytest.raises(DataError, match="damaged: an attribute or group is missing"):
        PatchCache(path)
    assert len(prepare(dataset, path)) == 3


def change_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("group", ["lr", "hr"])
def test_changed_pixels_are_refused_when_the_image_is_used_and_rebuilt(
    dataset: PairDataset, tmp_path: Path, group: str
) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    with h5py.File(path) as file:
        position = file[f"{group}/1"].id.get_offset() + 10
    change_byte(path, position)
    cache = PatchCache(path)
    cache.check(0)
    with pytest.raises(DataError, match=rf"damaged: the pixels of {group}/1 do not match their checksum; run: fmen"):
        cache.check(1)
    sampler = PatchSampler([cache], patch=4, batch=16)
    with pytest.raises(DataError, match="do not match their checksum"):
        sampler.batch(0)
    rebuilt = prepare(dataset, path)
    for index in range(3):
        rebuilt.check(index)


def test_an_image_is_checked_once(dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = prepare(dataset, tmp_path / "c.h5")
    checked: list[int] = []
    monkeypatch.setattr(cache, "check", checked.append)
    sampler = PatchSampler([cache], patch=4, batch=16)
    for step in range(5):
        sampler.batch(step)
    assert sorted(checked) == [0, 1, 2]


def test_verification_compares_every_image_and_preparation_a_few(tmp_path: Path) -> None:
    for i in range(20):
        write_image(tmp_path / f"set/{i:02d}.png", noise(seed=i))
    dataset = open_dataset(tmp_path / "set")
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    with h5py.File(path) as file:
        position = file["hr/19"].id.get_offset()
    change_byte(path, position)
    damaged = identity(path)
    assert identity(prepare_cache(dataset, path, progress=False)) == damaged
    PatchCache(prepare_cache(dataset, path, progress=False, verify=True)).check(19)
    with h5py.File(path) as file:
        position = file["hr/00"].id.get_offset()
    change_byte(path, position)
    PatchCache(prepare_cache(dataset, path, progress=False)).check(0)


def test_a_changed_index_is_refused_and_rebuilt(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    change_byte(path, path.read_bytes().index(b'"names"') + 12)
    with pytest.raises(DataError, match="damaged: the checksum of its index is wrong"):
        PatchCache(path)
    assert len(prepare(dataset, path)) == 3


def test_a_truncated_cache_is_refused(dataset: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(dataset, tmp_path / "c.h5", progress=False)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(DataError, match="not an HDF5 file, or truncated"):
        PatchCache(path)


def test_a_pickled_cache_opens_its_file_again(dataset: PairDataset, tmp_path: Path) -> None:
    cache = prepare(dataset, tmp_path / "c.h5")
    copy = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(copy.hr[1], cache.hr[1])


# --- images that are left out ---------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> PairDataset:
    """Three images: a sound one, one that is cut off, and one that is empty."""
    for i in range(3):
        write_image(tmp_path / f"set/{i}.png", noise(seed=i))
    cut = (tmp_path / "set/1.png").read_bytes()[:-20]
    (tmp_path / "set/1.png").write_bytes(cut)
    (tmp_path / "set/2.png").write_bytes(b"")
    return open_dataset(tmp_path / "set")


def test_images_that_cannot_be_used_are_left_out_on_request_and_reported(damaged: PairDataset, tmp_path: Path) -> None:
    reported: list[str] = []
    path = prepare_cache(damaged, tmp_path / "c.h5", progress=False, on_skip=reported.append)
    assert PatchCache(path).names == ("0",)
    assert [line.split("; ")[0] for line in reported] == [
        f"{tmp_path}/set/1.png is truncated (the PNG ends before its IEND chunk)",
        f"{tmp_path}/set/2.png is empty",
    ]


def test_a_cache_that_left_images_out_is_reused_and_reports_them_again(damaged: PairDataset, tmp_path: Path) -> None:
    first: list[str] = []
    again: list[str] = []
    path = prepare_cache(damaged, tmp_path / "c.h5", progress=False, on_skip=first.append)
    before = identity(path)
    assert identity(prepare_cache(damaged, path, progress=False, on_skip=again.append)) == before
    assert again == first and len(first) == 2


def test_a_cache_that_left_images_out_does_not_serve_a_run_that_needs_them_all(
    damaged: PairDataset, tmp_path: Path
) -> None:
    path = prepare_cache(damaged, tmp_path / "c.h5", progress=False, on_skip=lambda line: None)
    with pytest.raises(DataError, match=r"2 problems: .*1\.png is truncated.*2\.png is empty"):
        prepare_cache(damaged, path, progress=False)


def test_a_cache_that_left_out_an_unreadable_image_is_reused_until_it_can_be_read(
    dataset: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, read = dataset.pairs[0].hr, Path.read_bytes

    def forbidden(path: Path) -> bytes:
        if path == secret:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", forbidden)
        path = prepare_cache(dataset, tmp_path / "c.h5", progress=False, on_skip=lambda line: None)
        before = identity(path)
        prepare_cache(dataset, path, progress=False, on_skip=lambda line: None)
        assert identity(path) == before and len(PatchCache(path)) == len(dataset) - 1
    prepare_cache(dataset, path, progress=False, on_skip=lambda line: None)
    assert len(PatchCache(path)) == len(dataset)


def test_an_image_that_was_left_out_is_taken_when_its_file_is_repaired(damaged: PairDataset, tmp_path: Path) -> None:
    path = prepare_cache(damaged, tmp_path / "c.h5", progress=False, on_skip=lambda line: None)
    write_image(tmp_path / "set/1.png", noise(seed=5))
    reported: list[str] = []
    prepare_cache(damaged, path, progress=False, on_skip=reported.append)
    assert PatchCache(path).names == ("0", "1") and len(reported) == 1


def test_a_dataset_without_any_usable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/1.png").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        prepare_cache(open_dataset(tmp_path / "set"), tmp_path / "c.h5", progress=False, on_skip=lambda line: None)
    assert not (tmp_path / "c.h5").exists()
