"""The answers to six workers on policy runs agree with the log, and the check detects mistakes.

They lease, renew, finish, complete, cancel and rescue few runs at random, are cancelled at random awaits and lose their
connections; the answer is then "unknown", and the log may have the transition once or not at all.
"""

import asyncio
import json
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from graphjobs import (
    DatabaseUnavailable,
    JobConflict,
    OutcomeUnknown,
    PolicyRunEvent,
    PolicyRunJob,
    PolicyRunStatus,
    open_storage,
)
from graphjobs.core.results import FinishResult, StalledItem
from graphjobs.core.transitions import AppliedUpdate, RefusedUpdate
from graphjobs.database.executor import wait_ignoring_cancel
from graphjobs.policy_runs.attempt_results import LeaseBatch, LeaseHeartbeatResult, LeaseResult, RetryBackoff
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.policy_runs.sql import finish
from graphjobs.policy_runs.status import TRANSITIONS
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import policy_run
from tests.faults.backend_monitor import Watch, checked_out, with_settings
from tests.faults.cancel_at_await import Cancel, cancelled_at
from tests.faults.history import Outcome

Status = PolicyRunStatus

TENANT: Final = "acme"
_RUNS: Final = 5
_WORKERS: Final = 6
_CANCELLED_IN_A_HUNDRED: Final = 30
_SUSPENSIONS_MAX: Final = 3
_NEVER: Final = 10**6
_IN_STATEMENT: Final = "state = 'active' AND query LIKE 'WITH%UPDATE scheduler.policy_runs%'"
_AT_ONCE: Final = RetryBackoff(first=timedelta(microseconds=1), cap=timedelta(microseconds=1))


@dataclass(slots=True)
class History:
    """All transitions with their answers, and the rows and logs at the end."""

    outcomes: dict[tuple[str, UUID], Outcome] = field(default_factory=dict)
    """The answers by transition id and run."""
    leases: list[PolicyRunJob] = field(default_factory=list)
    """The leases that workers got."""
    canceled: set[UUID] = field(default_factory=set)
    """Runs with an acknowledged cancellation."""
    rescued: int = 0
    runs: dict[UUID, PolicyRunJob] = field(default_factory=dict)
    events: dict[UUID, Sequence[PolicyRunEvent]] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        """Count the transitions with this answer."""
        return sum(1 for answer in self.outcomes.values() if answer is outcome)


