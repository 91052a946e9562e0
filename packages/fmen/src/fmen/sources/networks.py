"""Resolve ``--model``: a network by name, or a class in a Python file of the user's, ``FILE.py:CLASS``.

The class is an ``nn.Module`` that maps RGB ``(N, 3, H, W)`` in ``[0, data_range]`` to ``(N, 3, scale*H, scale*W)`` in
the same range, for any height and width. It is called with ``scale`` if it has such a parameter, and with the model
arguments. Its ``data_range`` is 1.0 or 255.0; a class without this attribute has 1.0.

Weights files record the file's name and SHA-256, the class and its arguments, but no code: a user's network is built
only from a file that the user names.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.sources.python_file import bind_arguments, call_user_code, execute_file, importing_beside
from fmen_core import WeightsError, load, read_metadata, read_weights, reparameterize, save
from fmen_core.architecture import Form
from fmen_core.blocks.reparameterizable import Reparameterizable
from fmen_core.checkpoint import differences, normalise_keys, read_tensors, recorded_sizes
from fmen_core.models import architecture_named, recognise
from fmen_core.reparam import synthetic_images

DEFAULT_DATA_RANGE = 1.0
"""The data range of a class without the attribute ``data_range``."""

CHECKED_SIZES = ((48, 64), (37, 45))
"""Heights and widths of the images that a user's network is checked on; odd sizes occur in every dataset."""

LARGEST_OUTPUT = 100.0
"""Largest absolute output that is accepted, in multiples of ``data_range``. Random weights rarely exceed 10."""

STATISTICS = ("running_mean", "running_var")
"""The buffers of BatchNorm that are averaged and must be finite. Others may be masks, with infinities."""

Note = Callable[[str], object]


@dataclass(frozen=True)
class UserModule:
    """The class that a user's network is an instance of.

    Attributes:
        file: The Python file.
        class_name: The class in it.
        args: The keyword arguments of the class, without ``scale``.
        sha256: SHA-256 of the file as it was executed.
    """

    file: Path
    class_name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.class_name}"

    def metadata(self) -> dict[str, str]:
        """Return the entries that describe the class in a weights file; the file's folder is not part of them."""
        return {
            "name": self.class_name,
            "sizes": json.dumps(self.args),
            "module_file": self.file.name,
            "module_class": self.class_name,
            "module_sha256": self.sha256,
        }


def is_user_module(model: str) -> bool:
    """Return whether ``--model`` names a class in a file instead of a network of ``fmen models``."""
    return ":" in model or model.endswith(".py")


def user_module(network: nn.Module) -> UserModule | None:
    """Return the class that a network from ``build_network`` or ``load_network`` is of; None for a named network."""
    found = getattr(network, "user_module", None)
    return found if isinstance(found, UserModule) else None


def build_network(
    model: str, scale: int | None = None, args: Mapping[str, Any] | None = None, *, form: Form = "training"
) -> nn.Module:
    """Build a freshly initialised network.

    Args:
        model: A name that ``create_model`` takes, or ``FILE.py:CLASS``. The file is executed.
        scale: Upscaling factor. None for the class's own default, and for 4 where there is none.
        args: Keyword arguments of the network's constructor.
        form: For a named network with two forms. A user's network is what its class builds.

    Returns:
        The network, with ``name``, ``scale``, ``data_range`` and ``sizes``; see also :func:`user_module`.

    Raises:
        UserError: The file or class cannot be used, an argument is unknown or missing, or an output has the wrong size,
            an absurd range, or is NaN.
        ModelError: No network has this name, or it is not defined for this scale.
    """
    if "scale" in (args or {}):
        raise UserError(f"{model}: model_args has no scale; use --scale")
    if is_user_module(model):
        return build_user_network(model, scale, args or {})
    return architecture_named(model).build(scale or 4, form=form, **(args or {}))


