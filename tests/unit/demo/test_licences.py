"""Licences are evaluated as SPDX defines them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphjobs.demo.licences import find_breach


def gpl(text: str) -> str | None:
    """Forbid text that begins with GPL or contains General Public."""
    return "GPL" if text.startswith("GPL") or "General Public" in text else None


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-3.0-only",
        "GPL-2.0-only WITH Classpath-exception-2.0",
        "MIT AND GPL-2.0-only",
        "GPL-2.0-only AND MIT",
        "GPL-2.0-only OR GPL-3.0-only",
        "(MIT OR BSD-3-Clause) AND GPL-2.0-only",
        "((GPL-2.0-only))",
        "GNU General Public License v3",
        "MIT, GPLv2",
        "MIT/GPL-2.0",
        "MIT AND GPL-2.0 AND",
        "see the file COPYING (GPLv2)",
    ],
)
def test_a_licence_without_an_allowed_choice_breaks_the_rule(licence: str) -> None:
    """Every part of an AND counts; an OR only if all its choices are forbidden; in other text, every word counts."""
    assert find_breach(licence, gpl) == "GPL"


@pytest.mark.parametrize(
    "licence",
    [
        "MIT",
        "MIT OR GPL-2.0-only",
        "GPL-2.0-only OR MIT",
        "(GPL-2.0-only AND MIT) OR Apache-2.0",
        "MIT AND (GPL-2.0-only OR BSD-3-Clause)",
        "MIT AND Apache-2.0",
        "MIT OR BSD-3-Clause AND GPL-2.0-only",  # AND binds tighter: MIT is a choice
        "GPL-2.0-only AND MIT OR BSD-3-Clause",
        "License :: OSI Approved :: BSD License",
        "",
        "()",
    ],
)
def test_a_licence_with_an_allowed_choice_breaks_no_rule(licence: str) -> None:
    """One allowed choice of an OR is sufficient."""
    assert find_breach(licence, gpl) is None


def test_the_rule_of_the_first_forbidden_part_is_returned() -> None:
    """The order is the one of the text."""
    rules = {"A": "rule A", "B": "rule B"}

    assert find_breach("MIT AND B", rules.get) == "rule B"
    assert find_breach("A AND B", rules.get) == "rule A"
    assert find_breach("A OR B", rules.get) == "rule A"


EXPRESSIONS = st.recursive(
    st.sampled_from(["GPL-1", "GPL-2 WITH x", "MIT", "BSD"]).map(lambda word: (word, word.startswith("GPL"))),
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(
        lambda parts: (
            f"({parts[0][0]} {parts[1]} {parts[2][0]})",
            (parts[0][1] or parts[2][1]) if parts[1] == "AND" else (parts[0][1] and parts[2][1]),
        )
    ),
    max_leaves=20,
)


@given(expression=EXPRESSIONS)
def test_expressions_are_evaluated_like_their_tree(expression: tuple[str, bool]) -> None:
    """Generated expressions have the result of their syntax tree."""
    text, forbidden = expression

    assert forbidden == (find_breach(text, gpl) is not None)


@given(words=st.lists(st.sampled_from(["(", ")", "AND", "OR", "WITH", "MIT", "GPL-1"]), max_size=12))
def test_any_sequence_of_words_is_evaluated_without_an_error(words: list[str]) -> None:
    text = " ".join(words)
    breach = find_breach(text, gpl)

    assert breach in (None, "GPL")
    assert breach is None or "GPL" in text
    if "GPL-1" in words and "OR" not in words and "WITH" not in words:
        assert breach == "GPL"


def test_nested_brackets_are_evaluated_without_recursion() -> None:
    """The brackets are on a list, not on Python's stack."""
    assert find_breach("(" * 10_000 + "GPL-1" + ")" * 10_000, gpl) == "GPL"
