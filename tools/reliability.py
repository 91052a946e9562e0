"""Check the promises of ``docs/reliability.md`` and write the page.

    python tools/fuzz.py --count 20000 --seed 10 --json results/fuzz.json
    python tools/reliability.py

Runs the tests of every promise, writes ``results/reliability.json``, and renders the page from it and from the summary
of ``tools/fuzz.py``. ``--page`` only renders.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmen.charts.tables import format_markdown
from fmen_data.atomic import atomic_write_bytes

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ROOT / "results/speed/engines.json"
RECORD, FUZZ, PAGE = ROOT / "results/reliability.json", ROOT / "results/fuzz.json", ROOT / "docs/reliability.md"

TRAINING, UPSCALING, DATA, CORE = "tests/fmen/training", "tests/fmen/upscaling", "tests/fmen_data", "tests/fmen_core"

THREADS = "test_one_upscaler_serves_eight_threads"


@dataclass(frozen=True)
class Promise:
    """A promise, and the tests that try to break it, as pytest names them."""

    text: str
    tests: tuple[str, ...]


PROMISES = (
    Promise(
        "A run that is stopped and resumed ends with the same bits as an uninterrupted one (CPU, one process, fp32), "
        "also in its second stage.",
        (
            f"{TRAINING}/test_loop.py::test_a_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one",
            f"{TRAINING}/test_stages.py",
        ),
    ),
    Promise(
        "A damaged checkpoint is noticed, and the run continues from the one before.",
        (f"{TRAINING}/test_checkpoint.py",),
    ),
    Promise(
        "A full disk leaves the last checkpoint and no half-written file; weights that are not finite never replace "
        "finite ones.",
        (
            f"{TRAINING}/test_loop.py::test_a_full_disk_leaves_the_last_checkpoint_and_no_half_file",
            f"{TRAINING}/test_loop.py::test_values_that_are_not_finite_never_replace_a_checkpoint",
            f"{DATA}/test_atomic.py",
        ),
    ),
    Promise(
        "Several processes train as one, a run continues with another number of processes, and a process that fails "
        "ends the others within seconds, with its own message alone.",
        (f"{TRAINING}/test_distributed.py",),
    ),
    Promise(
        "Damaged, cut off and empty images are errors that name the file; all of a dataset are named at once.",
        (f"{DATA}/test_images.py", f"{DATA}/test_datasets.py", f"{DATA}/test_verify.py"),
    ),
    Promise(
        "A damaged or stale cache serves no pixel: it is rebuilt or refused in one line.", (f"{DATA}/test_cache.py",)
    ),
    Promise(
        "Downloads that are dropped, stalled, redirected, or of a wrong length or content are resumed or refused; so "
        "are archives with paths outside their folder, links and bombs.",
        (f"{DATA}/test_download.py", f"{DATA}/test_unpack.py"),
    ),
    Promise(
        "Weights with code are not opened; damaged, non-finite and integer weights are refused by name.",
        (f"{CORE}/test_checkpoint.py",),
    ),
    Promise(
        "A folder of images is upscaled to its end: an image that is damaged, too small, or too large for the memory "
        "is reported, an interruption leaves whole files only, and a restart skips what is done.",
        (
            f"{UPSCALING}/test_batch.py",
            f"{UPSCALING}/test_jobs.py",
            f"{UPSCALING}/test_photo.py",
            f"{UPSCALING}/test_upscaling.py",
        ),
    ),
    Promise("On Ray, a killed worker loses nothing.", (f"{UPSCALING}/test_cluster.py",)),
    Promise(
        "A stranger's package is run on request only, with limits, and in bubblewrap sees neither files nor network.",
        ("tests/fmen/submission/test_check.py",),
    ),
    Promise(
        "Files of every kind, damaged at random, cause no traceback; files with checksums give no other result.",
        ("tests/tools/test_fuzz.py",),
    ),
    Promise("Properties hold for random inputs.", ("tests/test_properties.py",)),
)

BEFORE = (
    ("files damaged at random, all kinds: tracebacks", "40 of 2,460", lambda kinds: share(kinds, "tracebacks")),
    (
        "damaged JPEGs that are read without an error, with other pixels",
        "53 of 77",
        lambda kinds: share(kinds, "changed", "jpg"),
    ),
    ("damaged caches that serve other pixels", "44 of 350", lambda kinds: share(kinds, "changed", "cache")),
    ("damaged caches that end in a traceback", "36 of 350", lambda kinds: share(kinds, "tracebacks", "cache")),
    ("damaged checkpoints that are accepted", "6 of 8", lambda kinds: share(kinds, "accepted", "checkpoint")),
)
"""Figures of the first version, and how to read today's from the summary of ``tools/fuzz.py``."""


