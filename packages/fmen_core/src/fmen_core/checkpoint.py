"""Read and write weights files, and recognise the network that a file belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pickle
import struct
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, unwrap
from fmen_core.errors import ModelError
from fmen_core.models import ARCHITECTURES, recognise

WRAPPERS = ("params_ema", "params", "state_dict", "model")
"""The keys under which training frameworks store a state dict, averaged weights first."""

CHALLENGE_NAMES = {"basic_blocks.": "ERBs.", "hfabs.": "HFABs."}
"""Key prefixes in FMEN's challenge submission, and what its authors' repository and this package call them."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

INTEGERS = ("num_batches_tracked", "sample_indices", "center_indices")
"""The ends of the keys of integer tensors: BatchNorm's counter and the positions of HAESR's window attention."""

AVERAGED = "n_averaged"
"""The counter in the state dict of PyTorch's ``AveragedModel``."""

CHECKSUM = "fmen_core_checksum"
"""The metadata entry with the checksum of the tensors; other software may use a shorter name for another checksum."""

DAMAGED = (
    *(RuntimeError, EOFError, SafetensorError, struct.error, ValueError, LookupError, AttributeError, TypeError),
    *(OSError, AssertionError, zipfile.BadZipFile, zlib.error),
)
"""What the readers raise about a damaged file."""


class WeightsError(ModelError):
    """A weights file cannot be used. The message is one line: the file, what is wrong, and what to do."""


def load(path: str | Path) -> nn.Module:
    """Build the network that a weights file belongs to, load the weights strictly, and return it in eval mode.

    Reads safetensors and PyTorch files of every network of this package. The state dict may be nested under
    ``params_ema``, ``params``, ``state_dict`` or ``model``, and its keys may have the prefixes of ``DataParallel`` and
    ``torch.compile``. FMEN is read in either form and under both of its published key names.

    Returns:
        The network, on the CPU, in float32, with ``name``, ``scale``, ``data_range`` and ``sizes``.

    Raises:
        WeightsError: The file is missing, is not a weights file, contains code, or belongs to no known network; or a
            weight is NaN, infinite, or not a floating-point number.
    """
    state = read_weights(path)
    metadata = read_metadata(path)
    if name := metadata.get("module_class"):  # its tensors may have the names of a network of this package
        file = metadata.get("module_file", "FILE.py")
        raise WeightsError(f"{path}: these are weights of {name} in {file}; name that file with --model {file}:{name}")
    found = recognise(state, metadata.get("name"))
    if found is None:
        raise WeightsError(f"{path}: no known network has these weights; {nearest_match(state)}")
    architecture, arguments = found
    model = architecture.build(**{**arguments, **recorded_sizes(path, architecture)})
    model.load_state_dict(state)
    return model.eval()


