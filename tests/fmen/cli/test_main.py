"""The ``fmen`` command itself: a fast --help and completion for shells."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import fmen
from fmen.cli.main import app


def test_help_imports_neither_pytorch_nor_anything_else_that_is_slow() -> None:
    code = "import sys; from fmen.cli.main import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Usage:" in output and "--install-completion" in output
    assert [name for name in ("train", "validate", "submit", "weights") if f"\n  {name}  " not in output] == []
    loaded = set(output.split("\n")[-2].split())
    assert loaded.isdisjoint({"torch", "numpy", "cv2", "h5py", "pydantic", "yaml", "tqdm", "rich"})


def test_the_help_lists_commands_by_section_in_the_order_of_use() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    sections = dict(re.findall(r"^(\w[\w ]*):\n((?:  .+\n)+)", output, re.MULTILINE))
    listed = {title: [line.split()[0] for line in text.splitlines()] for title, text in sections.items()}
    assert listed["Use a network"] == ["upscale", "weights", "models"]
    assert listed["Train one"] == ["data", "train", "validate", "report"]
    assert listed["Take part in a challenge"] == ["bench", "submit"]
    assert listed["More"] == ["doctor", "export", "prune", "reparam", "reproduce"]


@pytest.mark.parametrize("command", ["upscale", "models", "data info", "weights get"])
def test_the_help_names_arguments_without_python_types(command: str) -> None:
    output = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert re.search(r"^Arguments:\n  [A-Z]+(?:  |$)", output, re.MULTILINE), output


def test_the_version_is_shown() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"fmen {fmen.__version__}\n")


def test_a_mistyped_choice_is_answered_with_the_choices() -> None:
    result = CliRunner().invoke(app, ["validate", "--protocol", "papre"])
    assert result.exit_code == 2
    assert "'--protocol': 'papre' is not one of 'ntire', 'paper', 'kair-y'." in result.stderr


def complete(instruction: str, **environment: str) -> str:
    code = "import sys; sys.argv = ['fmen']; from fmen.cli.main import app; app(prog_name='fmen')"
    variables = os.environ | {"_FMEN_COMPLETE": instruction, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(("shell", "statement"), [("bash", "complete -o default"), ("zsh", "#compdef fmen")])
def test_a_completion_script_is_produced(shell: str, statement: str) -> None:
    assert statement in complete(f"source_{shell}")


def test_completion_offers_subcommands_and_the_values_of_an_option() -> None:
    assert complete("complete_bash", COMP_WORDS="fmen submit ", COMP_CWORD="2").split() == ["check", "results"]
    line = "fmen validate --protocol "
    assert complete("complete_bash", COMP_WORDS=line, COMP_CWORD="3").split() == ["ntire", "paper", "kair-y"]
