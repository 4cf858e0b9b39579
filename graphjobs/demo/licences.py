"""Evaluate the licence of a component, an SPDX expression or any text; knows no policy file."""

import re
from collections.abc import Callable
from typing import Final

_TOKEN: Final = re.compile(r"[()]|[^\s()]+(?:\s+WITH\s+[^\s()]+)?")
_OPERAND: Final = re.compile(r"[A-Za-z0-9.:+-]+(?:\s+WITH\s+[A-Za-z0-9.:+-]+)?")
_WORD_ENDS: Final = re.compile(r"[\s,;/|&()]+")
_STRENGTH: Final = {"OR": 1, "AND": 2}


def find_breach(licence: str, rule_of: Callable[[str], str | None]) -> str | None:
    """Return the rule that a licence breaks, or None.

    An expression breaks a rule if all choices of an OR do, or any part of an AND. An exception (WITH) is part of its
    licence's id. Other text ("GPLv2, see COPYING") breaks a rule as a whole or by any of its words.

    Args:
        licence: an SPDX id, an SPDX expression, or any text.
        rule_of: returns the rule that forbids one id or text, or None.

    Source: SPDX specification 2.3, annex D.
    """
    postfix = _postfix(licence)
    if postfix is None:
        texts = [licence, *filter(None, _WORD_ENDS.split(licence))]
        return next((rule for text in texts if (rule := rule_of(text)) is not None), None)
    values: list[str | None] = []
    for word in postfix:
        if word not in _STRENGTH:
            values.append(rule_of(word))
            continue
        right, left = values.pop(), values.pop()
        if word == "AND":
            values.append(left if left is not None else right)
        else:
            values.append(left if right is not None else None)
    return values.pop()


def _postfix(expression: str) -> list[str] | None:
    """Convert an expression to postfix order (shunting yard); None for other text."""
    output: list[str] = []
    operators: list[str] = []
    operand_next = True
    for word in _TOKEN.findall(expression):
        # An operand or "(" must come where an operand is expected; "AND", "OR" and ")" elsewhere.
        if (word in _STRENGTH or word == ")") == operand_next:
            return None
        if word == "(":
            operators.append(word)
        elif word == ")":
            while operators and operators[-1] != "(":
                output.append(operators.pop())
            if not operators:
                return None
            operators.pop()
        elif word in _STRENGTH:
            while operators and _STRENGTH.get(operators[-1], 0) >= _STRENGTH[word]:
                output.append(operators.pop())
            operators.append(word)
            operand_next = True
        elif _OPERAND.fullmatch(word):
            output.append(word)
            operand_next = False
        else:
            return None
    if operand_next or "(" in operators:
        return None
    return output + operators[::-1]
