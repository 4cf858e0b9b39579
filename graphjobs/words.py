"""Words on the wire that a SMALLINT column stores as a number, and the moves between them; standard library only."""

from collections.abc import Mapping, Set
from enum import StrEnum
from typing import Self, TypeVar

from graphjobs.errors import IllegalTransition

Word = TypeVar("Word", bound=StrEnum)


class CodedWord(StrEnum):
    """A word on the wire that a SMALLINT column stores as a number."""

    code: int

    def __new__(cls, word: str, code: int) -> Self:
        """Makes a member of its word and its number."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.code = code
        return member

    @classmethod
    def from_word(cls, word: object) -> Self:
        """Gives the member of a word on the wire, or the member itself.

        Raises:
            ValueError: it is no word of this enumeration.
        """
        if isinstance(word, cls):
            return word
        if isinstance(word, str):
            for member in cls:
                if member == word:
                    return member
        raise ValueError(f"no word of {cls.__name__}")

    @classmethod
    def from_code(cls, code: int) -> Self:
        """Gives the member a column's number stands for.

        Raises:
            ValueError: no member has this number.
        """
        for member in cls:
            if member.code == code:
                return member
        raise ValueError(f"{code} is no code of {cls.__name__}")


def require_move(
    transitions: Mapping[Word, Set[Word]], source: Word, target: Word, *, only_from: Word | None, what: str
) -> None:
    """Lets a legal move pass; with `only_from`, a move that one status alone can make.

    Args:
        transitions: each status and what it may become.
        source: where it stands.
        target: what it shall become.
        only_from: the status the move starts from, where that is one.
        what: what moves, for people: "graph job".

    Raises:
        IllegalTransition: the transition table does not hold the move, or this is not the status it starts from.
    """
    if target not in transitions[source] or (only_from is not None and source is not only_from):
        legal = (status for status in type(source) if status in transitions[source])
        raise IllegalTransition(source, target, legal=legal, what=what)
