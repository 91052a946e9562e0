"""Load and measure a team's network in a separate process; ``check.package`` starts it.

``python -I probe.py IMPORT_PATH FOLDER STEM WEIGHTS LAYOUT [LR_FOLDER]`` examines the package unpacked in
FOLDER/package: ``models/STEM.py`` and ``model_zoo/WEIGHTS``. It writes FOLDER/probe.json and, given an LR folder, the
SR images to FOLDER/sr. This project's packages, which measure, are imported from IMPORT_PATH first and then blocked,
as they are missing on the organisers' machines; only then does the package's code run.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import json
import os
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path[:0] = sys.argv[1].split(os.pathsep)

from fmen.submission.metrics import count_complexity
from fmen.submission.rules import get_layout
from fmen.submission.sandbox import block_project_packages, guard
from fmen_data import read_image, write_image

WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")


class Fault(Exception):
    """A fault of the package. Its arguments: where (``"weights"``, ``"model"``, ...), and one line."""


def main() -> None:
    """Examine the package and write ``probe.json``."""
    folder, stem, weights, layout, *lr_folder = sys.argv[2:]
    work, rules = Path(folder).resolve(), get_layout(layout)
    block_project_packages()
    guard(work)
    os.chdir(work / "package")
    sys.path.insert(0, str(work / "package"))
    sys.dont_write_bytecode = True
    found: dict[str, Any] = {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        state = read_state(Path("model_zoo", weights))
        model, data_range = build(stem, state, device, found)
        found["counts"] = call_untrusted("figures", lambda: count_complexity(model, rules))
        if lr_folder:
            call_untrusted("figures", lambda: restore(model, data_range, device, Path(lr_folder[0]), work / "sr"))
    except Fault as fault:
        found["fault"] = fault.args
    (work / "probe.json").write_text(json.dumps(found))


def call_untrusted(where: str, function: Callable[[], Any]) -> Any:
    """Call the package's code; whatever it raises becomes a ``Fault`` at ``where``."""
    try:
        return function()
    except Fault:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).encode(errors="replace").decode().split())[:300]
        raise Fault(where, f"{type(error).__name__}: {reason}") from error


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read the state dict of a weights file, without the wrappers of training frameworks."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and found:
            fault = f"contain a Python object ({found.group(1)}), which could run code, and were not loaded"
        else:
            fault = f"not a plain state dict ({type(error).__name__})"
        raise Fault("weights", fault) from None
    while isinstance(content, Mapping) and any(isinstance(content.get(key), Mapping) for key in WRAPPERS):
        content = next(content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping))
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise Fault("weights", "not a plain state dict")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def build(
    stem: str, state: Mapping[str, Tensor], device: torch.device, found: dict[str, Any]
) -> tuple[nn.Module, float]:
    """Build the network with its weights, and determine its data range.

    Both come from the package's ``select_model``. Without one, or if it fails, the class that fits the weights best
    is used. The weights are loaded strictly in either case: ``select_model`` may not have done so.
    """
    module = call_untrusted("model", lambda: importlib.import_module(f"models.{stem}"))
    model, demo = None, Path("test_demo.py")
    if demo.is_file():
        try:
            model, data_range = call_untrusted(str(demo), lambda: from_test_demo(demo, int(stem[4:6]), device))
        except Fault as fault:
            found["select_model"] = fault.args[1]
    if model is None:
        model = from_class(module, state)
        data_range, found["data_range_from"] = declared_data_range(model, stem)
    load_strictly(model, state)
    return model.eval().to(device), data_range


def from_test_demo(path: Path, model_id: int, device: torch.device) -> tuple[nn.Module, float]:
    """Call the package's own ``select_model`` for the network and its data range.

    Imports that fail are skipped: the organisers' ``test_demo.py`` imports modules of their repository that
    ``select_model`` does not use.
    """
    load = torch.load

    def load_tensors_only(file: Any, *_: Any, **__: Any) -> Any:
        return load(file, map_location="cpu", weights_only=True)

    setattr(torch, "load", load_tensors_only)  # noqa: B010 - mypy rejects an assignment to a function
    try:
        names: dict[str, Any] = {"__name__": "test_demo", "__file__": str(path.resolve())}
        for statement in ast.parse(path.read_bytes()).body:
            with contextlib.suppress(ImportError):
                exec(compile(ast.Module([statement], []), path.name, "exec"), names)
        model, _, data_range, _ = names["select_model"](argparse.Namespace(model_id=model_id), device)
        return model, float(data_range)
    finally:
        setattr(torch, "load", load)  # noqa: B010


def from_class(module: Any, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the class of a model file whose parameter names, built without arguments, fit the weights best."""
    networks = []
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if issubclass(kind, nn.Module) and kind.__module__ == module.__name__:
            try:
                networks.append(kind())
            except (Exception, SystemExit):  # a block of the network that requires arguments
                continue
    if not networks:
        raise Fault("model", "no class can be built without arguments, and there is no select_model that passes them")
    return max(networks, key=lambda network: len(network.state_dict().keys() & state.keys()))


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the weights strictly; a ``Fault`` names the first keys that do not fit."""
    expected = model.state_dict()
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is unknown" for key in state if key not in expected]
    faults += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise Fault("weights", f"do not load strictly: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(dict(state), strict=True)


def declared_data_range(model: nn.Module, stem: str) -> tuple[float, str]:
    """Return the data range and where it is declared: in a ``select_model`` branch, in the network, or nowhere (1)."""
    for name in ("test_demo.py", "select_model.txt", "README.md"):
        text = Path(name).read_text(errors="replace") if Path(name).is_file() else ""
        for branch in re.split("if model_id ==", text):
            found = re.search(r"data_range\s*=.*?,\s*(1|255)(\.0*)?\s*(#.*)?$", branch, re.MULTILINE)
            if found and f"models.{stem} " in branch:
                return float(found.group(1)), name
    own = getattr(model, "data_range", None)
    return (float(own), "the network") if isinstance(own, (int, float)) else (1.0, "")


def restore(model: nn.Module, data_range: float, device: torch.device, lr_folder: Path, sr_folder: Path) -> None:
    """Upscale every image as the challenge's ``test_demo.py`` does."""
    sr_folder.mkdir()
    for path in sorted(lr_folder.iterdir()):
        x = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None].to(device).float().contiguous()
        with torch.no_grad():
            out = model(x.div(255.0 / data_range)).float().clamp(0, data_range).mul(255.0 / data_range).round()
        write_image(sr_folder / path.name, out[0].byte().permute(1, 2, 0).cpu().numpy())


if __name__ == "__main__":
    main()
