"""Damaged policy runs, tenants of any name and invalid arguments do not affect other runs."""

import itertools
import json
import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs import CorruptRow, IllegalTransition, InvalidJob, PolicyRunJob, PolicyRunStatus
from graphjobs.core.results import StalledItem
from graphjobs.core.sanitizing import sanitize_error
from graphjobs.database.executor import SessionExecutor
from graphjobs.policy_runs.attempt_results import LeaseBatch, LeaseResult, RetryBackoff, TenantCursors
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.repository import PolicyRunRepository, PostgresPolicyRunRepository
from graphjobs.policy_runs.requests import PolicyRunCompletion
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of, run_request
from tests.contract.domains import MINUTE, PolicyRuns

Status = PolicyRunStatus

LONG: Final = "x" * 10_000


async def sql(storage: Storage, statement: str, *binds: object) -> Sequence[Any]:
    """Execute SQL that no code of the library would."""
    async with storage.session() as session, session.begin():
        found = await (await session.connection()).exec_driver_sql(statement, binds)
        return found.all() if found.returns_rows else ()


async def overwrite(storage: Storage, run: PolicyRunJob, assignment: str, *binds: object) -> None:
    """Overwrite columns of a run by SQL."""
    await sql(storage, f"UPDATE scheduler.policy_runs SET {assignment} WHERE id = $1", run.id, *binds)


async def lease(runs: PolicyRunRepository, tenant: str | None, **more: Any) -> LeaseBatch:
    """Lease runs for a minute."""
    return await queue_of(runs).lease("A", MINUTE, **{"attempts_max": 9, "limit": 100, "tenant_id": tenant, **more})


async def statuses(storage: Storage, run: PolicyRunJob) -> list[str]:
    """List the statuses in the event log of a run."""
    return [event.status.value for event in await storage.policy_runs.events(run.tenant_id, run.id)]


def full_run(tenant: str) -> PolicyRunJob:
    """Build a run with a value in each part of its payload."""
    inputs = {"sbom_set": ["a"], "advisory_cursor": AT, "environment": {"region": "north"}, "capture_explain": True}
    return policy_run(tenant, mode="incremental", metadata={"a": "b"}, requested_by="me", inputs=inputs)


# Rows

_IN_ENVIRONMENT: Final = "payload = jsonb_set(payload, '{inputs,environment}', jsonb_build_object('n', %s))"
_CURSOR: Final = "payload = jsonb_set(payload, '{inputs,advisoryCursor}', '%s')"
# Assignments that make the row of a pending run unreadable, although the checks of the table allow them.
UNREADABLE: Final = {
    "a payload that is a list": "payload = '[1, 2]'",
    "a payload that is text": """payload = '"text"'""",
    "a payload that is null": "payload = 'null'",
    "a payload that is a number": "payload = '5'",
    "a missing field": "payload = payload #- '{inputs,sbomSet}'",
    "an empty payload": "payload = '{}'",
    "an unknown field": """payload = payload || '{"extra": 1}'""",
    "an unknown field of inputs": "payload = jsonb_set(payload, '{inputs,extra}', '1')",
    "an unknown field name of 100,000 characters": "payload = payload || jsonb_build_object(repeat('k', 100000), 1)",
    "an unknown field with control characters": r"""payload = payload || '{"a\u0001\u001b[31mb": 1}'""",
    "another schema version": """payload = payload || '{"schemaVersion": "scheduler.policy-run-job@2"}'""",
    "a schema version of a request": """payload = payload || '{"schemaVersion": "scheduler.policy-run-request@1"}'""",
    "a schema version that is a number": """payload = payload || '{"schemaVersion": 1}'""",
    "a number of 5,000 digits": _IN_ENVIRONMENT % "repeat('9', 5000)::numeric",
    "a number of more than 64 bits": _IN_ENVIRONMENT % "36893488147419103232",
    "a number of 1e400": _IN_ENVIRONMENT % "1e400",
    "5,000 nested lists": _IN_ENVIRONMENT % "(repeat('[', 5000) || repeat(']', 5000))::jsonb",
    "33 nested lists": _IN_ENVIRONMENT % "(repeat('[', 33) || repeat(']', 33))::jsonb",
    "an environment of 100,000 bytes": _IN_ENVIRONMENT % "repeat('x', 100000)",
    "an environment that is a list": "payload = jsonb_set(payload, '{inputs,environment}', '[]')",
    "a flag that is NaN": """payload = jsonb_set(payload, '{inputs,captureExplain}', '"NaN"')""",
    "a version that is NaN": """payload = payload || '{"policyVersion": "NaN"}'""",
    "a version that is infinite": """payload = payload || '{"policyVersion": 1e999}'""",
    "a version with a fraction": """payload = payload || '{"policyVersion": 1.5}'""",
    "a cursor that is NaN": _CURSOR % '"NaN"',
    "a cursor in the year 10000": _CURSOR % '"10000-01-01T00:00:00Z"',
    "a cursor without an offset": _CURSOR % '"2026-01-01T00:00:00"',
    "a cursor that is a number": _CURSOR % "1764000000",
    "metadata of numbers": """payload = payload || '{"metadata": {"a": 1}}'""",
    "an SBOM without a name": """payload = jsonb_set(payload, '{inputs,sbomSet}', '[""]')""",
    "a policy without a name": "policy_id = ''",
    "a policy of 300 characters": "policy_id = repeat('x', 300)",
    "an empty error": "last_error = ''",
    "an error with control characters": r"last_error = E'a\x01b'",
    "a pending run that has completed": "completed_at = now()",
    "a pending run that was canceled": "canceled_at = now()",
}


