"""`fmen submit check`: valid files pass, and each fault of an invalid one is named."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fmen
import fmen_core
from fmen.json_file import dump_json
from fmen.submission import server_archive
from fmen.submission.build import SubmissionReport
from fmen.submission.check import probe
from fmen.submission.check.findings import Finding, abbreviate, psnr_findings
from fmen.submission.check.package import (
    NOT_RUN,
    UNPROTECTED,
    check_source,
    check_texts,
    compare_psnr,
    import_folders,
    psnr_agrees,
    read_metrics,
)
from fmen.submission.check.run import check_submission, unpack, verdict
from fmen.submission.check.server_archive import DIV2K
from fmen.submission.images import SplitImages, open_images
from fmen.submission.rules import LAYOUTS, Split, SubmissionError
from fmen.submission.sandbox import exit_on_sigterm, find_bubblewrap, run_fresh
from fmen.submission.server_archive import ResultsReport, build_results
from fmen_data import write_image

MODEL, WEIGHTS = "models/team07_fmen_s.py", "model_zoo/team07_fmen_s.pth"
Files = dict[str, bytes]


def read(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def fatal(path: Path, data: Path | None = None, **options: float) -> list[str]:
    findings = check_submission(path, data, run_code=True, **options)  # type: ignore[arg-type]
    return [str(f) for f in findings if f.severity == "fatal"]


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def without(name: str) -> Callable[[Files], None]:
    return lambda files: files.pop(name) and None


def adding(name: str, content: bytes) -> Callable[[Files], None]:
    return lambda files: files.update({name: content})


def declaring(**figures: object) -> Callable[[Files], None]:
    def forge(files: Files) -> None:
        files["metrics.json"] = json.dumps(json.loads(files["metrics.json"]) | figures).encode()

    return forge


def renamed_key(files: Files) -> None:
    state = torch.load(io.BytesIO(files[WEIGHTS]), weights_only=True)
    state["heat.weight"] = state.pop("head.weight")
    files[WEIGHTS] = saved(state)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/this-must-not-run",)


def better_figures(files: Files) -> None:
    metrics = json.loads(files["metrics.json"])
    metrics |= {"params": 300_000, "psnr": 40.0}
    metrics["images"]["second"]["psnr"] += 0.01
    files["metrics.json"] = json.dumps(metrics).encode()
    files["factsheet.md"] = files["factsheet.md"].replace(b"| 341,066 |", b"| 241,066 |")


def two_imports(files: Files) -> None:
    foreign = b"import fmen_core\nfrom .block import Block\nfrom torch import Tensor"
    files[MODEL] = files[MODEL].replace(b"from torch import Tensor", foreign, 1)


def neither_json_nor_weights(files: Files) -> None:
    files["metrics.json"] = b"{"
    del files[WEIGHTS]


def badly_named(files: Files) -> None:
    files["models/fmen.py"] = files.pop(MODEL)


def in_a_folder(files: Files) -> None:
    for name in list(files):
        files[f"package/{name}"] = files.pop(name)


BROKEN: dict[str, tuple[Callable[[Files], None], list[str]]] = {
    "no model file": (without(MODEL), ["models/: no model file"]),
    "two model files": (adding("models/block.py", b""), ["models/: 2 model files instead of one"]),
    "badly named model file": (badly_named, ["models/fmen.py: must be named teamNN_NAME"]),
    "neither weights nor figures": (
        neither_json_nor_weights,
        ["model_zoo/: no weights file", "metrics.json: unexpected content"],
    ),
    "weights of other keys": (
        renamed_key,
        [f"{WEIGHTS}: do not load strictly: head.weight is missing; heat.weight is unknown"],
    ),
    "weights with code": (
        adding(WEIGHTS, saved({"a": Code()})),
        [f"{WEIGHTS}: contain a Python object (posix.system)"],
    ),
    "no weights file": (adding(WEIGHTS, b"no weights"), [f"{WEIGHTS}: not a plain state dict"]),
    "forged figures": (
        better_figures,
        [
            "metrics.json: declares 300,000 parameters, measured 341,066",
            "metrics.json: declares a mean PSNR of 40.0000 dB, but the mean of its images is",
            "dB for second, measured ",
            "factsheet.md: Parameters is 241,066, but 300,000.0000 in metrics.json",
        ],
    ),
    "imports": (
        two_imports,
        [
            f"{MODEL}: imports fmen_core; it must be self-contained",
            f"{MODEL}: imports .block; it must be self-contained",
        ],
    ),
    "no Python": (adding(MODEL, b"class :"), [f"{MODEL}: not valid Python", f"({Path(MODEL).name}, line 1)"]),
    "path outside": (adding("../../evil.txt", b""), ["'../../evil.txt': would be written outside"]),
    "absolute path": (adding("/evil.txt", b""), ["'/evil.txt': would be written outside"]),
    "everything in a folder": (in_a_folder, ["files must be in the root of the zip, but package/"]),
}


def test_package_of_submit_passes(report: SubmissionReport, photos: Path) -> None:
    findings = check_submission(report.path, photos, run_code=True)
    assert [str(finding) for finding in findings if finding.message != UNPROTECTED] == [
        f"info: {MODEL}: 341,066 parameters, 22.2800 G FLOPs, 72.0896 M activations, 34 convolutions",
        f"info: {MODEL}: PSNR {report.psnr:.4f} dB on {photos.name} (2 images)",
    ]


@pytest.mark.parametrize(
    ("severities", "expected"),
    [
        ([], "ready: would run in the organisers' repository (PSNR is not measured without --data)"),
        (["warning", "info"], "ready: would run in the organisers' repository (1 warning)"),
        (["warning", "warning", "info"], "ready: would run in the organisers' repository (2 warnings)"),
        (["fatal"], "not ready: 1 thing is wrong"),
        (["fatal", "fatal", "warning"], "not ready: 2 things are wrong"),
    ],
)
def test_verdict_counts_what_is_wrong(severities: list[str], expected: str, report: SubmissionReport) -> None:
    findings = [Finding(severity, "file", "PSNR 30 dB") for severity in severities]  # type: ignore[arg-type]
    assert verdict(report.path, findings) == expected


def test_verdict_of_an_archive_of_results_names_the_server(archive: Path, photos: Path) -> None:
    findings = check_submission(archive, photos, run_code=True)
    assert verdict(archive, findings) == "ready: the evaluation server would accept it"


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("case", BROKEN)
def test_fault_of_a_package_is_named(case: str, report: SubmissionReport, photos: Path, tmp_path: Path) -> None:
    corrupt, expected = BROKEN[case]
    files = read(report.path)
    corrupt(files)
    found = fatal(write(tmp_path / "broken.zip", files), photos if case == "forged figures" else None)
    assert all(any(line in other for other in found) for line in expected), found
    assert not Path("/tmp/this-must-not-run").exists()


@pytest.mark.parametrize(("second", "faults"), [(math.inf, 0), (31.0, 1)])
def test_infinite_psnr_is_null_in_metrics_json(second: float, faults: int, tmp_path: Path) -> None:
    metrics = {"psnr": math.inf, "images": {"one": {"psnr": math.inf}, "two": {"psnr": second}}}
    metrics |= {"psnr": 31.0} if faults else {}
    (tmp_path / "metrics.json").write_text(dump_json(metrics))
    assert "null" in (tmp_path / "metrics.json").read_text()
    assert len(read_metrics(tmp_path)[1]) == faults


def test_imports_of_a_program_in_the_model_file_and_new_syntax_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('import math, einops\nif __name__ == "__main__":\n    from utils import logger\n')
    (tmp_path / "b.py").write_text("import torch\nmatch 1:\n    case _:\n        pass\n")
    lines = [str(finding) for name in ("a.py", "b.py") for finding in check_source(tmp_path, name)]
    assert lines == [
        "warning: a.py: imports einops, which the organisers may not have installed",
        "warning: b.py: not valid in the organisers' Python 3.9 "
        "(Pattern matching is only supported in Python 3.10 and greater)",
    ]


def test_a_package_is_checked_by_its_own_rules_unless_others_are_named(report: SubmissionReport) -> None:
    asked = {layout: check_submission(report.path, layout=layout) for layout in (None, "ntire2022", "ntire2026")}
    about = {layout: [str(f) for f in findings if f.where == "metrics.json"] for layout, findings in asked.items()}
    other = "warning: metrics.json: the package is for ntire2022, not ntire2026"
    assert about == {None: [], "ntire2022": [], "ntire2026": [other]}


def test_packages_of_2026_are_named_after_the_class() -> None:
    names = {name: layout.stem(3, "fmen-s", "FMEN") for name, layout in LAYOUTS.items()}
    assert names == {"ntire2022": "team03_fmen_s", "ntire2026": "team03_FMEN"}


def test_many_names_are_abbreviated() -> None:
    assert abbreviate(["a", "b", "c"]) == "a, b, c"
    assert abbreviate(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("a", "b", "agree"),
    [
        (30.0, 30.0005, True),
        (30.0005, 30.0, True),
        (30.0, 30.002, False),
        (math.inf, math.inf, True),
        (math.inf, 30.0, False),
    ],
)
def test_psnrs_agree_up_to_the_rounding_of_machines(a: float, b: float, agree: bool) -> None:
    assert psnr_agrees(a, b) is agree


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("FLOPs (fvcore) | 22.2800 G", ""),
        ("FLOPs (fvcore) | 22.2801 G", "FLOPs is 22.2801 G, but 22.2800 in metrics.json"),
        ("FLOPs (fvcore) | 22.2799 G", "FLOPs is 22.2799 G, but 22.2800 in metrics.json"),
        ("FLOPs (fvcore) | 22 G", ""),
        ("FLOPs (fvcore) | 23 G", "FLOPs is 23 G, but 22.2800 in metrics.json"),
        ("Parameters | 341,066", ""),
        ("Parameters | 341,067", "Parameters is 341,067, but 341,066.0000 in metrics.json"),
        ("Convolutions | 34.5", ""),  # half a unit of the last decimal
        ("Activations | 1.0 M", ""),  # not declared
        ("PSNR | 30.12 dB", ""),  # null
        ("PSNR | ,", ""),  # no number
        ("Parameters | \u0663", ""),  # a digit that is not ASCII
    ],
)
def test_figures_in_the_texts_agree_up_to_their_last_decimal(row: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"| {row} |\n")
    found = check_texts(tmp_path, {"flops": 22_280_011_776, "params": 341_066, "convs": 34.45, "psnr": None})
    assert [str(finding) for finding in found] == ([f"fatal: README.md: {fault}"] if fault else [])


@pytest.mark.parametrize(
    ("layout", "split", "official", "required"),
    [
        ("ntire2026", "valid", True, ""),
        ("ntire2026", "test", True, "26.99"),
        ("ntire2022", "valid", True, "29.00"),
        ("ntire2022", "test", True, ""),  # it has no threshold
        ("ntire2022", "valid", False, ""),
    ],
)
def test_a_missed_threshold_is_that_of_the_split(layout: str, split: Split, official: bool, required: str) -> None:
    info, *faults = map(str, psnr_findings(26.95, 2, LAYOUTS[layout], split, SplitImages("x", official), "images"))
    assert info == "info: images: PSNR 26.9500 dB on x (2 images)"
    said = f"fatal: images: the challenge requires {required} dB, measured 26.95 dB"
    assert faults == ([said] if required else [])


def test_mean_psnr_without_images_is_compared_with_the_measured_one(photos: Path, tmp_path: Path) -> None:
    images = open_images(photos, LAYOUTS["ntire2022"])
    for index, name in enumerate(images.names):
        hr = images.read(index)[1]
        assert hr is not None
        write_image(tmp_path / f"{name}.png", hr ^ 1)  # every value differs by 1: 48.1308 dB
    compared = [compare_psnr(tmp_path, MODEL, {"psnr": psnr}, LAYOUTS["ntire2022"], images) for psnr in (48.1308, 48.2)]
    said = f"info: {MODEL}: PSNR 48.1308 dB on {photos.name} (2 images)"
    warning = "warning: metrics.json: declares 48.2000 dB without naming images"
    assert [[str(finding) for finding in findings] for findings in compared] == [[said], [said, warning]]


def test_sr_image_of_another_size_is_named_with_both_sizes(photos: Path, tmp_path: Path) -> None:
    for name in ("0001", "second"):
        write_image(tmp_path / f"{name}.png", np.zeros((8, 12, 3), np.uint8))
    layout = LAYOUTS["ntire2022"]
    (finding,) = compare_psnr(tmp_path, MODEL, {}, layout, open_images(photos, layout))
    assert str(finding) == f"fatal: {MODEL}: the SR image of 0001 is 12x8, not 72x60"


def test_network_that_does_not_return_is_stopped(report: SubmissionReport, tmp_path: Path) -> None:
    files = read(report.path)
    files[MODEL] += b"\nimport time\ntime.sleep(600)\n"
    found = fatal(write(tmp_path / "endless.zip", files), timeout=2)
    assert found == [f"fatal: {MODEL}: not finished after 2 seconds"]


@pytest.mark.parametrize(
    ("corrupt", "expected"),
    [
        (lambda content: b"this is no zip", "not a zip, or damaged"),
        (lambda content: content[:-500], "not a zip, or damaged"),
        (lambda content: content[:400] + bytes(64) + content[464:], "not a zip, or damaged"),
    ],
)
def test_damaged_zip_is_named(
    corrupt: Callable[[bytes], bytes], expected: str, report: SubmissionReport, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.zip"
    path.write_bytes(corrupt(report.path.read_bytes()))
    assert [line for line in fatal(path) if expected in line]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_within_other_compressions_is_named(method: int, tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("models/a.py", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)
    assert [line for line in fatal(path) if "not a zip, or damaged" in line]


def test_a_name_in_a_zip_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("caf\xe9.py", b"")
    path.write_bytes(path.read_bytes().replace("caf\xe9".encode(), b"caf\xff\xff"))
    assert [line for line in fatal(path) if "not a zip, or damaged" in line]


def test_file_where_a_folder_should_be_is_named(report: SubmissionReport, tmp_path: Path) -> None:
    found = fatal(write(tmp_path / "clash.zip", {"models": b"", **read(report.path)}))
    assert len(found) == 1 and "clash.zip: contains a file and a folder of the same name" in found[0]


def test_symbolic_link_is_not_unpacked(report: SubmissionReport, tmp_path: Path) -> None:
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("models/team07_x.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert fatal(path) == ["fatal: 'models/team07_x.py': is a symbolic link"]


def test_probe_imports_the_packages_of_the_process_that_starts_it(tmp_path: Path) -> None:
    (tmp_path / "fmen").mkdir()
    (tmp_path / "fmen" / "__init__.py").write_text("raise SystemExit('the given fmen')")
    run = run_fresh([str(probe.__file__), str(tmp_path)], folder=tmp_path, threads=1, cuda=False)
    assert run.stderr == "the given fmen\n"
    assert import_folders()[0] == Path(str(fmen.__file__)).resolve().parents[1]


def test_zip_that_unpacks_to_too_much_is_not_unpacked(
    report: SubmissionReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inflated(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        entries = listed(archive)
        for entry in entries:
            entry.file_size = 2**31
        return entries

    listed = zipfile.ZipFile.infolist
    monkeypatch.setattr(zipfile.ZipFile, "infolist", inflated)
    assert fatal(report.path) == ["fatal: package.zip: unpacks to more than 8 GiB"]


FOREIGN = '''
import torch
class Repeat(torch.nn.Module):
    """Repeats every pixel 4x4 times after a 1x1 convolution."""
    def __init__(self, channels=3):
        super().__init__()
        self.mix = torch.nn.Conv2d(3, channels, 1, bias=False)
    def forward(self, x):
        assert x.max() <= 1
        return torch.nn.functional.interpolate(self.mix(x), scale_factor=4)
'''


FOREIGN_DEMO = """
import os, torch
from utils import utils_image as util
def select_model(args, device):
    from models.team12_repeat import Repeat
    model_path = os.path.join("model_zoo", "team12_repeat.pth")
    model = Repeat(channels=3)
    model.load_state_dict(torch.load(model_path)["params"], strict=True)
    return model, f"{args.model_id:02}_repeat", 1.0, None
