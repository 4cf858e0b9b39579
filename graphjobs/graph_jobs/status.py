"""The statuses of a graph job and the transitions between them, in plain Python."""

from collections.abc import Mapping
from types import MappingProxyType

from graphjobs.core.state_machine import CodedEnum, StatusEnum


class GraphJobType(CodedEnum):
    """The two types of graph job. Source of the codes: migration 014."""

    BUILD = "build", 0
    OVERLAY = "overlay", 1


class GraphJobStatus(StatusEnum):
    """The status of a graph job. Source of the codes: migration 014."""

    QUEUED = "queued", 0
    RUNNING = "running", 1
    COMPLETED = "completed", 2
    FAILED = "failed", 3
    CANCELED = "canceled", 4

    @classmethod
    def entity_name(cls) -> str:
        """Return the name of the entity."""
        return "graph job"

    @classmethod
    def transitions(cls) -> "Mapping[GraphJobStatus, frozenset[GraphJobStatus]]":
        """Return the transition table."""
        return TRANSITIONS


TRANSITIONS: Mapping[GraphJobStatus, frozenset[GraphJobStatus]] = MappingProxyType(
    {
        GraphJobStatus.QUEUED: frozenset(
            {GraphJobStatus.QUEUED, GraphJobStatus.RUNNING, GraphJobStatus.FAILED, GraphJobStatus.CANCELED}
        ),
        GraphJobStatus.RUNNING: frozenset(
            {
                GraphJobStatus.RUNNING,
                GraphJobStatus.COMPLETED,
                GraphJobStatus.FAILED,
                GraphJobStatus.CANCELED,
                GraphJobStatus.QUEUED,
            }
        ),
        GraphJobStatus.COMPLETED: frozenset(),
        GraphJobStatus.FAILED: frozenset(),
        GraphJobStatus.CANCELED: frozenset(),
    }
)
"""Each status and the statuses that may follow it. A transition to the same status changes other fields."""
