"""Leases of policy runs: tenant rotation, priorities, and no starvation."""

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from graphjobs import GraphJobsError, PolicyRunJob, PolicyRunRepository, PolicyRunStatus
from graphjobs.policy_runs.attempt_results import LeaseResult, RetryBackoff, TenantCursors
from graphjobs.policy_runs.sql import acquire
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of
from tests.conftest import OVERDUE_EVERY
from tests.integration.states import MICROSECOND, MINUTE, ids, lease, payloads, read

Status = PolicyRunStatus


@pytest.fixture
def runs(graphjobs_storage: Storage) -> PolicyRunRepository:
    """The repository on a database of the test, for leases of all tenants."""
    return graphjobs_storage.policy_runs


def ago(**units: float) -> datetime:
    """Return a time before now."""
    return datetime.now(UTC) - timedelta(**units)


async def add(
    runs: PolicyRunRepository, tenant: str, *priorities: str, available_at: datetime = AT, **fields: Any
) -> list[PolicyRunJob]:
    """Store a run for each priority, in the order in which they are available."""
    return [
        await runs.insert(
            policy_run(tenant, priority=priority, available_at=available_at + timedelta(milliseconds=number), **fields)
        )
        for number, priority in enumerate(priorities)
    ]


async def test_a_lease_equals_the_transition_of_the_model_except_for_times(runs: PolicyRunRepository) -> None:
    """The clock of the database sets the times, and the log has one event more."""
    run = await runs.insert(policy_run(metadata={"a": "b"}))
    (leased,) = (await lease(runs, duration=timedelta(minutes=7))).runs
    assert leased.last_attempt_at is not None
    until = leased.last_attempt_at + timedelta(minutes=7)
    expected = run.lease(at=leased.last_attempt_at, owner="owner", until=until)
    assert expected.stored(updated_at=leased.updated_at) == leased
    assert leased.updated_at > run.updated_at
    assert leased == await runs.get("acme", run.id)
    (_, payload) = payloads(await runs.events("acme", run.id))
    assert {"from": "pending", "to": "dispatching", "attempts": 1, "actor": "owner"} == payload


@pytest.mark.parametrize("tenant_id", [None, "acme"])
async def test_runs_are_leased_by_priority_then_by_availability(
    runs: PolicyRunRepository, tenant_id: str | None
) -> None:
    recent = ago(seconds=30)
    added = await add(runs, "acme", "normal", "high", "emergency", "normal", "high", "emergency", available_at=recent)
    found: list[PolicyRunJob] = []
    while leased := (await lease(runs, tenant_id)).runs:
        found += leased
    assert [added[place].id for place in (2, 5, 1, 4, 0, 3)] == ids(found)


async def test_one_lease_has_the_order_of_many_leases(runs: PolicyRunRepository) -> None:
    recent = ago(seconds=30)
    added = await add(runs, "acme", "normal", "high", "normal", "high", "high", available_at=recent)
    assert [added[place].id for place in (1, 3, 4, 0)] == ids((await lease(runs, limit=4)).runs)


async def test_emergencies_of_all_tenants_come_first(runs: PolicyRunRepository) -> None:
    await add(runs, "a", *["high"] * 5)
    await add(runs, "b", *["normal"] * 5)
    urgent = await add(runs, "c", "emergency", "emergency", available_at=ago(seconds=1))
    urgent += await add(runs, "d", "emergency", available_at=ago(seconds=1))
    first = await lease(runs, limit=7, after=TenantCursors())
    second = await lease(runs, limit=100, after=first.cursors)
    assert sorted(ids(urgent)) == sorted(ids(first.runs))
    assert Counter(a=5, b=5) == Counter(run.tenant_id for run in second.runs)