"""


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("demo", ["", FOREIGN_DEMO])
def test_package_of_another_team_is_measured(demo: str, photos: Path, tmp_path: Path) -> None:
    files = {
        "models/team12_repeat.py": FOREIGN.replace("channels=3", "channels" if demo else "channels=3").encode(),
        "model_zoo/team12_repeat.pth": saved({"params": {"mix.weight": torch.eye(3)[..., None, None]}}),
    }
    files |= {"test_demo.py": demo.encode()} if demo else {}
    lines = [str(finding) for finding in check_submission(write(tmp_path / "other.zip", files), photos, run_code=True)]
    assert not [line for line in lines if line.startswith("fatal")], lines
    assert any("no data range is declared; 1 is assumed" in line for line in lines) == (not demo)
    assert any("9 parameters, 0.0006 G FLOPs, 0.1966 M activations, 1 convolutions" in line for line in lines)
    assert any("PSNR " in line and "(2 images)" in line for line in lines)


@pytest.mark.usefixtures("forked")
def test_code_in_a_file_that_select_model_loads_does_not_run(photos: Path, tmp_path: Path) -> None:
    demo = FOREIGN_DEMO.replace("    model = ", '    torch.load("extra.bin")\n    model = ')
    files = {
        "models/team12_repeat.py": FOREIGN.encode(),
        "model_zoo/team12_repeat.pth": saved({"params": {"mix.weight": torch.eye(3)[..., None, None]}}),
        "test_demo.py": demo.encode(),
        "extra.bin": saved({"a": Code()}),
    }
    lines = [str(finding) for finding in check_submission(write(tmp_path / "other.zip", files), run_code=True)]
    assert any(line.startswith("warning: test_demo.py: select_model fails: UnpicklingError") for line in lines), lines


@pytest.fixture(scope="module")
def results(weights: Path, photos: Path, team: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultsReport:
    out = tmp_path_factory.mktemp("results") / "results.zip"
    return build_results(fmen_core.load(weights), photos, team, out, device="cpu", progress=False)


@pytest.fixture(scope="module")
def archive(results: ResultsReport) -> Path:
    return results.path


def test_results_report_the_means_over_the_images(results: ResultsReport, report: SubmissionReport) -> None:
    assert results.images == 2
    assert results.psnr == pytest.approx(report.psnr, abs=1e-6)
    assert f"{results.seconds:.4f}" == read(results.path)["readme.txt"].decode().split(" : ")[1].split("\n")[0]


def test_the_first_pass_is_not_timed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    class Repeat(torch.nn.Module):
        scale, data_range = 4, 255.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passes.append(1 if passes else 9)  # seconds
            return torch.nn.functional.interpolate(x, scale_factor=4)

    monkeypatch.setattr(server_archive, "time", SimpleNamespace(perf_counter=lambda: sum(passes)))
    assert build_results(Repeat(), photos, None, tmp_path / "r.zip", device="cpu", progress=False).seconds == 1


def test_archive_has_the_images_under_their_hr_names_in_its_root(
    archive: Path, report: SubmissionReport, photos: Path
) -> None:
    files = read(archive)
    assert list(files) == ["0001.png", "second.png", "readme.txt"]
    lines = files["readme.txt"].decode().splitlines()
    assert lines[0].startswith("runtime per image [s] : 0.")
    assert lines[1:3] == ["CPU[1] / GPU[0] : 1", "Extra Data [1] / No Extra Data [0] : 1"]
    assert lines[3].startswith('Other description : FMEN-S "quoted" \\ back. Costs $5') and len(lines) == 4
    findings = [str(finding) for finding in check_submission(archive, photos, run_code=True)]
    assert findings == [f"info: images: PSNR {report.psnr:.4f} dB on {photos.name} (2 images)"]


def png(bits: int = 8, colour: int = 2, size: tuple[int, int] = (60, 72)) -> bytes:
    """The head of a PNG."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", size[1], size[0], bits, colour, 0, 0, 0, 0)