class Worker:
    """A dispatcher that makes calls for each run that it has leased, also after the lease has expired."""

    def __init__(self, number: int, storage: Storage, reader: Storage, queue: PolicyRunQueue, history: History) -> None:
        # Some workers share a name: the owner of a run does not identify its lease.
        self._owner = f"dispatcher {number % 4}"
        self._storage, self._reader, self._queue, self._history = storage, reader, queue, history
        self._runs = storage.policy_runs
        self._choose = random.Random(number)  # noqa: S311  # no secret
        self._leased: list[PolicyRunJob] = []
        self._stalled: list[StalledItem] = []

    async def work(self, until: float) -> None:
        """Make one call after another."""
        weights = {
            self._lease: 5,
            self._renew: 2,
            self._end: 6,
            self._replace: 3,
            self._finish: 3,
            self._request_cancellation: 1,
            self._rescue: 4,
        }
        acts: list[Callable[[], Awaitable[None]]] = list(weights)
        while time.monotonic() < until:
            (act,) = self._choose.choices(acts, list(weights.values()))
            await act()

    async def _make(self, call: Coroutine[Any, Any, Any]) -> tuple[Outcome, Any]:
        """Make a call that may be cancelled, and return whether it was applied, and its answer."""
        cancel_at = self._choose.randrange(_SUSPENSIONS_MAX)
        if self._choose.randrange(100) >= _CANCELLED_IN_A_HUNDRED:
            cancel_at = _NEVER
        _, end = await cancelled_at(cancel_at, call, self._choose.choice(list(Cancel)))
        match end:
            case "cancelled" | OutcomeUnknown() | DBAPIError():  # DBAPIError: the commit failed
                return Outcome.UNKNOWN, None
            case DatabaseUnavailable():
                return Outcome.LOST, None  # the error states that nothing was changed
            case JobConflict():
                return Outcome.LOST, None
            case Exception():
                raise end
        return Outcome.APPLIED, end

    async def _lease(self) -> None:
        await _keep_up(self._reader.policy_runs)
        length = timedelta(milliseconds=self._choose.choice([1, 20, 200]))
        call = self._queue.lease(
            self._owner, length, attempts_max=99_999, limit=self._choose.choice([1, 2]), tenant_id=TENANT
        )
        _, answer = await self._make(call)
        if answer is not None:
            assert isinstance(answer, LeaseBatch)
            self._history.leases += answer.runs
            self._leased += answer.runs

    async def _renew(self) -> None:
        given = {run.id: run for run in self._some(self._leased)}
        _, answer = await self._make(self._queue.renew(given.values(), timedelta(milliseconds=50)))
        if answer is not None:
            assert isinstance(answer, LeaseHeartbeatResult)
            for run in answer.runs:
                assert run.attempts == given[run.id].attempts

    async def _end(self) -> None:
        runs = {run.id: run for run in self._some(self._leased)}
        results: list[Callable[[PolicyRunJob], LeaseResult]] = [
            LeaseResult.released,
            LeaseResult.released,
            lambda run: LeaseResult.released(run, error="the engine is down"),
            LeaseResult.submitted,
            lambda run: LeaseResult.failed(run, "no engine took it"),
        ]
        transition_id = uuid.uuid4()
        call = self._queue.end(
            [self._choose.choice(results)(run) for run in runs.values()], actor=self._owner, transition_id=transition_id
        )
        outcome, answer = await self._make(call)
        for run_id in runs:
            known = outcome
            if answer is not None:
                assert isinstance(answer, FinishResult)
                known = Outcome.APPLIED if run_id in answer.versions else Outcome.LOST
            self._history.outcomes[str(transition_id), run_id] = known
            if self._choose.random() < 0.7:  # else the worker makes more calls for a run that it has finished
                self._leased = [run for run in self._leased if run.id != run_id]

    async def _replace(self) -> None:
        for run in self._some(self._leased)[:1]:
            at = datetime.now(UTC)
            target = self._choose.choice([run.submit(at=at), run.fail(at=at, error="x"), run.renew(at=at, until=at)])
            await self._update(target, run.lease_owner)

    async def _finish(self) -> None:
        page = await self._reader.policy_runs.list(TENANT, PolicyRunQuery(statuses=(Status.SUBMITTED,), limit=50))
        if page.runs:
            run, at = self._choose.choice(page.runs), datetime.now(UTC)
            await self._update(
                self._choose.choice([run.complete(at=at), run.fail(at=at, error="it broke"), run.cancel(at=at)]), None
            )

    async def _update(self, target: PolicyRunJob, owner: str | None) -> None:
        transition_id = uuid.uuid4()
        outcome, answer = await self._make(
            self._runs.replace(target, owner, transition_id=transition_id, actor=self._owner)
        )
        if answer is not None:
            assert isinstance(answer, AppliedUpdate | RefusedUpdate)
            outcome = Outcome.APPLIED if answer.applied else Outcome.LOST
        self._history.outcomes[str(transition_id), target.id] = outcome

    async def _request_cancellation(self) -> None:
        open_runs = PolicyRunQuery(statuses=(Status.PENDING, Status.DISPATCHING, Status.SUBMITTED), limit=50)
        page = await self._reader.policy_runs.list(TENANT, open_runs)
        for run in self._some(page.runs)[:1]:
            service = PolicyRunService(self._runs)
            _, answer = await self._make(service.request_cancellation(TENANT, run.run_id, reason="enough"))
            if answer is not None:
                self._history.canceled.add(run.id)

    async def _rescue(self) -> None:
        outcome, answer = await self._make(self._queue.rescue(self._stalled, attempts_max=99_999, backoff=_AT_ONCE))
        if outcome is Outcome.APPLIED:
            self._history.rescued += len(answer.requeued)
        self._stalled = list((await self._reader.policy_run_queue.expired(tenant_id=TENANT))[0])

    def _some(self, runs: Iterable[PolicyRunJob]) -> list[PolicyRunJob]:
        given = list(runs)
        return self._choose.sample(given, min(len(given), self._choose.choice([1, 1, 2, 3])))


