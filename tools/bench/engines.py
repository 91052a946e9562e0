"""``fmen upscale`` on many small images: both engines against the sum of their parts, and the memory of a long run.

    python tools/bench/engines.py [--count N]

The parts are decoding, the network and encoding, each alone, one image after another; the local engine overlaps them.
How busy it keeps the CPU is its CPU time per second. How busy it keeps a GPU is the time of the network alone per time
of the run.
Ray is measured from the first image that is done to the last one, since its processes take seconds to start, and as a
whole; it is left out where it is not installed. The memory is that of a process that upscales images of mixed sizes as
the command does, after 50 and after all images.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from measure import Report, main
from skimage import data

from fmen.upscaling.batch import BatchUpscaler, limit_caches, read
from fmen.upscaling.enlarge import finish, run_network
from fmen.upscaling.jobs import Job, plan
from fmen.upscaling.manifest import Settings
from fmen.upscaling.networks import Networks
from fmen.upscaling.photo import write_photo
from fmen_core.pretrained import bundled

SIDES = (48, 97)  # of the images, in pixels
MIXED_SIDES = (24, 161)
EARLY = 50
SETTINGS = Settings("benchmark", "auto", False, 95)


@dataclass(frozen=True)
class Folder:
    """A folder of images and how they are upscaled."""

    path: Path

    def jobs(self, output: str) -> list[Job]:
        """Return the jobs with results in a folder next to the images."""
        return plan([str(self.path / "in")], str(self.path / output))[0]


def make_images(folder: Path, count: int, sides: tuple[int, int]) -> Folder:
    """Write ``count`` crops of photographs, with sides in this range."""
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    generator = np.random.default_rng(0)
    (folder / "in").mkdir()
    for number in range(count):
        photo = photos[number % len(photos)]
        height, width = (int(side) for side in generator.integers(*sides, 2))
        top = int(generator.integers(photo.shape[0] - height))
        left = int(generator.integers(photo.shape[1] - width))
        crop = photo[top : top + height, left : left + width, ::-1]
        cv2.imwrite(str(folder / "in" / f"{number:06}.png"), crop)
    return Folder(folder)


def networks() -> Networks:
    """Return the bundled network."""
    return Networks.load([bundled()["fmen-s_x4"]], precision="auto", device="auto")


def silent(_line: str) -> None:
    """Print nothing."""


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def measure_parts(folder: Folder) -> dict[str, float]:
    """Return the seconds that decoding, the network, and encoding take alone."""
    jobs, upscaler = folder.jobs("parts"), networks().upscaler()
    photos = [read(job) for job in jobs]
    upscaler(photos[0].pixels)
    results = [run_network(upscaler, photo) for photo in photos]

    def encode() -> None:
        for job, result, photo in zip(jobs, results, photos, strict=True):
            assert isinstance(job.target, Path)
            write_photo(job.target, finish(result, photo))

    return {
        "decode": seconds(lambda: [read(job) for job in jobs]),
        "network": seconds(lambda: [run_network(upscaler, photo) for photo in photos]),
        "encode": seconds(encode),
    }


def measure_local(folder: Folder, output: str) -> tuple[float, float]:
    """Return the seconds that the local engine takes, and how many CPU cores it keeps busy."""
    batch = BatchUpscaler(networks(), SETTINGS)
    first = batch.networks.upscaler()
    assert first is not None
    first(np.zeros((64, 64, 3), np.uint8))
    begun = time.process_time()
    wall = seconds(lambda: batch.run(folder.jobs(output), say=silent))
    return wall, (time.process_time() - begun) / wall


def measure_ray(folder: Folder, output: str) -> tuple[float, float]:
    """Return the seconds per image from the first image that is done to the last one, and those of the whole run."""
    from fmen.upscaling.cluster import run_on_ray

    times: list[float] = []
    whole = seconds(
        lambda: run_on_ray(
            folder.jobs(output), networks(), SETTINGS, folder.path / output, say=lambda _: times.append(time.time())
        )
    )
    done = times[1:]  # the first line is about the cluster
    later = [moment for moment in done if moment > done[0] + 0.1]  # a group is reported at once
    return (done[-1] - done[0]) / len(later) if later else whole / len(done), whole


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def memory_of_a_run(path: str) -> dict[int, int]:
    """Return the resident bytes of this process after some numbers of images: medians over the last ten."""
    limit_caches()
    batch, found = BatchUpscaler(networks(), SETTINGS), dict[int, int]()
    latest: deque[int] = deque(maxlen=10)  # the images that are just being computed and written make it vary
    for number, (_, result) in enumerate(batch.results(Folder(Path(path)).jobs("out")), 1):
        result.result()
        latest.append(resident_bytes())
        if number in (1, EARLY) or number % 100 == 0:
            found[number] = int(median(latest))
    return found


def measure_memory(count: int) -> dict[int, int]:
    """Run ``memory_of_a_run`` in a new process."""
    with tempfile.TemporaryDirectory(prefix="fmen-engines-") as name:
        make_images(Path(name), count, MIXED_SIDES)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(memory_of_a_run, name).result()


def run(runs: int, *, count: int = 2000, memory: int = 1000) -> Report:
    """Measure both engines and the memory.

    Args:
        runs: Repetitions of the comparison.
        count: Images of the comparison.
        memory: Images of mixed sizes.
    """
    report = Report("engines")
    has_ray = importlib.util.find_spec("ray") is not None
    rates: list[dict[str, float]] = []
    parts: dict[str, float] = {}
    shares: list[float] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="fmen-engines-") as name:
            folder = make_images(Path(name), count, SIDES)
            parts = measure_parts(folder)
            wall, busy = measure_local(folder, "local")
            rate = {"parts": count / sum(parts.values()), "local": count / wall}
            rate |= {"busy": busy, "cores": float(torch.get_num_threads())}
            shares.append(min(1.0, parts["network"] / wall))
            if has_ray:
                per_image, whole = measure_ray(folder, "ray")
                rate |= {"ray": 1 / max(per_image, 1e-9), "ray as a whole": count / whole}
            rates.append(rate)
    report.facts["seconds of each part, last run"] = {name: round(value, 3) for name, value in parts.items()}
    report.facts["threads"] = torch.get_num_threads()
    what = f"{count} images of {SIDES[0]} to {SIDES[1] - 1} pixels by 4"
    report.compare(f"--engine local, {what}", "its parts one after another", "images/s", rates, ("local", "parts"), 1)
    if torch.cuda.is_available():
        report.facts["share of the time in which the GPU is busy"] = [round(share, 3) for share in shares]
    else:
        report.compare(f"CPU cores that --engine local keeps busy, {what}", "its threads", "cores", rates, ("busy", "cores"), 0.9)  # fmt: skip # noqa: E501
    if has_ray:
        report.compare(f"--engine ray, {what}", "--engine local", "images/s", rates, ("ray", "local"), 1)
        report.compare(f"--engine ray, {what}, with its start", "--engine local", "images/s", rates, ("ray as a whole", "local"), 0.5)  # fmt: skip # noqa: E501
    found = measure_memory(memory)
    report.facts["resident MiB after images of mixed sizes"] = {n: round(b / 2**20) for n, b in found.items()}
    ends: list[dict[str, Any]] = [{"late": float(found[max(found)]), "early": float(found[min(EARLY, max(found))])}]
    what = f"resident memory after {max(found)} images of mixed sizes"
    report.compare(what, f"after {min(EARLY, max(found))}", "bytes", ends, ("late", "early"), 1.1, "at most")
    return report


if __name__ == "__main__":
    counts = {"type": int, "default": 2000, "help": "images of the comparison (default: 2000)"}
    mixed = {"type": int, "default": 1000, "help": "images of mixed sizes (default: 1000)"}
    main(__doc__, run, {"count": 20, "memory": 100, "runs": 1}, count=counts, memory=mixed)
