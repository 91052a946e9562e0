"""Upscale many photographs: small ones several at once, large ones one by one between decoding and encoding.

A convolution of a small image is too short to be divided over the cores. On the CPU, each worker therefore decodes,
upscales and writes small images on its own, with one thread of PyTorch (``tools/bench/engines.py``).
"""

from __future__ import annotations

import io
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

import torch
from tqdm import tqdm

from fmen.threads import threads_restored
from fmen.upscaling import storage
from fmen.upscaling.condition import Degradation
from fmen.upscaling.enlarge import finish, resized, run_network
from fmen.upscaling.jobs import Job
from fmen.upscaling.manifest import Settings, write_records
from fmen.upscaling.networks import Networks
from fmen.upscaling.photo import Photo, check_fits, encode_photo, read_photo, write_photo
from fmen.upscaling.storage import Location
from fmen.upscaling.strips import write_strips, writes_strips
from fmen_core import ModelError, Upscaler
from fmen_core.models.imdn_as import IMDNAS
from fmen_core.tiling import free_memory
from fmen_core.upscaler import SMALL
from fmen_data import DataError

WAITING_BYTES = 2**30
"""Results that may wait for being written, in bytes, where a quarter of the free memory is less."""

RESULT_COPIES = 2
"""Least memory that a result needs which is not written in strips, as a multiple of its size."""

SURELY_FREE = 2**28
"""Memory that is taken to be free without asking, which takes a millisecond."""

CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "32"}
"""Convolutions that oneDNN caches in a process and PyTorch in each thread; by default 1,024. An image of another size
adds about 20, so that the process would grow with the number of images (``tools/bench/engines.py``)."""

Failure = (DataError, ModelError)


@dataclass(frozen=True)
class Decoded:
    """An image that is ready for the network.

    Attributes:
        photo: The image.
        upscaler: The network; None if the result is not larger than the image.
        factor: Ratio of output to input; None for the network's scale.
        degradation: How the image is degraded, if the network depends on it.
        size: Height and width of the image, before it was resized for a network of any scale.
    """

    photo: Photo
    upscaler: Upscaler | None
    factor: Fraction | None
    degradation: Degradation | None
    size: tuple[int, int]

    @property
    def small(self) -> bool:
        """Whether the network runs on it on the CPU, in one piece, and in little memory."""
        height, width = self.photo.pixels.shape[:2]
        if self.upscaler is None or self.upscaler.device.type != "cpu" or height * width > SMALL:
            return False
        return self.upscaler.tile_for(height, width) is None


