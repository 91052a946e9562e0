"""The challenge package that `fmen submit` builds."""

from __future__ import annotations

import ast
import errno
import hashlib
import importlib.util
import io
import json
import math
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fmen_core
from fmen.cli.submit import origin_of
from fmen.errors import UserError
from fmen.sources.networks import build_network
from fmen.submission import build as submission
from fmen.submission.build import SubmissionReport, build_submission
from fmen.submission.metrics import count_complexity, meets_threshold, threshold_line
from fmen.submission.rules import SubmissionError, get_layout
from fmen.submission.sandbox import PROJECT_PACKAGES, run_isolated
from fmen.submission.source import Origin
from fmen.submission.team import TEMPLATES, load_team
from fmen_core.pretrained import bundled
from fmen_data import open_dataset, write_image
from fmen_eval import validate


def test_package_alone_gives_the_psnr_of_validate(report: SubmissionReport, weights: Path, photos: Path) -> None:
    upscaler = fmen_core.Upscaler(fmen_core.load(weights), device="cpu")
    expected = validate(upscaler, open_dataset(photos), scale=4, progress=False)
    assert report.psnr == pytest.approx(expected.psnr, abs=1e-9)
    assert report.package_psnr == pytest.approx(expected.psnr, abs=1e-6)


def test_package_has_the_organisers_layout_and_leaves_no_other_file(report: SubmissionReport) -> None:
    assert zipfile.ZipFile(report.path).namelist() == [
        *("README.md", "factsheet.md", "metrics.json", "model_zoo/team07_fmen_s.pth", "models/team07_fmen_s.py"),
        *("select_model.txt", "test_demo.py"),
    ]
    assert [path.name for path in report.path.parent.iterdir()] == ["package.zip"]


def test_model_file_is_deploy_byte_for_byte_below_a_comment(unpacked: Path) -> None:
    source = Path(fmen_core.__file__).with_name("fmen_deploy.py").read_bytes()
    packed = (unpacked / "models/team07_fmen_s.py").read_bytes()
    header = packed.removesuffix(source)
    assert header != packed
    assert all(line.startswith(b"#") for line in header.splitlines())


