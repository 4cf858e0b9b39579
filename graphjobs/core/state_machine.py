"""Words on the wire that a SMALLINT column stores as a number, and the moves between them; standard library only."""

from collections.abc import Mapping, Set
from enum import StrEnum
from typing import Self

from graphjobs.errors import IllegalTransition


class CodedEnum(StrEnum):
    """A word on the wire that a SMALLINT column stores as a number."""

    code: int

    def __new__(cls, word: str, code: int) -> Self:
        """Makes a member of its word and its number."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.code = code
        return member

    @classmethod
    def parse(cls, word: object) -> Self:
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


class StatusEnum(CodedEnum):
    """Where something stands, and what it may become. Each kind of status says what it is of, and which moves are."""

    @classmethod
    def entity_name(cls) -> str:
        """What stands there, for people: "graph job"."""
        raise NotImplementedError

    @classmethod
    def transitions(cls) -> Mapping[Self, Set[Self]]:
        """Each status and what it may become. A move to the same status changes the thing, not its status."""
        raise NotImplementedError

    @property
    def is_final(self) -> bool:
        """True where no move leads on."""
        return not self.transitions()[self]

    def require_transition(self, target: Self, *, from_status: Self | None = None) -> None:
        """Lets a legal move pass; with `from_status`, a move that one status alone can make.

        Raises:
            IllegalTransition: the transition table does not hold the move, or this is not the status it starts from.
        """
        followers = self.transitions()[self]
        if target not in followers or (from_status is not None and self is not from_status):
            legal = (status for status in type(self) if status in followers)
            raise IllegalTransition(self, target, legal=legal, what=self.entity_name())
