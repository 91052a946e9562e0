"""Put the code that a class needs into one file."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

import torch

from fmen.submission.rules import SubmissionError
from fmen.submission.source_file import (
    ALLOWED,
    Definition,
    SourceFile,
    assigned_names,
    imports_in,
    is_allowed,
    names_annotated,
    names_used,
    top_level_imports,
)
from fmen_core.blocks.reparameterizable import ReparamConv2d, Reparameterizable

PROJECT = "fmen_core"
"""The package of this project whose code is put into the file, too."""


def absolute(module: str, file: Path) -> str:
    """Return the full name of a module that ``file``, relative to the folder of all modules, imports relatively."""
    rest = module.lstrip(".")
    levels = len(module) - len(rest)
    package = file.parts[:-levels] if levels < len(file.parts) else ()
    return ".".join([*package, rest] if package and rest else [*package] or [module])


class Gatherer:
    """Puts the definitions that a class needs into one file, each after those that it uses.

    Args:
        folder: Modules in this folder are put into the file, too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[Path, SourceFile] = {}
        self.bound: dict[str, tuple[str, str | None]] = {}  # what each name of the file stands for
        self.submodules: set[str] = set()  # imported without a name of their own
        self.pieces: list[str] = []

    def include(self, file: SourceFile, name: str) -> None:
        """Add what ``name`` stands for in ``file``, after all that it uses. Builtins need not be added."""
        if name in file.definitions:
            self.include_definition(file, name)
        elif name in file.imports:
            self.include_import(file, name)

    def include_definition(self, file: SourceFile, name: str) -> None:
        """Add a function, a class or a constant, after the definitions that it uses."""
        definition, kind = file.definitions[name], file.namespace.get(name)
        names = {name, *assigned_names(definition.node)}  # one statement may bind several
        new = [self.bind(each, (str(file.path), each), file) for each in sorted(names)]
        if not all(new):
            return
        if "*" in file.imports:
            raise SubmissionError(f"{file.path}: import * cannot be put into one file; import what is used by name")
        if file.other:
            refuse(file, file.other[0], "only imports, functions, classes and constants can be put into one file")
        if isinstance(kind, type) and issubclass(kind, Reparameterizable):
            self.bind("nn", ("torch", "nn"), file)
            self.pieces.append(merged_block(kind, file, definition))
            return
        for inner in imports_in(definition.node):
            if not all(map(is_allowed, top_level_imports(inner))):
                refuse(file, inner, "an import inside a function cannot be put into one file; move it to the top")
        for used in names_used(definition):
            self.include(file, used)
        for used in sorted(names_annotated(definition.node)):
            if is_allowed(file.imports.get(used, ("", None))[0].partition(".")[0]):
                self.include_import(file, used)
        self.pieces.append(definition.text)

    def include_import(self, file: SourceFile, name: str) -> None:
        """Add an import, or what it stands for if it is from this project or from the folder."""
        module, original = file.imports[name]
        if module.startswith(".") and file.path.is_relative_to(self.folder):
            module = absolute(module, file.path.relative_to(self.folder))
        top = module.partition(".")[0]
        if is_allowed(top):
            self.bind(name, (module, original), file)
            if (module, original) == (name, None):
                self.submodules.update(file.submodules.get(name, ()))
            return
        if top != PROJECT and not any((self.folder / part).exists() for part in (f"{top}.py", top)):
            raise SubmissionError(
                f"{file.path}: imports {module or '.'}; a package may use torch, numpy and the standard library alone"
            )
        source = self.read(module, file.namespace.get(name))
        if original is None or (original not in source.definitions and original not in source.imports):
            what = module if original is None else f"{module}.{original}"
            raise SubmissionError(f"{file.path}: import the functions and classes of {what} by name, to pack them")
        self.include(source, original)
        if name != original and self.bind(name, (str(source.path), original), file):
            self.pieces.append(f"{name} = {original}")

    def bind(self, name: str, meaning: tuple[str, str | None], file: SourceFile) -> bool:
        """Note what a name stands for; returns whether it is new.

        Raises:
            SubmissionError: It stands for something else already.
        """
        known = self.bound.get(name)
        if known not in (None, meaning):
            raise SubmissionError(f"{file.path}: {name} has another meaning in {known[0]}; rename one, to pack both")
        self.bound[name] = meaning
        return known is None

    def read(self, module: str, value: object) -> SourceFile:
        """Return the file of a module of this project or of the folder, given a value that was imported from it."""
        path, namespace = self.folder.joinpath(*module.split(".")), namespace_of(value)
        if module.partition(".")[0] == PROJECT:
            loaded = importlib.import_module(module)
            path, namespace = Path(str(loaded.__file__)), vars(loaded)
        elif path.with_suffix(".py").is_file():
            path = path.with_suffix(".py")
        else:
            path = path / "__init__.py"
        if path not in self.files:
            self.files[path] = SourceFile.of(path, {})
        self.files[path].namespace.update(namespace)
        return self.files[path]

    def text(self, docstring: str) -> str:
        """Return the file."""
        outside = {name: meaning for name, meaning in self.bound.items() if not meaning[0].endswith(".py")}
        submodules = {name for name in self.submodules if any(name in piece for piece in self.pieces)}
        for top in {name.partition(".")[0] for name in submodules}:
            outside.pop(top)  # bound by import MODULE.SUBMODULE
        groups: tuple[list[str], list[str]] = ([], [])
        for module in sorted({module for module, _ in outside.values()} | submodules):
            bound = sorted((name, original) for name, (origin, original) in outside.items() if origin == module)
            top = module.partition(".")[0]
            lines = [f"import {module}"] if module in submodules else []
            lines += [f"import {module}" + (f" as {name}" if name != top else "") for name, of in bound if of is None]
            names = [name if name == of else f"{of} as {name}" for name, of in bound if of is not None]
            lines += [f"from {module} import {', '.join(names)}"] if names else []
            groups[top in ALLOWED].extend(lines)
        head = [docstring, "from __future__ import annotations", *("\n".join(group) for group in groups)]
        return "\n\n".join(part for part in head if part) + "\n\n\n" + "\n\n\n".join(self.pieces) + "\n"


