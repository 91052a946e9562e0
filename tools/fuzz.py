"""Damage files at random and read them: nothing but the errors for bad input may come out.

    python tools/fuzz.py --count 20000 --json results/fuzz.json
    python tools/fuzz.py --count 500 --only zip --only cache --seed 7

For each kind of file that the software reads, a small valid one is made, damaged in one of five ways (cut off, bits
flipped, bytes zeroed, bytes inserted, a part repeated) and read. The outcomes:

- ``refused``: an error of the classes for bad input, whose message is one line that names the file;
- ``accepted``: read as if nothing had happened, with the result of the undamaged file or another one;
- ``traceback``: any other exception, or a message of several lines. This is a bug.

``changed`` counts the accepted files with another result: a limit of formats without checksums, such as BMP. The
properties in ``tests/test_properties.py`` complement this; ``FMEN_EXAMPLES=1000 pytest tests/test_properties.py`` tries
more of them.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from fmen.benchmark.models import choose_models
from fmen.cli.errors import silence_decoders
from fmen.errors import UserError
from fmen.report.inputs import read_bench, read_metrics, read_validation
from fmen.submission.check.run import unpack
from fmen.submission.team import load_team
from fmen.training.checkpoint import newest_checkpoint
from fmen.training.recipe import dump_recipe, load_recipe
from fmen.training.run_folder import Run
from fmen.training.setup import make_state
from fmen.upscaling.photo import read_photo
from fmen_core import ModelError, create_model, load, save
from fmen_data import DataError, PatchCache, open_dataset, prepare_cache, read_image, write_image
from fmen_data.atomic import atomic_write_bytes
from fmen_eval import EvaluationError

BAD_INPUT = (UserError, ModelError, DataError, EvaluationError)
SLOW = 30.0
"""Seconds after which reading a damaged small file counts as a hang; the machine may be busy."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: Its name on the command line.
        content: A valid file.
        file: Its name on disk.
        read: Reads the file, and returns something that can be compared; it may return a list of findings as text.
    """

    name: str
    content: bytes
    file: str
    read: Callable[[Path], Any]


@dataclass
class Summary:
    """What happened to the damaged files of one kind."""

    tries: int = 0
    refused: int = 0
    accepted: int = 0
    changed: int = 0
    tracebacks: list[str] = field(default_factory=list)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Damage a file in one of five ways."""
    data = bytearray(content)
    at = rng.randrange(len(data))
    size = rng.choice((1, 4, 32, 256))
    way = rng.randrange(5)
    if way == 0:
        del data[at:]
    elif way == 1:
        for _ in range(rng.choice((1, 1, 4, 16))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 2:
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif way == 3:
        data[at:at] = rng.randbytes(size)
    else:
        data[at:at] = data[max(0, at - size) : at]
    return bytes(data)


def picture(suffix: str, **options: Any) -> bytes:
    """Return a small photograph in a format of Pillow's."""
    ramp = np.add.outer(np.arange(24), np.arange(20))[..., None] * np.array([3, 4, 5])
    noise = np.random.default_rng(0).integers(0, 40, ramp.shape)
    buffer = io.BytesIO()
    Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8)).save(buffer, suffix, **options)
    return buffer.getvalue()


def image_kinds() -> Iterator[Kind]:
    """Yield the image formats, as training and as upscaling read them."""
    formats = {"png": ("PNG", {}), "jpg": ("JPEG", {"quality": 90}), "bmp": ("BMP", {}), "webp": ("WEBP", {})}
    for suffix, (name, options) in {**formats, "tif": ("TIFF", {"compression": "tiff_lzw"})}.items():
        content = picture(name, **options)
        yield Kind(f"{suffix} for training", content, f"a.{suffix}", lambda path: read_image(path).tobytes())
        yield Kind(f"{suffix} to upscale", content, f"a.{suffix}", read_pixels)