async def _keep_up(runs: PolicyRunRepository) -> None:
    """Insert runs until a few have no final status."""
    alive = (await runs.count(TENANT, PolicyRunQuery(statuses=(Status.PENDING, Status.DISPATCHING)))).value
    for _ in range(_RUNS - alive):
        await runs.insert(policy_run(TENANT))


MakeQueue = Callable[[Storage], PolicyRunQueue]

_ENOUGH: Final[dict[object, int]] = {
    **dict.fromkeys(Outcome, 10),
    **dict.fromkeys(("leases", "rescues", "cancellations"), 5),
    **dict.fromkeys(PolicyRunStatus, 0),
}
"""The counts that must be exceeded before histories without a difference prove anything."""


async def record_amid_faults(settings: Settings, watch: Watch, make_queue: MakeQueue, *, seconds: float) -> History:
    """Start six workers while server processes are killed, and assert that no connection leaks."""
    history = History()
    small = with_settings(settings, pool_size=8)
    async with open_storage(small) as storage, open_storage(small) as reader, asyncio.timeout(60):
        workers = [Worker(number, storage, reader, make_queue(storage), history) for number in range(_WORKERS)]
        until = time.monotonic() + seconds
        async with watch.ending_some(_IN_STATEMENT, every=0.03), asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.work(until))
        assert (0, 0) == checked_out(storage)
        cursor = None
        while True:
            page = await reader.policy_runs.list(TENANT, PolicyRunQuery(limit=1_000, cursor=cursor))
            assert () == page.unreadable
            history.runs |= {run.id: run for run in page.runs}
            cursor = page.next_cursor
            if cursor is None:
                break
        for run_id in history.runs:
            history.events[run_id] = await reader.policy_runs.events(TENANT, run_id)
    return history


def problems(history: History) -> list[str]:
    """List the differences between the log, the rows and the answers."""
    found: list[str] = []
    applied: Counter[tuple[str, UUID]] = Counter()
    leased: dict[tuple[UUID, int], str] = {}
    for run_id, run in history.runs.items():
        found += _problems_of(run, history.events[run_id], applied, leased)
    for (transition, run_id), outcome in history.outcomes.items():
        count = applied[transition, run_id]
        legal = {Outcome.APPLIED: (1,), Outcome.LOST: (0,), Outcome.UNKNOWN: (0, 1)}[outcome]
        if count not in legal:
            found.append(f"{transition} of {run_id} was reported as {outcome.value}, and is in the log {count} times")
    holders: dict[tuple[UUID, int], list[str | None]] = defaultdict(list)
    for held in history.leases:
        holders[held.id, held.attempts].append(held.lease_owner)
    for (run_id, attempts), owners in holders.items():
        if owners != [leased.get((run_id, attempts))]:
            found.append(f"attempt {attempts} of {run_id} was reported for {owners}, and the log has another lease")
    for run_id in history.canceled:
        if not history.runs[run_id].cancellation_requested and history.runs[run_id].status is not Status.CANCELED:
            found.append(f"the request to cancel {run_id} is lost")
    return found