def build_user_network(model: str, scale: int | None, args: Mapping[str, Any]) -> nn.Module:
    """Build and check an instance of a class of the user's; otherwise as :func:`build_network`."""
    path, class_name = parse_user_module(model)
    source = path.read_bytes()
    with importing_beside(path):
        module = call_user_code(lambda: execute_file(path, source), f"{model}: the file cannot be imported")
        constructor = getattr(module, class_name, None)
        if not callable(constructor):
            own = [name for name, value in vars(module).items() if is_network_class(value, module.__name__)]
            raise UserError(f"{model}: no class {class_name} in {path}; its networks are {', '.join(own) or 'none'}")
        keywords = bind_arguments(model, constructor, scale, args)
        network = call_user_code(lambda: constructor(**copy.deepcopy(keywords)), f"{model}: {class_name}(...) failed")
    if not isinstance(network, nn.Module):
        raise UserError(f"{model}: {class_name} is not a torch.nn.Module")
    record = UserModule(path, class_name, dict(args), hashlib.sha256(source).hexdigest())
    call_user_code(lambda: set_attributes(network, record), f"{model}: attributes cannot be set")
    ratio = check_outputs(network)
    if scale is not None and ratio != scale:
        raise UserError(f"{model}: it upscales by {ratio}, not by {scale}; give the class a parameter called scale")
    return network


def parse_user_module(model: str) -> tuple[Path, str]:
    """Split ``FILE.py:CLASS``.

    Raises:
        UserError: It has another form, or there is no such file.
    """
    file, colon, class_name = model.rpartition(":")
    if not colon or not file or not class_name.isidentifier():
        raise UserError(f"{model}: expected FILE.py:CLASS, such as mine.py:Mine")
    if not Path(file).is_file():
        raise UserError(f"{model}: no such file {file}")
    return Path(file), class_name


def source_of(model: str | None) -> bytes:
    """Return the content of the file of a user's network, which ``--model`` names; empty for other networks."""
    return parse_user_module(model)[0].read_bytes() if model and is_user_module(model) else b""


def is_network_class(value: object, module_name: str) -> bool:
    """Return whether ``value`` is a network class that the module itself defines."""
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module_name


def set_attributes(network: nn.Module, record: UserModule) -> None:
    """Give a user's network the attributes of a named one, and its record.

    Raises:
        UserError: Its ``data_range``, ``scale``, ``name`` or ``sizes`` has another meaning.
    """
    data_range = getattr(network, "data_range", DEFAULT_DATA_RANGE)
    if isinstance(data_range, Tensor) or data_range not in (1, 255):
        raise UserError(f"{record}: its data_range is {first_line(data_range)}; set it to 1.0 or 255.0")
    own_scale = getattr(network, "scale", None)
    if own_scale is not None and (isinstance(own_scale, Tensor) or own_scale != int(own_scale)):
        raise UserError(f"{record}: its attribute scale must be the upscaling factor, an int; rename it")
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in record.args.items()}
    values = {"name": record.class_name, "data_range": float(data_range), "sizes": sizes, "user_module": record}
    for name, kind in (("sizes", dict), ("name", str)):
        if not isinstance(getattr(network, name, kind()), kind):
            raise UserError(f"{record}: its attribute {name} must be a {kind.__name__}; rename it")
    for name, value in values.items():
        setattr(network, name, value)


def check_outputs(network: nn.Module) -> int:
    """Run a user's network in eval mode on two small images, and set its ``scale``; returns the scale.

    Raises:
        UserError: The network fails, its output is of the wrong size, NaN or out of range, or it cannot be copied.
    """
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    record = user_module(network)
    for key, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(f"{record}: {key} of its state_dict is no tensor and cannot be saved; leave it out")
    images = [synthetic_images(1, 64)[..., :h, :w] for h, w in CHECKED_SIZES]
    ratios, shapes = set(), []
    for image in images:
        ratios.add(check_output(network, image))
        shapes.append({key: tensor.shape for key, tensor in network.state_dict().items()})
    ratio = min(ratios)
    for key, shape in shapes[0].items():
        if shape != shapes[1].get(key):
            raise UserError(f"{record}: the shape of {key} depends on the image; register it with persistent=False")
    copied = call_user_code(lambda: copy.deepcopy(network), f"{record}: copy.deepcopy of the network failed")
    if any(parameter.is_floating_point() and parameter.dtype != torch.float32 for parameter in network.parameters()):
        check_output(copied.float(), images[0])  # as it will run
    for part, mode in modes:
        part.training = mode
    if getattr(network, "scale", ratio) != ratio or len(ratios) > 1:
        raise UserError(f"{record}: its scale is {getattr(network, 'scale', None)}, but it upscales by {ratio}")
    scale = getattr(network, "scale", None)
    if type(scale) is not int or scale != ratio:
        setattr(network, "scale", ratio)  # noqa: B010
    return ratio


