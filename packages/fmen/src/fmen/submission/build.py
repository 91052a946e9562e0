"""Build the challenge package: one zip with the network, its weights, a script that runs them, and measured figures.

The zip is verified before it replaces ``out``: it is unpacked into an empty folder, and its ``test_demo.py`` runs in a
process that cannot import this project's packages. The PSNR of every image must equal that of ``fmen validate``.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fmen import __version__
from fmen.json_file import dump_json
from fmen.submission.images import open_images, write_validation_images
from fmen.submission.metrics import (
    Metrics,
    count_complexity,
    figures_table,
    measured_figures,
    meets_threshold,
    threshold_line,
)
from fmen.submission.rules import SCALE, Layout, SubmissionError, archive_entry, atomic_archive, check_scale, get_layout
from fmen.submission.sandbox import run_isolated
from fmen.submission.source import ModelSource, Origin, model_source
from fmen.submission.team import EXAMPLE_NOTE, Team, fill_in, load_team, read_template, team_fields
from fmen_core import Upscaler, reparameterize
from fmen_core.architecture import sr_model
from fmen_data.datasets import Source
from fmen_eval import validate

TOLERANCE = 1e-6
"""Largest difference in dB between the package's PSNR of an image and that of ``fmen validate``."""

TEXTS = ("README.md", "factsheet.md")
"""The files of the package that a team may write itself."""

DEMO_VARIABLES = ("args", "data_range", "device", "model", "model_id", "model_path", "name", "os", "tile", "torch")
"""Variables of ``select_model`` in the organisers' ``test_demo.py``, which imports the class."""


@dataclass(frozen=True)
class SubmissionReport:
    """A package that was built and verified.

    Attributes:
        path: The zip.
        stem: Name of its model file and of its weights file, without suffix.
        metrics: The content of its ``metrics.json``.
        package_psnr: Mean PSNR in dB from the unpacked package's own ``test_demo.py``.
        meets_threshold: Whether PSNR reaches the challenge's threshold; None on other data than the challenge's.
        notes: Lines for the user.
    """

    path: Path
    stem: str
    metrics: Metrics
    package_psnr: float
    meets_threshold: bool | None
    notes: tuple[str, ...]

    @property
    def psnr(self) -> float:
        """Mean PSNR in dB, measured as ``fmen validate`` does under ``ntire``."""
        return float(self.metrics["psnr"])


def build_submission(
    network: nn.Module,
    data: Source,
    team: Path | None,
    out: Path,
    *,
    origin: Origin | None = None,
    layout: str = "ntire2022",
    device: str = "auto",
    progress: bool = True,
) -> SubmissionReport:
    """Build a package and verify that it runs on its own.

    Args:
        network: Any x4 network with its weights, in either form.
        data: Images to measure PSNR on; see :func:`fmen.submission.images.open_images`.
        team: ``team.yaml``. README.md and factsheet.md beside it take precedence over the bundled templates. None for
            the bundled example.
        out: The zip. It is written only if the package passes verification.
        origin: Where the network's code is; None for a network of ``fmen_core``.
        layout: The challenge: a key of ``LAYOUTS``.
        device: Where to measure, here and in the unpacked package: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        progress: Show a progress bar.

    Raises:
        SubmissionError: ``team`` or ``out`` is invalid, the network is not x4, its code cannot be put into one file, or
            the package fails verification.
        ModelError: The device is not available.
        DataError: The images cannot be read.
    """
    check_scale(network)
    rules, who, model = get_layout(layout), load_team(team), reparameterize(network)
    origin = origin or Origin.of(model)
    if origin.class_name in DEMO_VARIABLES:
        raise SubmissionError(
            f"{origin.class_name}: the organisers' test_demo.py has such a variable; rename the class"
        )
    code, templates = model_source(origin), team.parent if team else None
    for name in TEXTS:
        read_template(name, templates)
    images = open_images(data, rules)
    name = str(getattr(model, "name", origin.class_name))
    stem = rules.stem(who.team_id, name, origin.class_name)
    upscaler = Upscaler(model, device=device, channels_last=False)  # as `fmen validate` measures
    counts = count_complexity(model, rules)
    with atomic_archive(out) as temporary, tempfile.TemporaryDirectory(prefix="fmen-submit-") as folder:
        work = Path(folder)
        pairs = write_validation_images(images, work / "data", rules)
        measured = validate(upscaler, pairs, scale=SCALE, total=len(images.names), progress=progress)
        metrics = {
            **{"layout": rules.name, "team_id": who.team_id, "model": name, "file": stem, "scale": SCALE},
            **counts,
            **measured_figures(measured, images.name, device_name(upscaler.device)),
        }
        branch = select_branch(who, stem, origin, sr_model(model).data_range)
        files = package_files(model, code, branch, rules, who, metrics, images.official, templates)
        temporary.write_bytes(zip_bytes(files))
        package_psnr = verify_package(temporary, work, who.team_id, metrics, cuda=upscaler.device.type == "cuda")
    meets = meets_threshold(measured.psnr, rules) if images.official else None
    notes = (code_line(stem, code), *user_notes(rules, who, measured.psnr, images.official))
    return SubmissionReport(out, stem, metrics, package_psnr, meets, notes)


def code_line(stem: str, code: ModelSource) -> str:
    """Say what the model file is made of, and what it imports."""
    made_of = f"{code.files[0]}, unchanged" if code.unchanged else f"made of {', '.join(code.files)}"
    return f"models/{stem}.py: {made_of}; it imports {', '.join(code.imports) or 'nothing'}"


