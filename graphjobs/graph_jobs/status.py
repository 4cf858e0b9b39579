"""The statuses of a graph job and the moves between them, in plain Python: no database, no validation library."""

from collections.abc import Mapping
from types import MappingProxyType

from graphjobs.core.state_machine import CodedStatus, CodedWord


class GraphJobType(CodedWord):
    """The two kinds of graph job. Source of the codes: migration 014."""

    BUILD = "build", 0
    OVERLAY = "overlay", 1


class GraphJobStatus(CodedStatus):
    """Where a graph job stands. Source of the codes: migration 014."""

    QUEUED = "queued", 0
    RUNNING = "running", 1
    COMPLETED = "completed", 2
    FAILED = "failed", 3
    CANCELED = "canceled", 4

    @classmethod
    def of(cls) -> str:
        """What stands there: a graph job."""
        return "graph job"

    @classmethod
    def transitions(cls) -> "Mapping[GraphJobStatus, frozenset[GraphJobStatus]]":
        """The transition table."""
        return TRANSITIONS


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
