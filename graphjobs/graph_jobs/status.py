"""The statuses of a graph job and the transitions between them, in plain Python."""

from typing import Final

from graphjobs.core.state_machine import CodedEnum, StatusEnum


class GraphJobType(CodedEnum):
    """The two types of graph job. Source of the codes: migration 014."""

    BUILD = "build", 0
    OVERLAY = "overlay", 1


class GraphJobStatus(StatusEnum, entity_name="graph job"):
    """The status of a graph job. Source of the codes: migration 014."""

    QUEUED = "queued", 0, {"queued", "running", "failed", "canceled"}
    RUNNING = "running", 1, {"running", "completed", "failed", "canceled", "queued"}
    COMPLETED = "completed", 2
    FAILED = "failed", 3
    CANCELED = "canceled", 4


TRANSITIONS: Final = GraphJobStatus.transitions()
"""Each status and the statuses that may follow it. A transition to the same status changes other fields."""
