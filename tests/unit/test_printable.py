"""Text of others on a terminal."""

import pytest

from graphjobs.cli.output import echo, print_table, print_texts

_CONTROLS = "\x00\x07\x1b\x7f\x80\x9b\u061c\u200e\u2028\u2029\u202e\u2066\u2069\ud800"


def test_a_table_has_no_character_that_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [(f"a{character}b",) for character in _CONTROLS])
    assert ["a\N{REPLACEMENT CHARACTER}b"] * len(_CONTROLS) == capsys.readouterr().out.split()[1:]


def test_a_line_has_no_character_that_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"a{_CONTROLS}b", err=True)
    print_texts([f"a{_CONTROLS}b"])
    clean = "a" + "\N{REPLACEMENT CHARACTER}" * len(_CONTROLS) + "b\n"
    assert (clean, clean) == capsys.readouterr()
