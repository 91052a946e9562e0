"""Text tables."""

from __future__ import annotations

from fmen_eval.tables import format_text

ROWS = [("name", "value", "note"), ("a", "10", "x"), ("mean", "5", "yz")]


def test_text_tables_align_words_left_and_figures_right() -> None:
    assert format_text(ROWS, words={0, 2}).split("\n") == [
        "name  value  note",
        "-----------------",
        "a        10  x",
        "mean      5  yz",
    ]


def test_rules_follow_the_header_and_precede_the_last_row() -> None:
    lines = format_text(ROWS, foot=True).split("\n")
    assert [line[0] for line in lines] == ["n", "-", "a", "-", "m"]
    lines = format_text(ROWS, head=False).split("\n")
    assert [line[0] for line in lines] == ["n", "a", "m"]