def _problems_of(
    run: PolicyRunJob,
    events: Sequence[PolicyRunEvent],
    applied: Counter[tuple[str, UUID]],
    leased: dict[tuple[UUID, int], str],
) -> list[str]:
    """Check one log, and count its transitions and leases."""
    found: list[str] = []
    status, attempts, version, owner = None, 0, datetime.min.replace(tzinfo=UTC), None
    for event in events:
        word, now, last = event.payload.get("from"), event.payload["attempts"], event.payload["transitionId"]
        source = None if word is None else Status.parse(word)
        target = Status.parse(event.payload["to"])
        applied[last, run.id] += 1
        if source is not status:
            found.append(f"a gap in {run.id}: {last} goes from {source}, and it was {status}")
        if target is not event.status or (source is not None and target not in TRANSITIONS[source]):
            found.append(f"illegal in {run.id}: {last} goes from {source} to {target}, and leaves {event.status}")
        is_lease = source is Status.PENDING and target is Status.DISPATCHING
        if now != attempts + is_lease:
            found.append(f"attempts in {run.id}: {last} has {now} after {attempts}")
        if event.created_at <= version:
            found.append(f"the version of {run.id} does not rise at {last}")
        if is_lease:
            owner = event.payload["actor"]
            if (run.id, now) in leased:
                found.append(f"attempt {now} of {run.id} was leased twice")
            leased[run.id, now] = owner
        status, attempts, version = target, now, event.created_at
    held_by = owner if status is Status.DISPATCHING else None
    if (status, attempts, held_by) != (run.status, run.attempts, run.lease_owner):
        found.append(f"the row of {run.id} differs from the end of its log: {run.status} of {run.lease_owner}")
    if run.updated_at != version and not (run.status is Status.DISPATCHING and run.updated_at > version):
        found.append(f"the version of {run.id} is not that of its last transition")
    return found


def correct_queue(storage: Storage) -> PolicyRunQueue:
    """Return the queue of the library."""
    return storage.policy_run_queue


async def test_the_log_is_gapless_and_agrees_with_the_answers(graphjobs_settings: Settings, watch: Watch) -> None:
    """The log has acknowledged transitions once, lost ones never, cancelled ones at most once; no leases overlap.

    The number of calls in a second depends on the machine: histories are recorded until each count is high enough.
    """
    seen: Counter[object] = Counter()
    for _ in range(8):
        history = await record_amid_faults(graphjobs_settings, watch, correct_queue, seconds=5)
        assert [] == problems(history)
        seen.update(history.outcomes.values())
        seen.update(event.status for events in history.events.values() for event in events)
        seen.update(leases=len(history.leases), rescues=history.rescued, cancellations=len(history.canceled))
        if all(seen[what] > enough for what, enough in _ENOUGH.items()):
            break

    assert {} == {what: seen[what] for what, enough in _ENOUGH.items() if seen[what] <= enough}


