"""``fmen weights``: names, and downloads from a local server."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen_core import create_model, load, pretrained, published, save
from fmen_core.pretrained import Published

README = Path(__file__).resolve().parents[3] / "README.md"
RESULTS = Path(__file__).resolve().parents[3] / "results" / "validate"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that has the weights ``small``, the only published ones; an empty cache, and no bundled weights."""
    folder = tmp_path / "served"
    folder.mkdir()
    save(create_model("span", 2, n_feats=4), folder / "small.safetensors")
    content = (folder / "small.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    repository = "ofsoundof/NTIRE2022_ESR@c"
    entry = Published("small", "SPAN x2, small", repository, "small.safetensors", len(content), digest, psnr=31.0)
    monkeypatch.setattr(pretrained, "PUBLISHED", (entry,))
    monkeypatch.setattr(pretrained, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FMEN_DEBUG", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def weights(*arguments: str, status: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["weights", *arguments])
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


def test_list_shows_which_files_are_downloaded(server: str, tmp_path: Path) -> None:
    head, _, first, *_, measured, last = weights("list")[0].splitlines()
    assert head.split() == ["name", "file", "PSNR", "[dB]", "size", "[MB]", "licence", "trained", "on", "network"]
    assert first.split() == ["small", "-", "31.00", "0.0", "MIT", "not", "stated", "SPAN", "x2,", "small"]
    assert measured.startswith("PSNR on Set5, protocol paper; ")
    assert last == "Download a file with: fmen weights get NAME"
    weights("get", "small", "--url", f"{server}/small.safetensors")
    (tmp_path / "bundled").mkdir()
    save(create_model("fmen-s", 2), tmp_path / "bundled" / "fmen-s_x2.safetensors")
    lines = weights("list")[0].splitlines()
    assert lines[2].split()[:5] == ["fmen-s_x2", "bundled", "37.78", "4.1", "Apache-2.0"]
    assert lines[3].split()[:2] == ["small", "downloaded"] and len(lines) == 6


def test_get_stores_the_file_under_its_name_once(server: str, tmp_path: Path) -> None:
    stdout, _ = weights("get", "small", "--url", f"{server}/small.safetensors")
    path = tmp_path / "cache" / "weights" / "small.safetensors"
    assert stdout == f"{path}: SPAN x2, small\n"
    assert load(path).scale == 2
    assert weights("get", "small", "--url", f"{server}/gone")[0] == stdout


def test_another_file_than_the_published_one_is_refused_and_removed(server: str, tmp_path: Path) -> None:
    served = tmp_path / "served" / "small.safetensors"
    served.write_bytes(served.read_bytes() + b"more")
    _, stderr = weights("get", "small", "--url", f"{server}/small.safetensors", status=2)
    assert "has SHA-256" in stderr and stderr.count("\n") == 1
    assert not list((tmp_path / "cache" / "weights").iterdir())


@pytest.mark.usefixtures("server")
def test_an_unknown_name_is_said_with_the_choices() -> None:
    assert weights("get", "large", status=2)[1] == "error: no weights are called 'large'; choose one of small\n"


def test_list_takes_patterns() -> None:
    lines = weights("list", "imdn-x*")[0].splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["imdn-x2", "imdn-x3", "imdn-x4"] and lines[5] == ""
    for pattern in ("imdnx2", "imdnx2*"):
        assert f"no match for {pattern!r}; did you mean imdn-x2?" in weights("list", pattern, status=2)[1]


def test_a_mistyped_name_gets_a_suggestion() -> None:
    assert weights("get", "imdnx4", status=2)[1] == "error: no weights are called 'imdnx4'; did you mean imdn-x4?\n"


def test_listed_psnr_is_the_measured_one() -> None:
    results = {file: json.loads(file.read_text()) for file in RESULTS.glob("Set5_paper_*.json")}
    psnr = {file.stem.removeprefix("Set5_paper_"): round(result["mean"]["psnr"], 2) for file, result in results.items()}
    assert {name: psnr[name] for name in pretrained.bundled()} == published.BUNDLED_PSNR
    for entry in pretrained.PUBLISHED:
        names = {entry.name, re.sub(r"-(x\d|authors|ntire2022)$", "", entry.name)}
        measured = {round(result["mean"]["psnr"], 2) for result in results.values() if result["model"] in names}
        row = re.search(rf"^\| `{entry.name}` \| 202\d.*\| ([\d.]+) \| [\d.]+ \|$", README.read_text(), re.MULTILINE)
        assert entry.psnr in (measured or {row and round(float(row[1]), 2)}), entry.name


def test_a_server_that_does_not_have_the_file_is_said(server: str) -> None:
    assert "the server answers 404" in weights("get", "small", "--url", f"{server}/other", status=2)[1]


def test_addresses_name_a_commit_so_that_the_file_cannot_change() -> None:
    for entry in pretrained.PUBLISHED:
        assert entry.url.startswith("https://raw.githubusercontent.com/")
        assert len(entry.url.split("/")[5]) == 40 and len(entry.sha256) == 64


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "command",
    [
        "validate --data sample --weights",
        "submit --data sample --weights",
        "report --weights",
        "bench --weights",
        "upscale a.png -o b.png --weights",
        "data label --data photos --out labelled --weights",
        "export --format pth --out a.pth",
    ],
)
def test_every_command_takes_weights_by_name(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    result = CliRunner().invoke(app, [*command.split(), "small"])
    assert result.exit_code == 2
    assert result.stderr == "error: the weights small are not on this machine; get them with: fmen weights get small\n"


def test_an_address_of_bundled_weights_is_refused() -> None:
    result = CliRunner().invoke(app, ["weights", "get", "fmen-s_x4", "--url", "https://a.example/file"])
    assert result.exit_code == 2
    assert result.stderr == "error: fmen-s_x4 is bundled and not downloaded; leave --url out\n"
