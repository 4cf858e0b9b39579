"""Enumerations that a SMALLINT column stores by code, and the transitions between statuses. Standard library only."""

from collections.abc import Mapping, Set
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Self

from graphjobs.errors import IllegalTransition


class CodedEnum(StrEnum):
    """An enumeration of words that a SMALLINT column stores by code."""

    _value_: str  # for type checkers, which would else take the tuple of a member for its value
    code: int

    def __new__(cls, word: str, code: int, *_: object) -> Self:
        """Build a member from its word and its code; further values are for the `__init__` of a subclass."""
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
    """A status: its word, its code, and the words of the statuses that may follow it."""

    entity_name: ClassVar[str]
    """The name of what has the status, for error texts: "graph job"."""
    followers: frozenset[str]

    def __init_subclass__(cls, *, entity_name: str) -> None:
        """Set the name of the entity, which a subclass passes as a class argument."""
        super().__init_subclass__()
        cls.entity_name = entity_name

    def __init__(self, word: str, code: int, followers: Set[str] = frozenset()) -> None:
        del word, code  # set by `CodedEnum.__new__`
        self.followers = frozenset(followers)

    @classmethod
    def transitions(cls) -> Mapping[Self, Set[Self]]:
        """Return each status and the statuses that may follow it."""
        return MappingProxyType({status: frozenset(map(cls, status.followers)) for status in cls})

    @property
    def is_final(self) -> bool:
        """True where no status may follow."""
        return not self.followers

    def require_transition(self, target: Self, *, from_status: Self | None = None) -> None:
        """Check that a transition is legal, and with `from_status` that it starts from that status.

        Raises:
            IllegalTransition: the transition table does not have it, or this is not the status it starts from.
        """
        if target not in self.followers or (from_status is not None and self is not from_status):
            legal = (status for status in type(self) if status in self.followers)
            raise IllegalTransition(self, target, legal=legal, what=self.entity_name)