def test_weights_load_strictly_as_tensors_only(unpacked: Path) -> None:
    spec = importlib.util.spec_from_file_location("packed", unpacked / "models/team07_fmen_s.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state = torch.load(unpacked / "model_zoo/team07_fmen_s.pth", weights_only=True)
    module.FMEN().load_state_dict(state, strict=True)
    assert all(type(value) is torch.Tensor and value.device.type == "cpu" for value in state.values())


def test_metrics_declare_the_reparameterized_network(unpacked: Path) -> None:
    metrics = json.loads((unpacked / "metrics.json").read_text())
    assert (metrics["params"], metrics["flops"], metrics["convs"]) == (341_066, 22_280_011_776, 34)
    assert metrics["psnr"] == pytest.approx(sum(i["psnr"] for i in metrics["images"].values()) / 2)
    content = (unpacked / "model_zoo/team07_fmen_s.pth").read_bytes()
    assert metrics["weights_sha256"] == hashlib.sha256(content).hexdigest()


def test_texts_are_filled_in_from_the_team_and_the_figures(unpacked: Path, report: SubmissionReport) -> None:
    for name in ("README.md", "factsheet.md"):
        text = (unpacked / name).read_text(encoding="utf-8")
        assert f"{report.psnr:.4f} dB" in text and "| Parameters | 341,066 |" in text and "Ünïcode & Söhne" in text
    assert "Costs $5" in text and "- Extra data beyond the challenge's own: yes" in text


def test_scripts_import_only_torch_numpy_and_opencv(unpacked: Path) -> None:
    allowed = {"torch", "numpy", "cv2", "models", *sys.stdlib_module_names}
    for path in (unpacked / "test_demo.py", unpacked / "models/team07_fmen_s.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.partition(".")[0] for name in names} <= allowed


def test_select_branch_in_test_demo_is_the_one_for_the_organisers(unpacked: Path) -> None:
    branch = (unpacked / "select_model.txt").read_text(encoding="utf-8")
    assert 'name, data_range = f"{model_id:02}_fmen_s", 255.0\n' in branch
    assert branch.replace("elif", "if", 1) in (unpacked / "test_demo.py").read_text(encoding="utf-8")
    assert branch in (unpacked / "README.md").read_text(encoding="utf-8")


def test_demo_runs_from_any_folder_on_a_benchmark_folder_with_ssim(unpacked: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    hr = rng.integers(0, 256, (48, 52, 3), np.uint8)
    write_image(tmp_path / "set/HR/one.png", hr)
    write_image(tmp_path / "set/LR_bicubic/X4/onex4.png", np.ascontiguousarray(hr[::4, ::4]))
    command = [sys.executable, str(unpacked / "test_demo.py"), "--data_dir", "set", "--save_dir", "sr", "--ssim"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    results = json.loads((tmp_path / "sr/results.json").read_text())["07_fmen_s"]
    pairs = open_dataset(tmp_path / "set")
    upscaler = fmen_core.Upscaler(fmen_core.load(unpacked / "model_zoo/team07_fmen_s.pth"), device="cpu")
    expected = validate(upscaler, pairs, scale=4, progress=False)
    assert results["valid_ave_ssim"] == pytest.approx(expected.ssim, abs=1e-5)
    assert results["valid_ave_psnr"] == pytest.approx(expected.psnr, abs=1e-3)
    assert (tmp_path / "sr/07_fmen_s/valid/one.png").is_file()


def test_same_files_give_the_same_zip() -> None:
    files = {"b.txt": b"b", "a.txt": b"a"}
    content = submission.zip_bytes(files)
    assert content == submission.zip_bytes(dict(sorted(files.items())))
    entries = zipfile.ZipFile(io.BytesIO(content)).infolist()
    assert {(entry.date_time, entry.external_attr >> 16) for entry in entries} == {((1980, 1, 1, 0, 0, 0), 0o644)}


def test_same_weights_give_the_same_weights_file(weights: Path) -> None:
    assert submission.weights_bytes(fmen_core.load(weights)) == submission.weights_bytes(fmen_core.load(weights))


ISOLATED = f"""
import importlib, os, socket, subprocess
import sympy  # which PyTorch requires
for name in (*{PROJECT_PACKAGES}, "yaml", "pydantic.fields"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(error)
for escape in (
    lambda: os.system("true"),
    lambda: subprocess.run(["true"]),
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: open(__file__ + ".txt", "w"),
    lambda: os.open(__file__, os.O_WRONLY),
    lambda: os.open(__file__, os.O_RDWR),
    lambda: os.open(__file__ + ".txt", os.O_RDONLY | os.O_CREAT),
    lambda: os.remove(__file__),
    lambda: os.rename("inside.txt", __file__),
):
    try:
        escape()
    except PermissionError as error:
        print(error)
open("inside.txt", "w").close()
os.close(os.open(__file__, os.O_RDONLY))
os.close(os.open("inside.txt", os.O_WRONLY))
print("GPUs: " + repr(os.environ["CUDA_VISIBLE_DEVICES"]))
"""


def test_isolated_code_reaches_neither_this_project_nor_files_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/inside.txt").touch()
    script = tmp_path / "script.py"
    script.write_text(ISOLATED)
    run = run_isolated(script, [], writable=tmp_path / "work", threads=1, cuda=False)
    assert run.returncode == 0, run.stderr
    imports, escapes, gpus = run.stdout.splitlines()[:6], run.stdout.splitlines()[6:-1], run.stdout.splitlines()[-1]
    # pydantic.fields is refused at its parent package.
    assert imports == [f"{name} is not part of the package" for name in (*PROJECT_PACKAGES, "yaml", "pydantic")]
    assert len(escapes) == 9 and all(line.startswith("the package's code ") for line in escapes)
    assert gpus == "GPUs: ''"
    assert script.read_text() == ISOLATED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py", "work"]


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "import torch.nn.functional as F\n",
            "import torch.nn.functional as F\n__import__('fmen_core')\n",
            "does not run on its own: ModuleNotFoundError: fmen_core",
        ),
        ("SLOPE = 0.1", "SLOPE = 0.2", "dB for 0001, `fmen validate` "),
    ],
)
def test_package_that_fails_verification_is_not_written(
    before: str,
    after: str,
    message: str,
    weights: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    network, out = fmen_core.reparameterize(fmen_core.load(weights)), tmp_path / "out/p.zip"
    origin = Origin.of(network)
    (tmp_path / "changed.py").write_text(origin.file.read_text(encoding="utf-8").replace(before, after, 1))
    origin = replace(origin, file=tmp_path / "changed.py")
    out.parent.mkdir()
    with pytest.raises(SubmissionError, match=message):
        build_submission(network, photos, None, out, origin=origin, device="cpu", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("forked")
def test_a_file_with_a_byte_order_mark_is_packed(photos: Path, tmp_path: Path) -> None:
    code = (
        "from torch import nn\n\n\nclass Mine(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))\n"
    )
    (tmp_path / "mine.py").write_text(code, encoding="utf-8-sig")
    network = build_network(f"{tmp_path / 'mine.py'}:Mine", 4)
    report = build_submission(
        network, photos, None, tmp_path / "p.zip", origin=origin_of(network), device="cpu", progress=False
    )
    assert report.package_psnr == pytest.approx(report.psnr, abs=1e-6)
    (tmp_path / "other.py").write_text(code.replace("Mine", "name"))
    network = build_network(f"{tmp_path / 'other.py'}:name", 4)
    with pytest.raises(SubmissionError, match=r"^name: the organisers' test_demo\.py has such a variable; rename"):
        build_submission(network, photos, None, tmp_path / "q.zip", origin=origin_of(network), progress=False)


def test_full_disk_leaves_an_older_package_and_no_other_file(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.zip"
    out.write_bytes(b"older")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(out))

    monkeypatch.setattr(submission, "verify_package", full)
    with pytest.raises(SubmissionError, match=r"p\.zip: cannot be written \(No space left on device\)"):
        build_submission(fmen_core.load(weights), photos, None, out, device="cpu", progress=False)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("p.tar", r"p\.tar: end the name in \.zip"),
        (".", "is a folder; name a file"),
        ("file/p.zip", "file: cannot be written"),
    ],
)
def test_unwritable_output_is_one_line(out: str, message: str, weights: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        build_submission(fmen_core.load(weights), photos, None, tmp_path / out, device="cpu", progress=False)


def test_the_folder_of_the_package_is_created(weights: Path, photos: Path, tmp_path: Path) -> None:
    built = build_submission(
        fmen_core.load(weights), photos, None, tmp_path / "new/p.zip", device="cpu", progress=False
    )
    assert built.path.is_file()


def test_other_scales_are_refused(tmp_path: Path, photos: Path) -> None:
    network = fmen_core.create_model("fmen-s", scale=2)
    with pytest.raises(SubmissionError, match=r"^fmen-s is an x2 network; the challenge is x4$"):
        build_submission(network, photos, None, tmp_path / "p.zip", progress=False)


def test_unknown_layout_is_named_with_the_known_ones(weights: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="unknown layout 'ntire1999'; choose one of ntire2022, ntire2026"):
        build_submission(fmen_core.load(weights), photos, None, tmp_path / "p.zip", layout="ntire1999")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("team_id: 7\n", "", "team_id is missing"),
        ("team_id: 7", "team_id: 100", "team_id = 100: give at most 99"),
        ("extra_data: true", "extra_data: perhaps", "extra_data = 'perhaps': give true or false"),
        (
            "extra_data: true",
            "extra_data: true\ncolour: red",
            r"colour: unknown key; the keys are team_id, team_name, ",
        ),
        ("team_name", "team_nmae", "team_name is missing; team_nmae: unknown key; did you mean team_name?"),
        ("affiliation: B", "affiliaton: B", r"affiliaton: unknown key; did you mean affiliation\?"),
        ("lead@team.org", "nobody", "contact = 'nobody': give an e-mail address"),
        ("members: ", "members: [] #", r"members = \[\]: give 1 or more"),
        ("affiliation: B", "affiliation: [B]", r"team\.yaml: members\.0\.affiliation = \['B'\]: give text$"),
        ("title: FMEN-S", "title: |\n  FMEN\n  S", r"title = 'FMEN\\nS.*': give a single line"),
        ("Ünïcode & Söhne", '"a\\0b"', "give a single line, without control characters"),
        ("team_id: 7", "team_id: 7\nteam_id: 8", "cannot be read as YAML: line 3: team_id is given twice"),
        (None, "[1, 2]", "expected the keys team_id, .* found list"),
        (None, "a: [", "cannot be read as YAML"),
        (None, "\x00", "cannot be read as YAML"),
        (None, "title: 2022-13-45", "cannot be read as YAML: .*month must be in"),
    ],
)
def test_invalid_team_file_is_one_line(
    before: str | None, after: str, message: str, team: Path, tmp_path: Path
) -> None:
    path = tmp_path / "team.yaml"
    content = after if before is None else team.read_text(encoding="utf-8").replace(before, after)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SubmissionError, match=message) as caught:
        load_team(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_missing_team_file_names_the_example(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"none\.yaml: no such team file; start from"):
        load_team(tmp_path / "none.yaml")


def test_templates_beside_the_team_file_take_precedence(team: Path, tmp_path: Path) -> None:
    fields = {"psnr": "31.0"}
    (tmp_path / "README.md").write_text("Ours: $psnr", encoding="utf-8")
    assert submission.fill_in("README.md", fields, tmp_path) == "Ours: 31.0"
    (tmp_path / "README.md").write_text("$psnr $team_nmae", encoding="utf-8")
    with pytest.raises(SubmissionError, match=r"README\.md: unknown field \$team_nmae; the fields are psnr"):
        submission.fill_in("README.md", fields, tmp_path)
    (tmp_path / "README.md").write_text("nothing measured", encoding="utf-8")
    with pytest.raises(SubmissionError, match=r"the measured PSNR is missing; use the field \$psnr"):
        submission.fill_in("README.md", fields, tmp_path)


def test_templates_are_read_before_images_are_measured(
    weights: Path, photos: Path, team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team.yaml").write_bytes(team.read_bytes())
    monkeypatch.setattr(submission, "validate", lambda *_, **__: pytest.fail("images were measured"))
    for text, message in (("costs $5: $psnr", "write \\$\\$ for a dollar sign"), ("costs", "use the field")):
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
        with pytest.raises(SubmissionError, match=rf"README\.md: .*{message}"):
            build_submission(fmen_core.load(weights), photos, tmp_path / "team.yaml", tmp_path / "p.zip")


def test_the_name_of_a_team_declares_no_encoding(weights: Path, photos: Path, team: Path, tmp_path: Path) -> None:
    content = team.read_text(encoding="utf-8").replace("Ünïcode & Söhne", "'Sparse coding: fast SR'")
    (tmp_path / "team.yaml").write_text(content, encoding="utf-8")
    built = build_submission(
        fmen_core.load(weights), photos, tmp_path / "team.yaml", tmp_path / "p.zip", device="cpu", progress=False
    )
    with zipfile.ZipFile(built.path) as archive:
        assert b"\n# Team: Sparse coding: fast SR\n" in archive.read(f"models/{built.stem}.py")


def test_submission_folder_and_application_share_one_set_of_templates() -> None:
    folder = Path(__file__).resolve().parents[3] / "submission"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "factsheet.md", "team.yaml"]
    assert all((folder / name).samefile(TEMPLATES / name) for name in names)
    assert load_team(folder / "team.yaml").is_example


def test_released_weights_give_the_published_psnr_through_the_package(reference: Path, tmp_path: Path) -> None:
    report = build_submission(
        fmen_core.load(reference / "weights/team03_fmen.pth"),
        reference / "data/Set5",
        None,
        tmp_path / "p.zip",
        device="cpu",
        progress=False,
    )
    assert math.floor(report.package_psnr * 1e4 + 0.5) == 301298
    assert report.metrics["ssim"] == pytest.approx(0.8632, abs=5e-5)


@pytest.mark.parametrize(("layout", "per_pixel"), [("ntire2022", 48 * 27 + 48), ("ntire2026", 48 * 27)])
def test_each_challenge_counts_flops_by_its_own_rule(layout: str, per_pixel: int) -> None:
    if layout == "ntire2026":
        pytest.importorskip("fvcore", reason="fvcore is missing: pip install 'fmen[ntire2026]'")
    network = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.LeakyReLU(), nn.PixelShuffle(4))
    counts = count_complexity(network, get_layout(layout))
    assert counts["flops"] == 256 * 256 * per_pixel  # fvcore counts no activation functions