def namespace_of(value: object) -> Mapping[str, Any]:
    """Return the names of the module that defines a function or a class; none for other values."""
    functions = vars(value).values() if isinstance(value, type) else [value]
    return next((function.__globals__ for function in functions if isinstance(function, FunctionType)), {})


def refuse(file: SourceFile, statement: ast.stmt, reason: str) -> NoReturn:
    """Raise a SubmissionError for a line of a file."""
    raise SubmissionError(f"{file.path}, line {statement.lineno}: {reason}")


def merged_block(kind: type[Reparameterizable], file: SourceFile, definition: Definition) -> str:
    """Return the code of a class that takes the arguments of a re-parameterizable block and is its merged convolution.

    Raises:
        SubmissionError: The block is not merged to one convolution, or its channels are not among its arguments.
    """
    signature = inspect.signature(kind)
    names = signature.parameters
    channels = ("channels", "channels") if "channels" in names else ("in_channels", "out_channels")
    if not issubclass(kind, ReparamConv2d) or not set(channels) <= set(names):
        refuse(
            file,
            definition.node,
            f"{kind.__name__} cannot be packed: only blocks that equal one convolution and have the arguments channels "
            "or in_channels and out_channels can",
        )
    size = merged_size(kind, channels, file, definition)
    arguments = signature.replace(
        parameters=[parameter.replace(annotation=inspect.Parameter.empty) for parameter in names.values()],
        return_annotation=inspect.Signature.empty,
    )
    conv = f"nn.Conv2d({', '.join(channels)}, {size}, padding={size // 2})"
    own = f'self.add_module("{kind.fused_name}", {conv})' if kind.fused_name else ""
    base = "nn.Sequential" if kind.fused_name else "nn.Conv2d"
    call = "super().__init__()" if kind.fused_name else f"super().__init__{conv.removeprefix('nn.Conv2d')}"
    lines = [
        f"class {kind.__name__}({base}):",
        f'    """{kind.__name__}, merged to one {size}x{size} convolution."""',
        "",
        f"    def __init__(self, {str(arguments)[1:]}:",
        f"        {call}",
        *([f"        {own}"] if own else []),
    ]
    return "\n".join(lines)


def merged_size(kind: type[ReparamConv2d], channels: tuple[str, str], file: SourceFile, definition: Definition) -> int:
    """Return the height and width of the kernel that a block is merged to."""
    try:
        with torch.random.fork_rng(devices=[]):
            weight, _ = kind(**dict.fromkeys(channels, 8)).kernel_and_bias()
    except Exception as error:
        refuse(file, definition.node, f"{kind.__name__} cannot be packed: {type(error).__name__}: {error}")
    return int(weight.shape[-1])
