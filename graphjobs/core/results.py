"""Results of the queues of both domains: heartbeats, finished attempts, stalled items, rescues. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

ATTEMPTS_MAX: Final = 99_999
"""The most attempts that a job or run can have."""


@dataclass(frozen=True, slots=True)
class StalledItem:
    """A running job or leased run as a scan found it. If the version is the same later, nothing has changed it since.

    Attributes:
        job_id: the id of the job or run.
        tenant_id: its tenant.
        version: the row's `updated_at`, which every heartbeat raises; None where Python cannot represent it.
        attempts: the attempt that runs; None where the row is unreadable.
        released: how many earlier attempts were released in order. They do not count against the bound of attempts.
        ran_alone: False where no earlier attempt was lost, so that the item may have been taken with others. Its last
            attempt is then not counted, because one of those may have ended the process.
    """

    job_id: UUID
    tenant_id: str
    version: datetime | None
    attempts: int | None
    released: int = 0
    ran_alone: bool = True

    def has_attempts_left(self, attempts_max: int) -> bool:
        """Return whether fewer attempts count than the bound; False where the row does not tell its attempts."""
        return self.attempts is not None and self.attempts - self.released < attempts_max


@dataclass(frozen=True, slots=True)
class HeartbeatResult:
    """Result of a heartbeat.

    Attributes:
        versions: the new version of each job. A job with a locked row is missing here.
        lost: the ids of jobs that no longer run at this attempt: their holder can no longer finish them.
    """

    versions: Mapping[UUID, datetime]
    lost: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class FinishResult:
    """Result of finishing attempts.

    Attributes:
        versions: the new version of each job that this call finished.
        lost: jobs that no longer run at the given attempt, each with one sentence on its state in a later read. Nothing
            was changed.
        busy: the ids of jobs with rows that other transactions hold. Nothing was changed: try again soon.
        refused: jobs with a result that can never be stored as it is, each with one sentence why. Nothing was changed.
    """

    versions: Mapping[UUID, datetime]
    lost: Mapping[UUID, str]
    busy: frozenset[UUID] = frozenset()
    refused: Mapping[UUID, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RescueResult:
    """Result of a rescue.

    Attributes:
        requeued: the ids of jobs that are queued again.
        failed: the ids of jobs that had no attempt left, or unreadable rows.
    """

    requeued: tuple[UUID, ...]
    failed: tuple[UUID, ...]


def exhausted_reason(stalled: StalledItem, attempts_max: int) -> str | None:
    """Return why a stalled item fails; None where it may be tried again."""
    if stalled.attempts is None:
        return "the worker stopped sending heartbeats, and the row does not tell the attempt, so it is not tried again"
    if stalled.has_attempts_left(attempts_max) or (attempts_max > 1 and not stalled.ran_alone):
        return None
    released = f", {stalled.released} of them released in order" if stalled.released else ""
    return (
        f"the worker stopped sending heartbeats at attempt {stalled.attempts}{released}; "
        f"at most {attempts_max} attempts are made"
    )
