"""Damaged policy runs, tenants of any name and invalid arguments do not affect other runs."""

import itertools
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NoReturn

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs import CorruptRow, IllegalTransition, InvalidJob, PolicyRunJob, PolicyRunStatus
from graphjobs.core.fields import sanitize_error
from graphjobs.core.results import StalledItem
from graphjobs.database.executor import SessionExecutor
from graphjobs.policy_runs.attempt_results import LeaseBatch, LeaseResult, RetryBackoff, TenantCursors
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.repository import PolicyRunRepository, PostgresPolicyRunRepository
from graphjobs.policy_runs.requests import PolicyRunCompletion
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of, run_request

Status = PolicyRunStatus

MINUTE: Final = timedelta(minutes=1)
LONG: Final = "x" * 10_000


async def sql(storage: Storage, statement: str, *binds: object) -> Sequence[Any]:
    """Does by hand what no code of ours would."""
    async with storage.session() as session, session.begin():
        found = await (await session.connection()).exec_driver_sql(statement, binds)
        return found.all() if found.returns_rows else ()


async def spoil(storage: Storage, run: PolicyRunJob, assignment: str, *binds: object) -> None:
    """Changes a row by hand."""
    await sql(storage, f"UPDATE scheduler.policy_runs SET {assignment} WHERE id = $1", run.id, *binds)


async def lease(runs: PolicyRunRepository, tenant: str | None, **more: Any) -> LeaseBatch:
    """Leases for a minute."""
    return await queue_of(runs).lease("A", MINUTE, **{"attempts_max": 9, "limit": 100, "tenant_id": tenant, **more})


async def statuses(storage: Storage, run: PolicyRunJob) -> list[str]:
    """What the log tells, in order."""
    return [event.status.value for event in await storage.policy_runs.events(run.tenant_id, run.id)]


def rich(tenant: str) -> PolicyRunJob:
    """A run with something in every part of its payload."""
    inputs = {"sbom_set": ["a"], "advisory_cursor": AT, "environment": {"region": "north"}, "capture_explain": True}
    return policy_run(tenant, mode="incremental", metadata={"a": "b"}, requested_by="me", inputs=inputs)


# Rows

_IN_ENVIRONMENT: Final = "payload = jsonb_set(payload, '{inputs,environment}', jsonb_build_object('n', %s))"
_CURSOR: Final = "payload = jsonb_set(payload, '{inputs,advisoryCursor}', '%s')"
# What SQL can do to a row of a pending run: an assignment, as UPDATE takes it. The table's checks let all of it pass.
SPOILED: Final = {
    "a list": "payload = '[1, 2]'",
    "a text": """payload = '"text"'""",
    "null": "payload = 'null'",
    "a number": "payload = '5'",
    "a missing field": "payload = payload #- '{inputs,sbomSet}'",
    "all fields missing": "payload = '{}'",
    "an unknown field": """payload = payload || '{"extra": 1}'""",
    "an unknown field of inputs": "payload = jsonb_set(payload, '{inputs,extra}', '1')",
    "an unknown field of 100,000 characters": "payload = payload || jsonb_build_object(repeat('k', 100000), 1)",
    "an unknown field of control characters": r"""payload = payload || '{"a\u0001\u001b[31mb": 1}'""",
    "another schema version": """payload = payload || '{"schemaVersion": "scheduler.policy-run-job@2"}'""",
    "a schema version of a request": """payload = payload || '{"schemaVersion": "scheduler.policy-run-request@1"}'""",
    "a schema version that is a number": """payload = payload || '{"schemaVersion": 1}'""",
    "a number of 5,000 digits": _IN_ENVIRONMENT % "repeat('9', 5000)::numeric",
    "a number of 65 bits": _IN_ENVIRONMENT % "36893488147419103232",
    "a number of 1e400": _IN_ENVIRONMENT % "1e400",
    "5,000 levels": _IN_ENVIRONMENT % "(repeat('[', 5000) || repeat(']', 5000))::jsonb",
    "33 levels": _IN_ENVIRONMENT % "(repeat('[', 33) || repeat(']', 33))::jsonb",
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
    "an error that is empty": "last_error = ''",
    "an error of control characters": r"last_error = E'a\x01b'",
    "a pending run that has completed": "completed_at = now()",
    "a pending run that was canceled": "canceled_at = now()",
}