BROKEN_RESULTS = {
    "image missing": (without("second.png"), "images: 1 of 2 missing: second.png"),
    "image too many": (adding("third.png", png()), "images: 1 not in the data: third.png"),
    "16 bits": (adding("0001.png", png(bits=16)), "0001.png: has 16 bits per channel, not 8"),
    "alpha": (adding("0001.png", png(colour=6)), "0001.png: is RGB with alpha, not RGB"),
    "width no multiple": (adding("0001.png", png(size=(60, 70))), "0001.png: is 70x60, not a multiple of 4"),
    "height no multiple": (adding("0001.png", png(size=(58, 72))), "0001.png: is 72x58, not a multiple of 4"),
    "damaged image": (adding("0001.png", png()), "0001.png: is damaged"),
    "end of a PNG missing": (adding("0001.png", png()[:20]), "0001.png: not a PNG"),
    "no PNG": (adding("0001.png", b"\xff\xd8\xff"), "0001.png: not a PNG"),
    "no readme": (without("readme.txt"), "readme.txt: is missing"),
    "readme without a line": (
        lambda files: files.update({"readme.txt": files["readme.txt"].replace(b"CPU[1] / GPU[0]", b"CPU / GPU")}),
        "readme.txt: line 'CPU[1] / GPU[0]' is missing",
    ),
    "readme with a wrong value": (
        lambda files: files.update({"readme.txt": files["readme.txt"].replace(b"GPU[0] : 1", b"GPU[0] : yes")}),
        "readme.txt: invalid value 'yes' for 'CPU[1] / GPU[0]'",
    ),
    "image in a folder": (
        lambda files: files.update({"sr/second.png": files.pop("second.png")}),
        "sr/second.png: only PNG images and readme.txt belong in the archive's root",
    ),
}