@torch.no_grad()
def check_output(network: nn.Module, images: Tensor) -> int:
    """Run a user's network on ``images`` ``(N, 3, H, W)`` in [0, 1], and return the ratio of output to input size.

    Raises:
        UserError: The network fails, or its output is of the wrong size, NaN or out of range.
    """
    record, data_range = user_module(network), float(getattr(network, "data_range", DEFAULT_DATA_RANGE))
    size = f"{images.shape[3]}x{images.shape[2]}"
    out = call_user_code(lambda: network(images * data_range), f"{record}: it fails on an image of {size} pixels")
    if not isinstance(out, Tensor):
        raise UserError(f"{record}: its output is a {type(out).__name__}; return one tensor")
    ratio = max(1, out.shape[-1] // images.shape[-1]) if out.ndim == 4 else 1
    expected = (len(images), 3, ratio * images.shape[2], ratio * images.shape[3])
    if out.shape != expected:
        raise UserError(
            f"{record}: its output is {tuple(out.shape)} for {tuple(images.shape)}; "
            "expected (N, 3, scale*H, scale*W) for every height and width"
        )
    largest = out.abs().max().item()
    if not out.isfinite().all():
        raise UserError(f"{record}: its output contains NaN or infinity; check its weights and their initialisation")
    if largest > LARGEST_OUTPUT * data_range:
        raise UserError(
            f"{record}: its output reaches {largest:.3g} for an image in [0, {data_range:g}]; "
            "set its attribute data_range to 1.0 or 255.0, or check its weights"
        )
    return ratio


def load_network(weights: str | Path, model: str | None = None, *, note: Note = lambda line: None) -> nn.Module:
    """Build a network and load weights strictly.

    Args:
        weights: A weights file.
        model: The network: a name, or ``FILE.py:CLASS``, which is required for weights of a user's network. Its
            arguments and its scale come from the weights file. None to recognise a named network.
        note: Called with one line if the weights are of another version of the user's file and fit nevertheless.

    Returns:
        The network on the CPU in float32, in eval mode.

    Raises:
        WeightsError: The weights cannot be read, or do not fit.
        UserError: The user's network cannot be used; see :func:`build_network`.
    """
    weights = Path(weights)
    if model is None:
        return load(weights)
    if is_user_module(model):
        return load_user_network(weights, model, note)
    architecture, state = architecture_named(model), read_weights(weights)
    arguments = architecture.detect(state)
    if arguments is None:  # fmen-s of other sizes is recognised as fmen
        found = recognise(state)
        if found is None or found[0].inference is not architecture.inference:
            name = "no known network" if found is None else found[0].name
            raise WeightsError(f"{weights}: these are weights of {name}, not of {model}; check --model")
        architecture, arguments = found
    network = architecture.build(**{**arguments, **recorded_sizes(weights, architecture)})
    network.load_state_dict(state)
    return network.eval()


def load_user_network(weights: Path, model: str, note: Note) -> nn.Module:
    """Build a user's network and load weights of its training form or of its inference form."""
    tensors = read_tensors(weights)
    metadata = read_metadata(weights)
    try:
        scale = int(metadata["scale"]) if metadata.get("module_class") else None
        args = dict(json.loads(metadata["sizes"])) if scale else {}
    except (ValueError, TypeError, KeyError):
        raise WeightsError(f"{weights}: its metadata is damaged; save the weights again") from None
    network = build_user_network(model, scale, args)
    record = user_module(network)
    assert record is not None
    version = other_version(record, metadata)
    network = load_strictly(network, tensors, f"{weights}: does not fit {model}", version)
    check_outputs(network)
    if version:
        note(f"note: {weights}: {version}; all tensors fit {model}")
    return network.eval()


def other_version(record: UserModule, metadata: Mapping[str, str]) -> str:
    """Return in words that weights with this metadata are of another class or version of the file; otherwise ``""``."""
    trained = metadata.get("module_class"), metadata.get("module_sha256")
    if trained[0] is None or trained == (record.class_name, record.sha256):
        return ""
    return f"they were trained with another version of {metadata.get('module_file')}:{trained[0]}"


def user_class(weights: Path) -> str | None:
    """Return the user's network that wrote ``weights``, as ``FILE.py:CLASS`` without folder; None for others."""
    metadata = read_metadata(weights)
    return f"{metadata.get('module_file')}:{metadata['module_class']}" if "module_class" in metadata else None


def model_of(weights: Path, own: Sequence[str]) -> str | None:
    """Return which of the user's networks a weights file belongs to, or None for a network that is recognised.

    Weights of a training run name the class. Others belong to the only network of the user's, unless recognised.
    """
    tensors, trained = read_tensors(weights), read_metadata(weights).get("module_class")
    if trained is not None:
        return next((model for model in own if model.rpartition(":")[2] == trained), None)
    return own[0] if len(own) == 1 and recognise(normalise_keys(tensors)) is None else None


def note_other_version(weights: Path, model: str, note: Note) -> None:
    """Call ``note`` if the user's file has changed since it wrote ``weights``, which need not exist."""
    if is_user_module(model) and weights.is_file():
        path, class_name = parse_user_module(model)
        record = UserModule(path, class_name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        if version := other_version(record, read_metadata(weights)):
            note(f"note: {weights}: {version}")


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], failure: str, reason: str = "") -> nn.Module:
    """Load tensors under their own names, without the prefixes of wrappers, or under those of ``fmen_core``.

    Args:
        network: Takes the tensors, or its inference form does.
        tensors: A state dict.
        failure: Beginning of an error message.
        reason: End of an error message.

    Returns:
        ``network`` or its inference form, whichever has these tensors.

    Raises:
        WeightsError: Names or shapes differ, or a value is NaN or infinite.
    """
    stripped = {key.replace("_orig_mod.", "").removeprefix("module."): tensor for key, tensor in tensors.items()}
    for candidate in (network, reparameterize(network)):
        shapes = {key: tensor.shape for key, tensor in candidate.state_dict().items()}
        for state in (dict(tensors), stripped, normalise_keys(tensors)):
            if {key: tensor.shape for key, tensor in state.items()} == shapes:
                masks = {key for key, _ in candidate.named_buffers() if not key.endswith(STATISTICS)}
                for key, tensor in state.items():
                    if tensor.isnan().any() or (key not in masks and not tensor.isfinite().all()):
                        raise WeightsError(f"{failure}: {key} contains NaN or infinity")
                candidate.load_state_dict(state)
                return candidate.float()
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    raise WeightsError(f"{failure}: {differences(stripped, shapes)}" + (f"; {reason}" if reason else ""))


def save_network(
    network: nn.Module, path: str | Path, *, recipe: str = "", metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights as ``fmen_core.save`` does; those of a user's network with the entries that describe its class."""
    record = user_module(network)
    entries = dict(metadata or {})
    if record:
        entries |= record.metadata() | {"form": "training" if has_blocks(network) else "inference"}
    save(network, path, recipe=recipe, metadata=entries)


def has_blocks(network: nn.Module) -> bool:
    """Return whether a network is in a training form: it has re-parameterizable blocks."""
    return any(isinstance(module, Reparameterizable) for module in network.modules())


def first_line(value: object) -> str:
    """Return the first line of a value as text."""
    return str(value).strip().split("\n", maxsplit=1)[0]
