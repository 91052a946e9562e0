"""The threads of a run: what overlaps, in which order results are reported, how many images are in memory."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tqdm import tqdm

from fmen.threads import threads_restored
from fmen.upscaling import batch
from fmen.upscaling.batch import BatchUpscaler, TileBar, limit_caches
from fmen.upscaling.jobs import Job, plan
from fmen.upscaling.manifest import Settings, pending
from fmen.upscaling.networks import Networks
from fmen.upscaling.photo import Photo
from fmen_core.pretrained import bundled
from fmen_data import DataError, write_image

Command = Callable[..., tuple[str, str]]

SETTINGS = Settings("w", "fp32", False, 95)
SECONDS = 20
"""How long a test waits for another thread."""


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks.load([bundled()["fmen-s_x2"]], precision="fp32", device="cpu")


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Ten images that are as many levels bright as their number."""
    (tmp_path / "in").mkdir()
    for number in range(10):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    return plan([str(tmp_path / "in")], str(tmp_path / "out"))[0]


def number_of(photo: Photo) -> int:
    return round(float(photo.pixels.mean()))


def double(_upscaler: object, photo: Photo, _on_tile: object = None) -> Photo:
    """A network that repeats every pixel."""
    return Photo(photo.pixels.repeat(2, 0).repeat(2, 1))