def device_name(device: torch.device) -> str:
    """Return ``"CPU"`` or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def user_notes(layout: Layout, team: Team, psnr: float, official: bool) -> tuple[str, ...]:
    """Return lines for the user: the threshold, and a reminder to fill in the team."""
    lines = [threshold_line(psnr, layout, official)]
    if team.is_example:
        lines.append(EXAMPLE_NOTE)
    return tuple(lines)


def package_files(
    model: nn.Module,
    code: ModelSource,
    branch: str,
    layout: Layout,
    team: Team,
    metrics: Metrics,
    official: bool,
    templates: Path | None,
) -> dict[str, bytes]:
    """Return the content of every file of the package, by its path in the zip."""
    stem = str(metrics["file"])
    weights = weights_bytes(model)
    metrics["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    fields = {
        **team_fields(team),
        **layout_fields(layout),
        "stem": stem,
        "branch": branch,
        "imports": ", ".join(code.imports),
        "figures": figures_table(metrics),
        "dataset": str(metrics["dataset"]),
        "images": str(len(metrics["images"])),
        "psnr": f"{metrics['psnr']:.4f}",
        "ssim": f"{metrics['ssim']:.4f}",
        "threshold": threshold_line(metrics["psnr"], layout, official),
    }
    demo = fields | {
        "first_branch": branch.replace("elif", "if", 1),
        "title": team.title.replace("\\", "/").replace('"', "'"),  # part of a docstring
    }
    texts = {
        "test_demo.py": fill_in("test_demo.py.in", demo),
        **{name: fill_in(name, fields, templates) for name in TEXTS},
        "select_model.txt": branch + "\n",
        "metrics.json": dump_json(metrics, indent=1),
    }
    return {
        f"models/{stem}.py": header(layout, team, stem, code).encode() + code.code,
        f"model_zoo/{stem}.pth": weights,
        **{name: text.encode() for name, text in texts.items()},
    }


def header(layout: Layout, team: Team, stem: str, code: ModelSource) -> str:
    """Return the comment at the top of the model file."""
    what = f"is {code.files[0]}, unchanged" if code.unchanged else f"is made of {', '.join(code.files)}"
    # The user's text is not in the first two lines, where Python looks for "coding: NAME".
    return (
        f"# {layout.challenge}, team {team.team_id:02}; packed by fmen {__version__}.\n"
        f"# Weights: model_zoo/{stem}.pth\n"
        f"# Team: {team.team_name}\n"
        f"# The rest of this file {what}.\n"
    )


def weights_bytes(model: nn.Module) -> bytes:
    """Serialize the bare state dict with ``torch.save``, on the CPU, so that any machine can load it."""
    buffer = io.BytesIO()
    torch.save({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, buffer)
    return buffer.getvalue()


def select_branch(team: Team, stem: str, origin: Origin, data_range: float) -> str:
    """Return the branch for ``select_model`` in the organisers' ``test_demo.py``, with its indentation."""
    lines = [
        f"elif model_id == {team.team_id}:",
        f"    # {team.team_name}",
        f"    from models.{stem} import {origin.class_name}",
        f'    name, data_range = f"{{model_id:02}}_{stem.split("_", 1)[1]}", {data_range}',
        f'    model_path = os.path.join("model_zoo", "{stem}.pth")',
        f"    model = {origin.call(SCALE)}",
        "    model.load_state_dict(torch.load(model_path), strict=True)",
    ]
    return "\n".join("    " + line for line in lines)


def layout_fields(layout: Layout) -> dict[str, str]:
    """Return the template fields that describe the challenge."""
    fields = {"challenge": layout.challenge, "repository": layout.repository}
    for split, (lr, hr) in layout.folders.items():
        fields |= {f"{split}_lr": lr, f"{split}_hr": hr, f"{split}_suffix": layout.suffixes[split]}
    return fields


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of these files; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            archive.writestr(archive_entry(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def verify_package(package: Path, work: Path, model_id: int, metrics: Metrics, *, cuda: bool) -> float:
    """Unpack a package, run its ``test_demo.py`` without this project's packages, and compare the PSNR of every image.

    Args:
        package: The zip.
        work: Folder with the images under ``data/`` in the challenge's layout; the package is unpacked here.
        model_id: The team's number.
        metrics: The figures that the package declares.
        cuda: Whether the script may use a GPU.

    Returns:
        The mean PSNR in dB that the script measured.

    Raises:
        SubmissionError: The script fails, or a PSNR differs by more than ``TOLERANCE``.
    """
    folder, saved = work / "unpacked", work / "results"
    saved.mkdir()
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    arguments = ["--data_dir", str(work / "data"), "--save_dir", str(saved), "--model_id", str(model_id)]
    run = run_isolated(folder / "test_demo.py", arguments, writable=saved, threads=torch.get_num_threads(), cuda=cuda)
    if run.returncode:
        reason = (run.stderr.strip() or run.stdout.strip() or f"exit status {run.returncode}").splitlines()[-1]
        raise SubmissionError(f"the package does not run on its own: {reason}")
    found = next(iter(json.loads((saved / "results.json").read_text()).values()))
    package_psnr = dict(zip(found["valid_images"], found["valid_psnr"], strict=True))
    for name, declared in metrics["images"].items():
        there, here = package_psnr.get(name, math.nan), declared["psnr"]
        if there != here and not abs(there - here) <= TOLERANCE:
            raise SubmissionError(f"the package gives {there:.6f} dB for {name}, `fmen validate` {here:.6f} dB")
    if len(package_psnr) != len(metrics["images"]):
        raise SubmissionError(f"the package restored {len(package_psnr)} images, not {len(metrics['images'])}")
    return float(found["valid_ave_psnr"])