class FaultyQueue(PolicyRunQueue):
    """A queue with a method that uses other SQL than the library."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.database)
        self._storage = storage

    async def _sql(self, statement: str, **binds: object) -> Sequence[Any]:
        async with self._storage.session() as session, session.begin():
            found: Any = await session.execute(text(statement), binds)
            return list(found.all()) if found.returns_rows else []


class EventInASecondStatement(FaultyQueue):
    """A mistake: a second statement writes the event."""

    @override
    async def end(
        self, endings: Iterable[LeaseResult], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> FinishResult:
        versions: dict[UUID, datetime] = {}
        for result in (results := list(endings)):
            rows = await self._sql(
                "UPDATE scheduler.policy_runs SET status = :to, lease_owner = NULL, lease_expires_at = NULL,"
                " submitted_at = CASE :to WHEN 2 THEN now() END, completed_at = CASE :to WHEN 4 THEN now() END,"
                " last_error = :error, updated_at = greatest(now(), updated_at + interval '1 microsecond')"
                " WHERE id = :id AND status = 1 AND attempts = :attempts AND lease_owner = :owner"
                " AND (:to <> 0 OR cancellation_requested_at IS NULL) RETURNING updated_at",
                to=result.status.code,
                error=result.error,
                id=result.job.id,
                attempts=result.job.attempts,
                owner=result.job.lease_owner,
            )
            for (version,) in rows:
                versions[result.job.id] = version
                fields = {"from": "dispatching", "to": result.status, "attempts": result.job.attempts, "actor": actor}
                await self._sql(
                    "INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)"
                    " VALUES (:id, :tenant, :status, CAST(:payload AS JSONB), :version)",
                    id=result.job.id,
                    tenant=TENANT,
                    status=result.status.code,
                    version=version,
                    payload=json.dumps({**fields, "transitionId": str(transition_id)}),
                )
        lost = {result.job.id for result in results} - versions.keys()
        return FinishResult(versions, dict.fromkeys(lost, "it has another lease"))


class LeaseThatReadsAndThenWrites(FaultyQueue):
    """A mistake: read the pending runs, then write without a comparison."""

    @override
    async def lease(
        self, owner: str, duration: timedelta, *, attempts_max: int, limit: int = 1, **_named: Any
    ) -> LeaseBatch:
        del attempts_max
        runs: list[PolicyRunJob] = []
        pending = await self._sql(
            "SELECT id FROM scheduler.policy_runs WHERE status = 0 ORDER BY available_at LIMIT :limit", limit=limit
        )
        for (run_id,) in pending:
            fields = {"from": "pending", "to": "dispatching", "transitionId": str(uuid.uuid4()), "actor": owner}
            await self._sql(
                "WITH written AS (UPDATE scheduler.policy_runs SET status = 1, attempts = attempts + 1,"
                " last_attempt_at = now(), lease_owner = :owner, lease_expires_at = now() + :length,"
                " updated_at = greatest(now(), updated_at + interval '1 microsecond')"
                " WHERE id = :id AND status < 2 RETURNING *)"
                " INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload, created_at)"
                " SELECT id, tenant_id, status, CAST(:payload AS JSONB) || jsonb_build_object('attempts', attempts),"
                " updated_at FROM written",
                owner=owner,
                length=duration,
                id=run_id,
                payload=json.dumps(fields),
            )
            run = await self._storage.policy_runs.get(TENANT, UUID(int=run_id.int))
            runs += [run] if run is not None and run.status is Status.DISPATCHING else []
        return LeaseBatch(tuple(runs))


class CancelIsLost(FaultyQueue):
    """A mistake: report a cancelled call as not applied."""

    @override
    async def end(
        self, endings: Iterable[LeaseResult], *, actor: str | None = None, transition_id: UUID | None = None
    ) -> FinishResult:
        results = list(endings)
        ending = asyncio.ensure_future(super().end(results, actor=actor, transition_id=transition_id))
        try:
            return await asyncio.shield(ending)
        except asyncio.CancelledError:
            # The results are always stored before the cancellation, which otherwise is chance.
            await wait_ignoring_cancel(ending)
            return FinishResult({}, {result.job.id: "it was cancelled" for result in results})


async def noticed(settings: Settings, watch: Watch, make_queue: MakeQueue) -> bool:
    """Record up to thirty histories of one second, until the check finds a difference."""
    for _ in range(30):
        if problems(await record_amid_faults(settings, watch, make_queue, seconds=1)):
            return True
    return False


@pytest.mark.parametrize("mistake", [EventInASecondStatement, LeaseThatReadsAndThenWrites, CancelIsLost])
async def test_the_check_notices_a_mistake(graphjobs_settings: Settings, watch: Watch, mistake: MakeQueue) -> None:
    assert await noticed(graphjobs_settings, watch, mistake)


async def test_the_check_notices_a_missing_fence(
    graphjobs_settings: Settings, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "FINISH_RUNS", finish._apply(finish._LEASE, finish._same_run))
    assert await noticed(graphjobs_settings, watch, correct_queue)
