"""Upscale with Ray Data: a pool of processes, on this machine or on the nodes of a cluster, that all run the networks.

Ray distributes the images, restarts processes that die and runs their images again. This process writes the manifest
and the failures as results arrive; the images do not pass through it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from torch import nn
from tqdm import tqdm

from fmen.errors import UserError
from fmen.sources.python_file import MODULE_PREFIX
from fmen.upscaling import storage
from fmen.upscaling.batch import BatchUpscaler, Failure, limit_caches
from fmen.upscaling.jobs import Job
from fmen.upscaling.manifest import Settings, modification_times, write_records
from fmen.upscaling.networks import Networks
from fmen.upscaling.storage import Location, location

FAILURES = "fmen-upscale-failures.jsonl"

GROUPS = (32, 1)
"""Images in a group, which one process upscales and reports. A group on which the process dies is divided."""

RETRIES = 2
"""Number of retries in another process after the process of a group has died."""

FLUSH_SECONDS = 30.0
"""Interval between two writes of the manifest, each of which creates a file in an object store."""

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Environment variables that turn off Ray's usage report and the messages of its processes."""


class Worker:
    """Upscales groups of images in a process of Ray.

    Args:
        networks: The networks.
        settings: The settings.
    """

    def __init__(self, networks: Networks, settings: Settings) -> None:
        limit_caches()
        self.batch = BatchUpscaler(networks, settings, record=False)

    def __call__(self, group: dict[str, Any]) -> dict[str, list[Any]]:
        """Upscale the jobs ``group["source"]``, ``group["target"]``; return their numbers and outcomes."""
        pairs = zip(group["source"], group["target"], strict=True)
        jobs = (Job(location(str(source)), location(str(target))) for source, target in pairs)
        outcomes = []
        for _, result in self.batch.results(jobs):
            try:
                outcomes.append((result.result(), ""))
            except Failure as error:
                outcomes.append(("", " ".join(str(error).split())))
            except Exception as error:  # of a user's network; Ray would hide it and repeat the group
                outcomes.append(("", f"{type(error).__name__}: {' '.join(str(error).split())}"))
        lines, errors = zip(*outcomes, strict=True)
        return {"number": list(group["number"]), "line": list(lines), "error": list(errors)}


class Log:
    """Writes the manifest as results arrive, and the failures at the end.

    Args:
        jobs: The images of the run.
        settings: The settings.
    """

    def __init__(self, jobs: Sequence[Job], settings: Settings) -> None:
        self.jobs = jobs
        self.settings = settings
        self.errors: dict[int, str] = {}
        self.done: set[int] = set()
        self.unwritten: list[int] = []
        self.written = time.monotonic()
        write_records((job.target, None) for job in jobs if job.target is not None)

    def add(self, number: int, error: str) -> None:
        """Add the outcome of a job: its error, or an empty string."""
        self.done.add(number)
        if error:
            self.errors[number] = error
        else:
            self.unwritten.append(number)

    def flush(self, interval: float = 0) -> None:
        """Write the manifest if ``interval`` seconds have passed since the last time."""
        if self.unwritten and time.monotonic() - self.written >= interval:
            done = [self.jobs[number] for number in self.unwritten]
            write_records((job.target, self.settings.origin(job)) for job in done if job.target is not None)
            self.unwritten, self.written = [], time.monotonic()

    def write_failures(self, file: Location) -> None:
        """Write a JSON-lines file of the images that were not upscaled and the reasons; without any, empty it."""
        lines = [
            json.dumps({"source": str(self.jobs[number].source), "error": error}) + "\n"
            for number, error in sorted(self.errors.items())
        ]
        folder, name = storage.split(file)
        if lines or name in modification_times(folder, [name]):
            storage.write(file, "".join(lines).encode())


