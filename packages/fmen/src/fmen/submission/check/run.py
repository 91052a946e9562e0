"""Check any team's submission before the organisers do: a package, or an archive of results."""

from __future__ import annotations

import lzma
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fmen.submission.check.findings import Finding, abbreviate
from fmen.submission.check.package import NOT_RUN, check_package
from fmen.submission.check.server_archive import UNNAMED, check_results
from fmen.submission.rules import DEFAULT, Split, SubmissionError, get_layout
from fmen_data.datasets import Source

LARGEST = 8 * 2**30
"""Largest total size of the unpacked files, in bytes."""


def check_submission(
    path: Path,
    data: Source | None = None,
    *,
    layout: str | None = None,
    split: Split = "valid",
    run_code: bool = False,
    cuda: bool = False,
    timeout: float = 1800,
) -> list[Finding]:
    """Check a zip.

    Args:
        path: A package or an archive of results.
        data: Images to measure PSNR on; see :func:`fmen.submission.images.open_images`. None to skip PSNR.
        layout: The challenge. None for the one that the package's ``metrics.json`` names, or else ``"ntire2022"``.
        split: The split that an archive of results is of.
        run_code: Whether to run the package's code: in bubblewrap if it is installed, else with a warning.
        cuda: Whether the package's code may use a GPU.
        timeout: Time limit for the package's code, in seconds.

    Returns:
        The findings, fatal ones first. Without a fatal one, the organisers can use the file and its figures are right.

    Raises:
        SubmissionError: The file or the layout does not exist, ``data`` lacks the split, or fvcore is not installed.
        DataError: The images cannot be read.
    """
    rules = None if layout is None else get_layout(layout)
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
                findings += check_package(work, names, rules, data, run_code=run_code, cuda=cuda, timeout=timeout)
            elif any("/" not in name and name.endswith((".png", "readme.txt")) for name in names):
                findings += check_results(work / "package", names, rules or get_layout(DEFAULT), split, data)
            else:
                findings.append(Finding("fatal", path.name, describe_unknown(names)))
    order = ("fatal", "warning", "info")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def verdict(path: Path, findings: Sequence[Finding]) -> str:
    """Return the result of a check in one line.

    Args:
        path: The zip.
        findings: What :func:`check_submission` found in it.
    """
    fatal, warnings = (sum(f.severity == severity for f in findings) for severity in ("fatal", "warning"))
    if fatal:
        return "not ready: 1 thing is wrong" if fatal == 1 else f"not ready: {fatal} things are wrong"
    with zipfile.ZipFile(path) as archive:
        package = any(name.startswith("models/") for name in archive.namelist())
    if package and any(f.message == NOT_RUN for f in findings):
        return "nothing wrong in its files; 'fmen submit check --run-code' also runs it, as the organisers do"
    if any(f.message.endswith(UNNAMED) for f in findings):
        return f"nothing wrong in its files; {UNNAMED}"
    what = "would run in the organisers' repository" if package else "the evaluation server would accept it"
    measured = any("PSNR" in f.message for f in findings)
    remarks = [f"{warnings} warning{'s'[: warnings > 1]}"] if warnings else []
    remarks += [] if measured else ["PSNR is not measured without --data"]
    return f"ready: {what}" + (f" ({'; '.join(remarks)})" if remarks else "")


def unpack(path: Path, folder: Path) -> list[Finding]:
    """Unpack a zip. A zip with an unsafe or unreadable entry is not unpacked."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            findings = [
                Finding("fatal", repr(entry.filename), fault) for entry in entries if (fault := entry_fault(entry))
            ]
            counts = Counter(entry.filename for entry in entries)
            twice = sorted(name for name, number in counts.items() if number > 1)
            if twice:
                findings.append(Finding("fatal", path.name, f"contains more than once: {abbreviate(twice)}"))
            if sum(entry.file_size for entry in entries) > LARGEST:
                findings.append(Finding("fatal", path.name, f"unpacks to more than {LARGEST >> 30} GiB"))
            if not findings:
                archive.extractall(folder)
            return findings
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        return [Finding("fatal", path.name, f"contains a file and a folder of the same name ({error.filename})")]
    except OSError as error:
        if error.errno is not None:
            raise
        return [damaged(path, error)]  # bzip2 raises it without a number
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, UnicodeDecodeError) as error:
        return [damaged(path, error)]


def damaged(path: Path, error: Exception) -> Finding:
    """Return the finding about a file that cannot be read as a zip."""
    return Finding("fatal", path.name, f"not a zip, or damaged ({error})")


def entry_fault(entry: zipfile.ZipInfo) -> str:
    """Return why an entry of a zip must not be unpacked; empty if it is safe."""
    name = PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
        return "would be written outside the target folder"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link"
    return "is encrypted" if entry.flag_bits & 1 else ""


def describe_unknown(names: list[str]) -> str:
    """Return why the zip is neither a package nor an archive of results."""
    deep = [name for name in names if "/models/" in name or name.endswith(("/readme.txt", ".png"))]
    if deep:
        return f"files must be in the root of the zip, but {deep[0]} is in a folder"
    return "neither a package (models/, model_zoo/) nor an archive of results (PNG images, readme.txt)"