class BatchUpscaler:
    """Upscales a sequence of images. A result appears when it is complete.

    Args:
        networks: The networks.
        settings: The settings, which are recorded next to each result.
        workers: Threads that decode and write, and that upscale small images on the CPU, as many at once as PyTorch
            uses threads. By default one more than that, since one of them often waits for the disk.
        record: Write the manifest. Otherwise the caller does.
        progress: Show progress bars on standard error.
    """

    def __init__(
        self,
        networks: Networks,
        settings: Settings,
        *,
        workers: int | None = None,
        record: bool = True,
        progress: bool = False,
    ) -> None:
        self.networks = networks
        self.settings = settings
        self.workers = workers or torch.get_num_threads() + 1
        self._cores = threading.Semaphore(torch.get_num_threads())
        self.record = record
        self.progress = progress

    def run(
        self, jobs: Sequence[Job], *, say: Callable[[str], None] = print, complain: Callable[[str], None] = print
    ) -> int:
        """Run the jobs.

        Args:
            jobs: The images, which are finished in this order.
            say: Called with a line about each image that was upscaled.
            complain: Called with a line about each image that could not be upscaled.

        Returns:
            The number of images that could not be upscaled, if there are several jobs.

        Raises:
            DataError: The only image cannot be read or written.
            ModelError: The only image cannot be upscaled, or the memory runs out.
        """
        failed = 0
        bar = tqdm(total=len(jobs), desc="upscale", unit="image", disable=not self.progress or len(jobs) == 1)
        with bar, closing(self.results(jobs)) as results:
            for _, result in results:
                tell = say
                try:
                    line = result.result()
                except Failure as error:
                    if len(jobs) == 1:
                        raise
                    tell, line = complain, f"error: {' '.join(str(error).split())}"
                    failed += 1
                with bar.external_write_mode():
                    tell(line)
                bar.update()
        return failed

    def results(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Future[str]], None, None]:
        """Yield each job with its line, or with its DataError or ModelError, in order.

        When the generator is closed or an exception passes, files being written are completed and nothing else is.
        """
        waiting: deque[tuple[Job, Future[str], int]] = deque()
        allowed = max(WAITING_BYTES, free_memory(torch.device("cpu")) // 4)
        # A worker sets its own number of threads, and the default of new ones, which is restored.
        one_thread: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (1,)}
        with threads_restored(), ThreadPoolExecutor(self.workers, **one_thread) as workers:
            try:
                for job, begun in ahead(workers, self._begin, jobs, self.workers):
                    waiting.append((job, *self._continue(job, begun, workers)))
                    while waiting and (
                        waiting[0][1].done()
                        or len(waiting) > self.workers
                        or sum(size for _, _, size in waiting) > allowed
                    ):
                        yield waiting.popleft()[:2]
                while waiting:
                    yield waiting.popleft()[:2]
            except BaseException:
                workers.shutdown(wait=False, cancel_futures=True)
                raise

    def _begin(self, job: Job) -> Decoded | str:
        """Decode an image. If it is small, upscale and write it, too, and return a line about it."""
        photo = read(job)
        height, width = photo.pixels.shape[:2]
        with named(job):
            factor = self.networks.factor(height, width)
            smaller = factor is not None and factor <= 1
            degradation = None if smaller else self.networks.degradation(photo)
            share = degradation.share if degradation else 0.0
            bits = 8 * photo.pixels.itemsize
            upscaler = None if smaller else self.networks.upscaler(bits, factor, share=share)
            ratio = factor or Fraction(max(self.networks.scales))
            if job.target is not None:  # before the work
                size = (math.ceil(height * ratio), math.ceil(width * ratio))
                check_fits(job.target, *size, transparent=photo.alpha is not None)
                if not writes_strips(upscaler, photo, factor, job.target):
                    check_memory(size, photo)
            if upscaler is not None and isinstance(upscaler.model, IMDNAS):
                photo, factor = resized(photo, ratio), None
            decoded = Decoded(photo, upscaler, factor, degradation, (height, width))
            if not decoded.small:
                return decoded
            with self._cores:
                sr = run_network(upscaler, photo)
        return self._write(job, sr, decoded)

    def _continue(self, job: Job, begun: Future[Decoded | str], workers: ThreadPoolExecutor) -> tuple[Future[str], int]:
        """Run the network if the image is large; return the future of the job's line and the size of the result."""
        try:
            decoded = begun.result()
            if isinstance(decoded, str):
                return cast("Future[str]", begun), 0
            with named(job), TileBar(job.name, self.progress) as bar:
                if writes_strips(decoded.upscaler, decoded.photo, decoded.factor, job.target):
                    return done(self._write_strips(job, decoded, workers, bar.show)), 0
                sr = run_network(decoded.upscaler, decoded.photo, bar.show)
        except Exception as error:  # raised again where the job's turn is
            failed: Future[str] = Future()
            failed.set_exception(error)
            return failed, 0
        return workers.submit(self._write, job, sr, decoded), sr.pixels.nbytes

    def _write(self, job: Job, sr: Photo, decoded: Decoded) -> str:
        """Correct, resize and write the result of a job; return a line about it."""
        with named(job):
            large = finish(sr, decoded.photo, decoded.factor)
            if job.target is None:
                buffer = io.BytesIO()
                encode_photo(buffer, large, "PNG")
                output = opened(sys.stdout, "standard output").buffer
                output.write(buffer.getvalue())
                output.flush()
            else:
                with self._recorded(job, job.target):
                    write_photo(job.target, large, quality=self.settings.quality)
        return line_about(job, decoded, large.pixels.shape)

    def _write_strips(
        self, job: Job, decoded: Decoded, workers: ThreadPoolExecutor, show: Callable[[int, int], object]
    ) -> str:
        """Run the network and write the result of a job strip by strip; return a line about it."""
        assert decoded.upscaler is not None and isinstance(job.target, Path)
        with self._recorded(job, job.target):
            size = write_strips(decoded.upscaler, decoded.photo, job.target, workers, show)
        return line_about(job, decoded, size)

    @contextmanager
    def _recorded(self, job: Job, target: Location) -> Iterator[None]:
        """Record the result of a job in the manifest after it is written; before, that there is none."""
        if self.record:
            write_records([(target, None)])
        yield
        if self.record:
            write_records([(target, self.settings.origin(job))])