@pytest.mark.parametrize("case", BROKEN_RESULTS)
def test_fault_of_an_archive_is_named(case: str, archive: Path, photos: Path, tmp_path: Path) -> None:
    corrupt, expected = BROKEN_RESULTS[case]
    files = read(archive)
    corrupt(files)
    found = fatal(write(tmp_path / "broken.zip", files), photos)
    assert any(expected in line for line in found), found


def test_image_of_wrong_size_is_named_with_the_right_one(archive: Path, photos: Path, tmp_path: Path) -> None:
    files = read(archive)
    write_image(tmp_path / "small.png", np.zeros((60, 68, 3), np.uint8))
    files["0001.png"] = (tmp_path / "small.png").read_bytes()
    assert fatal(write(tmp_path / "broken.zip", files), photos) == ["fatal: 0001.png: is 68x60, must be 72x60"]


def test_missing_images_of_div2k_are_found_by_number_without_the_data(tmp_path: Path, archive: Path) -> None:
    image = read(archive)["0001.png"]
    files = {f"{number:04}x4.png": image for number in range(801, 900)}
    files["readme.txt"] = read(archive)["readme.txt"]
    assert fatal(write(tmp_path / "valid.zip", files)) == ["fatal: images: 1 of 100 missing: 0900x4.png"]
    assert {"valid": range(801, 901), "test": range(901, 1001)} == DIV2K


