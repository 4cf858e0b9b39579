"""Leases of policy runs: tenant rotation, priorities, and no starvation."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from graphjobs import GraphJobsError, PolicyRunJob, PolicyRunRepository, PolicyRunStatus
from graphjobs.policy_runs.attempt_results import LeaseBatch, LeaseResult, RetryBackoff, TenantCursors
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of

Status = PolicyRunStatus

_MINUTE = timedelta(minutes=1)
_MOMENT = timedelta(microseconds=1)
_STEP = timedelta(milliseconds=1)


@pytest_asyncio.fixture
async def runs(graphjobs_storage: Storage) -> AsyncIterator[PolicyRunRepository]:
    """The repository on a database of this test's own: leases serve everybody."""
    yield graphjobs_storage.policy_runs


def ago(**given: float) -> datetime:
    """A time before now."""
    return datetime.now(UTC) - timedelta(**given)


async def add(runs: PolicyRunRepository, tenant: str, *priorities: str, **given: Any) -> list[PolicyRunJob]:
    """Stores a run for each priority, in the order in which they are available."""
    first = given.pop("available_at", AT)
    return [
        await runs.insert(
            policy_run(tenant, priority=priority, available_at=first + timedelta(milliseconds=step), **given)
        )
        for step, priority in enumerate(priorities)
    ]


async def lease(runs: PolicyRunRepository, limit: int, **given: Any) -> LeaseBatch:
    """Leases for one owner."""
    return await queue_of(runs).lease("owner", _MINUTE, **{"attempts_max": 5, "limit": limit, **given})


def ids(found: Sequence[PolicyRunJob]) -> list[uuid.UUID]:
    """Return the tenants of runs."""
    return [run.id for run in found]


async def test_a_lease_equals_the_transition_of_the_model_except_for_times(runs: PolicyRunRepository) -> None:
    """Dispatching, an attempt more, the owner's until then by the database's clock; and logged."""
    run = await runs.insert(policy_run(metadata={"a": "b"}))
    (held,) = (await queue_of(runs).lease("owner", timedelta(minutes=7), attempts_max=5)).runs
    assert held.last_attempt_at is not None
    until = held.last_attempt_at + timedelta(minutes=7)
    expected = run.lease(at=held.last_attempt_at, owner="owner", until=until)
    assert expected.stored(updated_at=held.updated_at) == held
    assert held.updated_at > run.updated_at
    assert held == await runs.get("acme", run.id)
    (_, event) = await runs.events("acme", run.id)
    assert {"from": "pending", "to": "dispatching", "attempts": 1, "actor": "owner"} == {
        name: value for name, value in event.payload.items() if name != "transitionId"
    }


@pytest.mark.parametrize("tenant_id", [None, "acme"])
async def test_runs_are_leased_by_priority_then_by_availability(
    runs: PolicyRunRepository, tenant_id: str | None
) -> None:
    """Emergencies, high, normal; whatever order they came in."""
    recent = ago(seconds=30)
    added = await add(runs, "acme", "normal", "high", "emergency", "normal", "high", "emergency", available_at=recent)
    found: list[PolicyRunJob] = []
    while taken := (await lease(runs, 1, tenant_id=tenant_id)).runs:
        found += taken
    assert [added[place].id for place in (2, 5, 1, 4, 0, 3)] == ids(found)


async def test_one_lease_has_the_order_of_many_leases(runs: PolicyRunRepository) -> None:
    """What it gives, and what it takes where it cannot have all."""
    recent = ago(seconds=30)
    added = await add(runs, "acme", "normal", "high", "normal", "high", "high", available_at=recent)
    assert [added[place].id for place in (1, 3, 4, 0)] == ids((await lease(runs, 4)).runs)


async def test_emergencies_of_all_tenants_come_first(runs: PolicyRunRepository) -> None:
    """Other runs follow when no emergency is left, whatever the rotation."""
    await add(runs, "a", *["high"] * 5)
    await add(runs, "b", *["normal"] * 5)
    urgent = await add(runs, "c", "emergency", "emergency", available_at=ago(seconds=1))
    urgent += await add(runs, "d", "emergency", available_at=ago(seconds=1))
    first = await lease(runs, 100)
    second = await lease(runs, 100, after=first.cursors)
    assert sorted(ids(urgent)) == sorted(ids(first.runs))
    assert Counter(a=5, b=5) == Counter(run.tenant_id for run in second.runs)