@pytest.mark.parametrize("assignment", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_unreadable_run_is_reported_and_the_others_stay_readable(
    storage: Storage, tenant: str, assignment: str
) -> None:
    """Reads by id or run id raise an error; lists report the error, and counts and metrics include the run."""
    runs = storage.policy_runs
    before, unreadable, after = [await runs.insert(full_run(tenant)) for _ in range(3)]
    await overwrite(storage, unreadable, assignment)

    for get in (partial(runs.get, tenant, unreadable.id), partial(runs.get_by_run_id, tenant, unreadable.run_id)):
        with pytest.raises(CorruptRow, match=f"scheduler.policy_runs .*{unreadable.id}") as caught:
            await get()
        assert ("policy_runs", unreadable.id) == (caught.value.table, caught.value.row_id)
        assert len(str(caught.value)) < 1_000
    listed = await runs.list(tenant)
    assert {before.id, after.id} == {run.id for run in listed.runs}
    assert [("policy_runs", unreadable.id)] == [(error.table, error.row_id) for error in listed.unreadable]
    assert 3 == (await runs.count(tenant)).value
    assert 3 == sum(depth.count.value for depth in (await runs.metrics(tenant)).queue.values())


@pytest.mark.parametrize("assignment", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_lease_fails_an_unreadable_run_and_takes_the_others(
    storage: Storage, tenant: str, assignment: str
) -> None:
    """Answer, row and log have the reason; the run keeps its payload and is not leased again."""
    runs = storage.policy_runs
    unreadable, readable = await runs.insert(full_run(tenant)), await runs.insert(full_run(tenant))
    await overwrite(storage, unreadable, assignment)
    (payload,) = await sql(storage, "SELECT payload::text FROM scheduler.policy_runs WHERE id = $1", unreadable.id)

    answer = await lease(runs, tenant)

    assert [readable.id] == [run.id for run in answer.runs]
    (error,) = answer.unreadable
    assert ("policy_runs", unreadable.id, ()) == (error.table, error.row_id, answer.exhausted)
    (row,) = await sql(
        storage,
        "SELECT status, attempts, last_error, lease_owner, lease_expires_at, completed_at IS NOT NULL, payload::text"
        " FROM scheduler.policy_runs WHERE id = $1",
        unreadable.id,
    )
    reason = sanitize_error(str(error))
    assert (Status.FAILED.code, 1, reason, None, None, True, payload[0]) == tuple(row)
    events = await runs.events(tenant, unreadable.id)
    assert ((), ["pending", "dispatching", "failed"]) == (events.unreadable, await statuses(storage, unreadable))
    assert ("dispatching", "failed", 1, reason, "A") == tuple(
        events[-1].payload[name] for name in ("from", "to", "attempts", "error", "actor")
    )
    again = await lease(runs, tenant)
    assert ((), ()) == (again.runs, again.unreadable)


async def test_the_error_of_an_unreadable_run_repeats_no_value_of_its_payload(storage: Storage, tenant: str) -> None:
    """Errors are logged and stored, and a payload may have secrets."""
    run = await storage.policy_runs.insert(full_run(tenant))
    await overwrite(storage, run, """payload = jsonb_set(payload, '{inputs,advisoryCursor}', '"hunter2"')""")
    (error,) = (await lease(storage.policy_runs, tenant)).unreadable
    (event,) = (await storage.policy_runs.events(tenant, run.id))[-1:]
    assert "advisory_cursor" in str(error)
    assert "hunter2" not in f"{error!r} {event!r}"


async def test_an_unreadable_run_can_be_rescued_renewed_and_finished(storage: Storage, tenant: str) -> None:
    """Its holder continues with the value that it leased, and the other runs of the call are not affected."""
    runs = storage.policy_runs
    for _ in range(4):
        await runs.insert(full_run(tenant))
    leased = list((await lease(runs, tenant)).runs)
    stalled, finished, replaced, readable = leased
    for run in (stalled, finished, replaced):
        await overwrite(storage, run, "payload = '[]'")

    renewed = await storage.policy_run_queue.renew(leased, MINUTE)
    results = await storage.policy_run_queue.end(map(LeaseResult.submitted, (finished, readable)))
    item = StalledItem(stalled.id, tenant, renewed.runs[0].updated_at, 1)
    rescued = await storage.policy_run_queue.rescue([item], attempts_max=3)
    # The payload differs from that of the caller, so that nothing is replaced; the stored row is unreadable.
    with pytest.raises(CorruptRow, match=str(replaced.id)):
        await runs.replace(replaced.submit(at=AT), "A")

    assert {run.id for run in leased} == {run.id for run in renewed.runs}
    assert {finished.id, readable.id} == set(results.versions)
    assert (stalled.id,) == rescued.requeued
    assert ["pending", "dispatching"] == await statuses(storage, replaced)
    with pytest.raises(CorruptRow, match=str(finished.id)):
        await runs.insert(policy_run(tenant, run_id=finished.run_id))


async def test_an_unreadable_event_is_reported_and_the_rest_of_the_log_stays_readable(
    storage: Storage, tenant: str
) -> None:
    """A lease that counts released attempts in the log succeeds."""
    runs = storage.policy_runs
    run = await runs.insert(policy_run(tenant))
    (held,) = (await lease(runs, tenant)).runs
    await storage.policy_run_queue.end([LeaseResult.released(held)])
    events = await runs.events(tenant, run.id)
    for payload in ("[1]", '"text"', "null", "[" * 5_000 + "]" * 5_000, json.dumps({"n": "x" * 100_000})):
        await sql(
            storage, "UPDATE scheduler.policy_run_events SET payload = $2::jsonb WHERE id = $1", events[1].id, payload
        )
        found = await runs.events(tenant, run.id)
        assert [events[0], events[2]] == list(found)
        assert [("policy_run_events", events[1].id)] == [(error.table, error.row_id) for error in found.unreadable]
    assert [run.id] == [again.id for again in (await lease(runs, tenant, attempts_max=1)).runs]


# Attempts


async def test_a_lease_fails_a_run_without_an_attempt_left_and_takes_the_others(storage: Storage, tenant: str) -> None:
    """The answer reports the run as exhausted, row and log have the reason; a run before its last attempt is leased."""
    runs = storage.policy_runs
    exhausted, last, fresh = [await runs.insert(policy_run(tenant)) for _ in range(3)]
    await overwrite(storage, exhausted, "attempts = 3")
    await overwrite(storage, last, "attempts = 2")

    answer = await lease(runs, tenant, attempts_max=3)

    assert {last.id: 3, fresh.id: 1} == {run.id: run.attempts for run in answer.runs}
    assert ((exhausted.id,), frozenset({last.id}), ()) == (
        answer.exhausted,
        answer.final_attempt_ids,
        answer.unreadable,
    )
    found = await runs.get(tenant, exhausted.id)
    assert found is not None
    reason = "all attempts were made: at most 3 are"
    assert (Status.FAILED, reason, None) == (found.status, found.last_error, found.lease_owner)
    *_, event = await runs.events(tenant, exhausted.id)
    assert (reason, ["pending", "dispatching", "failed"]) == (
        event.payload["error"],
        await statuses(storage, exhausted),
    )


@pytest.mark.parametrize("attempts_max", [3, 99_998, 99_999])
async def test_a_run_with_the_highest_number_of_attempts_is_failed(
    storage: Storage, tenant: str, attempts_max: int
) -> None:
    """A second attempt of the same number would look like the first."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    await overwrite(storage, run, "attempts = 99999")
    answer = await lease(storage.policy_runs, tenant, attempts_max=attempts_max)
    assert ((), (run.id,)) == (answer.runs, answer.exhausted)
    found = await storage.policy_runs.get(tenant, run.id)
    assert found is not None
    assert (Status.FAILED, 99_999) == (found.status, found.attempts)


async def test_released_attempts_do_not_count(storage: Storage, tenant: str) -> None:
    """Attempts that were released with an error do count."""
    runs = storage.policy_runs
    run = await runs.insert(policy_run(tenant))
    was_final = []
    for error in [None] * 4 + ["the engine is down", None, "the engine is down"]:
        answer = await lease(runs, tenant, attempts_max=2)
        (held,) = answer.runs
        was_final.append(run.id in answer.final_attempt_ids)
        await storage.policy_run_queue.end([LeaseResult.released(held, error=error)])
    exhausted = await lease(runs, tenant, attempts_max=2)

    assert [False] * 5 + [True] * 2 == was_final
    assert ((), (run.id,)) == (exhausted.runs, exhausted.exhausted)


async def test_one_lease_fails_a_thousand_runs_without_an_attempt_left(storage: Storage, tenant: str) -> None:
    """Unreadable and exhausted runs are not leased again, and the next lease takes the readable run."""
    await sql(
        storage,
        "INSERT INTO scheduler.policy_runs (id, tenant_id, run_id, policy_id, mode, priority, status, attempts,"
        " queued_at, available_at, payload) SELECT gen_random_uuid(), $1, 'run-' || n, 'P-7', 0, 2, 0, n % 2 * 9,"
        " now(), now() - interval '1 day', CASE n % 2 WHEN 0 THEN '[]'::jsonb ELSE $2::text::jsonb END"
        " FROM generate_series(1, 1000) AS n",
        tenant,
        policy_run(tenant).payload_json(),
    )
    readable = await storage.policy_runs.insert(
        policy_run(tenant, priority="emergency", available_at=datetime.now(UTC) - timedelta(minutes=1))
    )

    first = await lease(storage.policy_runs, tenant, limit=1_000)
    second = await lease(storage.policy_runs, tenant, limit=1_000)

    assert (0, 500, 500) == (len(first.runs), len(first.unreadable), len(first.exhausted))
    assert [readable.id] == [run.id for run in second.runs]
    assert 1_000 == (await storage.policy_runs.count(tenant, PolicyRunQuery(statuses=(Status.FAILED,)))).value


# Tenants

TENANTS: Final = ["", " ", LONG, "a\tb\x01\x1b[31m\x7f", "😀" * 200, "\u202eemca", "ACME'; DROP TABLE x; --", "%s{}$1"]


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("priority", ["normal", "emergency"])
async def test_tenants_with_hostile_names_do_not_affect_the_leases_of_others(
    graphjobs_storage: Storage, limit: int, priority: str
) -> None:
    """Successive leases of all tenants reach each tenant: its run is leased or failed."""
    runs, names = graphjobs_storage.policy_runs, [*TENANTS, "acme", "zeta"]
    inserted: dict[uuid.UUID, str] = {}
    for number, name in enumerate(names):
        run = await runs.insert(policy_run(f"t-{number}", priority=priority))
        await overwrite(graphjobs_storage, run, "tenant_id = $2", name)
        await sql(
            graphjobs_storage, "UPDATE scheduler.policy_run_events SET tenant_id = $2 WHERE job_id = $1", run.id, name
        )
        inserted[run.id] = name

    leased: list[uuid.UUID] = []
    failed: list[Any] = []
    cursors = TenantCursors()
    for _ in range(math.ceil(len(names) / limit)):
        answer = await lease(runs, None, limit=limit, after=cursors)
        cursors = answer.cursors
        leased += [run.id for run in answer.runs]
        failed += [error.row_id for error in answer.unreadable]

    invalid_names = {"", LONG, "a\tb\x01\x1b[31m\x7f"}
    assert set(names) - invalid_names == {inserted[run_id] for run_id in leased}
    assert invalid_names == {inserted[run_id] for run_id in failed}
    assert len(names) == len(leased) + len(failed)
    found = await sql(graphjobs_storage, "SELECT id, status FROM scheduler.policy_runs")
    assert {run_id: Status.DISPATCHING.code if run_id in leased else Status.FAILED.code for run_id in inserted} == {
        uuid.UUID(int=row[0].int): row[1] for row in found
    }


async def test_expired_leases_of_tenants_with_hostile_names_are_rescued(graphjobs_storage: Storage) -> None:
    """The list of expired leases and the rescue include those of the other tenants."""
    runs = graphjobs_storage.policy_runs
    for number in range(len(TENANTS) + 1):
        await runs.insert(policy_run(f"t-{number}"))
    leased = (await lease(runs, None)).runs
    await graphjobs_storage.policy_run_queue.renew(leased, timedelta(microseconds=1))
    for run, name in zip(leased, TENANTS, strict=False):
        await overwrite(graphjobs_storage, run, "tenant_id = $2", name)

    expired, _ = await graphjobs_storage.policy_run_queue.expired()
    rescued = await graphjobs_storage.policy_run_queue.rescue(expired, attempts_max=3)

    assert {*TENANTS, leased[-1].tenant_id} == {item.tenant_id for item in expired}
    assert ({run.id for run in leased}, ()) == (set(rescued.requeued), rescued.failed)
    assert () == (await graphjobs_storage.policy_run_queue.expired())[0]


# Arguments


class NoDatabase:
    """An executor that no call of these tests should reach."""

    async def fetch_all(self, statement: object, params: object) -> NoReturn:
        """Fail the test."""
        raise AssertionError("this went to the database")

    def using(self, session: AsyncSession) -> SessionExecutor:
        """Fail the test."""
        raise AssertionError("this opened a session")


RUNS: Final = PostgresPolicyRunRepository(NoDatabase())
QUEUE: Final = PolicyRunQueue(NoDatabase())
SERVICE: Final = PolicyRunService(RUNS)
PENDING: Final = policy_run()
LEASED: Final = policy_run().lease(at=AT, owner="A", until=AT)
NAIVE: Final = AT.replace(tzinfo=None)
STALLED: Final = StalledItem(LEASED.id, LEASED.tenant_id, AT, 1)
SUBMITTED: Final = LeaseResult.submitted(LEASED)
WITHOUT_LEASE: Final = [PENDING, LEASED.submit(at=AT), LEASED.fail(at=AT, error="x"), PENDING.cancel(at=AT)]


class Invalid(NamedTuple):
    """Invalid values of an argument, and the limit that the error names."""

    values: Sequence[object]
    limit: str


NAME: Final = Invalid(
    ["", LONG, "x" * 257, "a\0b", "a\nb", "\ud800", 5, True, b"A"],
    "text of 1 to 256 characters, UTF-8 clean, without control characters",
)
REQUIRED_NAME: Final = Invalid([None, *NAME.values], NAME.limit)
DURATION: Final = Invalid(
    [None, timedelta(0), timedelta(seconds=-1), timedelta(days=3650), MINUTE * 1440 + timedelta.resolution, 60],
    "a timedelta of more than zero, up to 1 day",
)
LIMIT: Final = Invalid([0, -1, 1_001, True, "5", None, 2.0, 10**30], "between 1 and 1,000")
ATTEMPTS: Final = Invalid([0, -1, True, 100_000, "3", None, 2.0], "an integer between 1 and 99,999")
LIST: Final = Invalid([None, 5, True], "must be a list")
CURSOR: Final = Invalid(["a\0b", "\ud800", None, 5, b"a"], "text that PostgreSQL can store")
RUN_ID: Final = Invalid([None, 5, True], "a UUID or its text")
TRANSITION: Final = Invalid(["x", 5, True], "must be a UUID")
QUERY: Final = Invalid(["full", {}, 5], "PolicyRunQuery")
REQUEST: Final = Invalid([True, None, PENDING], "PolicyRunRequest")


def too_many(item: object) -> Invalid:
    """Return lists of more items than a call takes."""
    return Invalid([[item] * 1_001, itertools.repeat(item)], "at most 1,000 items")


def twice(*items: object) -> Invalid:
    """Return a list with the same id twice."""
    return Invalid([list(items)], "must not have the same id twice")


def query(**fields: Any) -> Awaitable[object]:
    """List runs by a query of these fields."""
    return RUNS.list("a", PolicyRunQuery(**fields))


Call = Callable[..., Awaitable[object]]
# A call with one invalid argument, the field that the error names, and the invalid values.
INVALID_ARGUMENTS: Final[dict[str, tuple[Call, str, Invalid]]] = {
    "lease owner": (lambda value: QUEUE.lease(value, MINUTE, attempts_max=3), "owner", REQUIRED_NAME),
    "lease duration": (lambda value: QUEUE.lease("A", value, attempts_max=3), "duration", DURATION),
    "lease attempts_max": (lambda value: QUEUE.lease("A", MINUTE, attempts_max=value), "attempts_max", ATTEMPTS),
    "lease limit": (lambda value: QUEUE.lease("A", MINUTE, attempts_max=3, limit=value), "limit", LIMIT),
    "lease tenant_id": (lambda value: QUEUE.lease("A", MINUTE, attempts_max=3, tenant_id=value), "tenant_id", NAME),
    "lease cursors": (
        lambda value: QUEUE.lease("A", MINUTE, attempts_max=3, after=value),
        "after",
        Invalid(["", 5, b"a", ("", "")], "must be a TenantCursors"),
    ),
    "lease cursor of regular runs": (
        lambda value: QUEUE.lease("A", MINUTE, attempts_max=3, after=TenantCursors(others=value)),
        "after.others",
        CURSOR,
    ),
    "lease cursor of emergencies": (
        lambda value: QUEUE.lease("A", MINUTE, attempts_max=3, after=TenantCursors(emergency=value)),
        "after.emergency",
        CURSOR,
    ),
    "renew duration": (lambda value: QUEUE.renew([LEASED], value), "duration", DURATION),
    "renew jobs": (lambda value: QUEUE.renew(value, MINUTE), "jobs", LIST),
    "renew too many jobs": (lambda value: QUEUE.renew(value, MINUTE), "jobs", too_many(LEASED)),
    "renew one job twice": (lambda value: QUEUE.renew(value, MINUTE), "jobs", twice(LEASED, LEASED)),
    "renew a job without a lease": (
        lambda value: QUEUE.renew([value], MINUTE),
        "jobs",
        Invalid(WITHOUT_LEASE, "must be leased"),
    ),
    "renew another type": (
        lambda value: QUEUE.renew([value], MINUTE),
        "job",
        Invalid([True, None, run_request(), LEASED.id, SUBMITTED], "must be a PolicyRunJob"),
    ),
    "end results": (QUEUE.end, "results", LIST),
    "end too many results": (QUEUE.end, "results", too_many(SUBMITTED)),
    "end one job twice": (QUEUE.end, "results", twice(SUBMITTED, LeaseResult.released(LEASED))),
    "end another type": (
        lambda value: QUEUE.end([value]),
        "results",
        Invalid([True, None, LEASED, STALLED], "must be a LeaseResult"),
    ),
    "end actor": (lambda value: QUEUE.end([SUBMITTED], actor=value), "actor", NAME),
    "end transition_id": (
        lambda value: QUEUE.end([SUBMITTED], transition_id=value),
        "transition_id",
        Invalid(["x", str(uuid.uuid4()), 5, True], "must be a UUID"),
    ),
    "expired tenant_id": (lambda value: QUEUE.expired(tenant_id=value), "tenant_id", NAME),
    "expired limit": (lambda value: QUEUE.expired(limit=value), "limit", LIMIT),
    "bring_forward tenant_id": (lambda value: QUEUE.bring_forward(MINUTE, tenant_id=value), "tenant_id", NAME),
    "bring_forward limit": (lambda value: QUEUE.bring_forward(MINUTE, limit=value), "limit", LIMIT),
    "rescue stalled": (lambda value: QUEUE.rescue(value, attempts_max=3), "stalled", LIST),
    "rescue too many items": (lambda value: QUEUE.rescue(value, attempts_max=3), "stalled", too_many(STALLED)),
    "rescue one item twice": (lambda value: QUEUE.rescue(value, attempts_max=3), "stalled", twice(STALLED, STALLED)),
    "rescue another type": (
        lambda value: QUEUE.rescue([value], attempts_max=3),
        "stalled",
        Invalid([True, None, LEASED, LEASED.id], "must be a StalledItem"),
    ),
    "rescue attempts_max": (lambda value: QUEUE.rescue([STALLED], attempts_max=value), "attempts_max", ATTEMPTS),
    "rescue actor": (lambda value: QUEUE.rescue([STALLED], attempts_max=3, actor=value), "actor", NAME),
    "rescue backoff": (
        lambda value: QUEUE.rescue([STALLED], attempts_max=3, backoff=value),
        "backoff",
        Invalid([MINUTE, 5, True, "1s"], "must be a RetryBackoff"),
    ),
    "insert job": (RUNS.insert, "job", Invalid([True, None, run_request(), LEASED.id, "x"], "must be a PolicyRunJob")),
    "insert actor": (lambda value: RUNS.insert(PENDING, actor=value), "actor", NAME),
    "get tenant_id": (lambda value: RUNS.get(value, PENDING.id), "tenant_id", REQUIRED_NAME),
    "get job_id": (
        lambda value: RUNS.get("a", value),
        "job_id",
        Invalid([None, 5, True, b"x", PENDING], "a UUID or its text"),
    ),
    "get_by_run_id tenant_id": (lambda value: RUNS.get_by_run_id(value, "r"), "tenant_id", REQUIRED_NAME),
    "get_by_run_id run_id": (lambda value: RUNS.get_by_run_id("a", value), "run_id", REQUIRED_NAME),
    "replace job": (
        lambda value: RUNS.replace(value, None),
        "job",
        Invalid([True, None, run_request(), SUBMITTED], "must be a PolicyRunJob"),
    ),
    "replace owner": (lambda value: RUNS.replace(LEASED, value), "expected_lease_owner", NAME),
    "replace actor": (lambda value: RUNS.replace(LEASED, "A", actor=value), "actor", NAME),
    "replace transition_id": (
        lambda value: RUNS.replace(LEASED, "A", transition_id=value),
        "transition_id",
        TRANSITION,
    ),
    "list tenant_id": (RUNS.list, "tenant_id", REQUIRED_NAME),
    "list policy_id": (
        lambda value: query(policy_id=value),
        "policy_id",
        Invalid(NAME.values, "text of 1 to 256 characters"),
    ),
    "list mode": (lambda value: query(mode=value), "mode", Invalid(["fast", "", 0, True], "'full', 'incremental'")),
    "list queued_after": (
        lambda value: query(queued_after=value),
        "queued_after",
        Invalid([NAIVE, "2026-01-01T00:00:00", 5, True], ""),
    ),
    "list limit": (lambda value: query(limit=value), "limit", Invalid([0, -1, 1_001, True, "5", None, 2.0], "")),
    "list cursor": (lambda value: query(cursor=value), "cursor", Invalid(["", LONG, "x", "e30", "a\0b", 5], "")),
    "count tenant_id": (RUNS.count, "tenant_id", REQUIRED_NAME),
    "list query": (lambda value: RUNS.list("a", value), "query", QUERY),
    "count query": (lambda value: RUNS.count("a", value), "query", QUERY),
    "events tenant_id": (lambda value: RUNS.events(value, LEASED.id), "tenant_id", REQUIRED_NAME),
    "events job_id": (lambda value: RUNS.events("a", value), "job_id", RUN_ID),
    "events limit": (lambda value: RUNS.events("a", LEASED.id, limit=value), "limit", LIMIT),
    "events after": (
        lambda value: RUNS.events("a", LEASED.id, after=value),
        "after",
        Invalid([-1, True, "5", None, 2**63], ""),
    ),
    "metrics tenant_id": (RUNS.metrics, "tenant_id", REQUIRED_NAME),
    "metrics window": (
        lambda value: RUNS.metrics("a", window=value),
        "window",
        Invalid(
            [timedelta(0), timedelta(seconds=-1), timedelta(days=367), 60, None],
            "a timedelta of more than zero, up to 366 days",
        ),
    ),
    "service enqueue": (SERVICE.enqueue, "request", REQUEST),
    "service simulate": (SERVICE.simulate, "request", REQUEST),
    "service complete": (
        lambda value: SERVICE.complete("a", value),
        "completion",
        Invalid([True, None, "completed"], "PolicyRunCompletion"),
    ),
    "service cancel tenant_id": (lambda value: SERVICE.request_cancellation(value, "r"), "tenant_id", REQUIRED_NAME),
    "service cancel run_id": (lambda value: SERVICE.request_cancellation("a", value), "run_id", REQUIRED_NAME),
    "service cancel reason": (
        lambda value: SERVICE.request_cancellation("a", "r", reason=value),
        "reason",
        Invalid(["x" * 1_048_577, 5, True, b"x"], "text of up to 1,048,576 characters"),
    ),
    "service complete tenant_id": (
        lambda value: SERVICE.complete(value, PolicyRunCompletion(run_id="r", status="completed")),
        "tenant_id",
        REQUIRED_NAME,
    ),
    "service retry run_id": (lambda value: SERVICE.retry("a", value), "run_id", REQUIRED_NAME),
}


@pytest.mark.parametrize("what", INVALID_ARGUMENTS)
async def test_an_invalid_argument_is_named_with_its_limit_before_any_sql(what: str) -> None:
    """The error has the field and the limit, in fewer than 500 characters."""
    call, field, invalid = INVALID_ARGUMENTS[what]
    errors: list[tuple[str, object, bool]] = []
    for value in invalid.values:
        try:
            await call(value)
        except InvalidJob as error:
            names_limit = invalid.limit in str(error) and len(str(error)) < 500
            errors.append((repr(value)[:40], error.field, names_limit))
        except Exception as error:  # noqa: BLE001  # all errors are reported at once
            errors.append((repr(value)[:40], repr(error), False))
    assert [(repr(value)[:40], field, True) for value in invalid.values] == errors


async def test_an_endless_iterable_is_not_followed(storage: Storage, tenant: str) -> None:
    leased = (LEASED.replace(id=uuid.uuid4(), tenant_id=tenant) for _ in itertools.count())
    for call in (
        storage.policy_run_queue.renew(leased, MINUTE),
        storage.policy_run_queue.end(LeaseResult.submitted(run) for run in leased),
        storage.policy_run_queue.rescue((StalledItem(run.id, tenant, AT, 1) for run in leased), attempts_max=3),
    ):
        with pytest.raises(InvalidJob, match="at most 1,000 items"):
            await call


@pytest.mark.parametrize("statuses", [["busy"], "busy", 5, [0], ["pending"] * 7], ids=repr)
def test_invalid_statuses_are_named(statuses: Any) -> None:
    with pytest.raises(InvalidJob) as caught:
        PolicyRunQuery(statuses=statuses)
    assert "statuses" == caught.value.field.split(".")[0]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: LeaseResult.submitted(True), "job"),  # type: ignore[arg-type]
        (lambda: LeaseResult.failed(None, "x"), "job"),  # type: ignore[arg-type]
        (lambda: LeaseResult.released(LEASED.id), "job"),  # type: ignore[arg-type]
        (lambda: LeaseResult.canceled(run_request()), "job"),  # type: ignore[arg-type]
        (lambda: LeaseResult.released(LEASED, delay=timedelta(seconds=-1)), "delay"),
        (lambda: LeaseResult.released(LEASED, delay=timedelta(days=7, seconds=1)), "delay"),
        (lambda: LeaseResult.released(LEASED, delay=5), "delay"),  # type: ignore[arg-type]
        (lambda: RetryBackoff(first=timedelta(0)), "first"),
        (lambda: RetryBackoff(first=MINUTE, cap=timedelta(seconds=1)), "first"),
        (lambda: RetryBackoff(first=timedelta(days=3650), cap=timedelta(days=3650)), "first"),
        (lambda: RetryBackoff(cap=timedelta(days=8)), "cap"),
        (lambda: RetryBackoff(cap=60), "cap"),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_result_or_backoff_is_refused_when_it_is_built(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        make()
    assert field == caught.value.field


@pytest.mark.parametrize("make", PolicyRuns.results.values(), ids=PolicyRuns.results)
@pytest.mark.parametrize("run", WITHOUT_LEASE, ids=lambda run: run.status.value)
def test_a_result_of_a_run_without_a_lease_is_refused_when_it_is_built(
    run: PolicyRunJob, make: Callable[[PolicyRunJob], LeaseResult]
) -> None:
    with pytest.raises(IllegalTransition):
        make(run)


async def test_any_text_is_accepted_as_the_error_of_a_failed_run(storage: Storage, tenant: str) -> None:
    """The text is sanitized and shortened; row and log can be read afterwards."""
    runs = storage.policy_runs
    for number, text in enumerate(["", "\0", "\ud800", "\x1b[31m", "x" * 5_000_000, "😀" * 100_000]):
        run = await runs.insert(policy_run(tenant))
        (held,) = (await lease(runs, tenant)).runs
        if number % 2:
            await storage.policy_run_queue.end([LeaseResult.failed(held, text)])
        else:
            await runs.replace(held.fail(at=datetime.now(UTC), error=text), "A")
        found = await runs.get(tenant, run.id)
        events = await runs.events(tenant, run.id)
        assert found is not None
        assert found.last_error is not None
        assert (Status.FAILED, ()) == (found.status, events.unreadable)
        assert 1 <= len(found.last_error) <= 4_000
        assert found.last_error == events[-1].payload["error"]


async def test_empty_lists_and_ids_that_are_no_uuid_need_no_statement() -> None:
    assert ({}, {}) == ((await QUEUE.end([])).versions, (await queue_of(RUNS).end(())).lost)
    assert () == (await QUEUE.renew([], MINUTE)).runs
    assert () == (await QUEUE.rescue([], attempts_max=3)).requeued
    assert await RUNS.get("acme", "no-uuid") is None
    assert [] == list(await RUNS.events("acme", "no-uuid"))
