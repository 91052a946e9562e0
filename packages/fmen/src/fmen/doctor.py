"""``fmen doctor``: find the software, devices, data and weights that the commands use."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from fmen.sources.datasets import DATA
from fmen.sources.runs import weights_of_runs
from fmen.threads import available_cores, seconds_by_threads, use_threads
from fmen_core import create_model, reparameterize
from fmen_core.backends import REQUIRED_PACKAGES
from fmen_core.precision import has_bf16
from fmen_core.pretrained import PUBLISHED, bundled, cache_folder
from fmen_core.tiling import free_memory
from fmen_data import DataError
from fmen_data.datasets import find_official
from fmen_data.sample import sample_images

PROJECT_PACKAGES = ("fmen", "fmen-core", "fmen-data", "fmen-eval")
REQUIRED = (
    *("numpy", "opencv-python-headless", "pillow", "tifffile", "simplejpeg", "h5py", "scikit-image"),
    *("safetensors", "thop", "tqdm", "typer", "pydantic", "pyyaml", "jinja2", "matplotlib", "textalloc"),
)
EXTRAS = {
    "tensorboard": "tensorboard",
    "openvino": "openvino",
    "onnxruntime": "onnx",
    "spandrel": "spandrel",
    "fvcore": "ntire2026",
}
"""Optional packages, and the extra of fmen that installs each."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        present: Whether it was found.
        name: Its name.
        detail: Which one was found, or how to get it.
    """

    present: bool
    name: str
    detail: str


def examine() -> list[tuple[str, list[Finding]]]:
    """Return all findings by section."""
    return [
        ("software", list(software())),
        ("devices", list(devices())),
        ("data", list(data())),
        ("weights", list(weights())),
    ]


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def software() -> Iterator[Finding]:
    """Find this project's packages and those that they import."""
    yield Finding(True, "fmen", f"{version('fmen')} on Python {platform.python_version()}, {platform.platform()}")
    yield Finding(True, "torch", str(torch.__version__))
    for package in (*PROJECT_PACKAGES[1:], *REQUIRED):
        if version(package) is None:
            yield Finding(False, package, f"missing: pip install {package}")
    found = ((name.removesuffix("-python-headless"), version(name)) for name in REQUIRED)
    yield Finding(True, "required", ", ".join(f"{name} {number}" for name, number in found if number))
    optional = [f"{name} {version(name)}" for name in EXTRAS if version(name)]
    if optional:
        yield Finding(True, "optional", ", ".join(optional))
    missing = sorted(extra for name, extra in EXTRAS.items() if not version(name))
    yield backends()
    if missing:
        yield Finding(False, "extras", f"not installed: {', '.join(missing)}; pip install 'fmen[{','.join(missing)}]'")


def backends() -> Finding:
    """Find what can run a network: ``--backend`` of ``fmen upscale``."""
    absent = [name for name, packages in REQUIRED_PACKAGES.items() if not all(map(version, packages))]
    found = ", ".join(["torch", *(name for name in REQUIRED_PACKAGES if name not in absent)])
    advice = f"; not installed: {', '.join(absent)}: pip install 'fmen[{','.join(absent)}]'" if absent else ""
    return Finding(True, "backends", found + advice)


def devices() -> Iterator[Finding]:
    """Find the CPU, its memory, and GPUs."""
    cpu = torch.device("cpu")
    yield Finding(True, "cpu", f"{processor_name()}, cores: {os.cpu_count()}, available: {available_cores()}")
    yield threads()
    bf16 = has_bf16(cpu)
    yield Finding(bf16, "bf16", "supported by the CPU" if bf16 else "not supported by the CPU: auto uses fp32")
    yield Finding(True, "memory", f"{free_memory(cpu) / 1e9:.1f} GB free")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            yield Finding(True, f"cuda:{index}", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    else:
        built = torch.version.cuda
        why = f"no GPU or driver for CUDA {built}" if built else "this PyTorch is built for the CPU only"
        yield Finding(False, "cuda", f"{why}; commands run on the CPU")


def threads() -> Finding:
    """Find the number of threads, and whether fewer are faster now."""
    use_threads(None)
    count = torch.get_num_threads()
    if count == 1:
        return Finding(True, "threads", "1 (set by --threads, or by OMP_NUM_THREADS)")
    network = reparameterize(create_model("fmen-s"))
    with torch.inference_mode():
        seconds = seconds_by_threads(partial(network, torch.zeros(1, 3, 96, 96)), (count, 1))
    times = f"a 96x96 image takes {1e3 * seconds[count]:.0f} ms, and {1e3 * seconds[1]:.0f} ms with 1"
    if seconds[1] < seconds[count]:
        return Finding(False, "threads", f"{count}, but {times}, as other work uses the cores: try --threads 1")
    return Finding(True, "threads", f"{count} (set by --threads, or by OMP_NUM_THREADS); {times}")


def processor_name() -> str:
    """Return the model name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []:
        key, _, name = line.partition(":")
        if key.strip() == "model name":
            return name.strip()
    return platform.processor() or platform.machine()


def data() -> Iterator[Finding]:
    """Find the default datasets and the cache."""
    for split, title in (("train", "DIV2K train"), ("val", "DIV2K val")):
        found = bool(find_official(DATA, split, 4))  # type: ignore[arg-type]
        place = f"in {DATA}/ (of {Path.cwd()})"
        yield Finding(found, title, place if found else f"not {place}; get it with: fmen data download div2k")
    try:
        photographs = len(sample_images("train")) + len(sample_images("val"))
        yield Finding(True, "sample", f"{photographs} photographs, for --data sample")
    except DataError as error:
        yield Finding(False, "sample", str(error))
    yield cache()


def cache() -> Finding:
    """Find the folder of downloaded weights and prepared datasets."""
    folder = cache_folder().parent
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    used, free = sum(file.stat().st_size for file in files), shutil.disk_usage(place).free
    size = f"{used / 1e9:.1f} GB" if used >= 1e9 else f"{used / 1e6:.1f} MB"
    detail = f"{folder}: {size} used, {free / 1e9:.1f} GB free"
    if not os.access(place, os.W_OK):
        return Finding(False, "cache", f"{detail}, not writable; set FMEN_CACHE to a writable folder")
    return Finding(True, "cache", detail)


def weights() -> Iterator[Finding]:
    """Find weights."""
    inside = ", ".join(bundled())
    missing = "none; train with: fmen train, or use published ones: fmen weights list"
    yield Finding(bool(inside), "in the package", inside or missing)
    here = [entry.name for entry in PUBLISHED if entry.file.is_file()]
    yield Finding(
        bool(here), "published", ", ".join(here) or "none downloaded; see: fmen weights list, fmen weights get NAME"
    )
    runs = weights_of_runs()
    yield Finding(bool(runs), "newest run", str(runs[0]) if runs else "none under runs/; make one with: fmen train")
