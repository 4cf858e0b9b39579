"""How the dispatch of a policy run ends, what a lease took, and the back-off between attempts; values only."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self
from uuid import UUID

from graphjobs.core.fields import sanitize_error
from graphjobs.core.results import StalledItem, check_batch, check_item_type, check_unique
from graphjobs.core.transitions import RESCUED, event_payload
from graphjobs.errors import CorruptRow, InvalidJob
from graphjobs.policy_runs.models import PolicyRunJob
from graphjobs.policy_runs.row_mapping import check_run
from graphjobs.policy_runs.status import PolicyRunStatus

Status = PolicyRunStatus

DELAY_MAX: Final = timedelta(days=7)
"""The longest an attempt may be put off."""

_NO_DELAY: Final = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBackoff:
    """How long a run waits for its next attempt: twice as long each time, up to a cap, cut at random by up to a half.

    Attributes:
        first: after the first attempt; more than zero.
        cap: at most; up to seven days.

    Raises:
        InvalidJob: one is out of its bounds; it is named.
    """

    first: timedelta = timedelta(seconds=5)
    cap: timedelta = timedelta(minutes=10)

    def __post_init__(self) -> None:
        for name in ("first", "cap"):
            wait = getattr(self, name)
            if not isinstance(wait, timedelta) or not _NO_DELAY < wait <= DELAY_MAX:
                raise InvalidJob(f"{name}: it should be a timedelta of more than zero, up to seven days", field=name)
        if self.first > self.cap:
            raise InvalidJob("first: it should be no longer than cap", field="first")

    def after(self, attempts: int, *, jitter: Callable[[], float] = random.random) -> timedelta:
        """Gives the wait after so many attempts.

        Args:
            attempts: how many there were, 1 or more.
            jitter: gives a number from 0 to 1.
        """
        doubled = self.first * 2 ** min(max(attempts - 1, 0), 30) if self.first < self.cap else self.cap
        return min(doubled, self.cap) * (1 - jitter() / 2)


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """How one lease of a run ends. Made by `submitted`, `failed`, `given_back` and `canceled`.

    Attributes:
        job: the run as it was leased: its id, tenant, owner and attempts say which lease ends.
        status: what it becomes. A run that is given back or failed is canceled instead where its end was asked for.
        error: why the attempt failed, or None.
        delay: how long it then waits, where it is given back.
    """

    job: PolicyRunJob
    status: PolicyRunStatus
    error: str | None = None
    delay: timedelta = _NO_DELAY

    @classmethod
    def submitted(cls, job: PolicyRunJob) -> Self:
        """Dispatching to submitted: whoever runs it has taken it."""
        return cls._build(job, Status.SUBMITTED)

    @classmethod
    def failed(cls, job: PolicyRunJob, error: str) -> Self:
        """Dispatching to failed. The text is cleaned and cut, never refused."""
        return cls._build(job, Status.FAILED, sanitize_error(error))

    @classmethod
    def released(cls, job: PolicyRunJob, *, delay: timedelta = _NO_DELAY, error: str | None = None) -> Self:
        """Dispatching to pending: somebody else may lease it, after a delay.

        Args:
            job: the run.
            delay: how long it waits; up to seven days.
            error: why the attempt failed. None gives it back in order, and the attempt does not count.
        """
        if not isinstance(delay, timedelta) or not _NO_DELAY <= delay <= DELAY_MAX:
            raise InvalidJob("delay: it should be a timedelta of zero or more, up to seven days", field="delay")
        return cls._build(job, Status.PENDING, None if error is None else sanitize_error(error), delay)

    @classmethod
    def canceled(cls, job: PolicyRunJob) -> Self:
        """Dispatching to canceled: its end was asked for."""
        return cls._build(job, Status.CANCELED)

    @classmethod
    def _build(
        cls, job: PolicyRunJob, status: PolicyRunStatus, error: str | None = None, delay: timedelta = _NO_DELAY
    ) -> Self:
        check_run(job).status.require_transition(status, from_status=Status.DISPATCHING)
        return cls(job, status, error, delay)


@dataclass(frozen=True, slots=True)
class TenantCursors:
    """Whose turn it was last, so that the next lease goes on after them: given by each lease, to be given to the next.

    Those with emergencies take turns among themselves, or one tenant's emergencies would pass over the others' turns.

    Attributes:
        emergency: the last tenant served of those with emergencies.
        others: the last served of all others.
    """

    emergency: str = ""
    others: str = ""


@dataclass(frozen=True, slots=True)
class LeaseBatch:
    """What a lease took.

    Attributes:
        runs: they are dispatching now, and the owner's; the most urgent first.
        last: the ids of those that are at their last attempt.
        exhausted: the ids of runs that had had all their attempts; they are failed, or a rescue will fail them.
        unreadable: rows that were taken too and cannot be read, and why; they are failed in the same way.
        turns: whose turn it was, for the next lease.
    """

    runs: tuple[PolicyRunJob, ...]
    final_attempt_ids: frozenset[UUID] = frozenset()
    exhausted: tuple[UUID, ...] = ()
    unreadable: tuple[CorruptRow, ...] = ()
    cursors: TenantCursors = TenantCursors()


@dataclass(frozen=True, slots=True)
class LeaseHeartbeatResult:
    """What a heartbeat found.

    Attributes:
        runs: those that still are their owner's, as they now are: `cancellation_requested` tells the holder to end.
        lost: the ids of those that are not: nothing the holder does can end them.
        busy: the ids of those whose row somebody else has at the moment: they are held still, and not renewed.
    """

    runs: tuple[PolicyRunJob, ...]
    lost: frozenset[UUID] = frozenset()
    busy: frozenset[UUID] = frozenset()


def check_leased(jobs: Iterable[PolicyRunJob]) -> list[PolicyRunJob]:
    """Lets runs pass that are leased: few enough for one statement, each once."""
    given = [check_run(job) for job in check_batch(jobs, "jobs")]
    for job in given:
        if job.lease_owner is None:
            raise InvalidJob(f"jobs: run {job.run_id!r} is {job.status}, so nobody leases it", field="jobs")
    return check_unique(given, lambda job: job.id, "jobs")


def check_results(results: Iterable[LeaseResult]) -> list[LeaseResult]:
    """Lets endings pass: few enough for one statement, each run once."""
    given = [check_item_type(ending, LeaseResult, "results") for ending in check_batch(results, "results")]
    return check_unique(given, lambda ending: ending.job.id, "results")


def lease_params(jobs: Sequence[PolicyRunJob]) -> dict[str, object]:
    """The binds that find leases: by run, tenant, owner and attempt."""
    return {
        "p_job_ids": [job.id for job in jobs],
        "p_distinct_tenant_ids": sorted({job.tenant_id for job in jobs}),
        "p_tenant_ids": [job.tenant_id for job in jobs],
        "p_lease_attempts": [job.attempts for job in jobs],
        "p_lease_owners": [job.lease_owner for job in jobs],
    }


def finish_params(results: Sequence[LeaseResult], transition_id: UUID, actor: str | None) -> dict[str, object]:
    """The binds that end leases."""
    told = [
        event_payload(Status.DISPATCHING, end.status, transition_id, actor, attempts=end.job.attempts, error=end.error)
        for end in results
    ]
    return {
        **lease_params([ending.job for ending in results]),
        "p_new_statuses": [ending.status.code for ending in results],
        "p_delays": [ending.delay for ending in results],
        "p_last_errors": [ending.error for ending in results],
        "p_event_payloads": told,
    }


def take_over_params(
    stalled: Sequence[StalledItem],
    targets: Sequence[tuple[PolicyRunStatus, str, timedelta]],
    transition_id: UUID,
    actor: str | None,
    *,
    rescued: bool,
) -> dict[str, object]:
    """The binds that take runs from whoever leased them: where to, why, and how long they wait."""
    told = list(zip(stalled, targets, strict=True))
    return {
        "p_job_ids": [sighting.job_id for sighting in stalled],
        "p_distinct_tenant_ids": sorted({sighting.tenant_id for sighting in stalled}),
        "p_tenant_ids": [sighting.tenant_id for sighting in stalled],
        "p_versions": [sighting.version for sighting in stalled],
        "p_new_statuses": [target.code for target, _, _ in targets],
        "p_delays": [delay for _, _, delay in targets],
        "p_last_errors": [reason for _, reason, _ in targets],
        "p_event_payloads": [
            event_payload(
                Status.DISPATCHING,
                target,
                transition_id,
                actor,
                attempts=sighting.attempts,
                error=reason,
                **{RESCUED: rescued or None},
            )
            for sighting, (target, reason, _) in told
        ],
    }