def run_on_ray(
    jobs: Sequence[Job],
    networks: Networks,
    settings: Settings,
    folder: Location,
    *,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> tuple[int, Location]:
    """Upscale images with Ray Data.

    Args:
        jobs: The images.
        networks: The networks.
        settings: The settings.
        folder: The output folder, where failures are listed.
        workers: Processes; by default one for each GPU, or for each CPU core if there are none.
        say: Called with a line about the processes, and one about each image that was upscaled.

    Returns:
        The number of images that could not be upscaled, and the JSON-lines file with their names and the reasons.

    Raises:
        UserError: Ray is not installed.
    """
    ray = start_ray()
    send_code(ray, networks.models)
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    workers = workers or gpus or max(1, cpus)
    share = {"num_cpus": max(1, cpus // workers), "num_gpus": 1 if gpus else 0}
    say(f"Ray: {workers} processes with {share['num_cpus']} CPU cores and {share['num_gpus']} GPUs each")
    here = f"{Path.cwd()}/"
    log = Log([absolute(job) for job in jobs], settings)
    rows = [{"number": i, "source": str(job.source), "target": str(job.target)} for i, job in enumerate(log.jobs)]
    with tqdm(total=len(jobs), desc="upscale", unit="image", disable=not sys.stderr.isatty()) as bar:
        try:
            for size in GROUPS:
                rows = [row for row in rows if row["number"] not in log.done]
                if not rows:
                    break
                for group in map_groups(ray, rows, size, (networks, settings), workers, **share):
                    for number, line, error in zip(group["number"], group["line"], group["error"], strict=True):
                        log.add(int(number), str(error))
                        if line:
                            with bar.external_write_mode():
                                say(line.replace(here, ""))
                        bar.update()
                    log.flush(FLUSH_SECONDS)
        finally:
            log.flush()
    for number in set(range(len(jobs))) - log.done:
        log.add(number, f"{log.jobs[number].name}: its process died at every try; the memory may be too small for it")
    failures = storage.join(folder, PurePath(FAILURES))
    log.write_failures(failures)
    return len(log.errors), failures


def send_code(ray: Any, networks: Iterable[nn.Module]) -> None:
    """Send the code of the user's networks to the processes, which have no access to the files."""
    for module in {type(part).__module__ for network in networks for part in network.modules()}:
        if module.startswith(MODULE_PREFIX):
            ray.cloudpickle.register_pickle_by_value(sys.modules[module])


def map_groups(
    ray: Any, rows: list[dict[str, Any]], size: int, arguments: tuple[Any, ...], workers: int, **share: int
) -> Iterator[dict[str, Any]]:
    """Yield what the workers return for ``rows`` in groups of ``size``, as it arrives.

    Groups that the last try was lost of are left out. A process is given one group at a time, so that an image that
    ends its process takes no other group with it.
    """
    count = -(-len(rows) // size)
    pool = ray.data.ActorPoolStrategy(size=min(workers, count), max_tasks_in_flight_per_actor=1)
    retries = {"max_task_retries": RETRIES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.63 and older have no other option for retries
        data = ray.data.from_items(rows, override_num_blocks=count).map_batches(
            Worker, batch_size=None, fn_constructor_args=arguments, compute=pool, **retries, **share
        )
    yield from data.iter_batches(batch_size=None, prefetch_batches=0)


def start_ray() -> Any:
    """Connect to the cluster that ``RAY_ADDRESS`` names or that runs on this machine; otherwise start Ray here.

    Raises:
        UserError: Ray is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("--engine ray needs Ray; install it with: pip install 'fmen[ray]'") from error
    if not ray.is_initialized():
        with silent_stderr():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a group whose process dies again and again is reported, and does not end the run
    return ray


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what libraries in C++ write to standard error."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def absolute(job: Job) -> Job:
    """Return the job with absolute local paths: processes of Ray have other working directories."""
    source, target = (file.absolute() if isinstance(file, Path) else file for file in (job.source, job.target))
    return Job(source, target, job.stamp)