def recorded_sizes(path: str | Path, architecture: Architecture) -> dict[str, Any]:
    """Return the sizes in the metadata of a weights file that the shapes of its tensors do not show."""
    metadata = read_metadata(path)
    try:
        sizes = dict(json.loads(metadata.get("sizes", "{}")))
        if metadata.get("scale"):
            sizes["scale"] = int(metadata["scale"])
    except (ValueError, TypeError):
        return {}
    return {name: sizes[name] for name in architecture.hidden_sizes if name in sizes}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file, float32 on the CPU, under the key names of this package.

    Raises:
        WeightsError: The file is missing, unreadable, contains code, or contains no tensors; or a weight is NaN,
            infinite, or not a floating-point number.
    """
    state = read_tensors(path)
    for key, value in state.items():
        if key.endswith((*INTEGERS, AVERAGED)):
            continue
        if value.dtype not in FLOATS or value.layout != torch.strided:
            kind = str(value.dtype if value.layout == torch.strided else value.layout).removeprefix("torch.")
            raise WeightsError(f"{path}: {key} is {kind}; expected float32, float16, bfloat16 or float64 weights")
        if not value.isfinite().all():
            raise WeightsError(f"{path}: {key} contains NaN or infinity; use an earlier checkpoint of the run")
    return normalise_keys(state)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file on the CPU, unconverted, under the file's own key names.

    Raises:
        WeightsError: The file is missing, unreadable, contains code, or contains no tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; name a weights file")
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; name an existing .safetensors, .pth or .pt file")
    if path.suffix == ".xml":
        raise WeightsError(f"{path}: a network for OpenVINO, which only 'fmen upscale' and 'fmen validate' run")
    try:
        content = read_safetensors(path) if is_safetensors(path) else read_saved(path)
    except pickle.UnpicklingError:
        if looks_saved(path):
            raise WeightsError(
                f"{path}: contains Python objects besides tensors, which could run code, and was not opened; "
                "save its state_dict() alone and try again"
            ) from None
        raise WeightsError(f"{path}: not a weights file; expected safetensors or the output of torch.save") from None
    except DAMAGED as error:
        if isinstance(error, WeightsError) or (isinstance(error, OSError) and error.filename is not None):
            raise  # says what is wrong, or is not about the content
        raise WeightsError(
            f"{path}: not a weights file or a damaged one; expected safetensors or the output of torch.save"
        ) from None
    return unwrap_checkpoint(content, path)


def looks_saved(path: Path) -> bool:
    """Return whether the file starts as ``torch.save`` or ``pickle`` write it: a zip archive, or a protocol byte."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def is_safetensors(path: Path) -> bool:
    """Return whether the file starts as safetensors: a length of 8 bytes, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; ``ValueError`` if they do not match the checksum from ``save``."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open cannot be iterated
        expected = (file.metadata() or {}).get(CHECKSUM)
    if expected not in (None, checksum(tensors)):
        raise ValueError("wrong checksum")
    return tensors


def read_saved(path: Path) -> Any:
    """Return what ``torch.save`` wrote, after comparing the checksums of a zip archive, which PyTorch does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise WeightsError(f"{path}: a TorchScript file; name the weights that it was exported from")
            if archive.testzip() is not None:
                raise ValueError("wrong checksum")
    return torch.load(path, "cpu", weights_only=True)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the BLAKE2b digest of 128 bits of contiguous tensors and their names, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unwrap_checkpoint(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict inside the content of a checkpoint file."""
    for _ in range(len(WRAPPERS) + 1):  # a dictionary may contain itself
        inner = [content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content]
        nested = next((value for value in inner if isinstance(value, Mapping)), None)
        if nested is None:
            break
        content = nested
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: contains no tensors by name; expected a state_dict, bare or under {WRAPPERS}")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def normalise_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers, and rename FMEN's challenge layout to that of its authors' repository."""
    normal = {}
    for key, value in state.items():
        key = key.replace("_orig_mod.", "")  # torch.compile, of the network or of a part of it
        while key.startswith("module."):  # DataParallel, DistributedDataParallel
            key = key.removeprefix("module.")
        if key == AVERAGED:
            continue
        for challenge, authors in CHALLENGE_NAMES.items():
            if key.startswith(challenge):
                key = authors + key.removeprefix(challenge)
        normal[key] = value.float() if value.is_floating_point() else value
    return normal


def nearest_match(state: StateDict) -> str:
    """Return one line: the architecture with the most keys in common, and the first differences."""

    def overlap(expected: Mapping[str, torch.Size]) -> float:
        return len(expected.keys() & state.keys()) / max(1, len(expected.keys() | state.keys()))

    candidates = [(shapes, architecture) for architecture in ARCHITECTURES for shapes in likely(architecture, state)]
    shapes, architecture = max(candidates, key=lambda candidate: overlap(candidate[0]))
    if overlap(shapes) == 0:
        return f"its first keys are {', '.join(list(state)[:3])}"
    return f"nearest match {architecture.title}, but {differences(state, shapes)}"


def likely(architecture: Architecture, state: StateDict) -> list[dict[str, torch.Size]]:
    """Return the shapes of an architecture with the sizes that can be read from ``state``, and of the published one."""
    readable = {name: value for name, value in architecture.read_sizes(state).items() if value}
    return [architecture.expected_shapes(readable), architecture.expected_shapes({})]


def differences(state: StateDict, expected: Mapping[str, torch.Size], shown: int = 3) -> str:
    """Return one line on how ``state`` differs from the shapes of a network."""
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is unknown" for key in state if key not in expected]
    faults += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    more = f" and {len(faults) - shown} more" if len(faults) > shown else ""
    return "; ".join(faults[:shown]) + more


def save(model: nn.Module, path: str | Path, *, recipe: str = "", metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of ``model`` as safetensors, with a description in the file's metadata.

    The file is written under a temporary name and renamed when it is complete and on the disk.

    Args:
        model: A network; wrappers (``torch.compile``, ``DataParallel``) are removed.
        path: The file, by convention ``.safetensors``.
        recipe: The name of the training recipe.
        metadata: Additional entries.
    """
    path, model = Path(path), unwrap(model)
    state = {key.replace("_orig_mod.", ""): value for key, value in model.state_dict().items()}
    _, arguments = recognise(state, getattr(model, "name", None)) or (None, {})
    sizes = getattr(model, "sizes", None)
    arguments = {**(sizes if isinstance(sizes, Mapping) else {}), **arguments}
    # Clones, because safetensors refuses tensors that share memory, as those of a layer that is used twice do.
    tensors = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    entries = {
        "format": "pt",
        "name": str(getattr(model, "name", "")),
        "form": arguments.get("form", "inference"),
        "scale": str(getattr(model, "scale", "")),
        "data_range": str(getattr(model, "data_range", "")),
        "sizes": json.dumps({name: value for name, value in arguments.items() if name not in ("scale", "form")}),
        "recipe": recipe,
        "fmen_core": importlib.metadata.version("fmen-core"),
        CHECKSUM: checksum(tensors),
        **(metadata or {}),
    }
    write_file(path, serialize(tensors, entries))


def write_file(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    # A random name: process IDs repeat across containers that share a disk.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # a read-only disk refuses even to remove what does not exist
            temporary.unlink()


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata that ``save`` wrote; empty for files in other formats."""
    if not is_safetensors(Path(path)):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        raise WeightsError(f"{path}: a damaged weights file") from None