def read_pixels(path: Path) -> bytes:
    """Read an image as ``fmen upscale`` does."""
    return read_photo(path.read_bytes(), path).pixels.tobytes()


def read_cache(path: Path) -> list[bytes]:
    """Open a cache, verify it and read its images."""
    with closing(PatchCache(path)) as cache:
        for index in range(len(cache)):
            cache.check(index)
        return [np.ascontiguousarray(image).tobytes() for image in (*cache.lr, *cache.hr)]


def read_weights(path: Path) -> list[bytes]:
    """Load a network as every command does."""
    return [value.numpy().tobytes() for value in load(path).state_dict().values()]


def read_checkpoint(path: Path) -> bytes:
    """Read a checkpoint as ``fmen train --resume`` does."""
    found, content = newest_checkpoint(Run(path.parent))
    make_state(load_recipe("quick", {"device": "cpu"}), torch.device("cpu")).load(content, found)
    return content


def read_zip(path: Path) -> list[str]:
    """Unpack a package as ``fmen submit check`` does; what it finds wrong is a refusal."""
    with tempfile.TemporaryDirectory() as folder:
        findings = unpack(path, Path(folder) / "package")
        if findings:
            raise UserError("; ".join(map(str, findings)))
        return sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*"))


def text_kinds() -> Iterator[Kind]:
    """Yield recipes, team files, logs and results."""
    recipe = dump_recipe(load_recipe("quick")).encode()
    yield Kind("recipe", recipe, "recipe.yaml", lambda path: load_recipe(path).model_dump())
    team = (Path(__file__).resolve().parents[1] / "submission/team.yaml").read_bytes()
    yield Kind("team file", team, "team.yaml", lambda path: str(load_team(path)))
    lines = [{"step": step, "loss": 9.5 / step, "lr": 1e-3, "psnr": 30.25, "seconds": 1.5} for step in range(1, 6)]
    log = "".join(json.dumps(line) + "\n" for line in lines).encode()
    yield Kind("training log", log, "metrics.jsonl", lambda path: str(read_metrics(Run(path.parent))))
    results = Path(__file__).resolve().parents[1] / "results"
    validation = (results / "validate/Set5_paper_fmen-s_x4.json").read_bytes()
    yield Kind("validation", validation, "validation.json", lambda path: str(read_validation(path)))
    table = json.dumps(json.loads((results / "bench/cpu.json").read_text())[:2]).encode()
    yield Kind("benchmark", table, "bench.json", lambda path: str(read_bench(path)))


def binary_kinds(folder: Path) -> Iterator[Kind]:
    """Yield caches, weights, checkpoints and packages, made in ``folder``."""
    for index in range(3):
        write_image(folder / f"set/{index}.png", np.random.default_rng(index).integers(0, 256, (16, 12, 3), np.uint8))
    cache = prepare_cache(open_dataset(folder / "set"), folder / "cache.h5", progress=False)
    yield Kind("cache", cache.read_bytes(), "cache.h5", read_cache)
    small = create_model("fmen", 4, n_feats=8, mid_feats=6, down_blocks=1, up_blocks=(1, 1))
    save(small, folder / "a.safetensors")
    yield Kind("safetensors", (folder / "a.safetensors").read_bytes(), "a.safetensors", read_weights)
    torch.save(small.state_dict(), folder / "a.pth")
    yield Kind("pth", (folder / "a.pth").read_bytes(), "a.pth", read_weights)
    state = make_state(load_recipe("quick", {"device": "cpu"}), torch.device("cpu"))
    state.save(folder / "resume.pt")
    yield Kind("checkpoint", (folder / "resume.pt").read_bytes(), "resume.pt", read_checkpoint)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("models/team00_a.py", "class A:\n    pass\n" * 20)
        archive.writestr("model_zoo/team00_a.pth", (folder / "a.pth").read_bytes())
    yield Kind("zip", (folder / "a.zip").read_bytes(), "a.zip", read_zip)
    module = b"import torch\n\nclass A(torch.nn.Module):\n    scale = 4\n\n    def forward(self, x):\n"
    module += b"        return torch.nn.functional.interpolate(x, scale_factor=4.0)\n"
    yield Kind("module", module, "a.py", lambda path: len(choose_models([], [], [f"{path}:A"])))