@pytest.mark.parametrize("how", SPOILED)
async def test_an_unreadable_run_is_reported_and_the_others_stay_readable(
    storage: Storage, tenant: str, how: str
) -> None:
    """Reads by id or run id raise; lists report it apart from the runs; counts and metrics continue."""
    runs = storage.policy_runs
    before, unreadable, after = [await runs.insert(rich(tenant)) for _ in range(3)]
    await spoil(storage, unreadable, SPOILED[how])

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


@pytest.mark.parametrize("how", SPOILED)
async def test_a_lease_fails_an_unreadable_run_and_takes_the_others(storage: Storage, tenant: str, how: str) -> None:
    """It is reported with why, in the row and in its log, does not come again, and keeps its payload."""
    runs = storage.policy_runs
    unreadable, sound = await runs.insert(rich(tenant)), await runs.insert(rich(tenant))
    await spoil(storage, unreadable, SPOILED[how])
    (payload,) = await sql(storage, "SELECT payload::text FROM scheduler.policy_runs WHERE id = $1", unreadable.id)

    answer = await lease(runs, tenant)

    assert [sound.id] == [run.id for run in answer.runs]
    (error,) = answer.unreadable
    assert ("policy_runs", unreadable.id, ()) == (error.table, error.row_id, answer.exhausted)
    (row,) = await sql(
        storage,
        "SELECT status, attempts, last_error, lease_owner, lease_expires_at, completed_at IS NOT NULL, payload::text"
        " FROM scheduler.policy_runs WHERE id = $1",
        unreadable.id,
    )
    why = sanitize_error(str(error))
    assert (Status.FAILED.code, 1, why, None, None, True, payload[0]) == tuple(row)
    events = await runs.events(tenant, unreadable.id)
    assert ((), ["pending", "dispatching", "failed"]) == (events.unreadable, await statuses(storage, unreadable))
    assert ("dispatching", "failed", 1, why, "A") == tuple(
        events[-1].payload[name] for name in ("from", "to", "attempts", "error", "actor")
    )
    again = await lease(runs, tenant)
    assert ((), ()) == (again.runs, again.unreadable)


async def test_the_error_of_a_run_repeats_nothing_of_its_payload(storage: Storage, tenant: str) -> None:
    """Errors are logged, and stored; payloads may hold what must not be."""
    run = await storage.policy_runs.insert(rich(tenant))
    await spoil(storage, run, """payload = jsonb_set(payload, '{inputs,advisoryCursor}', '"hunter2"')""")
    (error,) = (await lease(storage.policy_runs, tenant)).unreadable
    (event,) = (await storage.policy_runs.events(tenant, run.id))[-1:]
    assert "advisory_cursor" in str(error)
    assert "hunter2" not in f"{error!r} {event!r}"


async def test_an_unreadable_run_is_rescued_renewed_and_finished_as_others(storage: Storage, tenant: str) -> None:
    """The holder of an earlier value continues, and no statement of another holder fails."""
    runs = storage.policy_runs
    for _ in range(4):
        await runs.insert(rich(tenant))
    held = list((await lease(runs, tenant)).runs)
    stopped, ended, moved, sound = held
    for run in (stopped, ended, moved):
        await spoil(storage, run, "payload = '[]'")

    renewed = await storage.policy_run_queue.renew(held, MINUTE)
    answers = await storage.policy_run_queue.end([LeaseResult.submitted(ended), LeaseResult.submitted(sound)])
    sighting = StalledItem(stopped.id, tenant, renewed.runs[0].updated_at, 1)
    rescued = await storage.policy_run_queue.rescue([sighting], attempts_max=3)
    # What was asked for is something else now: the swap is lost, and the row is unreadable.
    with pytest.raises(CorruptRow, match=str(moved.id)):
        await runs.replace(moved.submit(at=AT), "A")

    assert {run.id for run in held} == {run.id for run in renewed.runs}
    assert {ended.id, sound.id} == set(answers.versions)
    assert (stopped.id,) == rescued.requeued
    assert ["pending", "dispatching"] == await statuses(storage, moved)
    with pytest.raises(CorruptRow, match=str(ended.id)):
        await runs.insert(policy_run(tenant, run_id=ended.run_id))


