"""Weights by name: bundled ones, published ones, downloads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest
import torch

import fmen_core
from fmen_core import (
    FMEN,
    FMENTraining,
    ModelError,
    WeightsError,
    create_model,
    download_weights,
    find_weights,
    fmen_full,
    fmen_s,
    pretrained,
    reparameterize,
    save,
)
from fmen_core.pretrained import PUBLISHED, Published, bundled, known_names

FILES = {
    "fmen-s-ntire2022": "team03_fmen.pth",
    "fmen-s-authors": "fmen_test_weights.pt",
    "imdn-baseline": "imdn_baseline.pth",
    "rfdn": "rfdn_baseline.pth",
    "rlfn-cut": "team04_rlfn.pth",
    "neesr": "team05_efdn.pt",
    "repafdn": "team10_repafdn.pth",
    "imdn-plus": "team39_imdn_plus.pth",
    "rfdn-pruned": "team40_rfdn_pruned.pth",
    "slimrlfn": "ntire2024_team21_slimrlfn.pth",
    "dipnet-slim": "ntire2025_team15_dipnet_slim.pt",
    "spanf": "ntire2025_team24_spanf.pth",
    "safmnv3": "ntire2025_team19_safmnv3.pth",
    "tsr": "ntire2025_team31_tsr.pth",
    "dscf": "ntire2025_team23_dscf.pth",
    "span": "ntire2026_span.pth",
    "spanv2": "ntire2026_team22_spanv2.pth",
    "disp": "ntire2026_team18_disp.pth",
    "pds": "ntire2026_team01_pds.pth",
    "imdn-x2": "IMDN_x2.pth",
    "imdn-x3": "IMDN_x3.pth",
    "imdn-x4": "IMDN_x4.pth",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled weights with FMEN-S x2 only, and an empty cache."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    torch.manual_seed(0)
    save(reparameterize(create_model("fmen-s", 2)), folder / "fmen-s_x2.safetensors")
    monkeypatch.setattr(pretrained, "BUNDLED", folder)
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_pretrained_network_has_the_bundled_weights(folder: Path) -> None:
    model = fmen_s(scale=2, pretrained=True)
    assert type(model) is FMEN
    assert (model.name, model.scale, model.training) == ("fmen-s", 2, False)
    torch.manual_seed(0)
    expected = reparameterize(create_model("fmen-s", 2))
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("given", "kind"), [(None, FMENTraining), ("training", FMENTraining), ("inference", FMEN)])
def test_a_network_that_is_not_pretrained_is_freshly_initialised(given: str | None, kind: type) -> None:
    model = fmen_s(3, form=given)
    assert type(model) is kind and (model.name, model.scale) == ("fmen-s", 3)
    assert fmen_full(form=given).name == "fmen"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("given", "kind"), [(None, FMEN), ("training", FMENTraining), ("inference", FMEN)])
def test_the_form_of_a_pretrained_network_can_be_chosen(given: str | None, kind: type) -> None:
    assert type(fmen_s(2, pretrained=True, form=given)) is kind


@pytest.mark.usefixtures("folder")
def test_missing_bundled_weights_are_reported_with_the_available_ones() -> None:
    with pytest.raises(WeightsError, match=r"no trained fmen x4 is in the package \(available: fmen-s_x2\)"):
        fmen_full(pretrained=True)
    for trained in (True, False):
        with pytest.raises(ModelError, match="fmen-s is not defined for scale 5; choose one of 2, 3, 4"):
            fmen_s(5, pretrained=trained)
        with pytest.raises(ModelError, match="there is no form 'both'; choose training or inference"):
            fmen_s(2, pretrained=trained, form="both")
    with pytest.raises(ModelError, match="pretrained is 'clean'; choose True or 'real'"):
        fmen_s(2, pretrained="clean")


def test_weights_are_found_by_path_and_by_name(folder: Path) -> None:
    assert find_weights("fmen-s_x2") == folder / "fmen-s_x2.safetensors"
    assert find_weights(folder / "fmen-s_x2.safetensors") == folder / "fmen-s_x2.safetensors"
    with pytest.raises(
        WeightsError, match="the weights rfdn are not on this machine; get them with: fmen weights get rfdn"
    ):
        find_weights("rfdn")
    file = pretrained.published("rfdn").file
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_weights("rfdn") == file


def test_a_folder_is_not_taken_for_a_weights_file(folder: Path) -> None:
    Path("rfdn").mkdir()
    Path("fmen-s_x2").mkdir()
    assert find_weights("fmen-s_x2") == folder / "fmen-s_x2.safetensors"
    with pytest.raises(WeightsError, match="get them with: fmen weights get rfdn"):
        find_weights("rfdn")
    with pytest.raises(WeightsError, match="bundled: is a folder; name a weights file"):
        find_weights(folder)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("nothing", "no weights are called 'nothing'; choose one of fmen-s_x2, fmen-s-ntire2022"),
        ("nothing.pth", "nothing.pth: no such weights file"),
        ("folder/rfdn", "folder/rfdn: no such weights file"),
    ],
)
def test_an_unknown_name_and_a_missing_file_are_told_apart(weights: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        find_weights(weights)


def test_every_bundled_file_contains_the_network_of_its_name() -> None:
    for name, path in bundled().items():
        if path.suffix == ".xml":
            continue  # the application's tests
        network, _, kind = name.rpartition("_x")
        loaded, scale = fmen_core.load(path), int(kind[0])
        assert (loaded.name, loaded.scale) == (network, scale), path
        if network in ("fmen-s", "fmen"):
            which: Literal[True, "real"] = "real" if kind.endswith("_real") else True
            model = (fmen_s if network == "fmen-s" else fmen_full)(scale, pretrained=which)
            same = [torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items()]
            assert all(same), path


@pytest.mark.parametrize("name", ["fmen-s48_x4", "fmen-s_x2", "fmen-s_x3", "fmen-s_x4", "fmen-s_x4_real"])
def test_outputs_for_noise_are_of_the_range_of_pixels(name: str) -> None:
    """Networks that never saw noise return up to 1e6 for it, which is infinite in fp16."""
    network = fmen_core.load(bundled()[name])
    pixels = torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    gray = pixels[:, :1].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        for lr in (pixels, gray, pixels.round(), gray.round()):
            assert network(255 * lr).abs().max() < 1000


def test_a_bundled_network_for_openvino_has_its_weights_beside_it_and_is_refused_by_the_library() -> None:
    networks = [path for path in bundled().values() if path.suffix == ".xml"]
    assert bundled()["fmen-s_x4_int8"] in networks
    for path in networks:
        assert path.with_suffix(".bin").stat().st_size > 2**16
        with pytest.raises(WeightsError, match=r"int8\.xml: a network for OpenVINO, which only 'fmen upscale' and"):
            fmen_core.load(path)


def test_names_are_unique() -> None:
    assert len(set(known_names())) == len(known_names())


def test_published_names_are_those_of_the_files_and_five_more() -> None:
    assert {entry.name for entry in PUBLISHED} == FILES.keys() | {"efdn", "pkdsr", "haesr", "pan-x2", "pan-x4"}


@pytest.mark.parametrize("name", FILES)
def test_published_sizes_and_checksums_are_those_of_the_files(reference: Path, name: str) -> None:
    content = (reference / "weights" / FILES[name]).read_bytes()
    entry = pretrained.published(name)
    assert (entry.size, entry.sha256) == (len(content), sha256(content).hexdigest())


# --- downloads --------------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Answers each path in its own way."""

    content = bytes(range(256)) * 4000

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        body = self.content
        if self.path == "/other":
            body = body[:-1] + b"?"
        if self.path == "/longer":
            body += b"?"
        self.send_response(200)
        if self.path != "/no-length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/truncated" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    entry = Published("small", "a file", "o/r@c", "small.pth", len(Server.content), sha256(Server.content).hexdigest())
    monkeypatch.setattr(pretrained, "PUBLISHED", (entry,))
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "new" / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/whole", "/no-length"])
def test_weights_are_downloaded_once_with_progress(server: str, path: str, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    file = download_weights("small", url=server + path, on_progress=lambda *done: progress.append(done))
    assert file == tmp_path / "new" / "cache" / "weights" / "small.pth" == find_weights("small")
    assert file.read_bytes() == Server.content and list(file.parent.iterdir()) == [file]
    assert len(progress) > 1 and progress == sorted(progress) and progress[-1] == (len(Server.content),) * 2
    assert download_weights("small", url=server + "/missing") == file
    file.write_bytes(Server.content + b"damage")
    assert download_weights("small", url=server + path) == file and file.read_bytes() == Server.content


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/other", r"/other: has SHA-256 \w{64}, the published file \w{64}; use another address"),
        ("/longer", r"/longer: has SHA-256 \w{64}, the published file \w{64}"),
        ("/truncated", r"/truncated: 512000 of 1024000 bytes arrived; try again"),
        ("/missing", r"/missing: the server answers 404; check the address"),
    ],
)
def test_a_failed_download_is_reported_and_leaves_no_file(server: str, path: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=reason) as caught:
        download_weights("small", url=server + path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "new" / "cache" / "weights").iterdir())


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/file", "Connection refused.*; check the connection and try again"),
        ("file", "file is not a URL; write it with https://"),
        ("file:///etc/hostname", "file:///etc/hostname is not a URL"),
        ("http://[a/", r"cannot download 'http://\[a/': .*; check the address"),
    ],
)
def test_an_address_without_a_server_is_reported(url: str, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        download_weights("small", url=url)


def test_bundled_weights_need_no_download_and_unknown_names_are_refused(folder: Path) -> None:
    assert download_weights("fmen-s_x2") == folder / "fmen-s_x2.safetensors"
    with pytest.raises(WeightsError, match="no weights are called 'large'; choose one of fmen-s_x2, fmen-s-ntire2022"):
        download_weights("large")
