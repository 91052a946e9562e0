"""The documentation: links resolve, commands parse, imports exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from fmen.cli.main import app
from fmen.training.initialization import initial_network
from fmen.training.recipe import load_recipe, parse_settings, recipe_names
from fmen_eval import complexity

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/README.md"), *ROOT.glob("packages/**/weights/*.md")]),
]
FENCE = re.compile(r"^```([\w{}-]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS: Any = typer.main.get_command(app)
UsageError: Any = typer.BadParameter.__base__  # of Click, which newer versions of Typer keep inside


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(code: str) -> Iterator[list[str]]:
    """The calls of fmen in a shell script or, behind ``$``, in a session: their arguments."""
    lines = code.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        call: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;<>"):
                yield from arguments(call)
                call = []
            else:
                call.append(word)


def arguments(call: list[str]) -> Iterator[list[str]]:
    if call[-1:] in (["--help"], ["--install-completion"]):  # these act while they are parsed
        return
    if call[:1] == ["fmen"]:
        yield call[1:]
    elif call[:1] == ["torchrun"] and "fmen" in call:
        yield call[call.index("fmen") + 1 :]


def parse(words: list[str], *, whole: bool) -> dict[str, Any]:
    """Parse a call of fmen without running it; a call in the middle of a sentence need not be whole."""
    command, path, given = COMMANDS, "fmen", words
    context = command.make_context(path, [*given], resilient_parsing=False)
    while hasattr(command, "resolve_command") and (given := [*context._protected_args, *context.args]):
        path, command, given = command.resolve_command(context, given)
        try:
            context = command.make_context(path, [*given], parent=context)
        except typer.BadParameter as error:
            if whole or type(error).__name__ != "MissingParameter":
                raise
            return {}
    return dict(context.params)


def names_in(module: str) -> set[str]:
    """What a module defines or imports, read in its source: one of them needs a package that may not be installed."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    names = set()
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {
                part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            }
    return names


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            assert re.fullmatch(r"https://[\w.-]+(/[\w./~%#@+=-]*)?", target), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_command_line_takes_every_command_as_written(page: Path) -> None:
    scripts = [(code, True) for code in blocks(page, "bash", "")]
    scripts += [(code, False) for code in re.findall(r"`(fmen [^`]+)`", prose(page).replace("\n", " "))]
    for code, whole in scripts:
        for words in commands(code):
            try:
                params = parse(words, whole=whole)
            except UsageError as error:
                pytest.fail(f"fmen {shlex.join(words)}: {error.format_message()}")
            settings = parse_settings(params.get("settings") or [])
            if words[:1] == ["train"] and params["recipe"] in recipe_names():
                load_recipe(params["recipe"], {"data": params["data"] or ("sample",)} | settings)


def help_examples(command: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each command and the examples in its help."""
    if path != "fmen":
        yield path, re.findall(r"^ *(fmen .*)$", command.epilog or "", re.MULTILINE)
    for part, child in getattr(command, "commands", {}).items():
        yield from help_examples(child, f"{path} {part}")


@pytest.mark.parametrize(("path", "lines"), [*help_examples(COMMANDS, "fmen")], ids=lambda value: str(value)[:20])
def test_the_help_of_every_command_has_two_examples_that_the_command_line_takes(path: str, lines: list[str]) -> None:
    assert len(lines) == 2
    for line in lines:
        for words in commands(line):
            parse(words, whole=True)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_import_what_there_is(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fmen"):
                missing = {alias.name for alias in node.names} - names_in(node.module)
                assert not missing, ast.unparse(node)


def test_the_readme_names_the_option_that_installs_completion_and_completion_works() -> None:
    assert "`fmen --install-completion`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert any("--install-completion" in option.opts for option in COMMANDS.params)
    request = {"_FMEN_COMPLETE": "complete_bash", "COMP_WORDS": "fmen va", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from fmen.cli.main import app; app(prog_name='fmen')"]
    done = subprocess.run(command, env=os.environ | request, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["validate"], done.stderr


@pytest.mark.parametrize("page", sorted(ROOT.glob("packages/*/README.md")), ids=name)
def test_the_example_of_a_package_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    examples = blocks(page, "python")
    assert examples, "a package's README needs an example"
    for code in examples:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SyntaxWarning)
            exec(compile(code, name(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("library", ["fmen_core", "fmen_data", "fmen_eval"])
def test_the_api_page_documents_every_public_name_and_no_other(library: str) -> None:
    module = importlib.import_module(library)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    directive = rf"^\.\. (?:autofunction|autoclass|autoexception|py:data):: {library}\.(\w+)$"
    documented = re.findall(directive, page, re.MULTILINE)
    assert sorted(documented) == sorted(module.__all__), "docs/api.md and __all__ differ"
    assert not [public for public in documented if not hasattr(module, public)]


def test_the_tables_of_the_readme_are_those_of_the_results(load_tool: Callable[[str], ModuleType]) -> None:
    tables, readme = load_tool("tables"), (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.networks().strip() in readme
    assert tables.accuracy().strip() in readme


def test_the_site_holds_the_cards_of_all_weights() -> None:
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    cards = [file.with_suffix(".md") for file in ROOT.glob("packages/**/weights/*.safetensors")]
    assert cards and all(name(card) in page for card in cards)


def test_the_example_of_a_network_is_recognised_by_its_weights_and_measured() -> None:
    (code, *_) = blocks(ROOT / "docs" / "networks.md", "python")
    example: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/networks.md", "exec"), example)
    architecture = example["ARCHITECTURE"]
    network = architecture.build(scale=3, n_feats=8, n_layers=2)
    assert architecture.detect(network.state_dict()) == {"scale": 3, "n_feats": 8, "n_layers": 2}
    assert architecture.detect(architecture.build().state_dict() | {"more": network.head.weight}) is None
    assert complexity(architecture.build()).convs == 8


def test_the_example_of_a_users_network_can_be_trained_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    code, use = blocks(ROOT / "docs" / "your-network.md", "python")
    Path("mine.py").write_text(code)
    exec(compile(use, "docs/your-network.md", "exec"), {"__name__": "__main__"})
    assert Path("mine.safetensors").is_file()
    recipe = load_recipe("quick", {"model": "mine.py:Mine", "model_args": {"width": 4}, "patch": 16, "batch": 2})
    initial_network(recipe)


def test_a_wrong_command_is_noticed() -> None:
    (words,) = commands("cat a.png | fmen upscale - --largely -o - > b.png  # as large as can be\n")
    assert words == ["upscale", "-", "--largely", "-o", "-"]
    with pytest.raises(UsageError, match="--largely"):
        parse(words, whole=True)
    with pytest.raises(typer.BadParameter):
        parse(["export", "a.pth"], whole=True)
