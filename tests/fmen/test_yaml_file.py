"""YAML files in which a key is given twice."""

from __future__ import annotations

import pytest
import yaml

from fmen.yaml_file import load_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: a is given twice"),
        ("a: {b: 1, b: 2}", "line 1: b is given twice"),
        ("- {x: 1}\n- {x: 1, y: [{z: 1, z: 2}]}", "line 2: z is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        load_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1, y: 2}\nouter:\n  b: &b\n    <<: *a\n    x: 5\nc:\n  <<: *b",
        "a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b",
        "1: a\n'1': b",
        "[1, {a: 2}, {a: 3}]",
        "",
    ],
)
def test_other_texts_are_read_as_by_pyyaml(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["a: !!map [1]", "a: !!map foo", "a: ["])
def test_what_pyyaml_refuses_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
