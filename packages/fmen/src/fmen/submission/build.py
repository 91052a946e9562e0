"""The challenge package: one zip with the network, its weights, a script that runs them, and the figures they reach.

Nothing is taken on trust. Before the zip gets its name it is unpacked into an empty folder and its ``test_demo.py``
runs in a process that cannot import this software; every image's PSNR must be the one that ``fmen validate`` gives.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fmen import __version__
from fmen.submission.images import copy_out, open_images
from fmen.submission.metrics import Metrics, count, meets_threshold, results, table, threshold_line
from fmen.submission.rules import SCALE, Layout, SubmissionError, entry, layout_named, writing
from fmen.submission.sandbox import run_isolated
from fmen.submission.team import Team, fill_in, load_team, team_fields
from fmen_core import Upscaler, load, reparameterize
from fmen_core.checkpoint import detect_inference_form
from fmen_core.fmen_deploy import FMEN
from fmen_core.fmen_deploy import __file__ as deploy_file
from fmen_data.datasets import Source
from fmen_eval import validate

TOLERANCE = 1e-6
"""How far, in dB, the package's PSNR of an image may be from ``fmen validate``'s."""


@dataclass(frozen=True)
class SubmissionReport:
    """What was built, and what was measured on the way.

    Attributes:
        path: The zip.
        stem: What its model file and its weights file are called, without their endings.
        metrics: What its ``metrics.json`` says.
        package_psnr: The mean PSNR in dB that the unpacked package's own ``test_demo.py`` gave.
        meets_threshold: Whether the PSNR reaches the challenge's threshold; None if it is not the challenge's data.
        notes: Lines that the user should read.
    """

    path: Path
    stem: str
    metrics: Metrics
    package_psnr: float
    meets_threshold: bool | None
    notes: tuple[str, ...]

    @property
    def psnr(self) -> float:
        """The mean PSNR in dB as ``fmen validate`` gives it under ``ntire``."""
        return float(self.metrics["psnr"])


def build_submission(
    weights: Path,
    data: Source,
    team: Path | None,
    out: Path,
    *,
    layout: str = "ntire2022",
    device: str = "auto",
    progress: bool = True,
) -> SubmissionReport:
    """Build the package and prove that it runs by itself.

    Args:
        weights: FMEN's weights, in either form.
        data: What PSNR is measured on: see ``submission_data.open_images``.
        team: ``team.yaml``; README.md and factsheet.md beside it go before those that ship with the application. None
            takes the example.
        out: The zip to write. It gets this name when the package has passed, not before.
        layout: The challenge that the package is for: a key of ``LAYOUTS``.
        device: Where to measure, here and in the unpacked package: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        progress: Show a progress bar.

    Raises:
        SubmissionError: ``team`` or ``out`` is at fault, the weights are not FMEN x4, or the package fails its test.
        WeightsError: The weights cannot be read.
        DataError: The images cannot be read.
        ValueError: The device is not there.
    """
    rules, who, model = layout_named(layout), load_team(team), inference_form(weights)
    images = open_images(data, rules)
    stem = rules.stem(who.team_id, model.name)
    upscaler = Upscaler(model, device=device, channels_last=False)  # as `fmen validate` measures
    counts = count(model, rules)
    with writing(out) as part, tempfile.TemporaryDirectory(prefix="fmen-submit-") as folder:
        work = Path(folder)
        pairs = copy_out(images, work / "data", rules)
        measured = validate(upscaler, pairs, scale=SCALE, total=len(images.names), progress=progress)
        metrics = {
            **{"layout": rules.name, "team_id": who.team_id, "model": model.name, "file": stem, "scale": SCALE},
            **counts,
            **results(measured, images.name, device_name(upscaler.device)),
        }
        files = package_files(model, rules, who, metrics, images.own, team.parent if team else None)
        part.write_bytes(zipped(files))
        package_psnr = prove(part, work, who.team_id, metrics, cuda=upscaler.device.type == "cuda")
    meets = meets_threshold(measured.psnr, rules) if images.own else None
    return SubmissionReport(out, stem, metrics, package_psnr, meets, notes(rules, who, measured.psnr, images.own))


def inference_form(weights: Path) -> FMEN:
    """FMEN x4 in its inference form, from weights in either form.

    Raises:
        SubmissionError: It is another network, or another scale.
        WeightsError: The weights cannot be read.
    """
    model = reparameterize(load(weights))
    if not isinstance(model, FMEN):
        raise SubmissionError(f"{weights}: holds {model.name}; only FMEN and FMEN-S can be packed for the challenge")
    if model.scale != SCALE:
        raise SubmissionError(f"{weights}: upscales x{model.scale}; the challenge is x{SCALE}")
    return model


def device_name(device: torch.device) -> str:
    """``"CPU"``, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def notes(layout: Layout, team: Team, psnr: float, own_data: bool) -> tuple[str, ...]:
    """What the user should know besides the figures."""
    lines = [threshold_line(psnr, layout, own_data)]
    if team.is_example:
        lines.append("The team is the example's: fill in submission/team.yaml and name it with --team.")
    return tuple(lines)


