"""Tiles: where an image is cut, how much memory there is, and what happens when it runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core import FMENTraining, ModelError, Upscaler, create_model, fmen_s, reparameterize, tiling
from fmen_core.precision import cast_except_tail
from fmen_core.tiling import free_memory, largest_tile, needed_bytes, receptive_radius, smallest_side, windows

CPU = torch.device("cpu")


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def small() -> nn.Module:
    """A small FMEN whose output is around middle gray, where clamping hides nothing."""
    torch.manual_seed(0)
    model = FMENTraining(scale=2, n_feats=12, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
    with torch.no_grad():
        model.tail[0].bias.add_(128)
    return model


def outer_taps(row: int, column: int) -> nn.Module:
    """A small FMEN in its inference form whose kernels have a single tap, in the given place."""
    model = reparameterize(small())
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                taps = (24 if "excitate" in name else 6) * module.weight[:, :, row, column].clone()
                module.weight.zero_()
                module.weight[:, :, row, column] = taps
    return model


# --- seams ------------------------------------------------------------------------------------------------------------


def test_tiles_differ_by_a_gray_level_in_at_most_one_of_a_million_values() -> None:
    lr = photograph(200, 150)[::2, ::2].repeat(2, 0).repeat(2, 1)  # 1.44 million output values, with edges
    model = fmen_s(pretrained=True)
    whole = Upscaler(model, device="cpu", tile=None)(lr)
    tiled = Upscaler(model, device="cpu", tile=90)(lr)
    difference = np.abs(whole.astype(int) - tiled)
    assert whole.size > 1e6 and difference.max() <= 1
    assert (difference > 0).mean() <= 1e-6


@pytest.mark.parametrize("tap", [(0, 0), (0, 2), (2, 0), (2, 2), (1, 0), (2, 1)])
def test_the_margin_is_exactly_the_radius(tap: tuple[int, int]) -> None:
    model, lr = outer_taps(*tap), photograph(61, 53)
    whole = Upscaler(model, device="cpu", tile=None)(lr).astype(int)
    assert whole.std() > 1
    upscaler = Upscaler(model, device="cpu", tile=16)
    assert np.abs(upscaler(lr) - whole).max() <= 1
    upscaler._measured["radius"] -= 1
    assert np.abs(upscaler(lr) - whole).max() > 3, "a margin one pixel narrower leaves a seam"


@pytest.mark.parametrize("tile", [16, 24])
def test_tiles_of_a_network_with_random_weights_join_without_a_seam(tile: int) -> None:
    lr = photograph(61, 47)
    whole = Upscaler(small(), device="cpu", tile=None)(lr)
    assert whole.std() > 1
    difference = np.abs(whole.astype(int) - Upscaler(small(), device="cpu", tile=tile)(lr))
    assert difference.max() <= 1 and (difference > 0).sum() <= 1


@pytest.mark.parametrize(
    ("length", "tile", "margin"), [(100, 32, 5), (33, 32, 20), (7, 32, 5), (64, 64, 8), (65, 16, 3), (130, 16, 34)]
)
def test_windows_cover_a_side_once_and_have_their_margins(length: int, tile: int, margin: int) -> None:
    parts = list(windows(length, tile, margin))
    assert [pixel for start, stop, _, _ in parts for pixel in range(start, stop)] == list(range(length))
    for start, stop, first, last in parts:
        assert 0 <= first <= max(0, start - margin) and min(length, stop + margin) <= last <= length
    sizes = {last - first for _, _, first, last in parts}
    assert len(sizes) == 1 and max(sizes) <= tile + 2 * margin
    assert len(parts) == -(-length // tile) or max(sizes) == length


# --- the receptive field ----------------------------------------------------------------------------------------------


def test_receptive_radius_of_fmen_s_is_the_number_of_its_convolutions_in_a_row() -> None:
    # head, warm-up, the first HFAB's 6, four times an ERB's 2 and an HFAB's 4, lr_conv, tail
    assert receptive_radius(create_model("fmen-s")) == 1 + 1 + 6 + 4 * (2 + 4) + 1 + 1


@pytest.mark.parametrize(("kernel", "radius"), [((1, 1), 0), ((3, 1), 1), ((1, 7), 3)])
def test_receptive_radius_is_that_of_the_longer_side_of_a_kernel(kernel: tuple[int, int], radius: int) -> None:
    model = nn.Conv2d(3, 3, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    model.scale, model.data_range = 1, 1.0  # type: ignore[assignment]
    assert receptive_radius(model) == radius
    assert receptive_radius(model, limit=max(0, radius - 1)) == (radius if radius == 0 else None)


class Average(nn.Module):
    scale = 1
    data_range = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True)


def test_a_network_with_global_attention_is_not_tiled() -> None:
    assert receptive_radius(Average()) is None


class Strided(nn.Module):
    scale = 2
    data_range = 1.0

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=stride, padding=1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = F.interpolate(self.conv(x), scale_factor=2 * self.stride)
        return out[..., : 2 * x.shape[2], : 2 * x.shape[3]]


def test_a_network_with_strides_is_not_tiled_as_its_grid_would_move() -> None:
    assert receptive_radius(Strided(1)) == 1
    assert receptive_radius(Strided(2)) is None
    with pytest.raises(ModelError, match="cannot be tiled"):
        Upscaler(Average(), tile=32)


@pytest.mark.parametrize(("tile", "fits"), [(15, False), (16, True)])
def test_tiles_have_sixteen_pixels_at_least(tile: int, fits: bool) -> None:
    if fits:
        assert Upscaler(small(), device="cpu", tile=tile)(photograph(20, 20)).shape == (40, 40, 3)
        return
    for integer in (tile, np.int64(tile)):
        with pytest.raises(ModelError, match="a tile of 15 pixels is too small; choose 16 or more"):
            Upscaler(small(), device="cpu", tile=integer)
    for other in (32.0, "none"):
        with pytest.raises(ModelError, match=f"tile {other!r} is unknown; choose an int, 'auto' or None"):
            Upscaler(small(), device="cpu", tile=other)  # type: ignore[arg-type]


# --- memory -----------------------------------------------------------------------------------------------------------


def test_the_memory_of_fmen_s_is_three_feature_maps_and_a_branch() -> None:
    model = reparameterize(create_model("fmen-s"))
    maps = needed_bytes(model) / (1.5 * 50 * 4)
    assert 3 <= maps <= 3.5  # the first features, those of the block, its attention map, and the branch of 16 channels
    cast_except_tail(model, torch.bfloat16)
    assert needed_bytes(model) / (1.5 * 50 * 4) == pytest.approx(2, rel=0.1)  # at the tail, which is in fp32
    assert not any(module._forward_hooks for module in reparameterize(create_model("fmen-s")).modules())


def test_measuring_leaves_the_network_without_hooks() -> None:
    upscaler = Upscaler(small(), device="cpu")
    assert upscaler.bytes_per_pixel > 0 and upscaler.radius
    for module in (*upscaler.model.modules(), *upscaler._float32.modules()):
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_the_largest_tile_fills_its_budget_with_its_margins() -> None:
    assert largest_tile(per_pixel=100, margin=10, budget=100 * 220**2) == 200
    assert largest_tile(per_pixel=100, margin=10, budget=100) == 32


def test_an_image_that_does_not_fit_is_tiled_automatically(monkeypatch: pytest.MonkeyPatch) -> None:
    lr, seen = photograph(70, 50), []
    monkeypatch.setattr("fmen_core.upscaler.SMALL", 0)
    upscaler = Upscaler(small(), device="cpu")
    whole = upscaler(lr, on_tile=lambda done, total: seen.append((done, total)))
    assert not seen
    monkeypatch.setattr("fmen_core.upscaler.CPU_BUDGET", 0)
    tiled = upscaler(lr, on_tile=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_automatic_tiles_leave_memory_for_the_result_and_for_what_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = Upscaler(small(), device="cpu")
    needed = upscaler.bytes_per_pixel * 1000 * 1000
    result = 1000 * 1000 * 4 * 3
    monkeypatch.setattr("fmen_core.upscaler.CPU_BUDGET", 2**62)
    for free, whole in ((2 * needed + result + 4, True), (2 * needed + result - 4, False), (2 * needed, False)):
        monkeypatch.setattr("fmen_core.upscaler.free_memory", lambda device, free=free: int(free))
        assert (upscaler.tile_for(1000, 1000) is None) == whole
    tile = upscaler.tile_for(1000, 1000)
    assert tile is not None and upscaler.radius is not None
    assert upscaler.bytes_per_pixel * (tile + 2 * upscaler.radius) ** 2 <= 0.6 * (2 * needed - result) / 2
    assert upscaler.tile_for(181, 181) is None, "images of 2**15 pixels are never tiled"


@pytest.mark.parametrize(("device", "gib", "rows"), [("cpu", 1.25, 1280), ("cuda", 8, 8192)])
def test_an_image_that_needs_more_than_its_share_is_cut_into_the_largest_tiles_that_need_three_fifths_of_it(
    monkeypatch: pytest.MonkeyPatch, device: str, gib: float, rows: int
) -> None:
    monkeypatch.setattr("fmen_core.upscaler.free_memory", lambda device: 2**40)
    upscaler = Upscaler(small(), device="cpu")
    upscaler._measured |= {"bytes in fp32": 1024.0, "radius": 10}
    upscaler.device = torch.device(device)
    assert upscaler.tile_for(rows, 1024) is None
    tile = upscaler.tile_for(rows + 1, 1024)
    assert tile is not None
    assert 1024 * (tile + 20) ** 2 <= 0.6 * gib * 2**30 < 1024 * (tile + 21) ** 2


def test_the_result_takes_no_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = Upscaler(small(), device="cpu")
    needed = int(upscaler.bytes_per_pixel * 200 * 200)
    monkeypatch.setattr("fmen_core.upscaler.free_memory", lambda device: 2 * needed + 2)
    assert upscaler.tile_for(200, 200) is not None
    upscaler.device = torch.device("cuda")
    assert upscaler.tile_for(200, 200) is None


def test_two_rows_of_tiles_of_a_stream_need_a_quarter_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler, free = Upscaler(small(), device="cpu"), 2**30
    monkeypatch.setattr("fmen_core.upscaler.free_memory", lambda device: free)
    # The result of 64 GB is not in memory: a whole one would have the smallest tiles.
    assert upscaler.tile_for(2**16, 2**16) == 32
    tile = upscaler.tile_for(2**16, 2**16, whole=False)
    assert tile is not None and free / 4 * 0.95 < 2 * tile * 2**16 * 4 * 3 <= free / 4


def test_a_stream_of_tiles_leaves_no_memory_for_the_whole_result(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler, lr, tiles = Upscaler(small(), device="cpu"), photograph(70, 50), []
    monkeypatch.setattr(Upscaler, "tile_for", lambda _, *size, whole: tiles.append(whole))
    assert np.array_equal(np.concatenate(list(upscaler.stream(lr))), upscaler(lr)) and tiles == [False, True]


def test_a_network_that_cannot_be_tiled_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.upscaler.free_memory", lambda device: 10_000_000)
    with pytest.raises(
        ModelError, match=r"200x300 pixels need 0\.\d GB, 0\.0 GB are free, and this network cannot be tiled"
    ):
        Upscaler(create_model("rlfn-cut"), device="cpu")(photograph(300, 200))


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_free_memory_is_what_the_machine_has_available(tmp_path: Path) -> None:
    write(tmp_path, meminfo="MemTotal: 9000 kB\nMemAvailable:    5000 kB\nHugePages_Total: 0")
    assert free_memory(CPU, proc=tmp_path, cgroups=tmp_path / "none") == 5000 * 1024
    assert free_memory(CPU, proc=tmp_path / "none", cgroups=tmp_path / "none") == 2 * 2**30


def test_free_memory_of_a_container_counts_its_page_cache_as_free(tmp_path: Path) -> None:
    write(tmp_path / "proc", meminfo="MemAvailable: 90000000 kB")
    write(tmp_path / "proc" / "self", cgroup="0::/")
    statistics = "anon 100\ninactive_file 3000\nactive_file 700"
    write(tmp_path / "v2", memory__max=10_000, memory__current=6000, memory__stat=statistics)
    assert free_memory(CPU, proc=tmp_path / "proc", cgroups=tmp_path / "v2") == 10_000 - 6000 + 3000
    write(tmp_path / "v2", memory__max="max")
    assert free_memory(CPU, proc=tmp_path / "proc", cgroups=tmp_path / "v2") == 90_000_000 * 1024


def test_free_memory_under_the_first_version_of_control_groups(tmp_path: Path) -> None:
    write(tmp_path / "proc", meminfo="MemAvailable: 90000000 kB")
    write(tmp_path / "proc" / "self", cgroup="5:cpu,cpuacct:/a\n4:memory:/docker/0123\n0::/x")
    group = tmp_path / "v1" / "memory"
    statistics = "inactive_file 1\ntotal_inactive_file 2500"
    write(group, memory__limit_in_bytes=10_000, memory__usage_in_bytes=9000, memory__stat=statistics)
    assert free_memory(CPU, proc=tmp_path / "proc", cgroups=tmp_path / "v1") == 10_000 - 9000 + 2500
    write(group, memory__limit_in_bytes=2**63 - 4096)
    assert free_memory(CPU, proc=tmp_path / "proc", cgroups=tmp_path / "v1") == 90_000_000 * 1024


def test_free_memory_obeys_the_limits_of_all_enclosing_control_groups(tmp_path: Path) -> None:
    write(tmp_path / "proc" / "self", cgroup="0::/user.slice/job")
    root = tmp_path / "v2"
    write(root / "user.slice", memory__max=5000, memory__current=4000)
    write(root / "user.slice" / "job", memory__max=9000, memory__current=100)
    assert free_memory(CPU, proc=tmp_path / "proc", cgroups=root) == 1000
    write(root / "user.slice" / "job", memory__max=900, memory__current=100)
    assert free_memory(CPU, proc=tmp_path / "proc", cgroups=root) == 800
    write(root / "user.slice" / "job", memory__max=900, memory__current=1000)
    assert free_memory(CPU, proc=tmp_path / "proc", cgroups=root) == 0


def test_cuda_memory_that_the_allocator_holds_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 600)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 250)
    assert free_memory(torch.device("cuda")) == 1000 + 600 - 250


@pytest.mark.cuda
def test_memory_that_was_freed_on_a_gpu_can_be_allocated_again() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = free_memory(device)
    block = torch.empty(2**28, device=device)
    assert free_memory(device) <= before - 2**30 + 2**24
    del block
    assert free_memory(device) >= before - 2**24


# --- out of memory ----------------------------------------------------------------------------------------------------


ERRORS: list[Callable[[], Exception]] = [
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


class Limited(nn.Module):
    """A network that runs out of memory on images of more than ``side`` pixels a side."""

    scale = 1
    data_range = 255.0

    def __init__(self, side: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.side, self.error = side, error
        self.blur = nn.Conv2d(3, 3, 3, padding=1)
        self.sizes: list[tuple[int, ...]] = []

    def __deepcopy__(self, memo: object) -> Limited:
        return self

    def forward(self, x: Tensor) -> Tensor:
        if not x.any() or not torch.equal(x, x.round()):  # the network is being measured, and not on a photograph
            return self.blur(x)
        self.sizes.append(tuple(x.shape[2:]))
        if max(x.shape) > self.side:
            raise self.error()
        return self.blur(x) + 128


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("tile", ["auto", None, 128])
def test_tiles_are_halved_until_they_fit_into_memory(error: Callable[[], Exception], tile: Any) -> None:
    torch.manual_seed(0)
    network, lr = Limited(60, error), photograph(200, 150)
    upscaler = Upscaler(network, device="cpu", tile=tile)
    network.sizes.clear()
    tiled = upscaler(lr)
    sides = [max(size) for size in network.sizes]
    failures = sum(side > 60 for side in sides)
    assert 1 <= failures <= 2 and max(sides[failures:]) <= 60
    assert min(sides) > 25, "tiles are halved no further than necessary"
    assert upscaler.tile_for(200, 150) == {"auto": 50, None: 50, 128: 64}[tile]
    network.side = 10_000
    whole = Upscaler(network, device="cpu", tile=None)(lr)
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    network.sizes.clear()
    upscaler(lr)
    assert max(map(max, network.sizes)) <= 60, "the next image starts with the tiles that fit"
    assert upscaler.tile_for(20, 10) == (64 if tile == 128 else None)


def test_memory_that_is_short_even_for_the_smallest_tiles_is_one_line() -> None:
    with pytest.raises(ModelError, match="out of memory on 40x50 pixels, even in tiles of 16 pixels"):
        Upscaler(Limited(0, MemoryError), device="cpu", tile=None)(photograph(50, 40))


def test_a_network_that_cannot_be_tiled_is_out_of_memory_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = Upscaler(Average(), device="cpu")
    monkeypatch.setattr(upscaler, "run", lambda lr: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(ModelError, match="out of memory on 40x50 pixels, and this network cannot be tiled; choose"):
        upscaler(photograph(50, 40))


def test_other_errors_of_a_network_stay_what_they_are() -> None:
    network = Limited(0, lambda: RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        Upscaler(network, device="cpu")(photograph(50, 50))


# --- threads ----------------------------------------------------------------------------------------------------------


def test_one_upscaler_serves_eight_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_core.upscaler.SMALL", 0)
    monkeypatch.setattr("fmen_core.upscaler.CPU_BUDGET", 0)
    measured: list[str] = []
    for name in ("needed_bytes", "receptive_radius"):
        original = getattr(tiling, name)
        monkeypatch.setattr(
            f"fmen_core.upscaler.{name}",
            lambda *given, name=name, original=original: (measured.append(name), original(*given))[1],
        )
    images = [photograph(40 + index, 50) for index in range(8)]
    expected = [Upscaler(small(), device="cpu")(image) for image in images]
    measured.clear()
    upscaler, barrier = Upscaler(small(), device="cpu", precision="fp32"), threading.Barrier(8)
    results: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        barrier.wait(10)
        results[index] = upscaler(images[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(measured) == ["needed_bytes", "receptive_radius"]
    assert all(np.array_equal(results[index], expected[index]) for index in range(8))


# --- small images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "least"), [("rlfn-cut", 15), ("neesr", 5), ("imdn", 1), ("fmen-s", 1)])
def test_the_smallest_image_of_a_network_is_found_by_experiment(name: str, least: int) -> None:
    assert smallest_side(reparameterize(create_model(name))) == least


@pytest.mark.parametrize("shape", [(1, 1), (14, 30), (3, 20), (40, 2)])
def test_an_image_smaller_than_the_network_takes_is_padded_with_its_border(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = create_model("rlfn-cut")
    with torch.no_grad():
        model.upsampler[0].bias.add_(128)
    upscaler, lr = Upscaler(model, device="cpu"), photograph(*shape)
    sr = upscaler(lr)
    assert sr.shape == (4 * shape[0], 4 * shape[1], 3)
    padded = np.pad(lr, [(0, max(0, 15 - shape[0])), (0, max(0, 15 - shape[1])), (0, 0)], mode="edge")
    assert np.array_equal(sr, upscaler(padded)[: sr.shape[0], : sr.shape[1]])


def test_a_network_that_runs_on_no_image_is_refused_in_one_line() -> None:
    class Picky(nn.Module):
        scale = 1
        data_range = 1.0

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("never\nat all")

    with pytest.raises(ModelError, match=r"^Picky cannot run on a 64x64 image: never$"):
        Upscaler(Picky(), device="cpu")(photograph(9, 9))
