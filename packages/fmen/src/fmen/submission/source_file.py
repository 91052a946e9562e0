"""Read a Python file: its imports, and its functions, classes and constants with what they use."""

from __future__ import annotations

import ast
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from symtable import symtable
from typing import Any

ALLOWED = ("torch", "numpy")
"""What a model file may import beside the standard library."""

_DECLARATION = re.compile(r"\A(.*\n)??[ \t\f]*#.*coding[:=].*")
"""The comment that declares a file's encoding, in its first or second line."""


def read_code(path: Path) -> str:
    """Return the text of a Python file, with ``\\n`` at the end of each line and no declaration of another encoding."""
    with tokenize.open(path) as file:
        text = file.read()
    return text if file.encoding.startswith("utf-8") else _DECLARATION.sub(r"\1", text)


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
        submodules: By the name of the module, what ``import MODULE.SUBMODULE`` imports.
        other: Other statements at the top level.
    """

    path: Path
    namespace: dict[str, Any]
    docstring: str
    definitions: dict[str, Definition]
    imports: dict[str, tuple[str, str | None]]
    submodules: dict[str, list[str]]
    other: list[ast.stmt]

    @classmethod
    def of(cls, path: Path, namespace: Mapping[str, Any]) -> SourceFile:
        """Read a file."""
        code = read_code(path)
        body, lines = ast.parse(code).body, code.split("\n")  # splitlines() would end a line at a form feed, too
        docstring = text_of(body[0], None, lines) if body and is_text(body[0]) else ""
        file = cls(path, dict(namespace), docstring, {}, {}, {}, [])
        for statement, following in zip(body, [*body[1:], None], strict=True):
            names = assigned_names(statement)
            for name in names:
                before = file.definitions.get(name)
                if before and max(len(names), len(assigned_names(before.node))) > 1:
                    file.other.append(statement)  # which of the values a name has would depend on the order
                file.definitions[name] = Definition(statement, text_of(statement, following, lines))
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                file.definitions[statement.name] = Definition(statement, text_of(statement, None, lines))
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                file.imports.update(bound_names(statement))
                for name in submodules(statement):
                    file.submodules.setdefault(name.partition(".")[0], []).append(name)
            elif not (names or is_guard(statement) or is_text(statement)):
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
    """Return what each name of an import statement stands for: a module, and the name in it or None.

    ``import torch.nn as nn`` is ``from torch import nn``.
    """
    if isinstance(statement, ast.ImportFrom):
        (module,) = imported_names(statement)
        return {alias.asname or alias.name: (module, alias.name) for alias in statement.names}
    bound: dict[str, tuple[str, str | None]] = {}
    for alias in statement.names:
        parent, _, last = alias.name.rpartition(".")
        top = alias.name.partition(".")[0]
        if alias.asname:
            bound[alias.asname] = (parent, last) if parent else (last, None)
        else:
            bound[top] = (top if is_allowed(top) else alias.name, None)
    return bound


def submodules(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the modules that ``import MODULE.SUBMODULE`` loads, beside binding the name of the first part."""
    names = statement.names if isinstance(statement, ast.Import) else []
    return [alias.name for alias in names if "." in alias.name and not alias.asname]


def assigned_names(statement: ast.stmt) -> list[str]:
    """Return the names that an assignment of constants binds; none if it is anything else."""
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target] if statement.value else []
    else:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
    parts = [part for target in targets for part in parts_of(target)]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if len(names) == len(parts) else []


def parts_of(target: ast.expr) -> list[ast.expr]:
    """Return what an assignment to ``target`` assigns to: the parts of a tuple, or itself."""
    if isinstance(target, ast.Tuple | ast.List):
        return [part for element in target.elts for part in parts_of(element)]
    return parts_of(target.value) if isinstance(target, ast.Starred) else [target]


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
