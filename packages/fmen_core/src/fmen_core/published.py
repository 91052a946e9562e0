"""The weights files that authors and organisers publish: address, size and checksum of each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of downloaded weights: ``weights`` in ``$FMEN_CACHE``, by default in ``~/.cache/fmen``."""
    return Path(os.environ.get("FMEN_CACHE") or Path.home() / ".cache" / "fmen") / "weights"


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
        psnr: PSNR on Set5, protocol ``paper``, as in the README; None if it was not measured.
        data: The training data that the authors state.
    """

    name: str
    title: str
    repository: str
    path: str
    size: int
    sha256: str
    psnr: float | None = None
    data: str = "not stated"

    @property
    def url(self) -> str:
        """The address of the file."""
        repository, commit = self.repository.split("@")
        return f"https://raw.githubusercontent.com/{repository}/{commit}/{self.path}"

    @property
    def licence(self) -> str:
        """The licence of the repository."""
        return _LICENCES[self.repository.split("@")[0]]

    @property
    def file(self) -> Path:
        """The path of the downloaded file."""
        return cache_folder() / f"{self.name}{Path(self.path).suffix}"


_NTIRE2022 = "ofsoundof/NTIRE2022_ESR@e95ba4a4916bb13d6348f7ee172827e2452e8a31"
_NTIRE2024 = "Amazingren/NTIRE2024_ESR@6404fa48dde4a4adbf241a51debdc661aef20449"
_NTIRE2025 = "Amazingren/NTIRE2025_ESR@b69fb668c0362deb696eecbfdebfaa5c2fcdfcb4"
_NTIRE2026 = "Amazingren/NTIRE2026_ESR@4592ce6db68b395699f13e7e2a4e3baf317ef1c6"
_FMEN = "NJU-Jet/FMEN@a1def169d0e2c99ecebdb1b08bf567f329c3a566"
_IMDN = "Zheng222/IMDN@8f158e6a5ac9db6e5857d9159fd4a6c4214da574"
_PAN = "zhaohengyuan1/PAN@4d045d18592c5771cd3990da88f292812774e538"

_LICENCES = {repository.split("@")[0]: "MIT" for repository in (_NTIRE2022, _NTIRE2024, _NTIRE2025, _NTIRE2026)}
_LICENCES |= {"NJU-Jet/FMEN": "Apache-2.0", "Zheng222/IMDN": "not stated", "zhaohengyuan1/PAN": "not stated"}
"""The licence of each repository, as NOTICE names it."""

BUNDLED_PSNR = {
    "fmen-s48_x4": 31.91,
    "fmen-s_x2": 37.78,
    "fmen-s_x3": 34.17,
    "fmen-s_x4": 31.99,
    "fmen-s_x4_int8": 31.97,
    "fmen-s_x4_real": 31.73,
}
"""PSNR of the bundled weights on Set5, protocol ``paper``."""

BUNDLED_DATA = "BSDS500, photographs"
"""What the bundled weights were trained on; their model cards name the sources."""

PUBLISHED: tuple[Published, ...] = (
    Published(
        "fmen-s-ntire2022",
        "FMEN-S x4, as submitted to NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team03_fmen.pth",
        1390483,
        "f20cde0828068c5f50d3b64aa82c8a363fe6abc8d536d1a9fd4d09899f019bea",
        psnr=32.03,
        data="DIV2K, Flickr2K",
    ),
    Published(
        "fmen-s-authors",
        "FMEN-S x4, from its authors' repository",
        _FMEN,
        "test_weights.pt",
        1390163,
        "d5534eba1feacfdd4043d9175d3bf0730b1ab4c91ba5c3f40a2282cd496fb4a5",
        psnr=32.12,
        data="DIV2K, Flickr2K",
    ),
    Published(
        "imdn-baseline",
        "IMDN x4, the baseline of NTIRE 2022",
        _NTIRE2022,
        "model_zoo/imdn_baseline.pth",
        3589744,
        "115b4cc557eba9daaf1a6543c4858014c7e2a410655aafef7c8348ae54acc203",
        psnr=32.25,
    ),
    Published(
        "rfdn",
        "E-RFDN x4, the winner of AIM 2020",
        _NTIRE2022,
        "model_zoo/rfdn_baseline.pth",
        1754927,
        "11af8ec8ebd68689e90ef1e29044f9804c72d3bd9f7573820b7b26035782760c",
        psnr=32.16,
    ),
    Published(
        "rlfn-cut",
        "RLFN_cut x4, ByteESR at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team04_rlfn.pth",
        1292283,
        "ca81b7757708ce749ac3766589690db6c2729961d026c0137e7659924ec36622",
        psnr=32.10,
    ),
    Published(
        "neesr",
        "plain RFDN x4, NEESR at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team05_efdn.pt",
        1124437,
        "b1cfec0dd5eaef944f02d0ce6f3bb75667c7afd0f21b63afe1e4c22b16504b7e",
        psnr=31.85,
    ),
    Published(
        "repafdn",
        "RePAFDN x4, Super at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team10_repafdn.pth",
        1336661,
        "ff9392bf08b0178da9a225a7efdb495156b60021ef69f260f28d68236141e33b",
        psnr=32.14,
    ),
    Published(
        "imdn-plus",
        "IMDN+ x4, rainbow at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team39_imdn_plus.pth",
        1139221,
        "0051dcbeb82684fef3981eff81df86bb167b8f9602323fa37f82f8c5566ff5a9",
        psnr=32.13,
    ),
    Published(
        "rfdn-pruned",
        "pruned RFDN x4, MegSR at NTIRE 2022",
        _NTIRE2022,
        "model_zoo/team40_rfdn_pruned.pth",
        1196417,
        "f4b5ebb858957bd5a473711e78f0d20a545d7e3a0fbcb90c0548d89fd2852172",
        psnr=32.15,
    ),
    Published(
        "slimrlfn",
        "SlimRLFN x4, team 21 at NTIRE 2024",
        _NTIRE2024,
        "model_zoo/team21_slimrlfn.pth",
        862005,
        "d8a4981dcf0f305761bef230f79740da82d29093144c0278ff46e7021d0c2450",
        psnr=31.97,
    ),
    Published(
        "efdn",
        "EFDN x4, the baseline of NTIRE 2025",
        _NTIRE2025,
        "model_zoo/team00_EFDN.pth",
        1153119,
        "71069f10ef234cd123f45ac8e69099f0a1fdc0c16afcfe2189e50071d47ce477",
        psnr=32.08,
    ),
    Published(
        "dipnet-slim",
        "DIPNet slim v2 x4, team 15 at NTIRE 2025",
        _NTIRE2025,
        "model_zoo/team15_DIPNet_slim_v2.pt",
        640386,
        "eca9bfbedfff866eaf4eeea405cdfeeeaa2381ce61d4cf97e476ee6aed1a27a6",
        psnr=32.04,
    ),
    Published(
        "spanf",
        "SPANF x4, team 24 at NTIRE 2025",
        _NTIRE2025,
        "model_zoo/team24_spanf.pth",
        606629,
        "1508c566008654646bea1edff537c83dd7a6fe8f6ffda3f25f9eb7ba09cbbcd3",
        psnr=31.77,
    ),
    Published(
        "safmnv3",
        "SAFMNv3 x4, team 19 at NTIRE 2025",
        _NTIRE2025,
        "model_zoo/team19_safmnv3.pth",
        592738,
        "07ca690f7935b97978a36bbb2e82aa821ffea7d38555eeb8468ee9e1425bd4dd",
        psnr=32.03,
    ),
    Published(
        "tsr",
        "TSR x4, team 31 at NTIRE 2025",
        _NTIRE2025,
        "model_zoo/team31_TSR.pth",
        703848,
        "be2a548500672826be378179a7ef535e49186e5fa8c07e0692672c8bc809e535",
        psnr=31.88,
    ),
    Published(
        "dscf",
        "DSCF x4, team 23 at NTIRE 2025",
        _NTIRE2025,
        "model_zoo/team23_DSCF.pth",
        535137,
        "239e76bc4e4e738491c3963805c0a79f524400acf5fbde34b2cb1a855dd62cb1",
        psnr=31.75,
    ),
    Published(
        "span",
        "SPAN x4 with 28 channels, the baseline of NTIRE 2026",
        _NTIRE2026,
        "model_zoo/team00_SPAN.pth",
        618658,
        "6c80f05048313289c6526e5fc9726688d7bb3dfdd6ae3c8b1e7dd09f601e5971",
        psnr=31.74,
    ),
    Published(
        "spanv2",
        "SPANV2 x4, team 22 at NTIRE 2026, the winner",
        _NTIRE2026,
        "model_zoo/team22_spanv2_c2.pth",
        565288,
        "fca2743272b8a7fb32931ed3287454173c7d209f204cb2f58084ee868414d371",
        psnr=31.77,
    ),
    Published(
        "disp",
        "DISP x4, team 18 at NTIRE 2026",
        _NTIRE2026,
        "model_zoo/team18_DISP.pth",
        666790,
        "b53944ab3a6ab63d5004f5dd0fae3d76cc7d308f2145942d0e41211aaf9225bf",
        psnr=31.94,
    ),
    Published(
        "pds",
        "PDS x4, team 01 at NTIRE 2026",
        _NTIRE2026,
        "model_zoo/team01_PDS.pth",
        577848,
        "6196a5e03e7d3fb58e3c35427bdd00290e693c8b530f5f8573108e517b9ade46",
        psnr=31.76,
    ),
    Published(
        "pkdsr",
        "PKDSR x4, team 16 at NTIRE 2026",
        _NTIRE2026,
        "model_zoo/team16_PKDSR.pth",
        1176443,
        "737fb4bb122c8dcdc0e3b6864d420819206ef7260e90b4a3e984c40c64e56d24",
        psnr=31.77,
    ),
    Published(
        "haesr",
        "HAESR x4, team 06 at NTIRE 2026",
        _NTIRE2026,
        "model_zoo/team06_HAESR.pth",
        3162222,
        "7734156836614b543dcc67eb198b8225f7cd0cf0fe03b66bbc2aa1c3f89ad445",
        psnr=32.46,
    ),
    Published(
        "imdn-x2",
        "IMDN x2, from its authors' repository",
        _IMDN,
        "checkpoints/IMDN_x2.pth",
        2796052,
        "740b39653592bd3f49955a21cd9e16f2d37f2c413368cc09327601b8fbe42ce1",
        psnr=38.00,
        data="DIV2K",
    ),
    Published(
        "imdn-x3",
        "IMDN x3, from its authors' repository",
        _IMDN,
        "checkpoints/IMDN_x3.pth",
        2830672,
        "11b1716a19bc16e5e353e1db798d476169338e631eb170c82d765559888cb028",
        psnr=34.36,
        data="DIV2K",
    ),
    Published(
        "imdn-x4",
        "IMDN x4, from its authors' repository",
        _IMDN,
        "checkpoints/IMDN_x4.pth",
        2879112,
        "e660c38221147217a136debeb99eb304d62d9c0f73ac421ed66281b619719714",
        psnr=32.21,
        data="DIV2K",
    ),
    Published(
        "pan-x2",
        "PAN x2, from its authors' repository",
        _PAN,
        "experiments/pretrained_models/PANx2_DF2K.pth",
        1076593,
        "fcf8ed48656abbaae46309ee91745684b80235a9c8b37a2d8fb0715a3ad3f00f",
        psnr=38.00,
        data="DIV2K, Flickr2K",
    ),
    Published(
        "pan-x4",
        "PAN x4, from its authors' repository",
        _PAN,
        "experiments/pretrained_models/PANx4_DF2K.pth",
        1121681,
        "739fab99ee7b7058dab4d1b84aa2869bb9fc3995a1c08789c20355bee943833c",
        psnr=32.13,
        data="DIV2K, Flickr2K",
    ),
)
