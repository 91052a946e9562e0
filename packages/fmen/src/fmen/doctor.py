"""What is there of all that the commands can use, and how to get what is not."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from fmen.sources.datasets import DATA
from fmen.training.run_folder import RunError, newest_weights
from fmen_core.precision import has_bf16
from fmen_core.pretrained import PUBLISHED, cache_folder, shipped
from fmen_core.tiling import free_memory
from fmen_data import DataError
from fmen_data.datasets import find_official
from fmen_data.sample import sample_images

OURS = ("fmen", "fmen-core", "fmen-data", "fmen-eval")
NEEDED = ("numpy", "opencv-python-headless", "pillow", "h5py", "safetensors", "thop", "typer", "pydantic")
EXTRAS = {
    "tensorboard": "tensorboard",
    "matplotlib": "plot",
    "onnxruntime": "onnx",
    "spandrel": "spandrel",
    "fvcore": "ntire2026",
}
"""Optional packages, and the extras of the package fmen that install them."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: a thing, whether it is there, and which one it is or how to get it."""

    there: bool
    what: str
    detail: str


def examine() -> list[tuple[str, list[Finding]]]:
    """All findings, under their titles."""
    return [
        ("software", list(software())),
        ("devices", list(devices())),
        ("data", list(data())),
        ("weights", list(weights())),
    ]


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def software() -> Iterator[Finding]:
    """Our packages, what they need, and what they can use."""
    yield Finding(True, "fmen", f"{version('fmen')} on Python {platform.python_version()}, {platform.platform()}")
    yield Finding(True, "torch", str(torch.__version__))
    for package in (*OURS[1:], *NEEDED):
        if version(package) is None:
            yield Finding(False, package, f"missing: pip install {package}")
    found = ((name.removesuffix("-python-headless"), version(name)) for name in NEEDED)
    yield Finding(True, "needed", ", ".join(f"{name} {number}" for name, number in found if number))
    there = [f"{name} {version(name)}" for name in EXTRAS if version(name)]
    if there:
        yield Finding(True, "optional", ", ".join(there))
    missing = sorted(extra for name, extra in EXTRAS.items() if not version(name))
    if missing:
        yield Finding(False, "extras", f"not installed: {', '.join(missing)}; pip install 'fmen[{','.join(missing)}]'")


def devices() -> Iterator[Finding]:
    """The processor, its memory, and the GPU."""
    cpu = torch.device("cpu")
    cores, threads = os.cpu_count(), torch.get_num_threads()
    yield Finding(True, "cpu", f"{processor_name()}, cores: {cores}, threads: {threads} (OMP_NUM_THREADS sets them)")
    bf16 = has_bf16(cpu)
    yield Finding(bf16, "bf16", "the processor has instructions for it" if bf16 else "no instructions: auto takes fp32")
    yield Finding(True, "memory", f"{free_memory(cpu) / 1e9:.1f} GB free")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            yield Finding(True, f"cuda:{index}", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    else:
        built = torch.version.cuda
        why = f"no GPU or driver for CUDA {built}" if built else "this PyTorch is built for the CPU alone"
        yield Finding(False, "cuda", f"{why}; everything runs on the CPU")


def processor_name() -> str:
    """What the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []:
        key, _, name = line.partition(":")
        if key.strip() == "model name":
            return name.strip()
    return platform.processor() or platform.machine()


def data() -> Iterator[Finding]:
    """The datasets that are taken when none is named, and the cache."""
    for split, title in (("train", "DIV2K train"), ("val", "DIV2K val")):
        there = bool(find_official(DATA, split, 4))  # type: ignore[arg-type]
        here = f"in {DATA}/ (looked for in {Path.cwd()})"
        yield Finding(there, title, here if there else f"not {here}; get it with: fmen data download div2k")
    try:
        photographs = len(sample_images("train")) + len(sample_images("val"))
        yield Finding(True, "sample", f"{photographs} photographs, for --data sample")
    except DataError as error:
        yield Finding(False, "sample", str(error))
    yield cache()


def cache() -> Finding:
    """The folder of downloaded weights and prepared datasets."""
    folder = cache_folder().parent
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    used, free = sum(file.stat().st_size for file in files), shutil.disk_usage(place).free
    size = f"{used / 1e9:.1f} GB" if used >= 1e9 else f"{used / 1e6:.1f} MB"
    detail = f"{folder}: {size} used, {free / 1e9:.1f} GB free"
    if not os.access(place, os.W_OK):
        return Finding(False, "cache", f"{detail}, but not writable; set FMEN_CACHE to a folder that is")
    return Finding(True, "cache", detail)


def weights() -> Iterator[Finding]:
    """The networks that can be used at once."""
    inside = ", ".join(shipped())
    missing = "none; train with: fmen train, or name published ones with --weights"
    yield Finding(bool(inside), "in the package", inside or missing)
    here = [entry.name for entry in PUBLISHED if entry.file.is_file()]
    yield Finding(
        bool(here), "published", ", ".join(here) or "none downloaded; see: fmen weights list, fmen weights get NAME"
    )
    try:
        yield Finding(True, "newest run", str(newest_weights()))
    except RunError:
        yield Finding(False, "newest run", "none under runs/; make one with: fmen train")