async def test_an_unreadable_event_is_reported_and_the_rest_of_the_log_stays_readable(
    storage: Storage, tenant: str
) -> None:
    """A lease that counts the released attempts does not fail."""
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


async def test_a_run_that_has_had_all_its_attempts_is_failed_and_stops_no_other(storage: Storage, tenant: str) -> None:
    """It is reported as exhausted, with the reason in row and log; a run at its last attempt is leased."""
    runs = storage.policy_runs
    spent, last, fresh = [await runs.insert(policy_run(tenant)) for _ in range(3)]
    await spoil(storage, spent, "attempts = 3")
    await spoil(storage, last, "attempts = 2")

    answer = await lease(runs, tenant, attempts_max=3)

    assert {last.id: 3, fresh.id: 1} == {run.id: run.attempts for run in answer.runs}
    assert ((spent.id,), frozenset({last.id}), ()) == (answer.exhausted, answer.final_attempt_ids, answer.unreadable)
    found = await runs.get(tenant, spent.id)
    assert found is not None
    why = "all attempts were made: at most 3 are"
    assert (Status.FAILED, why, None) == (found.status, found.last_error, found.lease_owner)
    *_, event = await runs.events(tenant, spent.id)
    assert (why, ["pending", "dispatching", "failed"]) == (event.payload["error"], await statuses(storage, spent))


@pytest.mark.parametrize("attempts_max", [3, 99_998, 99_999])
async def test_a_run_with_the_highest_number_of_attempts_is_failed(
    storage: Storage, tenant: str, attempts_max: int
) -> None:
    """A second attempt of the same number would look like the first."""
    run = await storage.policy_runs.insert(policy_run(tenant))
    await spoil(storage, run, "attempts = 99999")
    answer = await lease(storage.policy_runs, tenant, attempts_max=attempts_max)
    assert ((), (run.id,)) == (answer.runs, answer.exhausted)
    found = await storage.policy_runs.get(tenant, run.id)
    assert found is not None
    assert (Status.FAILED, 99_999) == (found.status, found.attempts)


async def test_released_attempts_do_not_count(storage: Storage, tenant: str) -> None:
    """Attempts that were released with an error, or rescued, do count."""
    runs = storage.policy_runs
    run = await runs.insert(policy_run(tenant))
    last = []
    for error in [None] * 4 + ["the engine is down", None, "the engine is down"]:
        answer = await lease(runs, tenant, attempts_max=2)
        (held,) = answer.runs
        last.append(run.id in answer.final_attempt_ids)
        await storage.policy_run_queue.end([LeaseResult.released(held, error=error)])
    spent = await lease(runs, tenant, attempts_max=2)

    assert [False] * 5 + [True] * 2 == last
    assert ((), (run.id,)) == (spent.runs, spent.exhausted)


async def test_one_lease_fails_a_thousand_runs_without_an_attempt_left(storage: Storage, tenant: str) -> None:
    """A thousand of them neither come again nor keep the sound one waiting for ever."""
    await sql(
        storage,
        "INSERT INTO scheduler.policy_runs (id, tenant_id, run_id, policy_id, mode, priority, status, attempts,"
        " queued_at, available_at, payload) SELECT gen_random_uuid(), $1, 'run-' || n, 'P-7', 0, 2, 0, n % 2 * 9,"
        " now(), now() - interval '1 day', CASE n % 2 WHEN 0 THEN '[]'::jsonb ELSE $2::text::jsonb END"
        " FROM generate_series(1, 1000) AS n",
        tenant,
        policy_run(tenant).payload_json(),
    )
    sound = await storage.policy_runs.insert(policy_run(tenant))

    first = await lease(storage.policy_runs, tenant, limit=1_000)
    second = await lease(storage.policy_runs, tenant, limit=1_000)

    assert (0, 500, 500) == (len(first.runs), len(first.unreadable), len(first.exhausted))
    assert [sound.id] == [run.id for run in second.runs]
    assert 1_000 == (await storage.policy_runs.count(tenant, PolicyRunQuery(statuses=(Status.FAILED,)))).value


# Tenants

