"""Write the code of a network as one file that imports torch, numpy and the standard library alone.

A file that imports nothing else is taken as it is. Otherwise the file is put together from the functions, classes and
constants that the network's class needs: those of its own file, of files beside it, and of ``fmen_core``. A
re-parameterizable block is replaced by the convolution that it is merged to.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fmen.submission.gatherer import Gatherer
from fmen.submission.source_file import SourceFile, is_allowed, read_code, top_level_imports


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
        code: Its content in UTF-8.
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
    code = read_code(origin.file)
    imports = top_level_imports(ast.parse(code))
    if all(is_allowed(name) for name in imports):
        return ModelSource(code.encode(), tuple(sorted(imports)), (origin.file.name,), unchanged=True)
    own = SourceFile.of(origin.file, vars(origin.module))
    gatherer = Gatherer(origin.file.resolve().parent)
    gatherer.include(own, origin.class_name)
    text = gatherer.text(own.docstring)
    imports = top_level_imports(ast.parse(text))
    others = sorted({Path(origin).name for origin, _ in gatherer.bound.values() if origin.endswith(".py")})
    return ModelSource(
        text.encode(), tuple(sorted(imports)), tuple(dict.fromkeys([origin.file.name, *others])), unchanged=False
    )
