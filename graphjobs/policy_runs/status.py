"""The statuses of a policy run and the moves between them, in plain Python: no database, no validation library."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from graphjobs.core.state_machine import CodedStatus, CodedWord


class PolicyRunMode(CodedWord):
    """What a run evaluates: everything, what has changed, or nothing that counts."""

    FULL = "full", 0
    INCREMENTAL = "incremental", 1
    SIMULATE = "simulate", 2


class PolicyRunPriority(CodedWord):
    """What is leased first; a higher code before a lower one."""

    NORMAL = "normal", 0
    HIGH = "high", 1
    EMERGENCY = "emergency", 2


class PolicyRunStatus(CodedStatus):
    """Where a policy run stands."""

    PENDING = "pending", 0
    DISPATCHING = "dispatching", 1
    SUBMITTED = "submitted", 2
    COMPLETED = "completed", 3
    FAILED = "failed", 4
    CANCELED = "canceled", 5

    @property
    def outside(self) -> str:
        """The word the outside sees: queued, running, succeeded, failed, canceled."""
        return _OUTSIDE[self]

    @classmethod
    def of(cls) -> str:
        """What stands there: a policy run."""
        return "policy run"

    @classmethod
    def transitions(cls) -> "Mapping[PolicyRunStatus, frozenset[PolicyRunStatus]]":
        """The transition table."""
        return TRANSITIONS


_S = PolicyRunStatus

TRANSITIONS: Mapping[PolicyRunStatus, frozenset[PolicyRunStatus]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.DISPATCHING, _S.CANCELED}),
        _S.DISPATCHING: frozenset({_S.DISPATCHING, _S.PENDING, _S.SUBMITTED, _S.FAILED, _S.CANCELED}),
        _S.SUBMITTED: frozenset({_S.SUBMITTED, _S.COMPLETED, _S.FAILED, _S.CANCELED}),
        _S.COMPLETED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELED: frozenset(),
    }
)
"""Each status and what it may become. A move to the same status changes the run, not its status."""

_OUTSIDE: Final[Mapping[PolicyRunStatus, str]] = MappingProxyType(
    {
        _S.PENDING: "queued",
        _S.DISPATCHING: "running",
        _S.SUBMITTED: "running",
        _S.COMPLETED: "succeeded",
        _S.FAILED: "failed",
        _S.CANCELED: "canceled",
    }
)
