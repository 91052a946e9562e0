"""Read and write weights files, and recognise the network that they belong to from its tensors alone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from fmen_core import fmen_deploy
from fmen_core.architecture import Architecture, StateDict
from fmen_core.errors import ModelError
from fmen_core.models import ARCHITECTURES, fmen

WRAPPERS = ("params_ema", "params", "state_dict", "model")
"""The keys under which training frameworks store a state dict, the best weights first."""

CHALLENGE_NAMES = {"basic_blocks.": "ERBs.", "hfabs.": "HFABs."}
"""How FMEN's challenge submission calls what its authors' repository calls otherwise."""


class WeightsError(ModelError):
    """A weights file cannot be used; the message is one line that names the file, the fault and the remedy."""


def detect_fmen(state: StateDict, block_key: str) -> dict[str, Any] | None:
    """The sizes of an FMEN whose RRRBs hold ``block_key``, or None if ``state`` is no such network."""
    first, squeeze = f"ERBs.0.conv1.{block_key}.weight", "HFABs.0.squeeze.weight"
    if first not in state or squeeze not in state or "head.weight" not in state or "tail.0.weight" not in state:
        return None
    down_blocks = count_blocks(state, "ERBs.")
    branches = ["warmup.1.convs.", *(f"HFABs.{i}.convs." for i in range(down_blocks))]
    return {
        "scale": round((state["tail.0.weight"].shape[0] / 3) ** 0.5),
        "n_feats": state["head.weight"].shape[0],
        "mid_feats": state[squeeze].shape[0],
        "down_blocks": down_blocks,
        "up_blocks": tuple(count_blocks(state, prefix) for prefix in branches),
    }


def count_blocks(state: StateDict, prefix: str) -> int:
    """How many numbered children the module at ``prefix`` has."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def detect_training_form(state: StateDict) -> dict[str, Any] | None:
    """The arguments of ``fmen.FMEN``, or None."""
    sizes = detect_fmen(state, "expand_conv")
    if sizes is not None:
        expand = state["ERBs.0.conv1.expand_conv.weight"]
        sizes["ratio"] = expand.shape[0] // expand.shape[1]
    return sizes


def detect_inference_form(state: StateDict) -> dict[str, Any] | None:
    """The arguments of ``fmen_deploy.FMEN``, or None."""
    return detect_fmen(state, "rep_conv")


_FMEN_SOURCE = "Du et al., NTIRE 2022, team NJU_Jet"
FMEN_TRAINING = Architecture(
    "fmen", "FMEN (training form)", _FMEN_SOURCE, 255.0, (2, 3, 4), fmen.FMEN, detect_training_form
)
FMEN_INFERENCE = Architecture("fmen", "FMEN", _FMEN_SOURCE, 255.0, (2, 3, 4), fmen_deploy.FMEN, detect_inference_form)


def known_architectures() -> tuple[Architecture, ...]:
    """Every network whose weights can be recognised."""
    return (FMEN_INFERENCE, FMEN_TRAINING, *ARCHITECTURES)


