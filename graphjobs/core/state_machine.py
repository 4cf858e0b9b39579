"""Enumerations that a SMALLINT column stores by code, and the transitions between statuses. Standard library only."""

from abc import abstractmethod
from collections.abc import Mapping, Set
from enum import StrEnum
from typing import Self

from graphjobs.errors import IllegalTransition


class CodedEnum(StrEnum):
    """An enumeration of words that a SMALLINT column stores by code."""

    code: int

    def __new__(cls, word: str, code: int) -> Self:
        """Build a member from its word and its code."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.code = code
        return member

    @classmethod
    def parse(cls, word: object) -> Self:
        """Return the member of a word, or the member itself.

        Raises:
            ValueError: the enumeration has no such word.
        """
        if isinstance(word, cls):
            return word
        if isinstance(word, str):
            for member in cls:
                if member == word:
                    return member
        raise ValueError(f"{cls.__name__} has no such word")

    @classmethod
    def from_code(cls, code: int) -> Self:
        """Return the member of a code.

        Raises:
            ValueError: no member has this code.
        """
        for member in cls:
            if member.code == code:
                return member
        raise ValueError(f"{cls.__name__} has no code {code}")


class StatusEnum(CodedEnum):
    """A status, and the statuses that may follow it. Subclasses name their entity and give the transition table."""

    @classmethod
    @abstractmethod
    def entity_name(cls) -> str:
        """Return the name of what has the status, for error texts: "graph job"."""
        ...

    @classmethod
    @abstractmethod
    def transitions(cls) -> Mapping[Self, Set[Self]]:
        """Return the statuses that may follow each status. A transition to the same status changes other fields."""
        ...

    @property
    def is_final(self) -> bool:
        """True where no transition leads on."""
        return not self.transitions()[self]

    def require_transition(self, target: Self, *, from_status: Self | None = None) -> None:
        """Check that a transition is legal, and with `from_status` that it starts from that status.

        Raises:
            IllegalTransition: the transition table does not have it, or this is not the status it starts from.
        """
        followers = self.transitions()[self]
        if target not in followers or (from_status is not None and self is not from_status):
            legal = (status for status in type(self) if status in followers)
            raise IllegalTransition(self, target, legal=legal, what=self.entity_name())
