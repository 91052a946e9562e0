"""Which files are read and written: inputs and outputs, links in loops, folders called x.png."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fmen.upscaling.jobs import Job, plan
from fmen.upscaling.manifest import Settings, pending, read_records, write_records
from fmen.upscaling.storage import shown
from fmen_data import DataError

Command = Callable[..., tuple[str, str]]

GRAY = np.full((8, 8, 3), 128, np.uint8)


def write(*files: str | Path) -> None:
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(cv2.imencode(".png", GRAY)[1].tobytes())


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with images in ``in`` and below it."""
    monkeypatch.chdir(tmp_path)
    write("in/one.png", "in/sub/two.jpg", "in/sub/.hidden/three.png")
    Path("in/note.txt").write_text("not an image")


def planned(inputs: list[str], output: str, suffix: str = ".png") -> list[tuple[str, str]]:
    return [(str(job.source), str(job.target)) for job in plan(inputs, output, suffix)[0]]


def test_entries_that_only_look_like_images_are_reported_and_the_rest_is_done(upscale: Command) -> None:
    write("in/a.png", "in/x.png/inner.png", "in/sub/b.png")
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/dead.jpg").symlink_to("nowhere.jpg")
    Path("in/sub/again").symlink_to("..")
    Path("in/ring").symlink_to("ring")
    os.mkfifo("in/pipe.webp")
    _, stderr = upscale("in", "-o", "out", "--scale", "2", status=2)
    assert stderr.splitlines() == [
        "error: cannot read in/dead.jpg: No such file or directory; remove it or repair the link",
        "error: cannot read in/loop.png: Too many levels of symbolic links; remove it or repair the link",
        "error: in/pipe.webp is a pipe or a device, not an image; rename it",
        "error: cannot read in/ring: Too many levels of symbolic links; remove it or repair the link",
        "error: in/sub/again is a link to a folder that contains it; it is not followed",
        "error: in/x.png is a folder, not an image; rename it",
        "error: 6 of 9 images could not be upscaled, for the reasons above",
    ]
    assert {str(file) for file in Path("out").rglob("[a-z]*.png") if file.is_file()} == {
        "out/a.png",
        "out/sub/b.png",
        "out/x.png/inner.png",
    }


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "in/a.png", tmp_path / "elsewhere/b.png")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    jobs, faults = plan([str(tmp_path / "in")], str(tmp_path / "out"))
    assert [str(job.target) for job in jobs] == [str(tmp_path / "out/a.png"), str(tmp_path / "out/linked/b.png")]
    assert not faults


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in/a.png", tmp_path / "in/closed/b.png")
    listdir = os.listdir

    def refuse(folder: Path) -> list[str]:  # the superuser may read every folder
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    jobs, faults = plan([str(tmp_path / "in")], str(tmp_path / "out"))
    assert len(jobs) == 1
    assert faults == [f"cannot read {tmp_path}/in/closed: Permission denied; check the permissions"]


def test_line_breaks_and_undecodable_bytes_in_names_are_escaped_in_messages(upscale: Command) -> None:
    write("in/two\nlines.png", os.fsdecode(b"in/\xff.png"))
    stdout, _ = upscale("in", "-o", "out", "--scale", "2")
    assert "in/two\\nlines.png (8x8) -> out/two\\nlines.png (16x16)\n" in stdout
    assert "in/\\udcff.png (8x8) -> out/\\udcff.png (16x16)\n" in stdout
    assert sorted(os.fsencode(file.name) for file in Path("out").iterdir()) == [
        b".fmen-upscale.jsonl",
        b"two\nlines.png",
        b"\xff.png",
    ]
    assert "2 of 2 exist already" in upscale("in", "-o", "out", "--scale", "2")[0]
    Path("in/two\nlines.png").write_bytes(b"text")
    _, stderr = upscale("in", "-o", "out", "--scale", "2", "--overwrite", status=2)
    assert stderr.splitlines()[0].startswith("error: in/two\\nlines.png is not a readable image")
    assert shown(Path("Zoë Müller 東京.png")) == "Zoë Müller 東京.png"