def silently(upscaler: BatchUpscaler, jobs: list[Job]) -> list[str]:
    lines: list[str] = []
    upscaler.run(jobs, say=lines.append, complain=lines.append)
    return lines


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the images of a test count as small, or as large."""
    if request.param == "large":
        monkeypatch.setattr(batch, "SMALL", 0)


def test_small_images_run_at_the_same_time_with_one_thread_each(
    networks: Networks, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=SECONDS)

    def network(upscaler: object, photo: Photo, on_tile: object = None) -> Photo:
        together.wait()
        assert torch.get_num_threads() == 1
        return double(upscaler, photo)

    monkeypatch.setattr(batch, "run_network", network)
    with threads_restored():
        torch.set_num_threads(2)
        assert len(silently(BatchUpscaler(networks, SETTINGS), jobs)) == 10
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor() as another:
            assert another.submit(torch.get_num_threads).result() == 2


def test_large_images_run_one_by_one_with_all_threads(
    networks: Networks, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = threading.Lock()

    def network(upscaler: object, photo: Photo, on_tile: object = None) -> Photo:
        assert running.acquire(blocking=False)
        assert torch.get_num_threads() == 3
        time.sleep(0.01)
        running.release()
        return double(upscaler, photo)

    monkeypatch.setattr(batch, "run_network", network)
    monkeypatch.setattr(batch, "SMALL", 63)
    with threads_restored():
        torch.set_num_threads(3)
        assert len(silently(BatchUpscaler(networks, SETTINGS, workers=2), jobs)) == 10


def test_the_network_runs_while_the_next_images_are_read_and_the_last_one_is_written(
    networks: Networks, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    next_is_read, last_is_written = threading.Event(), threading.Event()
    network_is_running = threading.Event()
    read, write = batch.read, batch.write_photo

    def reading(job: Job) -> Photo:
        if job is jobs[3]:  # Two others are begun while the network runs on the image with the number 1.
            assert network_is_running.wait(SECONDS)
            next_is_read.set()
        return read(job)

    def writing(target: Path, photo: Photo, **options: int) -> None:
        if number_of(photo) == 0:
            assert network_is_running.wait(SECONDS)
            last_is_written.set()
        write(target, photo, **options)

    def network(upscaler: object, photo: Photo, on_tile: object = None) -> Photo:
        if number_of(photo) == 1:
            network_is_running.set()
            assert next_is_read.wait(SECONDS)
            assert last_is_written.wait(SECONDS)
        return double(upscaler, photo)

    monkeypatch.setattr(batch, "read", reading)
    monkeypatch.setattr(batch, "write_photo", writing)
    monkeypatch.setattr(batch, "run_network", network)
    monkeypatch.setattr(batch, "SMALL", 0)
    assert len(silently(BatchUpscaler(networks, SETTINGS, workers=2), jobs)) == 10


@pytest.mark.usefixtures("size")
def test_results_are_reported_in_the_order_of_the_images(
    networks: Networks, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, second = batch.write_photo, threading.Event()

    def writing(target: Path, photo: Photo, **options: int) -> None:
        if number_of(photo) == 0:
            assert second.wait(SECONDS)
        write(target, photo, **options)
        second.set()

    monkeypatch.setattr(batch, "write_photo", writing)
    monkeypatch.setattr(batch, "run_network", double)
    Path(str(jobs[3].source)).write_text("text")
    lines = silently(BatchUpscaler(networks, SETTINGS, workers=2), jobs)
    assert [line.split("/")[-1].split(" ")[0] for line in lines if "->" in line] == [
        f"{number}.png" for number in range(10) if number != 3
    ]
    assert lines[3].startswith(f"error: {jobs[3].source} is not a readable image")


@pytest.mark.parametrize(("workers", "waiting_bytes", "most"), [(2, 2**30, 3 + 2 + 1), (4, 1, 1 + 4 + 1)])
def test_few_images_are_in_memory_when_writing_is_slow(
    networks: Networks,
    jobs: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    waiting_bytes: int,
    most: int,
) -> None:
    read, write, lock = batch.read, batch.write_photo, threading.Lock()
    alive, peak = 0, 0

    def reading(job: Job) -> Photo:
        nonlocal alive, peak
        with lock:
            alive += 1
            peak = max(peak, alive)
        return read(job)

    def writing(target: Path, photo: Photo, **options: int) -> None:
        nonlocal alive
        threading.Event().wait(0.02)
        write(target, photo, **options)
        with lock:
            alive -= 1

    monkeypatch.setattr(batch, "read", reading)
    monkeypatch.setattr(batch, "write_photo", writing)
    monkeypatch.setattr(batch, "run_network", double)
    monkeypatch.setattr(batch, "SMALL", 0)
    monkeypatch.setattr(batch, "free_memory", lambda device: 0)
    monkeypatch.setattr(batch, "check_memory", lambda *_: None)
    monkeypatch.setattr(batch, "WAITING_BYTES", waiting_bytes)
    silently(BatchUpscaler(networks, SETTINGS, workers=workers), jobs)
    assert peak <= most


def test_an_interruption_completes_the_files_that_are_being_written_and_begins_no_other(
    networks: Networks, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write, interrupted, begun = batch.write_photo, threading.Event(), threading.Semaphore(0)

    def writing(target: Path, photo: Photo, **options: int) -> None:
        begun.release()
        assert interrupted.wait(SECONDS)
        write(target, photo, **options)

    def network(upscaler: object, photo: Photo, on_tile: object = None) -> Photo:
        if number_of(photo) == 2:
            assert begun.acquire(timeout=SECONDS) and begun.acquire(timeout=SECONDS)
            interrupted.set()
            raise KeyboardInterrupt
        return double(upscaler, photo)

    monkeypatch.setattr(batch, "write_photo", writing)
    monkeypatch.setattr(batch, "run_network", network)
    monkeypatch.setattr(batch, "SMALL", 0)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        silently(BatchUpscaler(networks, SETTINGS, workers=2), jobs)
    assert threading.active_count() == before
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [".fmen-upscale.jsonl", "0.png", "1.png"]
    assert pending(jobs, SETTINGS) == jobs[2:]


def test_ctrl_c_completes_the_small_images_that_are_begun_and_begins_no_other(
    networks: Networks, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write, shutdown = batch.write_photo, ThreadPoolExecutor.shutdown
    begun, cancelled = threading.Semaphore(0), threading.Event()

    def shutting_down(pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shutdown(pool, wait, cancel_futures=cancel_futures)
        if cancel_futures:
            cancelled.set()

    def writing(target: Path, photo: Photo, **options: int) -> None:
        begun.release()
        assert cancelled.wait(SECONDS)
        write(target, photo, **options)

    def interrupted(*_: object) -> None:
        """Stand for the wait for the first image: a signal that comes right before a wait does not end the wait."""
        assert all(begun.acquire(timeout=SECONDS) for _ in range(2))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(BatchUpscaler, "_continue", interrupted)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutting_down)
    monkeypatch.setattr(batch, "write_photo", writing)
    monkeypatch.setattr(batch, "run_network", double)
    with pytest.raises(KeyboardInterrupt):
        silently(BatchUpscaler(networks, SETTINGS, workers=2), jobs)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [".fmen-upscale.jsonl", "0.png", "1.png"]
    assert pending(jobs, SETTINGS) == jobs[2:]


@pytest.mark.parametrize(
    ("job", "stream", "name"),
    [
        (Job(None, Path("b.png")), "stdin", "standard input"),
        (Job(Path("in/1.png"), None), "stdout", "standard output"),
    ],
)
def test_a_standard_stream_that_is_closed_is_one_line(
    networks: Networks,
    jobs: list[Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
    stream: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"sys.{stream}", None)
    with pytest.raises(DataError, match=f"^{name} is closed; name a file instead of -$"):
        silently(BatchUpscaler(networks, SETTINGS), [job])


@pytest.mark.usefixtures("size")
def test_a_bug_in_a_thread_is_not_taken_for_a_bad_image(
    networks: Networks, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(batch, "write_photo", broken)
    with pytest.raises(KeyError, match="bug"):
        silently(BatchUpscaler(networks, SETTINGS), jobs)


def test_the_caches_of_image_sizes_are_limited_unless_the_user_sets_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"LRU_CACHE_CAPACITY": "7"})
    limit_caches()
    assert os.environ == {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "7"}


def test_the_bar_over_the_tiles_of_an_image_disappears_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []

    def fake(**options: object) -> object:
        made.append(options)
        return tqdm(disable=True)

    monkeypatch.setattr("fmen.upscaling.batch.tqdm", fake)
    with TileBar("a.png", True) as bar:
        bar.show(1, 4)
    with TileBar("b.png", True) as bar:
        bar.show(1, 1)
    assert [(options["desc"], options["total"], options["leave"]) for options in made] == [("a.png", 4, False)]


def test_a_result_that_does_not_fit_into_the_memory_is_refused_before_the_work(
    upscale: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))
    monkeypatch.setattr("fmen.upscaling.batch.run_network", lambda *_: pytest.fail("the network ran"))
    monkeypatch.setattr("fmen.upscaling.batch.SURELY_FREE", 0)
    monkeypatch.setattr("fmen.upscaling.batch.free_memory", lambda device: 2 * 300 * 150 * 3 - 1)
    said = upscale("a.png", "-o", "b.png", "--width", "300", status=2)[1]
    assert "error: a.png: 300x150 pixels need 0.0 GB of memory, and 0.0 GB are free; choose a smaller size\n" in said
    monkeypatch.setattr("fmen.upscaling.batch.run_network", lambda upscaler, photo, *_: photo)
    monkeypatch.setattr("fmen.upscaling.batch.finish", lambda sr, lr, factor: sr)
    monkeypatch.setattr("fmen.upscaling.batch.free_memory", lambda device: 2 * 300 * 150 * 3)
    upscale("a.png", "-o", "b.png", "--width", "300")


def test_a_result_that_needs_no_network_names_none(upscale: Command, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))
    assert upscale("a.png", "-o", "b.png", "--scale", "0.5")[0].startswith("resized without a network\na.png (20x10)")
