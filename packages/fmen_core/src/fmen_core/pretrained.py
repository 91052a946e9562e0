"""Trained weights by name: the bundled ones, and published ones that are downloaded and verified.

``fmen_s(scale=4, pretrained=True)`` needs no file and no network connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import nn

from fmen_core.architecture import Form
from fmen_core.checkpoint import WeightsError, load
from fmen_core.errors import ModelError, suggest
from fmen_core.models import architecture_named, create_model
from fmen_core.published import PUBLISHED as PUBLISHED
from fmen_core.published import Published as Published
from fmen_core.published import cache_folder as cache_folder
from fmen_core.reparam import expand

BUNDLED = Path(__file__).with_name("weights")
"""The folder of the weights inside the package: ``NETWORK_xSCALE.safetensors``, and ``.xml`` for OpenVINO."""

TIMEOUT = 60  # seconds without a byte


def bundled() -> dict[str, Path]:
    """Return the bundled weights by name."""
    files = [*BUNDLED.glob("*.safetensors"), *BUNDLED.glob("*.xml")]
    return {path.stem: path for path in sorted(files)}


def published(name: str) -> Published:
    """Return the published weights with this name.

    Raises:
        WeightsError: There are none.
    """
    found = next((entry for entry in PUBLISHED if entry.name == name), None)
    if found is None:
        raise WeightsError(f"no weights are called {name!r}; {suggest(name, known_names())}")
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
        WeightsError: There are no such weights, the address is none, or the server does not send the file.
        OSError: The file cannot be written.
    """
    if name in bundled():
        return bundled()[name]
    if url is not None and not re.match("https?://[^/]", url, re.IGNORECASE):
        raise WeightsError(f"{url} is not a URL; write it with https://")
    entry = published(name)
    if entry.file.is_file() and hashlib.sha256(entry.file.read_bytes()).hexdigest() == entry.sha256:
        return entry.file
    entry.file.parent.mkdir(parents=True, exist_ok=True)
    temporary = entry.file.with_name(f".{entry.file.name}.{uuid.uuid4().hex}.part")
    try:
        _fetch(url or entry.url, entry, temporary, on_progress)
        temporary.replace(entry.file)
    finally:
        with contextlib.suppress(OSError):  # a read-only disk refuses even to remove what does not exist
            temporary.unlink()
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


def fmen_s(scale: int = 4, *, pretrained: bool | Literal["real"] = False, form: Form | None = None) -> nn.Module:
    """Return FMEN-S for an upscaling factor of 2, 3 or 4.

    Args:
        scale: Upscaling factor.
        pretrained: Load the bundled weights; with ``"real"``, those for noisy and compressed images. The training form
            then computes the same function as the inference form and can be fine-tuned; see ``expand``.
        form: ``"training"`` (``FMENTraining``) or ``"inference"`` (``FMEN``). By default a pretrained network has the
            inference form, and a freshly initialised one the training form.

    Raises:
        WeightsError: There are no bundled weights for this scale.
        ModelError: FMEN-S is not defined for this scale, or there is no such form or kind of weights.
    """
    return _variant("fmen-s", scale, pretrained, form)


def fmen_full(scale: int = 4, *, pretrained: bool | Literal["real"] = False, form: Form | None = None) -> nn.Module:
    """Return FMEN, the larger network of the paper; otherwise as ``fmen_s``."""
    return _variant("fmen", scale, pretrained, form)


def _variant(name: str, scale: int, pretrained: bool | Literal["real"], form: Form | None) -> nn.Module:
    architecture_named(name).check(scale, form or "training")
    if not pretrained:
        return create_model(name, scale, form=form or "training")
    if pretrained not in (True, "real"):
        raise ModelError(f"pretrained is {pretrained!r}; choose True or 'real'")
    kind = "_real" if pretrained == "real" else ""
    path = bundled().get(f"{name}_x{scale}{kind}")
    if path is None:
        available = ", ".join(bundled()) or "none"
        raise WeightsError(
            f"no trained {name} x{scale}{kind and ' for degraded images'} is in the package (available: {available}); "
            "train one with 'fmen train', or see 'fmen weights list'"
        )
    return expand(load(path)) if form == "training" else load(path)
