"""Upscale many photographs: decoding and encoding run in threads while the network computes."""

from __future__ import annotations

import ctypes
import io
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fmen.upscaling import storage
from fmen.upscaling.enlarge import finish, run_network
from fmen.upscaling.jobs import Job
from fmen.upscaling.manifest import Settings, write_records
from fmen.upscaling.networks import Networks
from fmen.upscaling.photo import Photo, check_fits, encode_photo, read_photo, write_photo
from fmen.upscaling.storage import Location
from fmen.upscaling.strips import write_strips, writes_strips
from fmen_core import ModelError, Upscaler
from fmen_core.tiling import free_memory
from fmen_data import DataError

READERS = 2
"""Threads that decode, which is also the number of decoded images that wait for the network."""

WAITING_BYTES = 2**30
"""Results that may wait for being written, in bytes, where a quarter of the free memory is less."""

TRIM_SECONDS = 2.0
"""Interval at which free memory is returned to the system. Tensors of ever new sizes fragment the heap, so that the
process would grow with the number of images (``tools/bench/engines.py``)."""

Failure = (DataError, ModelError)


class BatchUpscaler:
    """Upscales a sequence of images. A result appears when it is complete.

    Args:
        networks: The networks.
        settings: The settings, which are recorded next to each result.
        writers: Threads that correct, encode and write; by default as many as PyTorch uses.
        record: Write the manifest. Otherwise the caller does.
        progress: Show progress bars on standard error.
    """

    def __init__(
        self,
        networks: Networks,
        settings: Settings,
        *,
        writers: int | None = None,
        record: bool = True,
        progress: bool = False,
    ) -> None:
        self.networks = networks
        self.settings = settings
        self.writers = writers or torch.get_num_threads()
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
        trimmed = time.monotonic()
        allowed = max(WAITING_BYTES, free_memory(torch.device("cpu")) // 4)
        with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(self.writers) as writers:
            try:
                for job, photo in ahead(readers, read, jobs):
                    if time.monotonic() - trimmed > TRIM_SECONDS:
                        return_free_memory()
                        trimmed = time.monotonic()
                    waiting.append((job, *self._enlarge(job, photo, writers)))
                    while waiting and (
                        waiting[0][1].done()
                        or len(waiting) > self.writers
                        or sum(size for _, _, size in waiting) > allowed
                    ):
                        yield waiting.popleft()[:2]
                while waiting:
                    yield waiting.popleft()[:2]
            except BaseException:
                readers.shutdown(wait=False, cancel_futures=True)
                writers.shutdown(wait=False, cancel_futures=True)
                raise

    def _enlarge(self, job: Job, reading: Future[Photo], writers: ThreadPoolExecutor) -> tuple[Future[str], int]:
        """Run the network; return the future of the job's line, and the size of the result in bytes."""
        try:
            photo = reading.result()
            height, width = photo.pixels.shape[:2]
            with named(job), TileBar(job.name, self.progress) as bar:
                factor = self.networks.factor(height, width)
                smaller = factor is not None and factor <= 1
                reason = "" if smaller else self.networks.reason_for_real(photo)
                bits = 8 * photo.pixels.itemsize
                upscaler = None if smaller else self.networks.upscaler(bits, factor, degraded=bool(reason))
                if job.target is not None:  # before the work
                    ratio = factor or max(self.networks.scales)
                    size = (math.ceil(height * ratio), math.ceil(width * ratio))
                    check_fits(job.target, *size, transparent=photo.alpha is not None)
                if writes_strips(upscaler, photo, factor, job.target):
                    return done(self._write_strips(job, upscaler, photo, writers, bar.show, reason)), 0
                sr = run_network(upscaler, photo, bar.show)
        except Failure as error:
            failed: Future[str] = Future()
            failed.set_exception(error)
            return failed, 0
        return writers.submit(self._write, job, sr, photo, factor, reason), sr.pixels.nbytes

    def _write(self, job: Job, sr: Photo, photo: Photo, factor: Fraction | None, reason: str) -> str:
        """Correct, resize and write the result of a job; return a line about it."""
        with named(job):
            large = finish(sr, photo, factor)
            if job.target is None:
                buffer = io.BytesIO()
                encode_photo(buffer, large, "PNG")
                sys.stdout.buffer.write(buffer.getvalue())
                sys.stdout.buffer.flush()
            else:
                with self._recorded(job, job.target):
                    write_photo(job.target, large, quality=self.settings.quality)
        return line_about(job, photo.pixels.shape, large.pixels.shape, reason)

    def _write_strips(
        self,
        job: Job,
        upscaler: Upscaler | None,
        photo: Photo,
        writers: ThreadPoolExecutor,
        show: Callable[[int, int], object],
        reason: str,
    ) -> str:
        """Run the network and write the result of a job strip by strip; return a line about it."""
        assert upscaler is not None and isinstance(job.target, Path)
        with self._recorded(job, job.target):
            size = write_strips(upscaler, photo, job.target, writers, show)
        return line_about(job, photo.pixels.shape, size, reason)

    @contextmanager
    def _recorded(self, job: Job, target: Location) -> Iterator[None]:
        """Record the result of a job in the manifest after it is written; before, that there is none."""
        if self.record:
            write_records([(target, None)])
        yield
        if self.record:
            write_records([(target, self.settings.origin(job))])


def line_about(job: Job, lr: Sequence[int], sr: Sequence[int], reason: str) -> str:
    """Return the line about a job, with the sizes of the image and the result."""
    line = f"{job.name} ({lr[1]}x{lr[0]}) -> {job.result} ({sr[1]}x{sr[0]})"
    return f"{line}, weights real: {reason}" if reason else line


def done(line: str) -> Future[str]:
    """Return a future that has its result."""
    future: Future[str] = Future()
    future.set_result(line)
    return future


def return_free_memory() -> None:
    """Return the free pages of the heap to the system, where the C library is glibc."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)


def read(job: Job) -> Photo:
    """Read and decode the image of a job."""
    with named(job):
        if job.source is None:
            return read_photo(sys.stdin.buffer.read(), job.name)
        return read_photo(storage.read(job.source), job.name)


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
    readers: ThreadPoolExecutor, function: Callable[[Job], Photo], jobs: Iterable[Job]
) -> Iterator[tuple[Job, Future[Photo]]]:
    """Yield the jobs with the futures of ``function(job)``, while the next ``READERS`` jobs are running."""
    remaining = iter(jobs)
    running = deque((job, readers.submit(function, job)) for job in islice(remaining, READERS))
    while running:
        current = running.popleft()
        running.extend((job, readers.submit(function, job)) for job in islice(remaining, 1))
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