def test_results_of_the_test_split_need_no_hr_images(weights: Path, team: Path, tmp_path: Path) -> None:
    lr = np.zeros((16, 20, 3), np.uint8)
    for number in (901, 902):
        write_image(tmp_path / f"set/DIV2K_LSDIR_test_LR/{number:04}x4.png", lr)
    out = tmp_path / "r.zip"
    report = build_results(
        fmen_core.load(weights),
        tmp_path / "set",
        team,
        out,
        layout="ntire2026",
        split="test",
        device="cpu",
        progress=False,
    )
    assert report.psnr is None and list(read(out)) == ["0901.png", "0902.png", "readme.txt"]
    assert check_submission(out, tmp_path / "set", layout="ntire2026", split="test") == []
    with pytest.raises(SubmissionError, match="no folder DIV2K_test_LR"):
        build_results(fmen_core.load(weights), tmp_path / "set", team, out, split="test")


def test_threshold_applies_to_the_challenges_own_images(archive: Path, photos: Path, tmp_path: Path) -> None:
    for source in photos.iterdir():
        target = tmp_path / "set/DIV2K_valid_HR" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    found = fatal(archive, tmp_path / "set")
    assert len(found) == 1 and "the challenge requires 29.00 dB, measured " in found[0]


def test_missing_file_is_a_submission_error(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"none\.zip: no such file"):
        check_submission(tmp_path / "none.zip")


