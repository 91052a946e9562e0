"""Check a submission, ours or another's, before the organisers do: a network's package, or an archive of results."""

from __future__ import annotations

import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from fmen.submission.check.findings import Finding, some
from fmen.submission.check.package import check_package
from fmen.submission.check.server_archive import check_results
from fmen.submission.rules import Split, SubmissionError, layout_named
from fmen_data.datasets import Source

LARGEST = 8 * 2**30
"""Bytes that a zip may unpack to."""


def check_submission(
    path: Path,
    data: Source | None = None,
    *,
    layout: str = "ntire2022",
    split: Split = "valid",
    cuda: bool = False,
    timeout: float = 1800,
) -> list[Finding]:
    """Check a zip.

    Args:
        path: A package or an archive of results.
        data: Images to measure on: see ``submission_data.open_images``. Without them there is no PSNR.
        layout: The challenge, where the package itself does not say.
        split: The split that an archive of results belongs to.
        cuda: Whether a package's code may use a GPU.
        timeout: Seconds that it may take.

    Returns:
        What was found, the fatal first; with none fatal, the organisers can use the file and it is what it says.

    Raises:
        SubmissionError: There is no such file or layout, ``data`` has not that split, or fvcore is needed and missing.
        DataError: ``data`` cannot be read.
    """
    rules = layout_named(layout)
    if not path.is_file():
        raise SubmissionError(f"{path}: no such file; name the zip to check")
    with tempfile.TemporaryDirectory(prefix="fmen-check-") as folder:
        work = Path(folder).resolve()
        findings = unpack(path, work / "package")
        names = sorted(
            file.relative_to(work / "package").as_posix() for file in (work / "package").rglob("*") if file.is_file()
        )
        if not any(finding.severity == "fatal" for finding in findings):
            if any(name.startswith(("models/", "model_zoo/")) for name in names):
                findings += check_package(work, names, rules, data, cuda=cuda, timeout=timeout)
            elif any("/" not in name and name.endswith((".png", "readme.txt")) for name in names):
                findings += check_results(work / "package", names, rules, split, data)
            else:
                findings.append(Finding("fatal", path.name, what_is_missing(names)))
    order = ("fatal", "warning", "info")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def unpack(path: Path, folder: Path) -> list[Finding]:
    """Unpack a zip, unless something in it would reach outside the folder or cannot be read."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            findings = [Finding("fatal", repr(entry.filename), fault) for entry in entries if (fault := unsafe(entry))]
            names = [entry.filename for entry in entries]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                findings.append(Finding("fatal", path.name, f"holds more than once: {some(twice)}"))
            if sum(entry.file_size for entry in entries) > LARGEST:
                findings.append(Finding("fatal", path.name, f"unpacks to more than {LARGEST >> 30} GiB"))
            if not findings:
                archive.extractall(folder)
            return findings
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        return [Finding("fatal", path.name, f"holds a file and a folder of one name ({error.filename})")]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return [Finding("fatal", path.name, f"is no zip, or a damaged or truncated one ({error})")]


def unsafe(entry: zipfile.ZipInfo) -> str:
    """Why an entry of a zip must not be unpacked; empty if it may."""
    name = PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
        return "would be written outside the folder it is unpacked in"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link"
    return "is encrypted" if entry.flag_bits & 1 else ""


def what_is_missing(names: list[str]) -> str:
    """Why this is neither a package nor an archive of results."""
    deep = [name for name in names if "/models/" in name or name.endswith(("/readme.txt", ".png"))]
    if deep:
        return f"everything must lie in the zip's root, but {deep[0]} lies in a folder"
    return "is neither a package (models/, model_zoo/) nor an archive of results (PNG images, readme.txt)"
