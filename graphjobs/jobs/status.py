"""The statuses of a graph job and the moves between them, in plain Python: no database, no validation library."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from graphjobs.errors import IllegalTransition


class _CodedWord(StrEnum):
    """A word on the wire that a SMALLINT column stores as a number."""

    code: int

    def __new__(cls, word: str, code: int) -> Self:
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


class GraphJobType(_CodedWord):
    """The two kinds of graph job. Source of the codes: migration 014."""

    BUILD = "build", 0
    OVERLAY = "overlay", 1


class GraphJobStatus(_CodedWord):
    """Where a graph job stands. Source of the codes: migration 014."""

    QUEUED = "queued", 0
    RUNNING = "running", 1
    COMPLETED = "completed", 2
    FAILED = "failed", 3
    CANCELED = "canceled", 4

    @property
    def is_final(self) -> bool:
        """True where no move leads on: completed, failed and canceled."""
        return not TRANSITIONS[self]

    def require_move_to(self, target: "GraphJobStatus", *, only_from: "GraphJobStatus | None" = None) -> None:
        """Lets a legal move pass; with `only_from`, a move that one status alone can make.

        Raises:
            IllegalTransition: the transition table does not hold the move, or this is not the status it starts from.
        """
        if target not in TRANSITIONS[self] or (only_from is not None and self is not only_from):
            legal = (status for status in GraphJobStatus if status in TRANSITIONS[self])
            raise IllegalTransition(self, target, legal=legal)


_S = GraphJobStatus

TRANSITIONS: Mapping[GraphJobStatus, frozenset[GraphJobStatus]] = MappingProxyType(
    {
        _S.QUEUED: frozenset({_S.QUEUED, _S.RUNNING, _S.FAILED, _S.CANCELED}),
        _S.RUNNING: frozenset({_S.RUNNING, _S.COMPLETED, _S.FAILED, _S.CANCELED, _S.QUEUED}),
        _S.COMPLETED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELED: frozenset(),
    }
)
"""Each status and what it may become. A move to the same status changes the job, not its status."""