async def test_emergencies_do_not_change_the_tenant_rotation(runs: PolicyRunRepository) -> None:
    """Between the leases of an emergency each tenant has its turn, and those with emergencies have theirs."""
    tenants = ["a", "b", "c", "d", "e", "z"]
    for tenant in tenants:
        await add(runs, tenant, *["normal"] * 12)
    turns, served, urgent = TenantCursors(), [], []
    for number in range(24):
        if number % 2 == 0:
            for tenant in ("b", "c", "d"):
                await add(runs, tenant, *["emergency"] * (1 if number else 5))
        for _ in range(3):
            taken = await lease(runs, 1, after=turns)
            turns = taken.cursors
            (run,) = taken.runs
            urgent.append(run.tenant_id) if run.priority == "emergency" else served.append(run.tenant_id)
    assert ["b", "c", "d"] * (len(urgent) // 3) == urgent[: len(urgent) // 3 * 3]
    assert len(urgent) > 2 * len(tenants)
    assert (tenants * len(served))[: len(served)] == served
    assert len(served) > 2 * len(tenants)


async def test_more_emergencies_than_the_limit_fill_the_lease(runs: PolicyRunRepository) -> None:
    """Each tenant that has some gets an equal share of it."""
    await add(runs, "a", *["emergency"] * 9, "high")
    await add(runs, "b", *["emergency"] * 9)
    taken = await lease(runs, 6)
    assert Counter(a=3, b=3) == Counter(run.tenant_id for run in taken.runs)
    assert {"emergency"} == {run.priority for run in taken.runs}


async def test_leases_rotate_over_tenants(runs: PolicyRunRepository) -> None:
    """With seven of them and three a lease, each is served within three leases, however much one of them has."""
    await add(runs, "t0", *["high"] * 60)
    for number in range(1, 7):
        await add(runs, f"t{number}", *["normal"] * 4)
    turns, rounds = TenantCursors(), []
    for _ in range(6):
        taken = await lease(runs, 3, after=turns)
        turns = taken.cursors
        rounds.append({run.tenant_id for run in taken.runs})
    everybody = {f"t{number}" for number in range(7)}
    for start in range(4):
        assert everybody == set().union(*rounds[start : start + 3])


async def test_all_tenants_that_fit_get_equal_shares(runs: PolicyRunRepository) -> None:
    """And what is left over goes to another one first each time."""
    for tenant in ("a", "b", "c"):
        await add(runs, tenant, *["normal"] * 30)
    got: Counter[str] = Counter()
    turns = TenantCursors()
    for _ in range(6):
        taken = await lease(runs, 10, after=turns)
        turns = taken.cursors
        shares = Counter(run.tenant_id for run in taken.runs)
        assert [3, 3, 4] == sorted(shares.values())
        got += shares
    assert Counter(a=20, b=20, c=20) == got


async def test_the_rotation_reaches_tenants_in_any_collation(runs: PolicyRunRepository) -> None:
    """The walk goes by bytes: none is passed over, whatever the database's collation."""
    names = ["", " ", "B", "a", "Z", "_", "é", "ä", "ß", "~", "\N{SNOWMAN}", "\N{GRINNING FACE}", "zz", "Zz", "zZ"]
    tenants = [f"t{name}" for name in names]
    for tenant in tenants:
        await add(runs, tenant, "high" if tenant < "tZ" else "normal")
    turns, met = TenantCursors(), []
    while taken := await lease(runs, 1, after=turns):
        if not taken.runs:
            break
        met.append(taken.runs[0].tenant_id)
        turns = taken.cursors
    assert sorted(tenants, key=lambda name: name.encode()) == met


@pytest.mark.parametrize("tenant_id", [None, "acme"])
async def test_many_high_runs_do_not_starve_an_overdue_run(runs: PolicyRunRepository, tenant_id: str | None) -> None:
    """Of every eight that are taken, one is the normal run that waits for longest, once it is overdue."""
    overdue = await add(runs, "acme", "normal", "normal", "normal", available_at=ago(minutes=20))
    fresh = await add(runs, "acme", "normal", available_at=ago(minutes=5))
    flood = await add(runs, "acme", *["high"] * 40, available_at=ago(minutes=5))
    taken = [ids((await lease(runs, 8, tenant_id=tenant_id)).runs) for _ in range(4)]
    assert [[run.id] for run in overdue] == [[one for one in some if one not in ids(flood)] for some in taken[:3]]
    assert ids(flood)[:21] == [one for some in taken[:3] for one in some if one in ids(flood)]
    # What is not overdue waits for all that are high.
    assert ids(flood)[21:29] == taken[3]
    assert fresh[0].id not in [one for some in taken for one in some]


async def test_leases_of_one_run_do_not_starve_an_overdue_run(runs: PolicyRunRepository) -> None:
    """One lease of one run in eight takes it: the chance that all 200 miss it is below 1 in 10^11."""
    (overdue,) = await add(runs, "acme", "normal", available_at=ago(minutes=20))
    await add(runs, "acme", *["high"] * 8, available_at=ago(minutes=5))
    for _ in range(200):
        (run,) = (await lease(runs, 1)).runs
        if run.id == overdue.id:
            return
        await queue_of(runs).end([LeaseResult.released(run)])
    raise AssertionError("the overdue run was never leased")


async def test_emergencies_are_leased_before_overdue_runs(runs: PolicyRunRepository) -> None:
    """No overdue run is leased while emergencies fill the lease."""
    await add(runs, "acme", *["normal"] * 3, available_at=ago(hours=20))
    await add(runs, "acme", *["emergency"] * 16, available_at=ago(seconds=1))
    for tenant_id in (None, "acme"):
        assert {"emergency"} == {run.priority for run in (await lease(runs, 8, tenant_id=tenant_id)).runs}


async def test_a_lease_of_one_tenant_returns_only_its_runs(runs: PolicyRunRepository) -> None:
    """An emergency of another tenant is not leased."""
    await add(runs, "a", "emergency")
    (own,) = await add(runs, "b", "normal")
    assert [own.id] == ids((await lease(runs, 10, tenant_id="b")).runs)


async def test_a_run_is_not_leased_before_it_is_available(runs: PolicyRunRepository) -> None:
    """A tenant with no other run does not take a place in the rotation."""
    await add(runs, "a", "normal", "high", "emergency", available_at=ago(hours=-1))
    (other,) = await add(runs, "b", "normal")
    assert [other.id] == ids((await lease(runs, 1)).runs)
    assert () == (await lease(runs, 1)).runs


# Heartbeats and ends


async def test_a_heartbeat_only_extends_the_lease(runs: PolicyRunRepository) -> None:
    """By the database's clock from now; one that has run out unnoticed is its owner's still."""
    (run,) = await add(runs, "acme", "normal")
    (held,) = (await queue_of(runs).lease("owner", _MOMENT, attempts_max=5)).runs
    (renewed,) = (await queue_of(runs).renew([held], timedelta(hours=1))).runs
    assert held.stored(updated_at=renewed.updated_at, lease_expires_at=renewed.lease_expires_at) == renewed
    assert renewed.lease_expires_at is not None
    assert timedelta(minutes=59) < renewed.lease_expires_at - datetime.now(UTC) < timedelta(minutes=61)
    assert renewed == await runs.get("acme", run.id)
    assert 2 == len(await runs.events("acme", run.id))
    assert () == await queue_of(runs).expired()


async def test_many_leases_are_renewed_and_ended_in_one_call_each(runs: PolicyRunRepository) -> None:
    """Each with its own result; lost runs are reported, and do not change."""
    await add(runs, "a", *["normal"] * 3)
    await add(runs, "b", *["normal"] * 3)
    held = list((await lease(runs, 6)).runs)
    gone, others = held[0], held[1:]
    await queue_of(runs).end([LeaseResult.failed(gone, "by hand")])

    renewed = await queue_of(runs).renew(held, _MINUTE)
    ended = await queue_of(runs).end(
        [
            LeaseResult.submitted(gone),
            LeaseResult.submitted(others[0]),
            LeaseResult.failed(others[1], "x" * 10_000),
            LeaseResult.released(others[2]),
            LeaseResult.released(others[3], delay=_MINUTE, error="away"),
            LeaseResult.canceled(others[4]),
        ],
        actor="owner",
    )

    assert (ids(others), frozenset({gone.id})) == (ids(renewed.runs), renewed.lost)
    assert {run.id for run in others} == set(ended.versions)
    assert "a later read found the run failed at attempt 1" in ended.lost[gone.id]
    after = {run.id: await runs.get(run.tenant_id, run.id) for run in others}
    now = [after[run.id] for run in others]
    statuses = [run.status for run in now if run is not None]
    assert [
        Status.SUBMITTED,
        Status.FAILED,
        Status.PENDING,
        Status.PENDING,
        Status.CANCELED,
    ] == statuses
    for run in now:
        assert run is not None
        assert ended.versions[run.id] == run.updated_at
    given_back, waits = now[2], now[3]
    assert given_back is not None
    assert waits is not None
    assert (None, "away") == (given_back.last_error, waits.last_error)
    assert _MINUTE == waits.available_at - waits.updated_at
    assert given_back.available_at <= given_back.updated_at


async def test_a_lost_attempt_is_neither_renewed_nor_ended_by_the_same_owner(
    runs: PolicyRunRepository,
) -> None:
    """A process that was restarted under its name leases the run again; what the one before still does is too late."""
    await add(runs, "acme", "normal")
    (first,) = (await queue_of(runs).lease("owner", _MOMENT, attempts_max=5)).runs
    await queue_of(runs).rescue(
        await queue_of(runs).expired(),
        attempts_max=5,
        backoff=RetryBackoff(first=_MOMENT, cap=_MOMENT),
    )
    (second,) = (await lease(runs, 1)).runs

    renewed = await queue_of(runs).renew([first], _MINUTE)
    ended = await queue_of(runs).end([LeaseResult.submitted(first)])

    assert (first.id, first.lease_owner, 2) == (second.id, second.lease_owner, second.attempts)
    assert ((), frozenset({first.id})) == (renewed.runs, renewed.lost)
    assert "a later read found the run dispatching by 'owner'" in ended.lost[first.id]
    assert second == await runs.get("acme", first.id)


async def test_repeated_lease_results_are_applied_once(runs: PolicyRunRepository) -> None:
    """By their transition id they answer the same; without it they are lost."""
    await add(runs, "acme", "normal", "normal")
    held = (await lease(runs, 2)).runs
    transition_id = uuid.uuid4()
    endings = [LeaseResult.released(run) for run in held]
    first = await queue_of(runs).end(endings, transition_id=transition_id)
    again = await queue_of(runs).end(endings, transition_id=transition_id)
    late = await queue_of(runs).end(endings)
    assert (first.versions, {}) == (again.versions, dict(again.lost))
    assert {run.id for run in held} == set(late.lost)
    assert 3 == len(await runs.events("acme", held[0].id))


async def test_a_submitted_run_has_no_error_of_an_earlier_attempt(runs: PolicyRunRepository) -> None:
    """As its own move does."""
    (run,) = await add(runs, "acme", "normal")
    (held,) = (await lease(runs, 1)).runs
    await queue_of(runs).end([LeaseResult.released(held, error="away")])
    (again,) = (await lease(runs, 1)).runs
    assert "away" == again.last_error
    await queue_of(runs).end([LeaseResult.submitted(again)])
    now = await runs.get("acme", run.id)
    assert now is not None
    assert (Status.SUBMITTED, None) == (now.status, now.last_error)


# Attempts and rescue


async def test_the_final_attempt_is_reported_and_is_the_last(runs: PolicyRunRepository) -> None:
    """What has had all of them is failed in place of being leased, by its own legal moves."""
    (run,) = await add(runs, "acme", "normal")
    reported = []
    for _ in range(3):
        taken = await lease(runs, 1, attempts_max=3)
        reported.append(run.id in taken.final_attempt_ids)
        await queue_of(runs).end([LeaseResult.released(taken.runs[0], error="away")])
    fourth = await lease(runs, 1, attempts_max=3)
    now = await runs.get("acme", run.id)
    assert [False, False, True] == reported
    assert ((), (run.id,)) == (fourth.runs, fourth.exhausted)
    assert now is not None
    assert (Status.FAILED, "all attempts were made: at most 3 are") == (
        now.status,
        now.last_error,
    )
    events = [event.status for event in await runs.events("acme", run.id)]
    assert [
        Status.PENDING,
        *[Status.DISPATCHING, Status.PENDING] * 3,
        Status.DISPATCHING,
        Status.FAILED,
    ] == events


async def test_released_attempts_do_not_count(runs: PolicyRunRepository) -> None:
    """However many deploys there were."""
    (run,) = await add(runs, "acme", "normal")
    for _ in range(4):
        (held,) = (await lease(runs, 1, attempts_max=2)).runs
        await queue_of(runs).end([LeaseResult.released(held)])
    first = await lease(runs, 1, attempts_max=2)
    assert (frozenset(), 5) == (first.final_attempt_ids, first.runs[0].attempts)
    await queue_of(runs).end([LeaseResult.released(first.runs[0], error="away")])
    assert {run.id} == (await lease(runs, 1, attempts_max=2)).final_attempt_ids


async def test_an_expired_lease_is_listed_and_its_run_is_rescued(runs: PolicyRunRepository) -> None:
    """With the back-off, its reason, and the attempt counted; one that was renewed since is left alone."""
    stopped, alive = await add(runs, "acme", "normal", "normal")
    held = {run.id: run for run in (await queue_of(runs).lease("gone", _MOMENT, attempts_max=5, limit=2)).runs}
    seen = await queue_of(runs).expired()
    await queue_of(runs).renew([held[alive.id]], _MINUTE)

    waits = RetryBackoff(first=timedelta(minutes=8), cap=timedelta(minutes=8))
    rescued = await queue_of(runs).rescue(seen, attempts_max=5, backoff=waits, actor="rescuer")

    assert {stopped.id, alive.id} == {sighting.job_id for sighting in seen}
    assert ((stopped.id,), ()) == (rescued.requeued, rescued.failed)
    now = await runs.get("acme", stopped.id)
    assert now is not None
    assert (Status.PENDING, 1) == (now.status, now.attempts)
    assert timedelta(minutes=4) <= now.available_at - now.updated_at <= timedelta(minutes=8)
    (*_, event) = await runs.events("acme", stopped.id)
    assert (True, "rescuer", "dispatching", "pending") == tuple(
        event.payload[name] for name in ("rescued", "actor", "from", "to")
    )
    late = await queue_of(runs).end([LeaseResult.submitted(held[stopped.id])])
    assert {stopped.id} == set(late.lost)


async def test_a_rescue_fails_at_the_final_attempt_and_cancels_a_canceled_run(runs: PolicyRunRepository) -> None:
    """Neither is tried again."""
    last, canceled = await add(runs, "acme", "normal", "normal")
    held = {run.id: run for run in (await queue_of(runs).lease("gone", _MOMENT, attempts_max=5, limit=2)).runs}
    asked = await runs.replace(held[canceled.id].request_cancellation(at=AT), "gone")
    assert asked.applied
    seen = {sighting.job_id: sighting for sighting in await queue_of(runs).expired(tenant_id="acme")}
    first = await queue_of(runs).rescue([seen[last.id]], attempts_max=1)
    second = await queue_of(runs).rescue([seen[canceled.id]], attempts_max=5)
    assert ((), (last.id,)) == (first.requeued, first.failed)
    assert ((canceled.id,), ()) == (second.requeued, second.failed)
    now = [await runs.get("acme", run.id) for run in (last, canceled)]
    assert [Status.FAILED, Status.CANCELED] == [run.status for run in now if run is not None]
    (*_, event) = await runs.events("acme", canceled.id)
    assert "canceled" == event.payload["to"]


async def test_expired_leases_of_one_tenant_are_only_its_own(runs: PolicyRunRepository) -> None:
    """And the longest ago come first."""
    await add(runs, "a", "normal")
    await add(runs, "b", "normal")
    (of_a,) = (await queue_of(runs).lease("gone", _MOMENT, attempts_max=5, tenant_id="a")).runs
    (of_b,) = (await queue_of(runs).lease("gone", _MOMENT, attempts_max=5, tenant_id="b")).runs
    assert [of_b.id] == [sighting.job_id for sighting in await queue_of(runs).expired(tenant_id="b")]
    assert [of_a.id, of_b.id] == [sighting.job_id for sighting in await queue_of(runs).expired()]
    assert [of_a.id] == [sighting.job_id for sighting in await queue_of(runs).expired(limit=1)]


_REFUSE_FAILURES = (
    "CREATE FUNCTION scheduler.refuse() RETURNS trigger LANGUAGE plpgsql "
    "AS $$ BEGIN RAISE EXCEPTION 'no failures today'; END $$",
    "CREATE TRIGGER refuse BEFORE UPDATE ON scheduler.policy_runs FOR EACH ROW WHEN (NEW.status = 4) "
    "EXECUTE FUNCTION scheduler.refuse()",
)


async def test_a_rejected_run_that_cannot_fail_breaks_a_lease_only_in_a_session(
    graphjobs_storage: Storage,
) -> None:
    """Alone, the others are leased all the same; in a session nothing is, and it says so."""
    async with graphjobs_storage.session() as session, session.begin():
        for statement in _REFUSE_FAILURES:
            await session.execute(text(statement))
    runs = graphjobs_storage.policy_runs
    (spent,) = await add(runs, "acme", "high", attempts=5)
    (sound,) = await add(runs, "acme", "normal")
    with pytest.raises(GraphJobsError, match="P0001"):
        async with graphjobs_storage.session() as session, session.begin():
            await lease(runs.using(session), 2)
    for run in (spent, sound):
        assert run == await runs.get("acme", run.id)
    taken = await lease(runs, 2)
    assert ([sound.id], (spent.id,)) == (ids(taken.runs), taken.exhausted)


async def test_a_heartbeat_writes_no_index(graphjobs_storage: Storage) -> None:
    """Renewing a lease is a HOT update: the row's next version stays on its page, and no index is written.

    All versions fit on the pages. Otherwise the count would depend on when a page is pruned, which transactions in
    other databases of the same server delay.
    """
    runs = graphjobs_storage.policy_runs
    async with graphjobs_storage.session() as session, session.begin():
        await session.execute(text("ALTER TABLE scheduler.policy_runs SET (fillfactor = 10)"))
    await add(runs, "acme", *["normal"] * 20)
    held = (await lease(runs, 20)).runs
    before = await _updates(graphjobs_storage)
    for _ in range(5):
        async with graphjobs_storage.session() as session, session.begin():
            held = (await queue_of(runs.using(session)).renew(held, _MINUTE)).runs
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
    held = {run.id: run for run in (await queue_of(runs).lease("gone", _MINUTE, attempts_max=5, limit=3)).runs}
    async with graphjobs_storage.session() as session, session.begin():
        for run, ahead in ((stopped, "1 day"), (alive, "1 day"), (short, "10 seconds")):
            await (await session.connection()).exec_driver_sql(
                "UPDATE scheduler.policy_runs SET updated_at = updated_at + $2::text::interval,"
                " lease_expires_at = lease_expires_at + $2::text::interval,"
                " last_attempt_at = last_attempt_at + $2::text::interval WHERE id = $1",
                (run.id, ahead),
            )
    await queue_of(runs).renew([held[alive.id]], _MINUTE)
    seen = await queue_of(runs).expired()
    assert [stopped.id] == [item.job_id for item in seen]
    assert (stopped.id,) == (await queue_of(runs).rescue(seen, attempts_max=5)).requeued