def load(path: str | Path) -> nn.Module:
    """Build the network that a weights file belongs to, load the weights strictly, and return it in eval mode.

    Reads safetensors and PyTorch files, bare or under ``params_ema``, ``params``, ``state_dict`` or ``model``, with or
    without ``module.`` before each key; both published layouts of FMEN, in either form; and every network of the zoo.

    Returns:
        The network, on the CPU, in float32, with ``name``, ``scale`` and ``data_range``.

    Raises:
        WeightsError: The file is missing, is no weights file, holds code, or belongs to no known network.
    """
    path = Path(path)
    state = read_weights(path)
    for architecture in known_architectures():
        sizes = architecture.detect(state)
        if sizes is None:
            continue
        try:
            model = architecture.build(**sizes)
            model.load_state_dict(state)
        except (RuntimeError, TypeError, ValueError, IndexError):
            raise WeightsError(f"{path}: {differences(state, architecture, sizes)}") from None
        return model.eval()
    raise WeightsError(f"{path}: no known network has these weights; {nearest_match(state)}")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file, float32 on the CPU, under the key names that this package uses.

    Raises:
        WeightsError: The file is missing, unreadable, holds code, or holds no tensors.
    """
    return normalise_keys(read_tensors(path))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file on the CPU, as they are there, under the file's own key names.

    Raises:
        WeightsError: The file is missing, unreadable, holds code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; name an existing .safetensors, .pth or .pt file")
    try:
        content = read_safetensors(path) if is_safetensors(path) else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError:
        if looks_saved(path):
            raise WeightsError(
                f"{path}: holds Python objects besides tensors and was not opened, since they could run code; "
                "save its state_dict() alone and try again"
            ) from None
        raise WeightsError(f"{path}: not a weights file; expected safetensors or what torch.save writes") from None
    except (RuntimeError, EOFError, SafetensorError, struct.error, ValueError, LookupError, AttributeError, TypeError):
        raise WeightsError(
            f"{path}: not a weights file or a damaged one; expected safetensors or what torch.save writes"
        ) from None
    return unwrap(content, path)


def looks_saved(path: Path) -> bool:
    """Whether the file begins as ``torch.save`` or ``pickle`` begin one: a zip archive, or a pickle's protocol byte."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def is_safetensors(path: Path) -> bool:
    """Whether the file looks like safetensors: a length of 8 bytes, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping


def unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside what a checkpoint file held."""
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return unwrap(content[key], path)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no tensors by name; expected a state_dict, bare or under {WRAPPERS}")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def normalise_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop ``module.`` and give FMEN's challenge layout the names of its authors' repository."""
    normal = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        for challenge, ours in CHALLENGE_NAMES.items():
            if key.startswith(challenge):
                key = ours + key.removeprefix(challenge)
        normal[key] = value.float() if value.is_floating_point() else value
    return normal


def differences(state: StateDict, architecture: Architecture, sizes: Mapping[str, Any], shown: int = 3) -> str:
    """One line on how ``state`` differs from the network that it most resembles."""
    expected = {key: tuple(value.shape) for key, value in build_on_meta(architecture, sizes).items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    faults = [f"{key} is missing" for key in expected if key not in found]
    faults += [f"{key} is unknown" for key in found if key not in expected]
    faults += [
        f"{key} is {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    more = f" and {len(faults) - shown} more" if len(faults) > shown else ""
    return f"nearest match {architecture.title}, but {'; '.join(faults[:shown])}{more}"


def build_on_meta(architecture: Architecture, sizes: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a network without memory for its values; empty if the network cannot be built so."""
    try:
        with torch.device("meta"):
            return architecture.build(**sizes).state_dict()
    except (RuntimeError, TypeError, ValueError, IndexError):
        return {}


def nearest_match(state: StateDict) -> str:
    """One line that names the architecture with the most keys in common and the first keys that differ."""

    def overlap(architecture: Architecture) -> float:
        expected = build_on_meta(architecture, {}).keys()
        return len(expected & state.keys()) / max(1, len(expected | state.keys()))

    nearest = max(known_architectures(), key=overlap)
    if overlap(nearest) == 0:
        return f"its first keys are {', '.join(list(state)[:3])}"
    return differences(state, nearest, {})


def save(model: nn.Module, path: str | Path, *, recipe: str = "", metadata: Mapping[str, str] | None = None) -> None:
    """Write ``model``'s weights as safetensors, with what they are in the file's metadata.

    The file appears under its name only when it is whole.

    Args:
        model: A network of this package, in either form.
        path: Where to; by custom it ends in ``.safetensors``.
        recipe: The name of the training recipe.
        metadata: Further entries.
    """
    path = Path(path)
    entries = {
        "format": "pt",
        "name": str(getattr(model, "name", "")),
        "form": "training" if isinstance(model, fmen.FMEN) else "inference",
        "scale": str(getattr(model, "scale", "")),
        "data_range": str(getattr(model, "data_range", "")),
        "sizes": json.dumps(getattr(model, "sizes", {})),
        "recipe": recipe,
        "fmen_core": importlib.metadata.version("fmen-core"),
        **(metadata or {}),
    }
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(serialize(state, metadata=entries))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_metadata(path: str | Path) -> dict[str, str]:
    """What ``save`` wrote beside the tensors; empty for files of another format."""
    if not is_safetensors(Path(path)):
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
