"""Write the code of a network as one file that imports torch, numpy and the standard library alone.

A file that imports nothing else is taken as it is. Otherwise the file is put together from the functions, classes and
constants that the network's class needs: those of its own file, of files beside it, and of ``fmen_core``. A
re-parameterizable block is replaced by the convolution that it is merged to.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from symtable import symtable
from types import FunctionType, ModuleType
from typing import Any, NoReturn

import torch
from torch import nn

from fmen.submission.rules import SubmissionError
from fmen_core.blocks.reparameterizable import ReparamConv2d, Reparameterizable

ALLOWED = ("torch", "numpy")
"""What a model file may import beside the standard library."""

PROJECT = "fmen_core"


@dataclass(frozen=True)
class Origin:
    """Where the code of a network is.

    Attributes:
        file: The file that defines its class.
        class_name: The class, or a function that returns the network.
        arguments: The arguments that it is called with, without ``scale``.
        module: The module that the file was executed as.
    """

    file: Path
    class_name: str
    arguments: Mapping[str, Any]
    module: ModuleType

    @classmethod
    def of(cls, network: nn.Module) -> Origin:
        """Return where a network of ``fmen_core`` is defined."""
        kind = type(network)
        module = sys.modules[kind.__module__]
        return cls(Path(str(module.__file__)), kind.__name__, dict(getattr(network, "sizes", {})), module)

    def call(self, scale: int) -> str:
        """Return the call that builds the network, without the arguments that equal their defaults."""
        parameters = inspect.signature(getattr(self.module, self.class_name)).parameters
        values = dict(self.arguments) | ({"scale": scale} if "scale" in parameters else {})
        order = [*(name for name in parameters if name in values), *(name for name in values if name not in parameters)]
        given = [name for name in order if name not in parameters or values[name] != parameters[name].default]
        return f"{self.class_name}({', '.join(f'{name}={values[name]!r}' for name in given)})"


@dataclass(frozen=True)
class ModelSource:
    """A self-contained model file.

    Attributes:
        code: Its content.
        imports: The modules that it imports, without submodules.
        files: The names of the files that the code is from, the network's own first.
        unchanged: Whether it is the network's own file.
    """

    code: bytes
    imports: tuple[str, ...]
    files: tuple[str, ...]
    unchanged: bool


def model_source(origin: Origin) -> ModelSource:
    """Return the code of a network in one file.

    Raises:
        SubmissionError: The code imports a module that is neither in the file's folder nor allowed, or cannot be put
            into one file.
    """
    code = origin.file.read_bytes()
    imports = top_level_imports(ast.parse(code))
    if all(is_allowed(name) for name in imports):
        return ModelSource(code, tuple(sorted(imports)), (origin.file.name,), unchanged=True)
    own = SourceFile.of(origin.file, vars(origin.module))
    gatherer = Gatherer(origin.file.resolve().parent)
    gatherer.include(own, origin.class_name)
    text = gatherer.text(own.docstring)
    imports = top_level_imports(ast.parse(text))
    others = sorted({Path(origin).name for origin, _ in gatherer.bound.values() if origin.endswith(".py")})
    return ModelSource(
        text.encode(), tuple(sorted(imports)), tuple(dict.fromkeys([origin.file.name, *others])), unchanged=False
    )


def is_allowed(name: str) -> bool:
    """Whether a model file may import the module with this top-level name; relative imports are ``"."``."""
    return name in ALLOWED or name in sys.stdlib_module_names


def top_level_imports(tree: ast.AST) -> set[str]:
    """Return the top-level names of the modules that code imports when it is imported and run; ``"."`` if relative."""
    names = {name.partition(".")[0] or "." for node in imports_in(tree) for name in imported_names(node)}
    return names - {"__future__"}


def imports_in(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements in ``node``, without those for type checkers and for use as a program."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    for child in ast.iter_child_nodes(node):
        if not is_guard(child):
            yield from imports_in(child)


def is_guard(node: ast.AST) -> bool:
    """Whether a statement is ``if TYPE_CHECKING:`` or ``if __name__ == "__main__":``."""
    return isinstance(node, ast.If) and any(
        isinstance(name, ast.Name | ast.Attribute)
        and getattr(name, "id", getattr(name, "attr", "")) in ("TYPE_CHECKING", "__name__")
        for name in ast.walk(node.test)
    )


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the dotted names of the modules of an import statement; a relative one begins with a dot."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return ["." * node.level + (node.module or "")]


@dataclass(frozen=True)
class Definition:
    """A function, a class or a constant at the top level of a file: its syntax tree and its text."""

    node: ast.stmt
    text: str


@dataclass(frozen=True)
class SourceFile:
    """A Python file, and the module that it was executed as.

    Attributes:
        path: The file.
        namespace: The values of its names, as far as they are known.
        docstring: Its docstring as it is written; empty without one.
        definitions: Its functions, classes and constants by name.
        imports: By the name that it is bound to, each import: the module, and the name in it or None.
        other: Other statements at the top level.
    """

    path: Path
    namespace: dict[str, Any]
    docstring: str
    definitions: dict[str, Definition]
    imports: dict[str, tuple[str, str | None]]
    other: list[ast.stmt]

    @classmethod
    def of(cls, path: Path, namespace: Mapping[str, Any]) -> SourceFile:
        """Read a file."""
        code = path.read_bytes()
        body, lines = ast.parse(code).body, code.decode().splitlines()
        docstring = text_of(body[0], None, lines) if body and is_text(body[0]) else ""
        file = cls(path, dict(namespace), docstring, {}, {}, [])
        for statement, following in zip(body, [*body[1:], None], strict=True):
            for name in assigned_names(statement):
                file.definitions[name] = Definition(statement, text_of(statement, following, lines))
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                file.definitions[statement.name] = Definition(statement, text_of(statement, None, lines))
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                file.imports.update(bound_names(statement))
            elif not (assigned_names(statement) or is_guard(statement) or is_text(statement)):
                file.other.append(statement)
        return file


def text_of(statement: ast.stmt, following: ast.stmt | None, lines: list[str]) -> str:
    """Return the lines of a statement with the comments above it and, if ``following`` describes it, that string."""
    first = min([statement.lineno, *(item.lineno for item in getattr(statement, "decorator_list", []))]) - 1
    last = following if following is not None and is_text(following) else statement
    while first > 0 and lines[first - 1].startswith("#"):
        first -= 1
    return "\n".join(lines[first : last.end_lineno])


def bound_names(statement: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str | None]]:
    """Return what each name of an import statement stands for: a module, and the name in it or None."""
    if isinstance(statement, ast.ImportFrom):
        (module,) = imported_names(statement)
        return {alias.asname or alias.name: (module, alias.name) for alias in statement.names}
    return {
        alias.asname or alias.name.partition(".")[0]: (
            alias.name if alias.asname else alias.name.partition(".")[0],
            None,
        )
        for alias in statement.names
    }


def assigned_names(statement: ast.stmt) -> list[str]:
    """Return the names that an assignment of constants binds; none if it is anything else."""
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target] if statement.value else []
    else:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a string, such as a docstring."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def names_used(definition: Definition) -> list[str]:
    """Return the names outside a definition that its code reads, without those in annotations."""
    tables, names = [symtable("from __future__ import annotations\n" + definition.text, "", "exec")], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        outermost = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (outermost or s.is_global())}
    order = (node.id for node in ast.walk(definition.node) if isinstance(node, ast.Name))
    return [name for name in dict.fromkeys(order) if name in names]


def names_annotated(node: ast.AST) -> set[str]:
    """Return the names in the annotations of code."""
    annotations = [getattr(inner, field, None) for inner in ast.walk(node) for field in ("annotation", "returns")]
    return {
        name.id for found in annotations if found is not None for name in ast.walk(found) if isinstance(name, ast.Name)
    }


class Gatherer:
    """Puts the definitions that a class needs into one file, each after those that it uses.

    Args:
        folder: Modules in this folder are put into the file, too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[Path, SourceFile] = {}
        self.bound: dict[str, tuple[str, str | None]] = {}  # what each name of the file stands for
        self.pieces: list[str] = []

    def include(self, file: SourceFile, name: str) -> None:
        """Add what ``name`` stands for in ``file``, after all that it uses. Builtins need not be added."""
        if name in file.definitions:
            self.include_definition(file, name)
        elif name in file.imports:
            self.include_import(file, name)

    def include_definition(self, file: SourceFile, name: str) -> None:
        """Add a function, a class or a constant, after the definitions that it uses."""
        if not self.bind(name, (str(file.path), name), file):
            return
        if "*" in file.imports:
            raise SubmissionError(f"{file.path}: import * cannot be put into one file; import what is used by name")
        if file.other:
            refuse(file, file.other[0], "only imports, functions, classes and constants can be put into one file")
        definition, kind = file.definitions[name], file.namespace.get(name)
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
        if definition.text not in self.pieces:  # one statement may bind several names
            self.pieces.append(definition.text)

    def include_import(self, file: SourceFile, name: str) -> None:
        """Add an import, or what it stands for if it is from this project or from the folder."""
        module, original = file.imports[name]
        top = module.partition(".")[0]
        if is_allowed(top):
            self.bind(name, (module, original), file)
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
        modules = sorted({module for module, _ in outside.values()})
        groups: tuple[list[str], list[str]] = ([], [])
        for module in modules:
            bound = sorted((name, original) for name, (origin, original) in outside.items() if origin == module)
            lines = [f"import {module}" + (f" as {name}" if name != module else "") for name, of in bound if of is None]
            names = [name if name == of else f"{of} as {name}" for name, of in bound if of is not None]
            lines += [f"from {module} import {', '.join(names)}"] if names else []
            groups[module.partition(".")[0] in ALLOWED].extend(lines)
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
