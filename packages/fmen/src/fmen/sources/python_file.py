"""Execute a Python file of the user's, and report what goes wrong there in one line."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from fmen.errors import UserError

MODULE_PREFIX = "fmen_module_"
"""The beginning of the names of modules that are the user's files."""


@contextmanager
def importing_beside(path: Path) -> Iterator[None]:
    """Let the block import the modules beside ``path``, and drop them from ``sys.modules`` afterwards.

    Modules that imported them keep their references, and modules of the same name in two folders stay distinct.
    """
    folder = path.resolve().parent
    before = set(sys.modules)
    sys.path.insert(0, str(folder))  # stays, for imports in forward()
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            top = name.partition(".")[0]
            if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
                del sys.modules[name]


def execute_file(path: Path, source: bytes) -> ModuleType:
    """Execute the content of a Python file as a module whose name no other file has.

    Args:
        path: The file.
        source: Its content; a cached compilation is not used, so the code that runs is the code that was read.
    """
    name = module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_name(path: Path) -> str:
    """Return the name in ``sys.modules`` of a file that :func:`execute_file` has executed."""
    return f"{MODULE_PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}"


def call_user_code(function: Callable[[], Any], failure: str) -> Any:
    """Call a function of the user's; whatever it raises becomes a one-line UserError that begins with ``failure``."""
    try:
        return function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise UserError(f"{failure}: {type(error).__name__}: {reason}") from error


def bind_arguments(
    model: str, constructor: Callable[..., Any], scale: int | None, args: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keyword arguments for a constructor: ``args``, and ``scale`` if it has such a parameter.

    Args:
        model: Name of the class in messages.
        constructor: The class.
        scale: Upscaling factor. None for the default of the parameter, or 4 if it has none.
        args: Arguments by name.

    Raises:
        UserError: An argument is unknown or missing.
    """
    parameters = call_user_code(lambda: inspect.signature(constructor).parameters, f"{model}: no signature")
    keywords = dict(args)
    if "scale" in parameters and (scale is not None or parameters["scale"].default is inspect.Parameter.empty):
        keywords["scale"] = 4 if scale is None else scale
    named = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in keywords if name not in named]
    if unknown and not takes_any:
        own = ", ".join(name for name in named if name != "scale") or "none"
        raise UserError(f"{model}: it has no argument {unknown[0]!r}; its arguments are {own}")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in variadic]
    if missing := [name for name in required if name not in keywords]:
        raise UserError(
            f"{model}: it needs the arguments {', '.join(missing)}; give them defaults in the class, "
            f"or train with --set model_args.{missing[0]}=VALUE"
        )
    return keywords