# --- a stranger's code ------------------------------------------------------------------------------------------------


def with_code(report: SubmissionReport, code: str, path: Path) -> Path:
    files = read(report.path)
    adding(MODEL, files[MODEL] + code.encode())(files)
    return write(path, files)


def test_code_is_run_on_request_only(report: SubmissionReport, tmp_path: Path) -> None:
    package = with_code(report, "\nraise RuntimeError('it ran')\n", tmp_path / "a.zip")
    findings = check_submission(package)
    assert NOT_RUN in [finding.message for finding in findings]
    assert not any("it ran" in finding.message for finding in findings)
    assert verdict(package, findings).startswith("nothing wrong in its files; 'fmen submit check --run-code'")
    assert any("it ran" in line for line in fatal(package))


@pytest.mark.skipif(find_bubblewrap() is None, reason="bubblewrap is not installed, or not allowed here")
def test_bubblewrap_hides_files_network_and_environment(
    report: SubmissionReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "1")
    (tmp_path / "hr.png").write_bytes(b"HR")
    # Through the C library, where no audit hook sees it.
    code = f"""
import ctypes as _c, os as _o
_lib = _c.CDLL(None)
_lib.fopen.restype = _c.c_void_p
_seen = [bool(_lib.fopen({str(tmp_path / "hr.png").encode()!r}, b"r")), bool(_lib.fopen(b"/usr/escaped", b"w"))]
_seen += [len(_o.listdir("/sys/class/net")) if _o.path.isdir("/sys/class/net") else 0, "SECRET" in _o.environ]
_seen += [len([name for name in _o.listdir("/proc") if name.isdigit()]) > 3]
raise RuntimeError(f"seen {{_seen}}")
"""
    (found,) = fatal(with_code(report, code, tmp_path / "a.zip"))
    assert "seen [False, False, 0, False, False]" in found


