"""Downloading files and the official datasets from a server that drops connections."""

from __future__ import annotations

import hashlib
import io
import re
import resource
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fmen_data import DataError, div2k, write_image
from fmen_data.download import _require_space, fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``, or an error ``status``; closes the connection after ``drop_after`` bytes of each response.

    The first ``stalls`` responses stop half-way until the client gives up. ``length`` replaces the true Content-Length,
    and the paths in ``moved`` are redirected.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/a.zip": CONTENT}
        self.drop_after: int | None = None
        self.ranges = True
        self.stalls = 0
        self.status: int | None = None
        self.length: str | None = None
        self.moved: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if self.path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[self.path])
            self.end_headers()
            return
        content = self.server.files.get(self.path)
        if content is None or self.server.status:
            self.send_error(self.server.status or 404)
            return
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "") if self.server.ranges else None
        start = int(match[1]) if match else 0
        if match and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", self.server.length or str(len(content) - start))
        self.end_headers()
        end = len(content) if self.server.drop_after is None else start + self.server.drop_after
        if self.server.stalls:
            self.server.stalls -= 1
            self.wfile.write(content[start : (start + end) // 2])
            self.connection.recv(1)  # returns when the client closes the connection
            return
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("fmen_data.download._PAUSE", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: Server, target: Path, name: str = "a.zip", md5: str = MD5) -> bytes:
    fetch(f"{server.url}/{name}", target, md5=md5, progress=False)
    return target.read_bytes()


def test_a_file_is_downloaded_into_a_new_folder(server: Server, tmp_path: Path) -> None:
    assert get(server, tmp_path / "new/a.zip") == CONTENT
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.zip"]


def test_dropped_connections_are_continued_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.drop_after = 1_100_000
    assert get(server, tmp_path / "a.zip") == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1100000-", "bytes=2200000-"]


def test_a_stalled_connection_is_continued_where_it_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmen_data.download._TIMEOUT", 0.3)
    server.stalls = 2
    assert get(server, tmp_path / "a.zip") == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1500000-", "bytes=2250000-"]


def test_a_file_that_changes_between_two_attempts_is_refused_and_then_downloaded_again(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.zip.part").write_bytes(bytes(1_000_000))  # the first part of an older file
    with pytest.raises(DataError, match="is not the expected file"):
        get(server, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
    assert get(server, tmp_path / "a.zip") == CONTENT


def test_a_redirected_download_is_continued_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.moved["/old/a.zip"] = "/a.zip"
    server.drop_after = 1_600_000
    assert get(server, tmp_path / "a.zip", "old/a.zip") == CONTENT
    assert ("/a.zip", "bytes=1600000-") in server.requests


def test_a_redirection_without_end_is_an_error(server: Server, tmp_path: Path) -> None:
    server.moved["/a.zip"] = "/a.zip"
    with pytest.raises(DataError, match=r"cannot download .*redirect"):
        get(server, tmp_path / "a.zip")


@pytest.mark.parametrize(("length", "complete"), [("9000000", True), ("many", True), ("1000", False)])
def test_a_wrong_length_never_gives_another_file(server: Server, tmp_path: Path, length: str, complete: bool) -> None:
    server.length = length
    if complete:
        assert get(server, tmp_path / "a.zip") == CONTENT
    else:
        with pytest.raises(DataError, match="is not the expected file"):
            get(server, tmp_path / "a.zip")
        assert list(tmp_path.iterdir()) == []


def test_a_web_page_in_place_of_the_archive_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/a.zip"] = b"<html>please log in</html>"
    with pytest.raises(DataError, match="is not the expected file"):
        get(server, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_later_call_continues_the_part_of_an_earlier_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:2_000_000])
    assert get(server, tmp_path / "a.zip") == CONTENT
    assert server.requests == [("/a.zip", "bytes=2000000-")]


def test_a_complete_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "a.zip") == CONTENT


def test_a_part_that_is_too_long_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "a.zip") == CONTENT


def test_a_server_without_ranges_sends_the_file_from_its_start(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    assert get(server, tmp_path / "a.zip") == CONTENT


def test_another_file_than_the_expected_one_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"a\.zip is not the expected file \(checksum {MD5}, not {'0' * 32}\)"):
        get(server, tmp_path / "a.zip", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_an_address_without_a_scheme_is_an_error(tmp_path: Path) -> None:
    for address in ("example.org/DIV2K.zip", "example.org:8080/DIV2K.zip", "http:///DIV2K.zip"):
        with pytest.raises(DataError, match=f"^{re.escape(address)} is not a URL; write it with https://$"):
            fetch(address, tmp_path / "file.zip")


@pytest.mark.parametrize("address", ["http://[::1/a.zip", "http://127.0.0.1:9/a b/a.zip", "http://h:x/a", "http://h/ä"])
def test_an_invalid_address_is_an_error_without_retries(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = record_pauses(monkeypatch)
    with pytest.raises(DataError, match=rf"^{re.escape(address)} is not a URL \(.+\); check the address$"):
        fetch(address, tmp_path / "a.zip")
    assert not pauses


def test_an_empty_address_does_not_mean_the_official_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(div2k, "_URLS", dict.fromkeys(div2k.NAMES, server.url))
    with pytest.raises(DataError, match="is not a URL"):
        div2k.download(tmp_path, base_url="", progress=False)


def test_a_missing_file_on_the_server_is_an_error_without_retries(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.zip: the server answers 404"):
        get(server, tmp_path / "a.zip", name="absent.zip")
    assert len(server.requests) == 1


def record_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr("fmen_data.download._PAUSE", 1.0)
    monkeypatch.setattr("fmen_data.download.time.sleep", pauses.append)
    return pauses


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (403, 1), (499, 1), (408, 5), (429, 5), (500, 5), (503, 5)])
def test_only_a_temporary_refusal_is_retried_with_growing_pauses(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, attempts: int
) -> None:
    pauses = record_pauses(monkeypatch)
    server.status = status
    message = (
        f"the server answers {status}; check the address" if attempts == 1 else "run the command again, it continues"
    )
    with pytest.raises(DataError, match=message):
        get(server, tmp_path / "a.zip")
    assert len(server.requests) == attempts
    assert pauses == [1, 2, 4, 8][: attempts - 1]


def test_an_attempt_that_received_bytes_resets_the_count(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = record_pauses(monkeypatch)
    server.drop_after = 400_000
    assert get(server, tmp_path / "a.zip") == CONTENT
    assert pauses == [1] * 7


def test_five_attempts_without_a_byte_end_the_download_and_leave_the_part(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    server.drop_after = 0
    with pytest.raises(DataError, match="connection was closed early; run the command again, it continues"):
        get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:1000]


def test_a_disk_that_fills_up_ends_the_download_without_retries(server: Server, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, limits[1]))  # writing beyond fails as on a full disk
    try:
        with pytest.raises(DataError, match=r"cannot write .*a\.zip\.part: File too large; free some space and run"):
            get(server, tmp_path / "a.zip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(server.requests) == 1
    assert get(server, tmp_path / "a.zip") == CONTENT  # the part is continued
    assert server.requests[1] == ("/a.zip", "bytes=2500000-")


def test_a_part_that_cannot_be_opened_ends_the_download_without_retries(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*a\.zip\.part: Is a directory; choose another folder"):
        get(server, tmp_path / "a.zip")
    assert len(server.requests) == 1


def test_too_little_free_space_is_an_error_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2_999_999)
    monkeypatch.setattr("fmen_data.download.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"a\.zip\.part needs 0\.0 GB more, but 0\.0 GB are free; free some space"):
        get(server, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
    usage = usage._replace(free=3_000_000)
    assert get(server, tmp_path / "a.zip") == CONTENT
    usage = usage._replace(free=4_500_000_000)
    with pytest.raises(DataError, match=r"needs 12\.3 GB more, but 4\.5 GB are free"):
        _require_space(tmp_path / "a.zip", 12_300_000_000)


@pytest.mark.parametrize(("given", "right"), [(True, True), (True, False), (False, True)])
def test_the_given_checksum_decides(server: Server, tmp_path: Path, given: bool, right: bool) -> None:
    md5 = hashlib.md5(CONTENT if right else b"").hexdigest() if given else ""
    if right:
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", progress=False, md5=md5)
    else:
        with pytest.raises(DataError, match="not the expected file"):
            fetch(f"{server.url}/a.zip", tmp_path / "a.zip", progress=False, md5=md5)
    assert (tmp_path / "a.zip").exists() == right


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def png(height: int, width: int) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1])


@pytest.fixture
def tiny(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """Small versions of the official archives: three training and two validation images, two of Flickr2K."""
    sets = {"train": range(1, 4), "valid": range(801, 803)}
    archives: list[div2k.Archive] = []
    for part, numbers in sets.items():
        hr = {f"DIV2K_{part}_HR/{n:04d}.png": png(16, 24) for n in numbers}
        lr = {f"DIV2K_{part}_LR_bicubic/X4/{n:04d}x4.png": png(4, 6) for n in numbers}
        data = [make_zip(tmp_path / f"{i}.zip", members).read_bytes() for i, members in enumerate((hr, lr))]
        md5 = [hashlib.md5(content).hexdigest() for content in data]
        made = div2k._div2k(part, numbers, md5[0], {4: md5[1]})
        archives += made
        server.files |= {f"/{archive.file}": content for archive, content in zip(made, data, strict=True)}
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        for name in ("Flickr2K_HR/000001.png", "Flickr2K_HR/000002.png", "Flickr2K_LR_unknown/X4/000001x4.png"):
            entry = tarfile.TarInfo(f"Flickr2K/{name}")
            entry.size = len(png(16, 16))
            tar.addfile(entry, io.BytesIO(png(16, 16)))
    data_of_tar = (tmp_path / "f.tar").read_bytes()
    folders = (div2k.ImageFolder("Flickr2K_HR", range(1, 3), 6),)
    archives.append(div2k.Archive("Flickr2K", "Flickr2K.tar", hashlib.md5(data_of_tar).hexdigest(), folders))
    server.files["/Flickr2K.tar"] = data_of_tar
    monkeypatch.setattr(div2k, "ARCHIVES", tuple(archives))
    return server


def get_all(server: Server, root: Path) -> None:
    div2k.download(root, ("DIV2K", "Flickr2K"), base_url=server.url, progress=False)


def test_div2k_and_flickr2k_are_downloaded_unpacked_and_verified(tiny: Server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    get_all(tiny, root)
    files = sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
    assert len(files) == 12  # and no archive, no temporary folder, no image of another degradation
    assert files[0] == "DIV2K/DIV2K_train_HR/0001.png" and files[-1] == "Flickr2K/Flickr2K_HR/000002.png"
    assert div2k.verify(root, progress=False) == div2k.Verification(12, ())
    folders = {folder.path.name: (folder.images, folder.expected, folder.largest) for folder in div2k.info(root)}
    assert folders["DIV2K_train_HR"] == (3, 3, (16, 24))


def test_only_incomplete_archives_are_downloaded_again(tiny: Server, tmp_path: Path) -> None:
    get_all(tiny, tmp_path / "data")
    tiny.requests.clear()
    get_all(tiny, tmp_path / "data")
    assert tiny.requests == []
    (tmp_path / "data/DIV2K/DIV2K_valid_HR/0802.png").unlink()
    get_all(tiny, tmp_path / "data")
    assert [path for path, _ in tiny.requests] == ["/DIV2K_valid_HR.zip"]


def test_verify_names_what_is_missing_truncated_or_of_another_size(tiny: Server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    get_all(tiny, root)
    div = root / "DIV2K"
    (div / "DIV2K_valid_HR/0801.png").unlink()
    cut = div / "DIV2K_train_HR/0002.png"
    cut.write_bytes(cut.read_bytes()[:-5])
    write_image(div / "DIV2K_train_LR_bicubic/X4/0003x4.png", np.zeros((4, 5, 3), np.uint8))
    problems = div2k.verify(root, progress=False).problems
    assert len(problems) == 3
    assert "DIV2K_valid_HR lacks 1 of 2 images: 0801.png" in problems[0]
    assert "0002.png is truncated" in problems[1]
    assert "0003x4.png is 5x4" in problems[2]


def test_only_a_deep_verification_decodes(tiny: Server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    get_all(tiny, root)
    file = root / "DIV2K/DIV2K_train_HR/0002.png"
    data = bytearray(file.read_bytes())
    data[45] ^= 255
    file.write_bytes(data)
    assert div2k.verify(root, progress=False).problems == ()
    (problem,) = div2k.verify(root, deep=True, progress=False).problems
    assert "0002.png is damaged" in problem


@pytest.mark.parametrize("names", [("div2k",), ("DIV2K",), ("Div2K",)])
def test_the_names_of_datasets_are_case_insensitive(tiny: Server, tmp_path: Path, names: tuple[str, ...]) -> None:
    roots = div2k.download(tmp_path / "data", names, base_url=tiny.url, progress=False)
    assert roots == [tmp_path / "data/DIV2K"]
    assert len(list(roots[0].rglob("*.png"))) == 10


def test_an_unknown_dataset_or_scale_is_refused_before_any_download(tiny: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown dataset 'set5'; choose from DIV2K, Flickr2K"):
        div2k.download(tmp_path / "data", ("DIV2K", "set5"), base_url=tiny.url, progress=False)
    with pytest.raises(DataError, match=r"unknown scale 8; choose from 2, 3, 4"):
        div2k.download(tmp_path / "data", scales=(4, 8), base_url=tiny.url, progress=False)
    assert tiny.requests == []


def test_an_archive_that_is_there_is_checked_and_unpacked_without_a_download(tiny: Server, tmp_path: Path) -> None:
    get_all(tiny, tmp_path / "data")
    root = tmp_path / "data/DIV2K"
    (root / "DIV2K_valid_HR/0802.png").unlink()
    (root / "DIV2K_valid_HR.zip").write_bytes(tiny.files["/DIV2K_valid_HR.zip"])
    tiny.requests.clear()
    get_all(tiny, tmp_path / "data")
    assert tiny.requests == [] and (root / "DIV2K_valid_HR/0802.png").is_file()
    (root / "DIV2K_valid_HR/0802.png").unlink()
    (root / "DIV2K_valid_HR.zip").write_bytes(b"another file")
    with pytest.raises(DataError, match=r"DIV2K_valid_HR\.zip has MD5 .*; remove it and run the command again"):
        get_all(tiny, tmp_path / "data")


def test_an_official_archive_without_its_images_is_named(
    tiny: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = make_zip(tmp_path / "other.zip", {"DIV2K_train_HR/0001.png": png(16, 24)}).read_bytes()
    tiny.files["/DIV2K_train_HR.zip"] = content
    folder = div2k.ImageFolder("DIV2K_train_HR", range(1, 4), 4)
    archive = div2k.Archive("DIV2K", "DIV2K_train_HR.zip", hashlib.md5(content).hexdigest(), (folder,))
    monkeypatch.setattr(div2k, "ARCHIVES", (archive,))
    with pytest.raises(DataError, match=r"DIV2K_train_HR\.zip lacks 2 images of DIV2K_train_HR, 0002\.png first"):
        div2k.download(tmp_path / "data", base_url=tiny.url, progress=False)


def test_the_official_archives_hold_900_and_2650_images_at_each_scale() -> None:
    folders = [folder for archive in div2k.ARCHIVES for folder in archive.folders]
    count = {folder.path: (len(folder.files), folder.files[0], folder.files[-1]) for folder in folders}
    assert len(folders) == len(count) == 12
    assert count["DIV2K_train_HR"] == (800, "0001.png", "0800.png")
    assert count["DIV2K_valid_LR_bicubic/X3"] == (100, "0801x3.png", "0900x3.png")
    assert count["Flickr2K_HR"] == (2650, "000001.png", "002650.png")
    assert count["Flickr2K_LR_bicubic/X2"] == (2650, "000001x2.png", "002650x2.png")


def test_a_dataset_is_below_the_data_folder_unless_the_folder_is_its_own(tmp_path: Path) -> None:
    assert div2k.dataset_root(tmp_path, "DIV2K") == tmp_path / "DIV2K"
    assert div2k.dataset_root(tmp_path / "DIV2K", "DIV2K") == tmp_path / "DIV2K"
    (tmp_path / "DIV2K_valid_HR").mkdir()
    assert div2k.dataset_root(tmp_path, "DIV2K") == tmp_path
    assert div2k.dataset_root(tmp_path, "Flickr2K") == tmp_path / "Flickr2K"
    (tmp_path / "Flickr2K_HR").mkdir()
    assert div2k.dataset_root(tmp_path, "Flickr2K") == tmp_path