@pytest.mark.parametrize(("weights", "meets"), [("fmen-s_x4", True), (None, False)])
def test_the_threshold_is_met_or_not_on_the_challenges_own_images_only(
    weights: str | None, meets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "verify_package", lambda *_, **__: 0.0)
    for folder in ("set/DIV2K_valid_HR", "other"):
        write_image(tmp_path / folder / "0801.png", np.full((48, 48, 3), 128, np.uint8))
    torch.manual_seed(0)
    network = fmen_core.load(bundled()[weights]) if weights else fmen_core.create_model("fmen-s")
    for data, expected in ((tmp_path / "set", meets), (tmp_path / "other", None)):
        report = build_submission(network, data, None, tmp_path / "p.zip", device="cpu", progress=False)
        assert report.meets_threshold is expected


def test_the_thresholds_are_those_of_the_challenges_and_compared_to_two_decimals() -> None:
    assert get_layout("ntire2022").thresholds["valid"] == 29.00
    assert get_layout("ntire2026").thresholds == {"valid": 26.90, "test": 26.99}
    assert [meets_threshold(psnr, get_layout("ntire2022")) for psnr in (28.994, 28.996)] == [False, True]
    rules = get_layout("ntire2026")
    assert (meets_threshold(26.95, rules, "valid"), meets_threshold(26.95, rules, "test")) == (True, False)
    for psnr, verdict in ((29.0, "reached"), (28.9, "missed")):
        assert threshold_line(psnr, get_layout("ntire2022"), official=True).endswith(f": {verdict}.")