def package_files(
    model: FMEN, layout: Layout, team: Team, metrics: Metrics, own_data: bool, templates: Path | None
) -> dict[str, bytes]:
    """The content of every file of the package, by its path in the zip."""
    stem = str(metrics["file"])
    weights = weights_bytes(model)
    metrics["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    branch = select_branch(team, stem, constructor(model))
    fields = {
        **team_fields(team),
        **layout_fields(layout),
        "stem": stem,
        "branch": branch,
        "figures": table(metrics),
        "dataset": str(metrics["dataset"]),
        "images": str(len(metrics["images"])),
        "psnr": f"{metrics['psnr']:.4f}",
        "ssim": f"{metrics['ssim']:.4f}",
        "threshold": threshold_line(metrics["psnr"], layout, own_data),
    }
    demo = fields | {
        "first_branch": branch.replace("elif", "if", 1),
        "title": team.title.replace("\\", "/").replace('"', "'"),  # it stands in a docstring there
    }
    header = (
        f"# {layout.challenge}, team {team.team_id:02}: {team.team_name}. Weights: model_zoo/{stem}.pth\n"
        f"# Below this header, byte for byte, fmen_deploy.py of fmen-core, packed by fmen {__version__}.\n"
    )
    texts = {
        "test_demo.py": fill_in("test_demo.py.in", demo),
        "README.md": fill_in("README.md", fields, templates),
        "factsheet.md": fill_in("factsheet.md", fields, templates),
        "select_model.txt": branch + "\n",
        "metrics.json": json.dumps(metrics, indent=1) + "\n",
    }
    return {
        f"models/{stem}.py": header.encode() + Path(deploy_file).read_bytes(),
        f"model_zoo/{stem}.pth": weights,
        **{name: text.encode() for name, text in texts.items()},
    }


def weights_bytes(model: FMEN) -> bytes:
    """The state dict as ``torch.save`` writes it: bare, and on the CPU, so that ``torch.load`` reads it anywhere."""
    buffer = io.BytesIO()
    torch.save({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, buffer)
    return buffer.getvalue()


def constructor(model: FMEN) -> str:
    """The call that builds this network from the model file: its sizes where they are not the defaults."""
    sizes = detect_inference_form(model.state_dict()) or {}
    defaults = inspect.signature(FMEN).parameters
    return f"FMEN({', '.join(f'{key}={size!r}' for key, size in sizes.items() if size != defaults[key].default)})"


def select_branch(team: Team, stem: str, call: str) -> str:
    """The branch for ``select_model`` in the organisers' ``test_demo.py``, indented as it stands there."""
    lines = [
        f"elif model_id == {team.team_id}:",
        f"    # {team.team_name}",
        f"    from models.{stem} import FMEN",
        f'    name, data_range = f"{{model_id:02}}_{stem.split("_", 1)[1]}", {FMEN.data_range}',
        f'    model_path = os.path.join("model_zoo", "{stem}.pth")',
        f"    model = {call}",
        "    model.load_state_dict(torch.load(model_path), strict=True)",
    ]
    return "\n".join("    " + line for line in lines)


def layout_fields(layout: Layout) -> dict[str, str]:
    """What the templates may say about the challenge."""
    fields = {"challenge": layout.challenge, "repository": layout.repository}
    for split, (lr, hr) in layout.folders.items():
        fields |= {f"{split}_lr": lr, f"{split}_hr": hr, f"{split}_suffix": layout.suffixes[split]}
    return fields


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            archive.writestr(entry(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def prove(package: Path, work: Path, model_id: int, metrics: Metrics, *, cuda: bool) -> float:
    """Unpack the zip, run its ``test_demo.py`` where our packages cannot be imported, and compare every image's PSNR.

    Args:
        package: The zip.
        work: A folder with the images under ``data/`` in the challenge's layout; the package is unpacked there.
        model_id: The team's number.
        metrics: What the package declares.
        cuda: Whether it may use a GPU.

    Returns:
        The mean PSNR in dB that the package's own script found.

    Raises:
        SubmissionError: The script fails, or its PSNR differs by more than ``TOLERANCE``.
    """
    folder, saved = work / "unpacked", work / "results"
    saved.mkdir()
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    arguments = ["--data_dir", str(work / "data"), "--save_dir", str(saved), "--model_id", str(model_id)]
    run = run_isolated(folder / "test_demo.py", arguments, writable=saved, threads=torch.get_num_threads(), cuda=cuda)
    if run.returncode:
        reason = (run.stderr.strip() or run.stdout.strip() or f"exit status {run.returncode}").splitlines()[-1]
        raise SubmissionError(f"the package does not run by itself: {reason}")
    found = next(iter(json.loads((saved / "results.json").read_text()).values()))
    package_psnr = dict(zip(found["valid_images"], found["valid_psnr"], strict=True))
    for name, declared in metrics["images"].items():
        there, here = package_psnr.get(name, math.nan), declared["psnr"]
        if there != here and not abs(there - here) <= TOLERANCE:
            raise SubmissionError(f"the package gives {there:.6f} dB for {name}, `fmen validate` {here:.6f} dB")
    if len(package_psnr) != len(metrics["images"]):
        raise SubmissionError(f"the package restored {len(package_psnr)} images, not {len(metrics['images'])}")
    return float(found["valid_ave_psnr"])
