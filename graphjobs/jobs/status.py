"""The statuses of a graph job and the moves between them, in plain Python: no database, no validation library."""

from collections.abc import Mapping
from types import MappingProxyType

from graphjobs.words import CodedWord, require_move


class GraphJobType(CodedWord):
    """The two kinds of graph job. Source of the codes: migration 014."""

    BUILD = "build", 0
    OVERLAY = "overlay", 1


class GraphJobStatus(CodedWord):
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
        require_move(TRANSITIONS, self, target, only_from=only_from, what="graph job")


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