def check_memory(size: tuple[int, int], photo: Photo) -> None:
    """Raise ModelError if a result of this height and width does not fit into the free memory.

    Linux promises more memory than it has, and ends the process that uses it.
    """
    needed = RESULT_COPIES * math.prod(size) * (3 if photo.alpha is None else 4) * photo.pixels.itemsize
    if needed > SURELY_FREE and needed > (free := free_memory(torch.device("cpu"))):
        raise ModelError(
            f"{size[1]}x{size[0]} pixels need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; "
            "choose a smaller size"
        )


def line_about(job: Job, decoded: Decoded, sr: Sequence[int]) -> str:
    """Return the line about a job, with the sizes of the image and the result."""
    height, width = decoded.size
    line = f"{job.name} ({width}x{height}) -> {job.result} ({sr[1]}x{sr[0]})"
    if decoded.degradation is None:
        return line
    reason, share = decoded.degradation
    return f"{line}, weights {'real' if share == 1 else 'half real'}: {reason}"


def done(line: str) -> Future[str]:
    """Return a future that has its result."""
    future: Future[str] = Future()
    future.set_result(line)
    return future


def limit_caches() -> None:
    """Limit what this process caches for each image size. It has no effect after PyTorch's first convolution."""
    os.environ.update(CACHES | os.environ)


def read(job: Job) -> Photo:
    """Read and decode the image of a job."""
    with named(job):
        if job.source is None:
            return read_photo(opened(sys.stdin, "standard input").buffer.read(), job.name)
        return read_photo(storage.read(job.source), job.name)


def opened(stream: TextIO | None, name: str) -> TextIO:
    """Return a standard stream, or raise DataError if the process was started without it."""
    if stream is None:
        raise DataError(f"{name} is closed; name a file instead of -")
    return stream


@contextmanager
def named(job: Job) -> Iterator[None]:
    """Add the image's name to a failure of the network; turn a MemoryError into a ModelError."""
    try:
        yield
    except MemoryError:
        raise ModelError(f"{job.name}: out of memory; upscale a part of the image, or free some memory") from None
    except ModelError as error:
        raise ModelError(f"{job.name}: {error}") from error


def ahead(
    workers: ThreadPoolExecutor, function: Callable[[Job], Decoded | str], jobs: Iterable[Job], count: int
) -> Iterator[tuple[Job, Future[Decoded | str]]]:
    """Yield the jobs with the futures of ``function(job)``, while the next ``count`` jobs are running."""
    remaining = iter(jobs)
    running = deque((job, workers.submit(function, job)) for job in islice(remaining, count))
    while running:
        current = running.popleft()
        running.extend((job, workers.submit(function, job)) for job in islice(remaining, 1))
        yield current


class TileBar:
    """A progress bar over the tiles of an image, if there are several."""

    def __init__(self, name: str, enabled: bool) -> None:
        self.name = name
        self.enabled = enabled
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> TileBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` tiles are done."""
        if total == 1:
            return
        if self.bar is None:
            self.bar = tqdm(total=total, desc=self.name, unit="tile", leave=False, disable=not self.enabled)
        self.bar.update(done - self.bar.n)