TENANTS: Final = ["", " ", LONG, "a\tb\x01\x1b[31m\x7f", "😀" * 200, "\u202eemca", "ACME'; DROP TABLE x; --", "%s{}$1"]


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("priority", ["normal", "emergency"])
async def test_tenants_of_hostile_names_neither_end_nor_stall_the_leases_of_others(
    graphjobs_storage: Storage, limit: int, priority: str
) -> None:
    """From each cursor, each tenant gets its turn: its run is leased or failed."""
    runs, names = graphjobs_storage.policy_runs, [*TENANTS, "acme", "zeta"]
    made: dict[uuid.UUID, str] = {}
    for number, name in enumerate(names):
        run = await runs.insert(policy_run(f"t-{number}", priority=priority))
        await spoil(graphjobs_storage, run, "tenant_id = $2", name)
        await sql(
            graphjobs_storage, "UPDATE scheduler.policy_run_events SET tenant_id = $2 WHERE job_id = $1", run.id, name
        )
        made[run.id] = name

    taken: list[uuid.UUID] = []
    aside: list[Any] = []
    turns = TenantCursors()
    for _ in range(-(-len(names) // limit)):
        answer = await lease(runs, None, limit=limit, after=turns)
        turns = answer.cursors
        taken += [run.id for run in answer.runs]
        aside += [error.row_id for error in answer.unreadable]

    no_names = {"", LONG, "a\tb\x01\x1b[31m\x7f"}
    assert set(names) - no_names == {made[run_id] for run_id in taken}
    assert no_names == {made[run_id] for run_id in aside}
    assert len(names) == len(taken) + len(aside)
    found = await sql(graphjobs_storage, "SELECT id, status FROM scheduler.policy_runs")
    assert {run_id: Status.DISPATCHING.code if run_id in taken else Status.FAILED.code for run_id in made} == {
        uuid.UUID(int=row[0].int): row[1] for row in found
    }


async def test_leases_of_tenants_of_hostile_names_that_have_run_out_are_rescued(graphjobs_storage: Storage) -> None:
    """Seen and taken with the others."""
    runs = graphjobs_storage.policy_runs
    for number in range(len(TENANTS) + 1):
        await runs.insert(policy_run(f"t-{number}"))
    held = (await lease(runs, None)).runs
    await graphjobs_storage.policy_run_queue.renew(held, timedelta(microseconds=1))
    for run, name in zip(held, TENANTS, strict=False):
        await spoil(graphjobs_storage, run, "tenant_id = $2", name)

    seen = await graphjobs_storage.policy_run_queue.expired()
    rescued = await graphjobs_storage.policy_run_queue.rescue(seen, attempts_max=3)

    assert {*TENANTS, held[-1].tenant_id} == {sighting.tenant_id for sighting in seen}
    assert ({run.id for run in held}, ()) == (set(rescued.requeued), rescued.failed)
    assert () == await graphjobs_storage.policy_run_queue.expired()


# Arguments


class NoDatabase:
    """An executor that no call of these tests should reach."""

    async def fetch_all(self, statement: object, params: object) -> NoReturn:
        """Refuses."""
        raise AssertionError("this went to the database")

    def using(self, session: AsyncSession) -> SessionExecutor:
        """Refuses."""
        raise AssertionError("this opened a session")


NOWHERE: Final = PostgresPolicyRunRepository(NoDatabase())
SERVICE: Final = PolicyRunService(NOWHERE)
PENDING: Final = policy_run()
HELD: Final = policy_run().lease(at=AT, owner="A", until=AT)
SEEN: Final = StalledItem(HELD.id, HELD.tenant_id, AT, 1)

NAME: Final = "text of 1 to 256 characters, UTF-8 clean, without control characters"
DAY: Final = "a timedelta of more than zero, up to 1 day"
LIMIT: Final = "between 1 and 1,000"
ATTEMPTS: Final = "an integer between 1 and 99,999"

NO_NAMES: Final = ["", LONG, "x" * 257, "a\0b", "a\nb", "\ud800", 5, True, b"A"]
NO_WAITS: Final = [timedelta(0), timedelta(seconds=-1), timedelta(days=3650), MINUTE * 1440 + timedelta.resolution, 60]
NO_LIMITS: Final = [0, -1, 1_001, True, "5", None, 2.0, 10**30]
NO_ATTEMPTS: Final = [0, -1, True, 100_000, "3", None, 2.0]
NO_LISTS: Final = [None, 5, True]

Call = Callable[..., Awaitable[object]]
# A call that takes one argument that cannot be; what it cannot be; the field that is named; its limit, as it is told.
BAD: Final[dict[str, tuple[Call, Sequence[object], str, str]]] = {
    "lease owner": (
        lambda bad: PolicyRunQueue(NoDatabase()).lease(bad, MINUTE, attempts_max=3),
        [None, *NO_NAMES],
        "owner",
        NAME,
    ),
    "lease duration": (
        lambda bad: PolicyRunQueue(NoDatabase()).lease("A", bad, attempts_max=3),
        [None, *NO_WAITS],
        "duration",
        DAY,
    ),
    "lease attempts_max": (
        lambda bad: PolicyRunQueue(NoDatabase()).lease("A", MINUTE, attempts_max=bad),
        NO_ATTEMPTS,
        "attempts_max",
        ATTEMPTS,
    ),
    "lease limit": (
        lambda bad: PolicyRunQueue(NoDatabase()).lease("A", MINUTE, attempts_max=3, limit=bad),
        NO_LIMITS,
        "limit",
        LIMIT,
    ),
    "lease tenant_id": (
        lambda bad: PolicyRunQueue(NoDatabase()).lease("A", MINUTE, attempts_max=3, tenant_id=bad),
        NO_NAMES,
        "tenant_id",
        NAME,
    ),
    "lease after": (
        lambda bad: PolicyRunQueue(NoDatabase()).lease("A", MINUTE, attempts_max=3, after=bad),
        ["", 5, b"a", ("", "")],
        "after",
        "must be a TenantCursors",
    ),
    "lease after others": (
        lambda bad: PolicyRunQueue(NoDatabase()).lease("A", MINUTE, attempts_max=3, after=TenantCursors(others=bad)),
        ["a\0b", "\ud800", None, 5, b"a"],
        "after.others",
        "text that PostgreSQL can store",
    ),
    "lease after emergencies": (
        lambda bad: PolicyRunQueue(NoDatabase()).lease("A", MINUTE, attempts_max=3, after=TenantCursors(emergency=bad)),
        ["a\0b", "\ud800", None, 5, b"a"],
        "after.emergency",
        "text that PostgreSQL can store",
    ),
    "renew duration": (lambda bad: PolicyRunQueue(NoDatabase()).renew([HELD], bad), [None, *NO_WAITS], "duration", DAY),
    "renew jobs": (lambda bad: PolicyRunQueue(NoDatabase()).renew(bad, MINUTE), NO_LISTS, "jobs", "must be a list"),
    "renew many": (
        lambda bad: PolicyRunQueue(NoDatabase()).renew(bad, MINUTE),
        [[HELD] * 1_001, itertools.repeat(HELD)],
        "jobs",
        "at most 1,000 items",
    ),
    "renew twice": (
        lambda bad: PolicyRunQueue(NoDatabase()).renew(bad, MINUTE),
        [[HELD, HELD]],
        "jobs",
        "must not have the same id twice",
    ),
    "renew nobody's": (
        lambda bad: PolicyRunQueue(NoDatabase()).renew([bad], MINUTE),
        [PENDING, HELD.submit(at=AT), HELD.fail(at=AT, error="x"), PENDING.cancel(at=AT)],
        "jobs",
        "must be leased",
    ),
    "renew what is no run": (
        lambda bad: PolicyRunQueue(NoDatabase()).renew([bad], MINUTE),
        [True, None, run_request(), HELD.id, LeaseResult.submitted(HELD)],
        "job",
        "must be a PolicyRunJob",
    ),
    "end endings": (PolicyRunQueue(NoDatabase()).end, NO_LISTS, "results", "must be a list"),
    "end many": (
        PolicyRunQueue(NoDatabase()).end,
        [[LeaseResult.submitted(HELD)] * 1_001, itertools.repeat(LeaseResult.submitted(HELD))],
        "results",
        "at most 1,000 items",
    ),
    "end twice": (
        PolicyRunQueue(NoDatabase()).end,
        [[LeaseResult.submitted(HELD), LeaseResult.released(HELD)]],
        "results",
        "must not have the same id twice",
    ),
    "end what is no ending": (
        lambda bad: PolicyRunQueue(NoDatabase()).end([bad]),
        [True, None, HELD, SEEN],
        "results",
        "must be a LeaseResult",
    ),
    "end actor": (
        lambda bad: PolicyRunQueue(NoDatabase()).end([LeaseResult.submitted(HELD)], actor=bad),
        NO_NAMES,
        "actor",
        NAME,
    ),
    "end transition_id": (
        lambda bad: PolicyRunQueue(NoDatabase()).end([LeaseResult.submitted(HELD)], transition_id=bad),
        ["x", str(uuid.uuid4()), 5, True],
        "transition_id",
        "must be a UUID",
    ),
    "expired tenant_id": (lambda bad: PolicyRunQueue(NoDatabase()).expired(tenant_id=bad), NO_NAMES, "tenant_id", NAME),
    "expired limit": (lambda bad: PolicyRunQueue(NoDatabase()).expired(limit=bad), NO_LIMITS, "limit", LIMIT),
    "rescue sightings": (
        lambda bad: PolicyRunQueue(NoDatabase()).rescue(bad, attempts_max=3),
        NO_LISTS,
        "stalled",
        "must be a list",
    ),
    "rescue many": (
        lambda bad: PolicyRunQueue(NoDatabase()).rescue(bad, attempts_max=3),
        [[SEEN] * 1_001, itertools.repeat(SEEN)],
        "stalled",
        "at most 1,000 items",
    ),
    "rescue twice": (
        lambda bad: PolicyRunQueue(NoDatabase()).rescue(bad, attempts_max=3),
        [[SEEN, SEEN]],
        "stalled",
        "must not have the same id twice",
    ),
    "rescue what is no sighting": (
        lambda bad: PolicyRunQueue(NoDatabase()).rescue([bad], attempts_max=3),
        [True, None, HELD, HELD.id],
        "stalled",
        "must be a StalledItem",
    ),
    "rescue attempts_max": (
        lambda bad: PolicyRunQueue(NoDatabase()).rescue([SEEN], attempts_max=bad),
        NO_ATTEMPTS,
        "attempts_max",
        ATTEMPTS,
    ),
    "rescue actor": (
        lambda bad: PolicyRunQueue(NoDatabase()).rescue([SEEN], attempts_max=3, actor=bad),
        NO_NAMES,
        "actor",
        NAME,
    ),
    "rescue backoff": (
        lambda bad: PolicyRunQueue(NoDatabase()).rescue([SEEN], attempts_max=3, backoff=bad),
        [MINUTE, 5, True, "1s"],
        "backoff",
        "must be a RetryBackoff",
    ),
    "insert job": (
        NOWHERE.insert,
        [True, None, run_request(), HELD.id, "x"],
        "job",
        "must be a PolicyRunJob",
    ),
    "insert actor": (lambda bad: NOWHERE.insert(PENDING, actor=bad), NO_NAMES, "actor", NAME),
    "get tenant_id": (lambda bad: NOWHERE.get(bad, PENDING.id), [None, *NO_NAMES], "tenant_id", NAME),
    "get job_id": (lambda bad: NOWHERE.get("a", bad), [None, 5, True, b"x", PENDING], "job_id", "a UUID or its text"),
    "get_by_run_id tenant_id": (lambda bad: NOWHERE.get_by_run_id(bad, "r"), [None, *NO_NAMES], "tenant_id", NAME),
    "get_by_run_id run_id": (lambda bad: NOWHERE.get_by_run_id("a", bad), [None, *NO_NAMES], "run_id", NAME),
    "replace job": (
        lambda bad: NOWHERE.replace(bad, None),
        [True, None, run_request(), LeaseResult.submitted(HELD)],
        "job",
        "must be a PolicyRunJob",
    ),
    "replace owner": (lambda bad: NOWHERE.replace(HELD, bad), NO_NAMES, "expected_lease_owner", NAME),
    "replace actor": (lambda bad: NOWHERE.replace(HELD, "A", actor=bad), NO_NAMES, "actor", NAME),
    "replace transition_id": (
        lambda bad: NOWHERE.replace(HELD, "A", transition_id=bad),
        ["x", 5, True],
        "transition_id",
        "must be a UUID",
    ),
    "list tenant_id": (NOWHERE.list, [None, *NO_NAMES], "tenant_id", NAME),
    "list policy_id": (
        lambda bad: NOWHERE.list("a", PolicyRunQuery(policy_id=bad)),
        NO_NAMES,
        "policy_id",
        "text of 1 to 256 characters",
    ),
    "list mode": (
        lambda bad: NOWHERE.list("a", PolicyRunQuery(mode=bad)),
        ["fast", "", 0, True],
        "mode",
        "'full', 'incremental'",
    ),
    "list queued_after": (
        lambda bad: NOWHERE.list("a", PolicyRunQuery(queued_after=bad)),
        [datetime(2026, 1, 1), "2026-01-01T00:00:00", 5, True],  # noqa: DTZ001  # naive it should be
        "queued_after",
        "",
    ),
    "list limit": (
        lambda bad: NOWHERE.list("a", PolicyRunQuery(limit=bad)),
        [0, -1, 1_001, True, "5", None, 2.0],
        "limit",
        "",
    ),
    "list cursor": (
        lambda bad: NOWHERE.list("a", PolicyRunQuery(cursor=bad)),
        ["", LONG, "x", "e30", "a\0b", 5],
        "cursor",
        "",
    ),
    "count tenant_id": (NOWHERE.count, [None, *NO_NAMES], "tenant_id", NAME),
    "list query": (lambda bad: NOWHERE.list("a", bad), ["full", {}, 5], "query", "PolicyRunQuery"),
    "count query": (lambda bad: NOWHERE.count("a", bad), ["full", {}, 5], "query", "PolicyRunQuery"),
    "events tenant_id": (lambda bad: NOWHERE.events(bad, HELD.id), [None, *NO_NAMES], "tenant_id", NAME),
    "events job_id": (lambda bad: NOWHERE.events("a", bad), [None, 5, True], "job_id", "a UUID or its text"),
    "events limit": (lambda bad: NOWHERE.events("a", HELD.id, limit=bad), NO_LIMITS, "limit", LIMIT),
    "events after": (lambda bad: NOWHERE.events("a", HELD.id, after=bad), [-1, True, "5", None, 2**63], "after", ""),
    "metrics tenant_id": (NOWHERE.metrics, [None, *NO_NAMES], "tenant_id", NAME),
    "metrics window": (
        lambda bad: NOWHERE.metrics("a", window=bad),
        [timedelta(0), timedelta(seconds=-1), timedelta(days=367), 60, None],
        "window",
        "a timedelta of more than zero, up to 366 days",
    ),
    "service enqueue": (SERVICE.enqueue, [True, None, PENDING], "request", "PolicyRunRequest"),
    "service simulate": (SERVICE.simulate, [True, None, PENDING], "request", "PolicyRunRequest"),
    "service complete": (
        lambda bad: SERVICE.complete("a", bad),
        [True, None, "completed"],
        "completion",
        "PolicyRunCompletion",
    ),
    "service cancel tenant_id": (
        lambda bad: SERVICE.request_cancellation(bad, "r"),
        [None, *NO_NAMES],
        "tenant_id",
        NAME,
    ),
    "service cancel run_id": (lambda bad: SERVICE.request_cancellation("a", bad), [None, *NO_NAMES], "run_id", NAME),
    "service cancel reason": (
        lambda bad: SERVICE.request_cancellation("a", "r", reason=bad),
        ["x" * 1_048_577, 5, True, b"x"],
        "reason",
        "text of up to 1,048,576 characters",
    ),
    "service complete tenant_id": (
        lambda bad: SERVICE.complete(bad, PolicyRunCompletion(run_id="r", status="completed")),
        [None, *NO_NAMES],
        "tenant_id",
        NAME,
    ),
    "service retry run_id": (lambda bad: SERVICE.retry("a", bad), [None, *NO_NAMES], "run_id", NAME),
}


@pytest.mark.parametrize("what", BAD)
async def test_an_invalid_argument_is_named_with_its_limit_before_any_sql(what: str) -> None:
    """The error says which and what it should be, in a line."""
    call, values, field, limit = BAD[what]
    errors: list[tuple[str, object, bool]] = []
    for bad in values:
        try:
            await call(bad)
        except InvalidJob as error:
            errors.append((repr(bad)[:40], error.field, limit in str(error) and len(str(error)) < 500))
        except Exception as error:  # noqa: BLE001  # all errors are reported at once
            errors.append((repr(bad)[:40], repr(error), False))
    assert [(repr(bad)[:40], field, True) for bad in values] == errors


async def test_an_endless_iterable_is_not_followed(storage: Storage, tenant: str) -> None:
    """Nor a long one, by any method that takes a list."""
    held = (HELD.replace(id=uuid.uuid4(), tenant_id=tenant) for _ in itertools.count())
    for call in (
        storage.policy_run_queue.renew(held, MINUTE),
        storage.policy_run_queue.end(LeaseResult.submitted(run) for run in held),
        storage.policy_run_queue.rescue((StalledItem(run.id, tenant, AT, 1) for run in held), attempts_max=3),
    ):
        with pytest.raises(InvalidJob, match="at most 1,000 items"):
            await call


@pytest.mark.parametrize(
    ("statuses", "field"),
    [(["busy"], "statuses"), ("busy", "statuses"), (5, "statuses"), ([0], "statuses"), (["pending"] * 7, "statuses")],
)
def test_invalid_statuses_are_named(statuses: Any, field: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidJob) as caught:
        PolicyRunQuery(statuses=statuses)
    assert field == caught.value.field.split(".")[0]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: LeaseResult.submitted(True), "job"),  # type: ignore[arg-type]
        (lambda: LeaseResult.failed(None, "x"), "job"),  # type: ignore[arg-type]
        (lambda: LeaseResult.released(HELD.id), "job"),  # type: ignore[arg-type]
        (lambda: LeaseResult.canceled(run_request()), "job"),  # type: ignore[arg-type]
        (lambda: LeaseResult.released(HELD, delay=timedelta(seconds=-1)), "delay"),
        (lambda: LeaseResult.released(HELD, delay=timedelta(days=7, seconds=1)), "delay"),
        (lambda: LeaseResult.released(HELD, delay=5), "delay"),  # type: ignore[arg-type]
        (lambda: RetryBackoff(first=timedelta(0)), "first"),
        (lambda: RetryBackoff(first=MINUTE, cap=timedelta(seconds=1)), "first"),
        (lambda: RetryBackoff(first=timedelta(days=3650), cap=timedelta(days=3650)), "first"),
        (lambda: RetryBackoff(cap=timedelta(days=8)), "cap"),
        (lambda: RetryBackoff(cap=60), "cap"),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_result_or_backoff_is_refused_when_it_is_built(make: Callable[[], object], field: str) -> None:
    """With the field."""
    with pytest.raises(InvalidJob) as caught:
        make()
    assert field == caught.value.field


def test_a_result_of_a_run_without_a_lease_is_refused_when_it_is_built() -> None:
    """Whichever end, and wherever the run stands."""
    for run in (PENDING, HELD.submit(at=AT), HELD.fail(at=AT, error="x"), PENDING.cancel(at=AT)):
        for make in (
            LeaseResult.submitted,
            LeaseResult.released,
            LeaseResult.canceled,
            lambda run: LeaseResult.failed(run, "x"),
        ):
            with pytest.raises(IllegalTransition):
                make(run)


async def test_any_text_of_why_a_run_failed_is_taken(storage: Storage, tenant: str) -> None:
    """Cleaned and cut, never refused: the row and the log can be read afterwards."""
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


async def test_nothing_is_done_for_nothing() -> None:
    """Empty lists are answered empty, and text that is no UUID finds nothing; without a word to the database."""
    assert ({}, {}) == ((await PolicyRunQueue(NoDatabase()).end([])).versions, (await queue_of(NOWHERE).end(())).lost)
    assert () == (await PolicyRunQueue(NoDatabase()).renew([], MINUTE)).runs
    assert () == (await PolicyRunQueue(NoDatabase()).rescue([], attempts_max=3)).requeued
    assert await NOWHERE.get("acme", "no-uuid") is None
    assert [] == list(await NOWHERE.events("acme", "no-uuid"))