FOUND = (
    (
        "Threads that share a fresh upscaler raised `dictionary changed size during iteration`: hooks were set on the "
        "shared model while its memory was measured.",
        f"{CORE}/test_tiling.py::{THREADS}",
    ),
    (
        "After a resume, the sum of the losses was counted once per process.",
        f"{TRAINING}/test_distributed.py::"
        "test_a_run_continues_with_another_number_of_processes_and_counts_every_loss_once",
    ),
    (
        "A run that was killed before its first checkpoint could be neither resumed nor started again.",
        f"{TRAINING}/test_distributed.py::test_torchrun_restarts_a_run_that_was_killed_before_its_first_checkpoint",
    ),
    (
        "Processes that torchrun restarted read the messages of the former ones in its store.",
        f"{TRAINING}/test_distributed.py::"
        "test_processes_that_are_restarted_do_not_read_the_messages_of_the_former_ones",
    ),
    (
        "OpenCV and Pillow decode JPEGs that libjpeg warns about without an error.",
        f"{UPSCALING}/test_photo.py::test_a_jpeg_that_libjpeg_warns_about_is_refused_with_its_reason",
    ),
    (
        "A TIFF file whose second page has no size ended in a traceback.",
        f"{UPSCALING}/test_photo.py::test_a_tiff_file_whose_second_page_has_no_size_is_refused_in_one_line",
    ),
    (
        "Pillow's LibTIFF wrote its messages about damaged files on the terminal.",
        f"{UPSCALING}/test_jobs.py::test_messages_of_libtiff_do_not_reach_the_terminal",
    ),
    (
        "The memory of `fmen upscale` grew with the number of image sizes: PyTorch caches 1,024 convolutions in every "
        "thread, and oneDNN as many in the process.",
        f"{UPSCALING}/test_batch.py::test_the_caches_of_image_sizes_are_limited_unless_the_user_sets_their_size",
    ),
    (
        "A killed run left a temporary file beside the result, for good.",
        f"{UPSCALING}/test_jobs.py::test_the_temporary_file_of_a_killed_run_is_removed_by_the_next_one",
    ),
)
"""Defects that were found on the way, and the tests that fail with them."""


def share(kinds: Mapping[str, Mapping[str, int]], what: str, start: str = "") -> str:
    """Return how many of the damaged files, of the kinds whose name starts with ``start``, had an outcome."""
    chosen = [found for name, found in kinds.items() if name.startswith(start)]
    return f"{sum(found[what] for found in chosen):,} of {sum(found['tries'] for found in chosen):,}"


def check(promise: Promise) -> dict[str, Any]:
    """Run the tests of a promise, and count them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={file}", *promise.tests]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        (suite,) = ElementTree.parse(file).getroot().iter("testsuite")
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    return {
        "promise": promise.text,
        "tests": list(promise.tests),
        "tries": counts["tests"] - counts["skipped"],
        "skipped": counts["skipped"],
        "failures": counts["failures"] + counts["errors"],
    }


def growth(engines: Mapping[str, Any]) -> str:
    """Return how much memory a run needs after 1,000 images, relative to that after 50."""
    (memory,) = (entry for entry in engines["comparisons"] if entry["what"].startswith("resident memory"))
    return f"{memory['ratio']:.2f}"


def render(promises: Sequence[Mapping[str, Any]], fuzz: Mapping[str, Any], engines: Mapping[str, Any]) -> str:
    """Return the page."""
    rows = [["promise", "tests", "tries", "failures"]]
    for entry in promises:
        tests = ", ".join(f"`{test}`" for test in entry["tests"])
        skipped = f" ({entry['skipped']} skipped)" if entry["skipped"] else ""
        rows.append([entry["promise"], tests, f"{entry['tries']}{skipped}", str(entry["failures"])])
    kinds = fuzz["kinds"]
    damaged = [["file", "tries", "refused", "read", "read with another result", "tracebacks"]]
    for name, found in kinds.items():
        damaged.append(
            [name, *(f"{found[what]:,}" for what in ("tries", "refused", "accepted", "changed", "tracebacks"))]
        )
    history = [["figure", "first version", "now"], *([what, was, now(kinds)] for what, was, now in BEFORE)]
    history.append(
        ["memory after 1,000 images of mixed sizes, relative to the first 30 or 50", "1.50", growth(engines)]
    )
    defects = [["defect", "test"], *([what, f"`{test}`"] for what, test in FOUND)]
    return f"""# Reliability

What the software promises, and the tests that try to break it. `python tools/reliability.py` runs them and writes this
page from `results/reliability.json` and `results/fuzz.json`. To try a single row again, run `pytest` with its tests.

{format_markdown(rows, (0, 1))}

## Damaged files

`{fuzz["command"]}` damages valid files of every kind: it cuts them off, flips bits, and zeroes, inserts or repeats
bytes. A file must be refused with one line that says what is wrong, or be read. BMP, TIFF and WebP have no checksums,
so damage of their pixels cannot be noticed; nor can that of a JPEG whose stream stays valid. A damaged line of a log is
left out, and a changed word of a text is a valid text.

{format_markdown(damaged)}

## Before and now

{format_markdown(history)}

The memory and the throughput of both engines are measured by `tools/bench/engines.py`, see
[Speed and memory](performance.md#upscaling-many-images).

## Defects found on the way

{format_markdown(defects, (0, 1))}
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="render the page from the results that exist")
    if not parser.parse_args().page:
        promises = []
        for promise in PROMISES:
            promises.append(check(promise))
            print(f"{promises[-1]['failures']} of {promises[-1]['tries']} failed: {promise.text}", flush=True)
        content = json.dumps({"command": "python tools/reliability.py", "promises": promises}, indent=1) + "\n"
        atomic_write_bytes(RECORD, content.encode())
    promises = json.loads(RECORD.read_text())["promises"]
    atomic_write_bytes(PAGE, render(promises, json.loads(FUZZ.read_text()), json.loads(ENGINES.read_text())).encode())
    sys.exit(any(entry["failures"] for entry in promises))


if __name__ == "__main__":
    main()
