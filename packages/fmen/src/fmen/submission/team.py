"""The team of a submission (``team.yaml``), and the texts filled in from it and from measured figures."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from string import Template
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fmen.schema_faults import Fault, faults_of
from fmen.submission.rules import SubmissionError
from fmen.yaml_file import load_yaml

TEMPLATES = Path(__file__).parent / "package"
"""The bundled templates: README, factsheet, an example ``team.yaml``, and ``test_demo.py``."""


def one_line(text: str) -> str:
    """Return ``text``, or raise ValueError if it has several lines or control characters."""
    if len(text.splitlines()) > 1 or any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("give a single line, without control characters")
    return text


def email_address(text: str) -> str:
    """Return ``text``, or raise ValueError if it is no e-mail address."""
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", text):
        raise ValueError("give an e-mail address")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Line = Annotated[Text, AfterValidator(one_line)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Form):
    """A member of the team."""

    name: Line
    affiliation: Line


class Team(_Form):
    """The content of ``team.yaml``."""

    team_id: int = Field(ge=0, le=99, description="the number that the organisers gave the team")
    team_name: Line
    contact: Annotated[Text, AfterValidator(email_address)]
    members: tuple[Member, ...] = Field(min_length=1, description="the first one is the leader")
    title: Line = Field(description="the method's name")
    description: Text = Field(description="the method in a few sentences")
    training_data: Line
    extra_data: bool = Field(description="whether data beyond the challenge's own was trained on")

    @property
    def is_example(self) -> bool:
        """Whether this is the bundled example, not filled in."""
        return self.contact.endswith("@example.org")


EXAMPLE_NOTE = "This is the example team: fill in submission/team.yaml and name it with --team."


def load_team(path: Path | None) -> Team:
    """Read and validate ``team.yaml``; None takes the example.

    Raises:
        SubmissionError: The file is missing or not YAML, or a key is missing, unknown or has an invalid value.
    """
    path = path or TEMPLATES / "team.yaml"
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubmissionError(f"{path}: no such team file; start from the example submission/team.yaml") from None
    except OSError as error:
        raise SubmissionError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
        raise SubmissionError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        keys = ", ".join(Team.model_fields)
        raise SubmissionError(f"{path}: expected the keys {keys}, found {type(content).__name__}")
    try:
        return Team.model_validate(content)
    except ValidationError as error:
        raise SubmissionError(f"{path}: {'; '.join(map(describe, faults_of(error)))}") from None


def describe(fault: Fault) -> str:
    """Describe a fault; for an unknown key, name the key that was meant."""
    if fault.kind != "extra_forbidden":
        return str(fault)
    keys = list((Team if len(fault.path) == 1 else Member).model_fields)
    close = get_close_matches(str(fault.path[-1]), keys, n=1)
    return f"{fault.key}: unknown key; " + (f"did you mean {close[0]}?" if close else f"the keys are {', '.join(keys)}")


def team_fields(team: Team) -> dict[str, str]:
    """Return the template fields that describe the team."""
    return {
        "team_id": f"{team.team_id:02}",
        "model_id": str(team.team_id),
        "team_name": team.team_name,
        "contact": team.contact,
        "members": "\n".join(f"- {member.name}, {member.affiliation}" for member in team.members),
        "title": team.title,
        "description": team.description,
        "training_data": team.training_data,
        "extra_data": "yes" if team.extra_data else "no",
    }


def read_template(name: str, folder: Path | None = None) -> tuple[Path, Template]:
    """Read a template.

    Args:
        name: Its file name. A file of this name in ``folder`` takes precedence over the bundled one.
        folder: Folder of the team's own templates, that of ``team.yaml``.

    Raises:
        SubmissionError: It cannot be read, has an invalid placeholder, or omits the measured PSNR.
    """
    path = TEMPLATES / name if folder is None or not (folder / name).is_file() else folder / name
    try:
        template = Template(path.read_text(encoding="utf-8"))
        template.substitute(defaultdict(str))
    except (ValueError, UnicodeDecodeError) as error:
        raise SubmissionError(f"{path}: {error}; write $$ for a dollar sign") from None
    except OSError as error:
        raise SubmissionError(f"{path}: cannot be read ({error.strerror})") from None
    if name.endswith(".md") and "$psnr" not in template.template:
        raise SubmissionError(f"{path}: the measured PSNR is missing; use the field $psnr")
    return path, template


def fill_in(name: str, fields: Mapping[str, str], folder: Path | None = None) -> str:
    """Replace the ``$fields`` of a template.

    Args:
        name: See :func:`read_template`.
        fields: The value of each ``$field``.
        folder: See :func:`read_template`.

    Raises:
        SubmissionError: As of :func:`read_template`, or the template uses an unknown field.
    """
    path, template = read_template(name, folder)
    try:
        return template.substitute(fields)
    except KeyError as error:
        raise SubmissionError(f"{path}: unknown field ${error.args[0]}; the fields are {', '.join(fields)}") from None