@pytest.mark.usefixtures("forked")
def test_without_bubblewrap_the_code_runs_with_a_warning(
    report: SubmissionReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmen.submission.check.package.find_bubblewrap", lambda: None)
    findings = check_submission(report.path, run_code=True)
    assert [f.message for f in findings if f.severity == "warning"] == [UNPROTECTED]


def test_a_strangers_code_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen.submission.sandbox.find_bubblewrap", lambda: None)
    monkeypatch.setattr("fmen.submission.sandbox.LARGEST_FILE", 1000)
    script = tmp_path / "a.py"
    options = {"folder": tmp_path, "threads": 1, "cuda": False, "timeout": 30.0}
    script.write_text("open('large', 'wb', 0).write(bytes(2000)); open('large', 'ab', 0).write(bytes(9))")
    assert "File too large" in run_fresh([str(script)], readable=[], **options).stderr  # type: ignore[arg-type]
    assert run_fresh([str(script)], **options).stderr == ""  # type: ignore[arg-type]
    script.write_text("import resource; print(resource.getrlimit(resource.RLIMIT_CPU)[0]); bytearray(2**50)")
    run = run_fresh([str(script)], readable=[], **options)  # type: ignore[arg-type]
    assert run.stdout == f"{31 * (os.cpu_count() or 1)}\n" and "MemoryError" in run.stderr


def test_a_busy_strangers_code_is_stopped_by_the_timeout_not_by_the_limit_of_cpu_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmen.submission.sandbox.find_bubblewrap", lambda: None)
    script = tmp_path / "a.py"
    script.write_text(
        "import hashlib, threading\n"
        "def work():\n"
        "    while True: hashlib.sha256(bytes(10**7))\n"
        "for _ in range(4): threading.Thread(target=work).start()\n"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        run_fresh([str(script)], folder=tmp_path, threads=1, cuda=False, timeout=2.0, readable=[])


def test_the_largest_size_itself_is_unpacked(
    report: SubmissionReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(map(len, read(report.path).values()))
    monkeypatch.setattr("fmen.submission.check.run.LARGEST", size)
    assert unpack(report.path, tmp_path / "fits") == []
    monkeypatch.setattr("fmen.submission.check.run.LARGEST", size - 1)
    assert len(unpack(report.path, tmp_path / "too large")) == 1


LEFT = "import os as _o\n{}\n_o._exit(0)\n"


@pytest.mark.parametrize(
    "result",
    [
        "open('../probe.json', 'w').write('not json')",
        "open('../probe.json', 'w').write('[]')",
        """open('../probe.json', 'w').write('{"counts": {"params": 1}}')""",
        "open('../probe.json', 'w').write('{' + ' ' * 2**20 + '}')",
        "_o.mkfifo('../probe.json')",
        "import ctypes; ctypes.CDLL(None).symlink(b'/dev/zero', b'../probe.json')",
    ],
)
@pytest.mark.usefixtures("forked")
def test_a_result_that_the_code_writes_itself_is_refused(result: str, report: SubmissionReport, tmp_path: Path) -> None:
    (found,) = fatal(with_code(report, "\n" + LEFT.format(result), tmp_path / "a.zip"))
    assert found == f"fatal: {MODEL}: terminated the process that ran it: exit status 0"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "damaged", "nothing"])
def test_only_images_that_are_files_of_the_folder_are_measured(kind: str, photos: Path, tmp_path: Path) -> None:
    sr, layout = tmp_path / "sr", LAYOUTS["ntire2022"]
    sr.mkdir()
    if kind == "pipe":
        os.mkfifo(sr / "0001.png")
    elif kind == "link":
        (sr / "0001.png").symlink_to(photos / "0001.png")
    elif kind == "folder":
        sr.rmdir()
        sr.symlink_to(photos)
    elif kind == "damaged":
        (sr / "0001.png").write_bytes((photos / "0001.png").read_bytes()[:99])
    (finding,) = compare_psnr(sr, MODEL, {}, layout, open_images(photos, layout))
    assert str(finding) == f"fatal: {MODEL}: the SR image of 0001 is missing or damaged"


def test_the_end_of_a_long_output_is_kept_whatever_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "a.py"
    script.write_text("import os\nos.write(1, b'x' * 70_000 + b'\\xff')\nos.write(2, b'\\xfe end')")
    run = run_fresh([str(script)], folder=tmp_path, threads=1, cuda=False)
    assert run.stdout == "x" * (2**16 - 1) + "\N{REPLACEMENT CHARACTER}"
    assert run.stderr == "\N{REPLACEMENT CHARACTER} end"


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_strangers_code_ends_with_the_check(ending: signal.Signals, tmp_path: Path) -> None:
    if ending == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    script, beats, temporary = tmp_path / "a.py", tmp_path / "beats", tmp_path / "temporary"
    temporary.mkdir()
    script.write_text("import time\nwhile True: open('beats', 'a').write('x'); time.sleep(0.02)")
    code = f"""
import tempfile
from pathlib import Path
from fmen.submission import sandbox
sandbox.find_bubblewrap = lambda: None
with tempfile.TemporaryDirectory(dir={str(temporary)!r}):
    sandbox.run_fresh([{str(script)!r}], folder=Path({str(tmp_path)!r}), threads=1, cuda=False, readable=[])
"""
    check = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    wait_until(beats.is_file)
    check.send_signal(ending)
    assert check.wait(30) == (143 if ending == signal.SIGTERM else -9)
    wait_until(lambda: has_stopped(beats))
    assert ending == signal.SIGKILL or not list(temporary.iterdir())


def has_stopped(file: Path) -> bool:
    """Whether a file that a process appends to fifty times per second does not grow within a second."""
    before = file.stat().st_size
    time.sleep(1)
    return file.stat().st_size == before


def test_an_ignored_sigterm_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with exit_on_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for half a minute at most."""
    stop = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.05)


def test_data_without_run_code_is_a_warning(report: SubmissionReport, photos: Path) -> None:
    warnings = [f.message for f in check_submission(report.path, photos) if f.severity == "warning"]
    assert warnings == ["PSNR is not measured: with a package, --data needs --run-code"]


def test_an_archive_of_unnamed_images_is_not_called_ready(archive: Path) -> None:
    line = "nothing wrong in its files; name the data with --data to check that these are all"
    assert verdict(archive, check_submission(archive)) == line


def test_a_name_twice_in_a_zip_is_named_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("readme.txt", "0001.png", "readme.txt", "readme.txt"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                file.writestr(name, b"")
    assert fatal(tmp_path / "a.zip") == ["fatal: a.zip: contains more than once: readme.txt"]