def attempt(kind: Kind, content: bytes, expected: Any, folder: Path, summary: Summary) -> None:
    """Read one damaged file, and count the outcome."""
    path = folder / kind.file
    path.write_bytes(content)
    begun = time.monotonic()
    summary.tries += 1
    try:
        with quiet():
            found = kind.read(path)
    except BAD_INPUT as error:
        if "\n" in str(error):
            summary.tracebacks.append(f"a message of several lines: {error}")
        summary.refused += 1
    except Exception:
        summary.tracebacks.append(traceback.format_exc(limit=-4))
    else:
        summary.accepted += 1
        summary.changed += found != expected
    if time.monotonic() - begun > SLOW:
        summary.tracebacks.append(f"reading took {time.monotonic() - begun:.0f} s")


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what reading prints on standard error about damage."""
    stream, sys.stderr = sys.stderr, io.StringIO()
    try:
        yield
    finally:
        sys.stderr = stream


def fuzz(count: int, *, seed: int = 0, only: Sequence[str] = (), progress: bool = True) -> dict[str, Summary]:
    """Damage and read ``count`` files of all kinds in turn.

    Args:
        count: Number of files.
        seed: Seed of the damage.
        only: Names of kinds; all if empty.
        progress: Show a bar with the number of tracebacks.
    """
    silence_decoders()
    # OpenCV 4.9 has the function elsewhere; 0 is the level of silence.
    getattr(cv2.utils, "logging", cv2).setLogLevel(0)
    with tempfile.TemporaryDirectory(prefix="fmen-fuzz-") as name:
        folder = Path(name)
        everything = (*image_kinds(), *text_kinds(), *binary_kinds(folder))
        kinds = [kind for kind in everything if not only or kind.name in only]
        expected = {}
        for kind in kinds:
            (folder / kind.name).mkdir()
            (folder / kind.name / kind.file).write_bytes(kind.content)
            expected[kind.name] = kind.read(folder / kind.name / kind.file)
        summaries = {kind.name: Summary() for kind in kinds}
        rng = random.Random(seed)
        bar = tqdm(range(count), "fuzz", unit="file", disable=not progress)
        for number in bar:
            kind = kinds[number % len(kinds)]
            content = damage(kind.content, rng)
            attempt(kind, content, expected[kind.name], folder / kind.name, summaries[kind.name])
            bar.set_postfix(tracebacks=sum(len(found.tracebacks) for found in summaries.values()), refresh=False)
    return summaries


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="damaged files in all (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="a kind of file; repeatable")
    parser.add_argument("--json", type=Path, help="write the summary to this file")
    args = parser.parse_args()
    summaries = fuzz(args.count, seed=args.seed, only=args.only)
    kinds: dict[str, dict[str, int]] = {}
    for name, found in summaries.items():
        kinds[name] = {"tries": found.tries, "refused": found.refused, "accepted": found.accepted}
        kinds[name] |= {"changed": found.changed, "tracebacks": len(found.tracebacks)}
        print(f"{name}: " + ", ".join(f"{what} {number}" for what, number in kinds[name].items()))
        for text, number in Counter(found.tracebacks).most_common(5):
            print(f"{number} times:\n{text}", file=sys.stderr)
    if args.json:
        record = {"command": " ".join(["python", "tools/fuzz.py", *sys.argv[1:]]), "kinds": kinds}
        atomic_write_bytes(args.json, (json.dumps(record, indent=1) + "\n").encode())
    sys.exit(any(found.tracebacks for found in summaries.values()))


if __name__ == "__main__":
    main()