async def test_emergencies_do_not_change_the_tenant_rotation(runs: PolicyRunRepository) -> None:
    """Tenants rotate among themselves for emergencies and for other runs."""
    tenants = ["a", "b", "c", "d", "e", "z"]
    for tenant in tenants:
        await add(runs, tenant, *["normal"] * 12)
    cursors = TenantCursors()
    regular: list[str] = []
    urgent: list[str] = []
    for number in range(24):
        if number % 2 == 0:
            for tenant in ("b", "c", "d"):
                await add(runs, tenant, *["emergency"] * (1 if number else 5))
        for _ in range(3):
            leased = await lease(runs, after=cursors)
            cursors = leased.cursors
            (run,) = leased.runs
            (urgent if run.priority == "emergency" else regular).append(run.tenant_id)
    assert ["b", "c", "d"] * (len(urgent) // 3) == urgent[: len(urgent) // 3 * 3]
    assert len(urgent) > 2 * len(tenants)
    assert (tenants * len(regular))[: len(regular)] == regular
    assert len(regular) > 2 * len(tenants)


async def test_more_emergencies_than_the_limit_fill_the_lease(runs: PolicyRunRepository) -> None:
    await add(runs, "a", *["emergency"] * 9, "high")
    await add(runs, "b", *["emergency"] * 9)
    leased = (await lease(runs, limit=6)).runs
    assert Counter(a=3, b=3) == Counter(run.tenant_id for run in leased)
    assert {"emergency"} == {run.priority for run in leased}


async def rotate(runs: PolicyRunRepository, number: int, limit: int) -> list[list[str]]:
    """Return the tenants of the runs of consecutive leases."""
    cursors, tenants = TenantCursors(), []
    for _ in range(number):
        leased = await lease(runs, limit=limit, after=cursors)
        cursors = leased.cursors
        tenants.append([run.tenant_id for run in leased.runs])
    return tenants


async def test_leases_rotate_over_tenants(runs: PolicyRunRepository) -> None:
    """Three consecutive leases of three runs reach all of seven tenants, even if one tenant has many runs."""
    await add(runs, "t0", *["high"] * 60)
    for number in range(1, 7):
        await add(runs, f"t{number}", *["normal"] * 4)
    leases = await rotate(runs, 6, limit=3)
    for start in range(4):
        assert {f"t{number}" for number in range(7)} == {*itertools.chain(*leases[start : start + 3])}


async def test_all_tenants_that_fit_get_equal_shares(runs: PolicyRunRepository) -> None:
    for tenant in ("a", "b", "c"):
        await add(runs, tenant, *["normal"] * 30)
    shares = [Counter(tenants) for tenants in await rotate(runs, 6, limit=10)]
    assert [[3, 3, 4]] * 6 == [sorted(share.values()) for share in shares]
    assert Counter(a=20, b=20, c=20) == sum(shares, Counter[str]())


async def test_the_rotation_reaches_tenants_in_any_collation(runs: PolicyRunRepository) -> None:
    """Tenants are compared by bytes, so that the collation of the database skips no tenant."""
    names = ["", " ", "B", "a", "Z", "_", "é", "ä", "ß", "~", "\N{SNOWMAN}", "\N{GRINNING FACE}", "zz", "Zz", "zZ"]
    tenants = [f"t{name}" for name in names]
    for tenant in tenants:
        await add(runs, tenant, "high" if tenant < "tZ" else "normal")
    leases = await rotate(runs, len(tenants) + 1, limit=1)
    assert [*([tenant] for tenant in sorted(tenants, key=str.encode)), []] == leases


@pytest.mark.parametrize("tenant_id", [None, "acme"])
async def test_many_high_runs_do_not_starve_an_overdue_run(runs: PolicyRunRepository, tenant_id: str | None) -> None:
    """One of eight leased runs is the normal run that is overdue for the longest time."""
    overdue = await add(runs, "acme", "normal", "normal", "normal", available_at=ago(minutes=20))
    fresh = await add(runs, "acme", "normal", available_at=ago(minutes=5))
    flood = await add(runs, "acme", *["high"] * 40, available_at=ago(minutes=5))
    leases = [ids((await lease(runs, tenant_id, limit=8)).runs) for _ in range(4)]
    high = set(ids(flood))
    assert [[run.id] for run in overdue] == [[run for run in leased if run not in high] for leased in leases[:3]]
    assert ids(flood)[:21] == [run for leased in leases[:3] for run in leased if run in high]
    # A normal run that is not overdue waits for all runs of high priority.
    assert ids(flood)[21:29] == leases[3]
    assert fresh[0].id not in itertools.chain(*leases)


@pytest.mark.parametrize(("flood", "age"), [("high", timedelta(minutes=20)), ("emergency", timedelta(seconds=1))])
@pytest.mark.parametrize("tenant_id", [None, "acme"])
async def test_leases_of_one_run_starve_no_run(
    runs: PolicyRunRepository, monkeypatch: pytest.MonkeyPatch, tenant_id: str | None, flood: str, age: timedelta
) -> None:
    """One of eight leases takes the other run: the chance that all 200 miss the run is below 1 in 10^11."""
    monkeypatch.setattr(acquire, "OVERDUE_EVERY", OVERDUE_EVERY)
    (other,) = await add(runs, "acme", "normal", available_at=datetime.now(UTC) - age)
    await add(runs, "acme", *[flood] * 8, available_at=ago(minutes=5))
    cursors = TenantCursors()
    for _ in range(200):
        leased = await lease(runs, tenant_id, after=cursors)
        cursors = leased.cursors
        (run,) = leased.runs
        if run.id == other.id:
            return
        await queue_of(runs).end([LeaseResult.released(run)])
    raise AssertionError("the other run was never leased")


@pytest.mark.parametrize("tenant_id", [None, "acme"])
async def test_one_of_eight_runs_is_no_emergency_while_another_waits(
    runs: PolicyRunRepository, tenant_id: str | None
) -> None:
    await add(runs, "acme", *["normal"] * 2, available_at=ago(seconds=1))
    await add(runs, "acme", *["emergency"] * 40, available_at=ago(minutes=5))
    leases = [[run.priority.value for run in (await lease(runs, tenant_id, limit=8)).runs] for _ in range(3)]
    mixed = ["emergency"] * 7 + ["normal"]
    assert [mixed, mixed, ["emergency"] * 8] == leases


async def test_the_runs_of_all_tenants_are_leased_beside_the_emergencies_of_one(runs: PolicyRunRepository) -> None:
    await add(runs, "a", *["emergency"] * 90)
    for tenant in ("b", "c", "d"):
        await add(runs, tenant, "normal", available_at=ago(seconds=1))
    leases = await rotate(runs, 3, limit=8)
    assert [["a"] * 7 + [tenant] for tenant in ("b", "c", "d")] == leases


async def test_a_lease_of_one_tenant_returns_only_its_runs(runs: PolicyRunRepository) -> None:
    await add(runs, "a", "emergency")
    (own,) = await add(runs, "b", "normal")
    assert [own.id] == ids((await lease(runs, "b", limit=10)).runs)


async def test_a_run_is_not_leased_before_it_is_available(runs: PolicyRunRepository) -> None:
    await add(runs, "a", "normal", "high", "emergency", available_at=ago(hours=-1))
    (other,) = await add(runs, "b", "normal")
    assert [other.id] == ids((await lease(runs)).runs)
    assert () == (await lease(runs)).runs


# Heartbeats and results


async def test_a_heartbeat_only_extends_the_lease(runs: PolicyRunRepository) -> None:
    """The lease then begins now, by the clock of the database; an expired lease can be renewed by its owner."""
    (run,) = await add(runs, "acme", "normal")
    (leased,) = (await lease(runs, duration=MICROSECOND)).runs
    (renewed,) = (await queue_of(runs).renew([leased], timedelta(hours=1))).runs
    assert leased.stored(updated_at=renewed.updated_at, lease_expires_at=renewed.lease_expires_at) == renewed
    assert renewed.lease_expires_at is not None
    assert timedelta(minutes=59) < renewed.lease_expires_at - datetime.now(UTC) < timedelta(minutes=61)
    assert renewed == await runs.get("acme", run.id)
    assert 2 == len(await runs.events("acme", run.id))
    assert () == (await queue_of(runs).expired())[0]


async def test_many_leases_are_renewed_and_ended_in_one_call_each(runs: PolicyRunRepository) -> None:
    """Lost runs are reported, and do not change."""
    await add(runs, "a", *["normal"] * 3)
    await add(runs, "b", *["normal"] * 3)
    leased = list((await lease(runs, limit=6)).runs)
    lost, others = leased[0], leased[1:]
    await queue_of(runs).end([LeaseResult.failed(lost, "by hand")])

    renewed = await queue_of(runs).renew(leased, MINUTE)
    ended = await queue_of(runs).end(
        [
            LeaseResult.submitted(lost),
            LeaseResult.submitted(others[0]),
            LeaseResult.failed(others[1], "x" * 10_000),
            LeaseResult.released(others[2]),
            LeaseResult.released(others[3], delay=MINUTE, error="away"),
            LeaseResult.canceled(others[4]),
        ],
        actor="owner",
    )

    assert (ids(others), frozenset({lost.id})) == (ids(renewed.runs), renewed.lost)
    assert "a later read found the run failed at attempt 1" in ended.lost[lost.id]
    found = [await read(runs, run) for run in others]
    assert {run.id: run.updated_at for run in found} == ended.versions
    statuses = [Status.SUBMITTED, Status.FAILED, Status.PENDING, Status.PENDING, Status.CANCELED]
    assert statuses == [run.status for run in found]
    released, delayed = found[2], found[3]
    assert (None, "away") == (released.last_error, delayed.last_error)
    assert MINUTE == delayed.available_at - delayed.updated_at
    assert released.available_at <= released.updated_at


async def test_a_submitted_run_has_no_error_of_an_earlier_attempt(runs: PolicyRunRepository) -> None:
    """The transition of the model clears the error, too."""
    await add(runs, "acme", "normal")
    (first,) = (await lease(runs)).runs
    await queue_of(runs).end([LeaseResult.released(first, error="away")])
    (second,) = (await lease(runs)).runs
    await queue_of(runs).end([LeaseResult.submitted(second)])
    submitted = await read(runs, second)
    assert ("away", Status.SUBMITTED, None) == (second.last_error, submitted.status, submitted.last_error)


# Attempts and rescues


async def test_a_run_fails_after_its_final_attempt(runs: PolicyRunRepository) -> None:
    """Attempts that were released without an error do not count; the lease reports the final attempt."""
    (run,) = await add(runs, "acme", "normal")
    reported = []
    for error in (None, None, None, "away", "away"):
        taken = await lease(runs, attempts_max=2)
        reported.append(run.id in taken.final_attempt_ids)
        await queue_of(runs).end([LeaseResult.released(taken.runs[0], error=error)])
    exhausted = await lease(runs, attempts_max=2)
    assert [False, False, False, False, True] == reported
    assert ((), (run.id,)) == (exhausted.runs, exhausted.exhausted)
    failed = await read(runs, run)
    assert (Status.FAILED, "all attempts were made: at most 2 are") == (failed.status, failed.last_error)
    events = [event.status for event in await runs.events("acme", run.id)]
    attempts = [Status.PENDING, Status.DISPATCHING] * 6
    assert [*attempts, Status.FAILED] == events


async def test_an_expired_lease_is_listed_and_its_run_is_rescued(runs: PolicyRunRepository) -> None:
    """The run waits for the back-off, the attempt counts, and a late result is lost; a renewed run is skipped."""
    stalled, renewed = await add(runs, "acme", "normal", "normal")
    leased = {run.id: run for run in (await lease(runs, duration=MICROSECOND, limit=2)).runs}
    expired, _ = await queue_of(runs).expired()
    await queue_of(runs).renew([leased[renewed.id]], MINUTE)

    backoff = RetryBackoff(first=timedelta(minutes=8), cap=timedelta(minutes=8))
    rescued = await queue_of(runs).rescue(expired, attempts_max=5, backoff=backoff, actor="rescuer")

    assert {stalled.id, renewed.id} == {item.job_id for item in expired}
    assert ((stalled.id,), ()) == (rescued.requeued, rescued.failed)
    found = await read(runs, stalled)
    assert (Status.PENDING, 1) == (found.status, found.attempts)
    assert timedelta(minutes=4) <= found.available_at - found.updated_at <= timedelta(minutes=8)
    (*_, event) = await runs.events("acme", stalled.id)
    assert (True, "rescuer", "dispatching", "pending") == tuple(
        event.payload[name] for name in ("rescued", "actor", "from", "to")
    )
    late = await queue_of(runs).end([LeaseResult.submitted(leased[stalled.id])])
    assert {stalled.id} == set(late.lost)


async def test_expired_leases_of_one_tenant_are_listed(runs: PolicyRunRepository) -> None:
    for tenant in ("a", "b"):
        await add(runs, tenant, "normal")
    (first,) = (await lease(runs, "a", duration=MICROSECOND)).runs
    (second,) = (await lease(runs, "b", duration=MICROSECOND)).runs
    assert [second.id] == [item.job_id for item in (await queue_of(runs).expired(tenant_id="b"))[0]]
    assert [first.id, second.id] == [item.job_id for item in (await queue_of(runs).expired())[0]]
    found, cursor = await queue_of(runs).expired(limit=1)
    rest, end = await queue_of(runs).expired(limit=1, after=cursor)
    assert [[first.id], [second.id]] == [[item.job_id for item in part] for part in (found, rest)]
    assert ((), "") == await queue_of(runs).expired(after=end)


_REFUSE_FAILURES = (
    "CREATE FUNCTION scheduler.refuse() RETURNS trigger LANGUAGE plpgsql "
    "AS $$ BEGIN RAISE EXCEPTION 'no failures today'; END $$",
    "CREATE TRIGGER refuse BEFORE UPDATE ON scheduler.policy_runs FOR EACH ROW WHEN (NEW.status = 4) "
    "EXECUTE FUNCTION scheduler.refuse()",
)


async def test_a_rejected_run_that_cannot_fail_breaks_a_lease_only_in_a_session(
    graphjobs_storage: Storage,
) -> None:
    """In autocommit the other runs are leased; in a session the error ends the transaction."""
    async with graphjobs_storage.session() as session, session.begin():
        for statement in _REFUSE_FAILURES:
            await session.execute(text(statement))
    runs = graphjobs_storage.policy_runs
    (exhausted,) = await add(runs, "acme", "high", attempts=5)
    (sound,) = await add(runs, "acme", "normal")
    with pytest.raises(GraphJobsError, match="P0001"):
        async with graphjobs_storage.session() as session, session.begin():
            await lease(runs.using(session), limit=2)
    for run in (exhausted, sound):
        assert run == await runs.get("acme", run.id)
    leased = await lease(runs, limit=2)
    assert ([sound.id], (exhausted.id,)) == (ids(leased.runs), leased.exhausted)


async def test_a_heartbeat_writes_no_index(graphjobs_storage: Storage) -> None:
    """A heartbeat is a HOT update: the next version of the row stays on its page, and no index is written.

    All versions fit on the pages. Otherwise the count would depend on when a page is pruned, which transactions in
    other databases of the same server delay.
    """
    runs = graphjobs_storage.policy_runs
    async with graphjobs_storage.session() as session, session.begin():
        await session.execute(text("ALTER TABLE scheduler.policy_runs SET (fillfactor = 10)"))
    await add(runs, "acme", *["normal"] * 20)
    leased = (await lease(runs, limit=20)).runs
    before = await _updates(graphjobs_storage)
    for _ in range(5):
        async with graphjobs_storage.session() as session, session.begin():
            leased = (await queue_of(runs.using(session)).renew(leased, MINUTE)).runs
            await session.execute(text("SELECT pg_stat_force_next_flush()"))
    after = await _updates(graphjobs_storage)
    assert (100, 100) == (after[0] - before[0], after[1] - before[1])


async def _updates(storage: Storage) -> tuple[int, int]:
    """Count the updates, and those that wrote no index, after all connections have reported."""
    counted = text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'policy_runs'")
    last = None
    while True:
        async with storage.session() as session, session.begin():
            await session.execute(text("SELECT pg_stat_force_next_flush()"))
            await session.execute(text("SELECT pg_stat_clear_snapshot()"))
            now = tuple((await session.execute(counted)).one())
        if now == last:
            return now
        last = now
        await asyncio.sleep(1.1)


async def test_a_lease_from_when_the_clock_was_ahead_is_listed_unless_it_was_renewed(
    graphjobs_storage: Storage, runs: PolicyRunRepository
) -> None:
    """The lease would end a day late, for its clock was a day ahead. A live holder renews it by the right clock."""
    stopped, alive, short = await add(runs, "acme", "normal", "normal", "normal")
    held = {run.id: run for run in (await queue_of(runs).lease("gone", MINUTE, attempts_max=5, limit=3)).runs}
    async with graphjobs_storage.session() as session, session.begin():
        for run, ahead in ((stopped, "1 day"), (alive, "1 day"), (short, "10 seconds")):
            await (await session.connection()).exec_driver_sql(
                "UPDATE scheduler.policy_runs SET updated_at = updated_at + $2::text::interval,"
                " lease_expires_at = lease_expires_at + $2::text::interval,"
                " last_attempt_at = last_attempt_at + $2::text::interval WHERE id = $1",
                (run.id, ahead),
            )
    await queue_of(runs).renew([held[alive.id]], MINUTE)
    seen, _ = await queue_of(runs).expired()
    assert [stopped.id] == [item.job_id for item in seen]
    assert (stopped.id,) == (await queue_of(runs).rescue(seen, attempts_max=5)).requeued


@pytest.mark.parametrize("one_tenant", [False, True], ids=["all tenants", "one tenant"])
async def test_pending_runs_from_when_the_clock_was_ahead_are_brought_forward(
    graphjobs_storage: Storage, runs: PolicyRunRepository, one_tenant: bool
) -> None:
    """They keep their delay. A run that its caller delayed, and one by a clock that is ahead by little, stay."""
    free, urgent, retried, delayed, near = await add(runs, "acme", "normal", "emergency", "high", "normal", "normal")
    (other,) = await add(runs, "other", "high")
    rows = [
        (free, "1 day", "1 day"),
        (urgent, "1 day", "1 day"),
        (other, "1 day", "1 day"),
        (retried, "1 day", "1 day 1 hour"),
        (delayed, "0", "1 day"),
        (near, "30 seconds", "2 hours"),
    ]
    async with graphjobs_storage.session() as session, session.begin():
        for run, ahead, available in rows:
            await (await session.connection()).exec_driver_sql(
                "UPDATE scheduler.policy_runs SET updated_at = now() + $2::text::interval,"
                " queued_at = now() + $2::text::interval, available_at = now() + $3::text::interval WHERE id = $1",
                (run.id, ahead, available),
            )
    queue = queue_of(runs)
    assert () == (await queue.lease("owner", MINUTE, attempts_max=5, limit=10)).runs

    tenant, expected = ("acme", [urgent, free]) if one_tenant else (None, [urgent, other, free])
    cursor, moved, is_done = "", 0, False
    while not is_done:
        number, after = await queue.bring_forward(MINUTE, tenant_id=tenant, after=cursor, limit=1)
        moved += number
        cursor, is_done = (cursor, False) if number else (after, not after)

    assert len(expected) + 1 == moved
    leased = [run for _ in expected for run in (await queue.lease("owner", MINUTE, attempts_max=5, limit=10)).runs]
    assert {run.id for run in expected} == {run.id for run in leased}
    stored = await runs.get(retried.tenant_id, retried.id)
    assert stored is not None
    assert abs(stored.available_at - datetime.now(UTC) - timedelta(hours=1)) < MINUTE
    assert 1 == len(await runs.events(retried.tenant_id, retried.id))