def test_an_output_without_its_option_is_asked_for(upscale: Command) -> None:
    write("a.png")
    assert upscale("a.png", "b.png", status=2)[1] == "error: no output is named; did you mean -o b.png?\n"
    _, stderr = upscale("a.png", status=2)
    assert stderr == "error: no output is named; add -o and a file, a folder, or - for standard output\n"


def test_a_result_that_was_begun_with_other_settings_and_not_recorded_is_made_again(tmp_path: Path) -> None:
    write(tmp_path / "in.png", tmp_path / "out.png")
    settings = Settings("weights", "fp32", False, 95)
    written = (tmp_path / "out.png").stat().st_mtime_ns
    newer = Job(tmp_path / "in.png", tmp_path / "out.png", (1, written + 1))
    job = Job(tmp_path / "in.png", tmp_path / "out.png", (1, written))
    assert pending([newer, job], settings) == [newer]  # any user's file
    write_records([(tmp_path / "out.png", settings.origin(job))])
    assert pending([job], settings) == []
    write_records([(tmp_path / "out.png", None)])
    assert pending([job], settings) == [job]


def test_the_manifest_of_an_earlier_version_is_valid(tmp_path: Path) -> None:
    write(tmp_path / "out.png")
    origin = {"size": 1, "mtime_ns": 2, "weights": "w", "precision": "fp32", "self_ensemble": False, "quality": 95}
    (tmp_path / ".fmen-upscale.jsonl").write_text(json.dumps(["out.png", origin]) + "\n")
    job = Job(tmp_path / "in.png", tmp_path / "out.png", (1, 2))
    assert pending([job], Settings("w", "fp32", False, 95)) == []
    assert pending([job], Settings("w", "fp32", False, 95, "factor 5/2")) == [job]
    assert read_records(tmp_path) == {"out.png": origin}


def test_another_source_of_the_same_size_and_time_is_upscaled_again_and_a_moved_one_is_not(tmp_path: Path) -> None:
    write(tmp_path / "out.png")
    settings = Settings("w", "fp32", False, 95)
    write_records([(tmp_path / "out.png", settings.origin(Job(tmp_path / "in.png", tmp_path / "out.png", (1, 2))))])
    moved, other = (Job(tmp_path / name, tmp_path / "out.png", (1, 2)) for name in ("there/in.png", "other.png"))
    assert pending([moved], settings) == [] and pending([other], settings) == [other]


@pytest.mark.parametrize("stamp", [(3, 2), (1, 3)])
@pytest.mark.parametrize("size", [None, "factor 5/2"])
def test_a_source_of_another_size_or_time_is_upscaled_again(
    tmp_path: Path, stamp: tuple[int, int], size: str | None
) -> None:
    write(tmp_path / "out.png")
    settings = Settings("w", "fp32", False, 95, size)
    job = Job(tmp_path / "in.png", tmp_path / "out.png", (1, 2))
    write_records([(tmp_path / "out.png", settings.origin(job))])
    assert pending([job], settings) == []
    changed = Job(tmp_path / "in.png", tmp_path / "out.png", stamp)
    assert pending([changed], settings) == [changed]


@pytest.mark.usefixtures("tree")
def test_the_output_mirrors_the_tree_of_a_folder() -> None:
    expected = [("in/one.png", "out/one.webp"), ("in/sub/two.jpg", "out/sub/two.webp")]
    assert planned(["in"], "out", ".webp") == expected
    assert planned(["in/**/*"], "out", ".webp") == expected
    assert planned(["in/sub/*.jpg"], "out") == [("in/sub/two.jpg", "out/two.png")]
    assert planned(["in/one.png", "in/sub"], "out") == [
        ("in/one.png", "out/one.png"),
        ("in/sub/two.jpg", "out/two.png"),
    ]


@pytest.mark.usefixtures("tree")
def test_a_single_image_goes_to_a_file_or_into_a_folder() -> None:
    assert planned(["in/one.png"], "big.jpg") == [("in/one.png", "big.jpg")]
    assert planned(["in/one.png"], "big") == [("in/one.png", "big/one.png")]
    assert planned(["in/one.png"], "big.d/") == [("in/one.png", "big.d/one.png")]
    assert planned(["-"], "-") == [("None", "None")]


