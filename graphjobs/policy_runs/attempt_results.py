"""Results of leases of policy runs, and the back-off between attempts. Values only."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self
from uuid import UUID

from graphjobs.core.sanitizing import sanitize_error
from graphjobs.core.validation import check_duration
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.row_mapping import check_run
from graphjobs.policy_runs.status import PolicyRunStatus

Status = PolicyRunStatus

DELAY_MAX: Final = timedelta(days=7)
"""The longest delay of an attempt."""

_NO_DELAY: Final = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBackoff:
    """The delay of the next attempt: doubled each time, up to a cap, and shortened at random by up to a half.

    Attributes:
        first: the delay after the first attempt; more than zero.
        cap: the longest delay; up to 7 days.

    Raises:
        InvalidJob: a delay is out of bounds.
    """

    first: timedelta = timedelta(seconds=5)
    cap: timedelta = timedelta(minutes=10)

    def __post_init__(self) -> None:
        for name in ("first", "cap"):
            check_duration(getattr(self, name), name, DELAY_MAX)
        if self.first > self.cap:
            raise InvalidJob("first must not be longer than cap", field="first")

    def after(self, attempts: int, *, jitter: Callable[[], float] = random.random) -> timedelta:
        """Return the delay after a number of attempts.

        Args:
            attempts: the number of attempts, 1 or more.
            jitter: returns a number between 0 and 1.
        """
        doubled = self.first * 2 ** min(max(attempts - 1, 0), 30) if self.first < self.cap else self.cap
        return min(doubled, self.cap) * (1 - jitter() / 2)


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """The result of one lease of a run. Made by `submitted`, `failed`, `released` and `canceled`.

    Attributes:
        job: the run as it was leased: id, tenant, owner and attempts identify the lease.
        status: its next status. A run that is released or failed is canceled instead if its cancellation was requested.
        error: why the attempt failed, or None.
        delay: the delay of the next attempt, where the run is released.
    """

    job: PolicyRunJob
    status: PolicyRunStatus
    error: str | None = None
    delay: timedelta = _NO_DELAY

    @classmethod
    def submitted(cls, job: PolicyRunJob) -> Self:
        """Build the result of a submitted run: an engine has accepted it."""
        return cls._build(job, Status.SUBMITTED)

    @classmethod
    def failed(cls, job: PolicyRunJob, error: str) -> Self:
        """Build the result of a failed run. The text is sanitized and cut, never refused."""
        return cls._build(job, Status.FAILED, sanitize_error(error))

    @classmethod
    def released(cls, job: PolicyRunJob, *, delay: timedelta = _NO_DELAY, error: str | None = None) -> Self:
        """Build the result of a released run: any dispatcher may lease it after a delay.

        Args:
            job: the run.
            delay: the delay, up to 7 days.
            error: why the attempt failed. None releases the run in order, and the attempt does not count.
        """
        if not isinstance(delay, timedelta) or not _NO_DELAY <= delay <= DELAY_MAX:
            raise InvalidJob("delay must be a timedelta of zero or more, up to 7 days", field="delay")
        return cls._build(job, Status.PENDING, None if error is None else sanitize_error(error), delay)

    @classmethod
    def canceled(cls, job: PolicyRunJob) -> Self:
        """Build the result of a canceled run, as requested."""
        return cls._build(job, Status.CANCELED)

    @classmethod
    def _build(
        cls, job: PolicyRunJob, status: PolicyRunStatus, error: str | None = None, delay: timedelta = _NO_DELAY
    ) -> Self:
        check_run(job).status.require_transition(status, from_status=Status.DISPATCHING)
        return cls(job, status, error, delay)


@dataclass(frozen=True, slots=True)
class TenantCursors:
    """The tenants that a lease served last; the next lease continues after them.

    Tenants with emergencies rotate among themselves, so that one tenant's emergencies do not skip the turns of others.

    Attributes:
        emergency: the last tenant that was served for its emergencies.
        others: the last tenant that was served for its other runs.
    """

    emergency: str = ""
    others: str = ""


@dataclass(frozen=True, slots=True)
class LeaseBatch:
    """The runs that a lease took.

    Attributes:
        runs: the leased runs, now dispatching, the most urgent first.
        final_attempt_ids: the ids of runs at their last attempt.
        exhausted: the ids of runs that had no attempt left; they are failed, or a rescue will fail them.
        unreadable: unreadable rows that were taken; they are failed in the same way.
        cursors: the tenants that were served, for the next lease.
        lost: the ids of runs that were leased and are no longer held at that attempt. A lease with a lost answer
            looks up what it took, and some may have been rescued or ended by others meanwhile.
        apart: the tenants of runs that were left because of `apart_after`.
    """

    runs: tuple[PolicyRunJob, ...]
    final_attempt_ids: frozenset[UUID] = frozenset()
    exhausted: tuple[UUID, ...] = ()
    unreadable: tuple[CorruptRow, ...] = ()
    cursors: TenantCursors = TenantCursors()
    lost: tuple[UUID, ...] = ()
    apart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseHeartbeatResult:
    """Result of a heartbeat of leases.

    Attributes:
        runs: the renewed runs as they are now: `cancellation_requested` tells the holder to stop.
        lost: the ids of runs with a lost lease: the holder can no longer end them.
        busy: the ids of runs with rows that other transactions hold: the leases are still held, and were not renewed.
    """

    runs: tuple[PolicyRunJob, ...]
    lost: frozenset[UUID] = frozenset()
    busy: frozenset[UUID] = frozenset()
