"""The statuses of a policy run and the transitions between them, in plain Python."""

from typing import Final

from graphjobs.core.state_machine import CodedEnum, StatusEnum


class PolicyRunMode(CodedEnum):
    """The mode of a run: evaluate all inputs, only changed ones, or all without an effect."""

    FULL = "full", 0
    INCREMENTAL = "incremental", 1
    SIMULATE = "simulate", 2


class PolicyRunPriority(CodedEnum):
    """The priority of a run: a higher code is leased first."""

    NORMAL = "normal", 0
    HIGH = "high", 1
    EMERGENCY = "emergency", 2


class PolicyRunStatus(StatusEnum, entity_name="policy run"):
    """The status of a policy run."""

    PENDING = "pending", 0, {"dispatching", "canceled"}
    DISPATCHING = "dispatching", 1, {"dispatching", "pending", "submitted", "failed", "canceled"}
    SUBMITTED = "submitted", 2, {"submitted", "completed", "failed", "canceled"}
    COMPLETED = "completed", 3
    FAILED = "failed", 4
    CANCELED = "canceled", 5

    @property
    def public_status(self) -> str:
        """The word that API clients see: queued, running, succeeded, failed, canceled."""
        return _PUBLIC_STATUSES.get(self, self.value)


TRANSITIONS: Final = PolicyRunStatus.transitions()
"""Each status and the statuses that may follow it. A transition to the same status changes other fields."""

_PUBLIC_STATUSES: Final[dict[PolicyRunStatus, str]] = {
    PolicyRunStatus.PENDING: "queued",
    PolicyRunStatus.DISPATCHING: "running",
    PolicyRunStatus.SUBMITTED: "running",
    PolicyRunStatus.COMPLETED: "succeeded",
}
