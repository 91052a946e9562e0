"""Trained weights by name: those that ship inside this package, and those that their authors publish.

``fmen_s(scale=4, pretrained=True)`` needs no file and no network. The published weights are downloaded by
``fmen weights get NAME``; this module only knows where from, what they must be, and where they lie afterwards.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fmen_core.checkpoint import WeightsError, load
from fmen_core.errors import ModelError
from fmen_core.models.fmen import FMEN

BOX = Path(__file__).with_name("weights")
"""The folder of the weights that ship inside the package: ``NETWORK_xSCALE.safetensors``."""


@dataclass(frozen=True)
class Published:
    """A weights file at its authors' address.

    Attributes:
        name: What ``fmen weights get`` and ``--weights`` take.
        title: The network, its scale and where the weights come from.
        repository: The GitHub repository and the commit, as ``OWNER/NAME@COMMIT``.
        path: The file in the repository.
        size: In bytes.
        sha256: Of the file.
    """

    name: str
    title: str
    repository: str
    path: str
    size: int
    sha256: str

    @property
    def url(self) -> str:
        """Where the file is."""
        repository, commit = self.repository.split("@")
        return f"https://raw.githubusercontent.com/{repository}/{commit}/{self.path}"

    @property
    def file(self) -> Path:
        """Where the file lies once it has been downloaded."""
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
    """Where downloaded weights lie: ``weights`` in ``$FMEN_CACHE`` or else in ``~/.cache/fmen``."""
    return Path(os.environ.get("FMEN_CACHE") or Path.home() / ".cache" / "fmen") / "weights"


def shipped() -> dict[str, Path]:
    """The weights that are inside the package, by name."""
    return {path.stem: path for path in sorted(BOX.glob("*.safetensors"))}


def published(name: str) -> Published:
    """The published weights of that name.

    Raises:
        WeightsError: There are none.
    """
    found = next((entry for entry in PUBLISHED if entry.name == name), None)
    if found is None:
        raise WeightsError(f"no weights are called {name!r}; choose one of {', '.join(known_names())}")
    return found


def known_names() -> tuple[str, ...]:
    """All names: those of the weights in the box first."""
    return (*shipped(), *(entry.name for entry in PUBLISHED))


def find_weights(weights: str | Path) -> Path:
    """The weights file that a path or a name stands for.

    Args:
        weights: A file; or the name of weights in the box, such as ``fmen-s_x4``; or of published ones that have been
            downloaded.

    Raises:
        WeightsError: There is no such file and no such name, or the published weights have not been downloaded.
    """
    path, name = Path(weights), str(weights)
    if path.exists():
        return path
    if name in shipped():
        return shipped()[name]
    if path.suffix or path.name != name:
        raise WeightsError(f"{path}: no such weights file; check the path")
    entry = published(name)
    if not entry.file.is_file():
        raise WeightsError(f"the weights {name} are not on this machine; get them with: fmen weights get {name}")
    return entry.file


def fmen_s(scale: int = 4, *, pretrained: bool = False) -> nn.Module:
    """FMEN-S for an upscaling factor of 2, 3 or 4.

    Args:
        scale: Upscaling factor.
        pretrained: With the trained weights that ship inside the package, ready to use; otherwise freshly initialised,
            in the training form.

    Raises:
        WeightsError: There are no trained weights for this scale in the package.
        ModelError: FMEN-S is not defined for this scale.
    """
    return _variant("fmen-s", scale, pretrained)


def fmen_full(scale: int = 4, *, pretrained: bool = False) -> nn.Module:
    """FMEN, the larger network of the paper; otherwise as ``fmen_s``."""
    return _variant("fmen", scale, pretrained)


def _variant(name: str, scale: int, pretrained: bool) -> nn.Module:
    if scale not in (2, 3, 4):
        raise ModelError(f"{name} is not defined for scale {scale}; choose one of 2, 3, 4")
    if not pretrained:
        return FMEN.from_variant(name, scale)
    path = shipped().get(f"{name}_x{scale}")
    if path is None:
        there = ", ".join(shipped()) or "none"
        raise WeightsError(
            f"no trained {name} x{scale} is inside the package (there: {there}); "
            "train one with 'fmen train', or see 'fmen weights list'"
        )
    return load(path)
