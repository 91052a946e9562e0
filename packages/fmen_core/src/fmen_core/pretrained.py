"""Trained weights by name: the bundled ones, and published ones that are downloaded and verified.

``fmen_s(scale=4, pretrained=True)`` needs no file and no network connection.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fmen_core.architecture import Form
from fmen_core.checkpoint import WeightsError, load
from fmen_core.models import architecture_named, create_model
from fmen_core.reparam import expand

BUNDLED = Path(__file__).with_name("weights")
"""The folder of the weights inside the package: ``NETWORK_xSCALE.safetensors``."""

TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """A weights file that its authors publish.

    Attributes:
        name: The name that ``download_weights`` and ``--weights`` take.
        title: The network, its scale and its origin.
        repository: The GitHub repository and the commit, as ``OWNER/NAME@COMMIT``.
        path: The file in the repository.
        size: In bytes.
        sha256: The SHA-256 of the file.
    """

    name: str
    title: str
    repository: str
    path: str
    size: int
    sha256: str

    @property
    def url(self) -> str:
        """The address of the file."""
        repository, commit = self.repository.split("@")
        return f"https://raw.githubusercontent.com/{repository}/{commit}/{self.path}"

    @property
    def file(self) -> Path:
        """The path of the downloaded file."""
        return cache_folder() / f"{self.name}{Path(self.path).suffix}"


_NTIRE2022 = "ofsoundof/NTIRE2022_ESR@e95ba4a4916bb13d6348f7ee172827e2452e8a31"
_NTIRE2026 = "Amazingren/NTIRE2026_ESR@4592ce6db68b395699f13e7e2a4e3baf317ef1c6"
_FMEN = "NJU-Jet/FMEN@a1def169d0e2c99ecebdb1b08bf567f329c3a566"
_IMDN = "Zheng222/IMDN@8f158e6a5ac9db6e5857d9159fd4a6c4214da574"

PUBLISHED: tuple[Published, ...] = (
    Published(
        "fmen-s-ntire2022",
        "FMEN-S x4, as submitted to NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team03_fmen.pth",
        1390483,
        "f20cde0828068c5f50d3b64aa82c8a363fe6abc8d536d1a9fd4d09899f019bea",
    ),
    Published(
        "fmen-s-authors",
        "FMEN-S x4, from its authors' repository",
        _FMEN,
        "test_weights.pt",
        1390163,
        "d5534eba1feacfdd4043d9175d3bf0730b1ab4c91ba5c3f40a2282cd496fb4a5",
    ),
    Published(
        "imdn-baseline",
        "IMDN x4, the baseline of NTIRE 2022",
        _NTIRE2022,
        "model_zoo/imdn_baseline.pth",
        3589744,
        "115b4cc557eba9daaf1a6543c4858014c7e2a410655aafef7c8348ae54acc203",
    ),
    Published(
        "rfdn",
        "E-RFDN x4, the winner of AIM 2020",
        _NTIRE2022,
        "model_zoo/rfdn_baseline.pth",
        1754927,
        "11af8ec8ebd68689e90ef1e29044f9804c72d3bd9f7573820b7b26035782760c",
    ),
    Published(
        "rlfn-cut",
        "RLFN_cut x4, ByteESR at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team04_rlfn.pth",
        1292283,
        "ca81b7757708ce749ac3766589690db6c2729961d026c0137e7659924ec36622",
    ),
    Published(
        "neesr",
        "plain RFDN x4, NEESR at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team05_efdn.pt",
        1124437,
        "b1cfec0dd5eaef944f02d0ce6f3bb75667c7afd0f21b63afe1e4c22b16504b7e",
    ),
    Published(
        "repafdn",
        "RePAFDN x4, Super at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team10_repafdn.pth",
        1336661,
        "ff9392bf08b0178da9a225a7efdb495156b60021ef69f260f28d68236141e33b",
    ),
    Published(
        "imdn-plus",
        "IMDN+ x4, rainbow at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team39_imdn_plus.pth",
        1139221,
        "0051dcbeb82684fef3981eff81df86bb167b8f9602323fa37f82f8c5566ff5a9",
    ),
    Published(
        "rfdn-pruned",
        "pruned RFDN x4, MegSR at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team40_rfdn_pruned.pth",
        1196417,
        "f4b5ebb858957bd5a473711e78f0d20a545d7e3a0fbcb90c0548d89fd2852172",
    ),
    Published(
        "span",
        "SPAN x4 with 28 channels, the baseline of NTIRE 2026",
        _NTIRE2026,
        "model_zoo/team00_SPAN.pth",
        618658,
        "6c80f05048313289c6526e5fc9726688d7bb3dfdd6ae3c8b1e7dd09f601e5971",
    ),
    Published(
        "imdn-x2",
        "IMDN x2, from its authors' repository",
        _IMDN,
        "checkpoints/IMDN_x2.pth",
        2796052,
        "740b39653592bd3f49955a21cd9e16f2d37f2c413368cc09327601b8fbe42ce1",
    ),
    Published(
        "imdn-x3",
        "IMDN x3, from its authors' repository",
        _IMDN,
        "checkpoints/IMDN_x3.pth",
        2830672,
        "11b1716a19bc16e5e353e1db798d476169338e631eb170c82d765559888cb028",
    ),
    Published(
        "imdn-x4",
        "IMDN x4, from its authors' repository",
        _IMDN,
        "checkpoints/IMDN_x4.pth",
        2879112,
        "e660c38221147217a136debeb99eb304d62d9c0f73ac421ed66281b619719714",
    ),
)


def cache_folder() -> Path:
    """Return the folder of downloaded weights: ``weights`` in ``$FMEN_CACHE``, by default in ``~/.cache/fmen``."""
    return Path(os.environ.get("FMEN_CACHE") or Path.home() / ".cache" / "fmen") / "weights"


def bundled() -> dict[str, Path]:
    """Return the bundled weights by name."""
    return {path.stem: path for path in sorted(BUNDLED.glob("*.safetensors"))}


def published(name: str) -> Published:
    """Return the published weights with this name.

    Raises:
        WeightsError: There are none.
    """
    found = next((entry for entry in PUBLISHED if entry.name == name), None)
    if found is None:
        raise WeightsError(f"no weights are called {name!r}; choose one of {', '.join(known_names())}")
    return found


def known_names() -> tuple[str, ...]:
    """Return all names of weights, the bundled ones first."""
    return (*bundled(), *(entry.name for entry in PUBLISHED))


def find_weights(weights: str | Path) -> Path:
    """Return the weights file for a path or a name.

    Args:
        weights: A file; the name of bundled weights, such as ``fmen-s_x4``; or the name of published weights that have
            been downloaded.

    Raises:
        WeightsError: There is no such file and no such name, or the published weights have not been downloaded.
    """
    path, name = Path(weights), str(weights)
    if path.is_file():
        return path
    if name in known_names():
        file = bundled().get(name) or published(name).file
        if not file.is_file():
            raise WeightsError(f"the weights {name} are not on this machine; get them with: fmen weights get {name}")
        return file
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; name a weights file")
    if path.exists():  # a pipe or a device
        return path
    if path.suffix or path.name != name:
        raise WeightsError(f"{path}: no such weights file; check the path")
    return published(name).file


def download_weights(
    name: str, *, url: str | None = None, on_progress: Callable[[int, int], object] = lambda done, total: None
) -> Path:
    """Return the file of bundled or published weights, downloaded if necessary and verified by its SHA-256.

    The file is written under a temporary name and renamed when it is complete.

    Args:
        name: One of ``known_names()``.
        url: Another address of the same file.
        on_progress: Called after every block with the bytes received and the size of the file.

    Raises:
        WeightsError: There are no such weights, or the server does not send the file.
        OSError: The file cannot be written.
    """
    if name in bundled():
        return bundled()[name]
    entry = published(name)
    if entry.file.is_file():
        return entry.file
    entry.file.parent.mkdir(parents=True, exist_ok=True)
    temporary = entry.file.with_name(f".{entry.file.name}.{uuid.uuid4().hex}.part")
    try:
        _fetch(url or entry.url, entry, temporary, on_progress)
        temporary.replace(entry.file)
    finally:
        temporary.unlink(missing_ok=True)
    return entry.file


def _fetch(url: str, entry: Published, target: Path, on_progress: Callable[[int, int], object]) -> None:
    """Download a file and compare its size and its SHA-256.

    Raises:
        WeightsError: The server does not send this file.
    """
    digest, received = hashlib.sha256(), 0
    with target.open("xb") as file:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                while block := response.read(2**18):
                    file.write(block)
                    digest.update(block)
                    received += len(block)
                    on_progress(received, entry.size)
        except urllib.error.HTTPError as error:
            raise WeightsError(f"cannot download {url}: the server answers {error.code}; check the address") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise WeightsError(f"cannot download {url}: {reason}; check the connection and try again") from error
        except ValueError as error:
            raise WeightsError(f"cannot download {url!r}: {error}; check the address") from error
        file.flush()
        os.fsync(file.fileno())
    if received < entry.size:
        raise WeightsError(f"cannot download {url}: {received} of {entry.size} bytes arrived; try again")
    if digest.hexdigest() != entry.sha256:
        raise WeightsError(
            f"{url}: has SHA-256 {digest.hexdigest()}, the published file {entry.sha256}; use another address"
        )


def fmen_s(scale: int = 4, *, pretrained: bool = False, form: Form | None = None) -> nn.Module:
    """Return FMEN-S for an upscaling factor of 2, 3 or 4.

    Args:
        scale: Upscaling factor.
        pretrained: Load the bundled weights. The training form then computes the same function as the inference form
            and can be fine-tuned; see ``expand``.
        form: ``"training"`` (``FMENTraining``) or ``"inference"`` (``FMEN``). By default a pretrained network has the
            inference form, and a freshly initialised one the training form.

    Raises:
        WeightsError: There are no bundled weights for this scale.
        ModelError: FMEN-S is not defined for this scale, or there is no such form.
    """
    return _variant("fmen-s", scale, pretrained, form)


def fmen_full(scale: int = 4, *, pretrained: bool = False, form: Form | None = None) -> nn.Module:
    """Return FMEN, the larger network of the paper; otherwise as ``fmen_s``."""
    return _variant("fmen", scale, pretrained, form)


def _variant(name: str, scale: int, pretrained: bool, form: Form | None) -> nn.Module:
    architecture_named(name).check(scale, form or "training")
    if not pretrained:
        return create_model(name, scale, form=form or "training")
    path = bundled().get(f"{name}_x{scale}")
    if path is None:
        available = ", ".join(bundled()) or "none"
        raise WeightsError(
            f"no trained {name} x{scale} is in the package (available: {available}); "
            "train one with 'fmen train', or see 'fmen weights list'"
        )
    return expand(load(path)) if form == "training" else load(path)