@pytest.mark.usefixtures("tree")
def test_images_that_differ_in_their_suffix_alone_keep_it_in_the_names_of_the_results() -> None:
    write("in/one.jpg")
    targets = [target for _, target in planned(["in"], "out")]
    assert targets == ["out/one.jpg.png", "out/one.png.png", "out/sub/two.png"]


@pytest.mark.usefixtures("tree")
def test_results_inside_the_input_folder_are_not_taken_for_input() -> None:
    write("in/large/one.png")
    location = Path("in/large").absolute().as_uri()
    for inputs in ("in", "in/**/*", str(Path("in").absolute()), "in/*/*"):
        expected = ["one.png", "two.jpg"][inputs == "in/*/*" :]
        for output in ("in/large", "in/sub/../large", location):
            assert [Path(source).name for source, _ in planned([inputs], output)] == expected
    assert len(planned(["in/large/*"], "in/large", ".webp")) == 1
    assert len(planned(["in/large/*"], "in")) == len(planned(["in/large/*"], ".")) == 1


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("inputs", ["in", "in/**/*"])
def test_results_beside_the_images_are_not_taken_for_input(inputs: str) -> None:
    first = planned([inputs], "in", ".webp")
    assert first == [("in/one.png", "in/one.webp"), ("in/sub/two.jpg", "in/sub/two.webp")]
    for _, target in first:
        write(target)
        write_records([(Path(target), {})])
    assert planned([inputs], "in", ".webp") == first
    assert len(planned(["in/one.webp"], "in/larger.png")) == 1


@pytest.mark.usefixtures("tree")
def test_a_folder_as_a_uri_goes_to_a_folder() -> None:
    location = Path("in").absolute().as_uri()
    assert {Path(target).parts[-2] for _, target in planned([location], "out.v2")} == {"out.v2", "sub"}


@pytest.mark.usefixtures("tree")
def test_an_existing_folder_with_a_dot_is_a_folder_in_a_uri_too() -> None:
    Path("big.v2").mkdir()
    for output in ("big.v2", Path("big.v2").absolute().as_uri()):
        assert [Path(target).name for _, target in planned(["in/one.png"], output)] == ["one.png"]


def test_the_settings_contain_both_files_of_an_openvino_network(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_text("the same")
    hashes = []
    for content in (b"first", b"second"):
        (tmp_path / "net.bin").write_bytes(content)
        hashes.append(Settings.of([tmp_path / "net.xml"], "auto", False, 95).weights)
    assert hashes[0] != hashes[1]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("inputs", "output", "said"),
    [
        (["none.png"], "out", "none.png: no such file or folder"),
        (["in/*.webp"], "out", r"in/\*.webp: no image matches the pattern"),
        (["empty"], "out", "empty: no images there"),
        (["in"], "big.png", "2 images cannot all go to big.png; name a folder with --output"),
        (["in"], "-", "2 images cannot all go to -"),
        (["in/one.png"], "big.gif", "unknown image format '.gif'"),
        (["in/one.png", "in/one.png"], "out", "in/one.png and in/one.png would both become out/one.png"),
        (["in/one.png"] * 3, "out", "^in/one.png and in/one.png would both become out/one.png"),
        (["in/one.png"], "in", "in/one.png would be written over"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(inputs: list[str], output: str, said: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(DataError, match=said):
        plan(inputs, output)


def test_messages_of_libtiff_do_not_reach_the_terminal(upscale: Command, capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    content = bytearray(buffer.getvalue())
    content[60] ^= 255
    Path("bad.tif").write_bytes(content)
    _, errors = upscale("bad.tif", "-o", "out.png", status=2)
    assert errors.startswith("error: bad.tif is damaged") and errors.count("\n") == 1
    assert capfd.readouterr().err == ""


def test_the_temporary_file_of_a_killed_run_is_removed_by_the_next_one(upscale: Command) -> None:
    write("a.png", f"out/.a.{'0' * 32}.png")
    os.utime(f"out/.a.{'0' * 32}.png", (0, 0))
    upscale("a.png", "-o", "out", "--weights", "fmen-s_x2")
    assert sorted(file.name for file in Path("out").iterdir()) == [".fmen-upscale.jsonl", "a.png"]
