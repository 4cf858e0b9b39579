"""What a component says of its licence is judged as SPDX means it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphjobs.demo.licences import find_breach


def gpl(text: str) -> str | None:
    """Forbids what begins with GPL, and any text that says General Public."""
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
def test_a_licence_that_leaves_no_choice_breaks_the_rule(licence: str) -> None:
    """Every part of an AND counts; an OR only where all its choices are forbidden; other text is read strictly."""
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
        "MIT OR BSD-3-Clause AND GPL-2.0-only",  # AND binds tighter: MIT alone may be chosen
        "GPL-2.0-only AND MIT OR BSD-3-Clause",
        "License :: OSI Approved :: BSD License",
        "",
        "()",
    ],
)
def test_a_licence_that_leaves_a_choice_breaks_no_rule(licence: str) -> None:
    """Whoever may choose another licence is not bound by the forbidden one."""
    assert find_breach(licence, gpl) is None


def test_the_rule_of_the_part_at_fault_is_given() -> None:
    """Of several, the first in the text."""
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
def test_expressions_are_judged_as_their_tree_says(expression: tuple[str, bool]) -> None:
    """The text is judged like the tree it was written from."""
    text, forbidden = expression

    assert forbidden == (find_breach(text, gpl) is not None)


@given(words=st.lists(st.sampled_from(["(", ")", "AND", "OR", "WITH", "MIT", "GPL-1"]), max_size=12))
def test_any_sequence_of_words_is_judged_without_an_error(words: list[str]) -> None:
    """A broken expression is a text like any other, and hides no forbidden word."""
    text = " ".join(words)
    judged = find_breach(text, gpl)

    assert judged in (None, "GPL")
    assert judged is None or "GPL" in text
    if "GPL-1" in words and "OR" not in words and "WITH" not in words:
        assert judged == "GPL"


def test_a_nest_of_brackets_is_judged_without_recursion() -> None:
    """Ten thousand brackets are a stack, not a recursion."""
    assert find_breach("(" * 10_000 + "GPL-1" + ")" * 10_000, gpl) == "GPL"
