"""The statuses of a policy run and the moves between them, in plain Python: no database, no validation library."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from graphjobs.core.state_machine import CodedEnum, StatusEnum


class PolicyRunMode(CodedEnum):
    """What a run evaluates: everything, what has changed, or nothing that counts."""

    FULL = "full", 0
    INCREMENTAL = "incremental", 1
    SIMULATE = "simulate", 2


class PolicyRunPriority(CodedEnum):
    """What is leased first; a higher code before a lower one."""

    NORMAL = "normal", 0
    HIGH = "high", 1
    EMERGENCY = "emergency", 2


class PolicyRunStatus(StatusEnum):
    """Where a policy run stands."""

    PENDING = "pending", 0
    DISPATCHING = "dispatching", 1
    SUBMITTED = "submitted", 2
    COMPLETED = "completed", 3
    FAILED = "failed", 4
    CANCELED = "canceled", 5

    @property
    def public_status(self) -> str:
        """The word the outside sees: queued, running, succeeded, failed, canceled."""
        return _OUTSIDE[self]

    @classmethod
    def entity_name(cls) -> str:
        """What stands there: a policy run."""
        return "policy run"

    @classmethod
    def transitions(cls) -> "Mapping[PolicyRunStatus, frozenset[PolicyRunStatus]]":
        """The transition table."""
        return TRANSITIONS


TRANSITIONS: Mapping[PolicyRunStatus, frozenset[PolicyRunStatus]] = MappingProxyType(
    {
        PolicyRunStatus.PENDING: frozenset({PolicyRunStatus.DISPATCHING, PolicyRunStatus.CANCELED}),
        PolicyRunStatus.DISPATCHING: frozenset(
            {
                PolicyRunStatus.DISPATCHING,
                PolicyRunStatus.PENDING,
                PolicyRunStatus.SUBMITTED,
                PolicyRunStatus.FAILED,
                PolicyRunStatus.CANCELED,
            }
        ),
        PolicyRunStatus.SUBMITTED: frozenset(
            {PolicyRunStatus.SUBMITTED, PolicyRunStatus.COMPLETED, PolicyRunStatus.FAILED, PolicyRunStatus.CANCELED}
        ),
        PolicyRunStatus.COMPLETED: frozenset(),
        PolicyRunStatus.FAILED: frozenset(),
        PolicyRunStatus.CANCELED: frozenset(),
    }
)
"""Each status and what it may become. A move to the same status changes the run, not its status."""

_OUTSIDE: Final[Mapping[PolicyRunStatus, str]] = MappingProxyType(
    {
        PolicyRunStatus.PENDING: "queued",
        PolicyRunStatus.DISPATCHING: "running",
        PolicyRunStatus.SUBMITTED: "running",
        PolicyRunStatus.COMPLETED: "succeeded",
        PolicyRunStatus.FAILED: "failed",
        PolicyRunStatus.CANCELED: "canceled",
    }
)
