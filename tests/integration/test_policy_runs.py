"""The repository of policy runs on a real database, alone and inside a session of the caller's."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs import (
    InvalidJob,
    JobAlreadyExists,
    PolicyRunInputs,
    PolicyRunJob,
    PolicyRunMode,
    PolicyRunPriority,
    PolicyRunRepository,
    PolicyRunStatus,
    open_storage,
)
from graphjobs.core.pagination import COUNT_MAX
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.database.executor import Executor, Params, Row, SessionExecutor
from graphjobs.policy_runs import repository as repository_room
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.repository import PostgresPolicyRunRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of

Status = PolicyRunStatus

_MINUTE = timedelta(minutes=1)


@pytest_asyncio.fixture(params=["alone", "in a session"])
async def runs(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[PolicyRunRepository]:
    """The repository, both ways: what it promises is the same."""
    if request.param == "alone":
        yield storage.policy_runs
        return
    async with storage.session() as session, session.begin():
        yield storage.policy_runs.using(session)


async def leased(runs: PolicyRunRepository, run: PolicyRunJob, owner: str = "owner") -> PolicyRunJob:
    """Stores a run and leases it."""
    await runs.insert(run)
    (found,) = (await queue_of(runs).lease(owner, _MINUTE, attempts_max=5, tenant_id=run.tenant_id)).runs
    return found


async def submitted(runs: PolicyRunRepository, run: PolicyRunJob) -> PolicyRunJob:
    """Stores a run, leases it, and hands it over."""
    held = await leased(runs, run)
    result = await runs.replace(held.submit(at=AT), "owner")
    assert result.job is not None
    return result.job


async def log(runs: PolicyRunRepository, run: PolicyRunJob) -> list[dict[str, Any]]:
    """What the log tells of a run, without ids."""
    payloads = [dict(event.payload) for event in await runs.events(run.tenant_id, run.id)]
    for payload in payloads:
        assert uuid.UUID(payload.pop("transitionId"))
        payload.pop("digest", None)
    return payloads


def later(step: int) -> datetime:
    """A time, in order."""
    return AT + timedelta(seconds=step)


# Inserts and reads

_FULL = {
    "policy_version": 3,
    "mode": "incremental",
    "priority": "emergency",
    "requested_by": "ci",
    "correlation_id": "upload-7",
    "metadata": {"branch": "main", "note": "tab\tand\nline"},
    "inputs": PolicyRunInputs(
        sbom_set=("b", "a"),
        advisory_cursor=AT,
        vex_cursor=AT,
        environment={"sealed": True, "levels": [1, 2.5, None, {"deep": "\N{SNOWMAN}"}], "big": 2**62},
        capture_explain=True,
    ),
}


async def test_a_run_is_read_as_stored(runs: PolicyRunRepository, tenant: str) -> None:
    """Every field, whichever key asks; the version is the database's."""
    run = policy_run(tenant, run_id="nightly/7 \N{SNOWMAN}", **_FULL)

    stored = await runs.insert(run, actor="ci")

    assert run == stored.stored(updated_at=run.updated_at, available_at=run.available_at)
    assert abs(stored.updated_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert stored == await runs.get(tenant, run.id)
    assert stored == await runs.get(tenant, str(run.id).upper())
    assert stored == await runs.get_by_run_id(tenant, run.run_id)
    assert [{"to": "pending", "attempts": 0, "actor": "ci"}] == await log(runs, run)
    (event,) = await runs.events(tenant, run.id)
    assert (stored.updated_at, Status.PENDING) == (event.created_at, event.status)


@pytest.mark.parametrize(
    "numbers",
    [[1e300] * 300, [1e300] * 9_000, [1e-300] * 9_000, [10**300] * 300, [1e16] * 2_700, [1e18] * 2_700],
    ids=lambda numbers: f"{len(numbers)} times {float(numbers[0])}",
)
async def test_numbers_that_the_database_reformats_are_read_as_stored(
    runs: PolicyRunRepository, tenant: str, numbers: list[float]
) -> None:
    """The limit holds for what was asked for, in both directions: JSONB gives 1e300 back as 301 digits."""
    inputs = PolicyRunInputs(environment={"x": numbers})
    stored = await runs.insert(policy_run(tenant, inputs=inputs))
    assert inputs == stored.inputs
    assert stored == await runs.get(tenant, stored.id)


async def test_a_run_of_any_status_can_be_stored(runs: PolicyRunRepository, tenant: str) -> None:
    """As a migration would."""
    held = policy_run(tenant).lease(at=AT, owner="owner", until=later(60))
    for run in (
        held,
        held.submit(at=AT),
        held.submit(at=AT).complete(at=AT),
        held.fail(at=AT, error="so"),
        policy_run(tenant).request_cancellation(at=AT, reason="not needed"),
        held.submit(at=AT).request_cancellation(at=AT),
    ):
        other = run.replace(id=uuid.uuid4(), run_id=str(uuid.uuid4()))
        stored = await runs.insert(other)
        assert other == stored.stored(updated_at=other.updated_at)
        assert stored == await runs.get(tenant, other.id)


async def test_a_second_insert_of_a_run_id_returns_the_first_run(runs: PolicyRunRepository, tenant: str) -> None:
    """As it now is; the second one leaves no trace. Another tenant may use the name."""
    first = await leased(runs, policy_run(tenant, run_id="nightly"))

    again = await runs.insert(policy_run(tenant, run_id="nightly", priority="high"))
    others = await runs.insert(policy_run(f"{tenant}-other", run_id="nightly"))

    assert first == again
    assert others.id not in (first.id, None)
    assert ["pending", "dispatching"] == [event["to"] for event in await log(runs, first)]
    assert 1 == (await runs.count(tenant)).value


async def test_an_id_that_is_taken_is_an_error(runs: PolicyRunRepository, tenant: str) -> None:
    """By any tenant, which the error does not name; a session stays usable."""
    first = await runs.insert(policy_run(tenant))
    for tenant_id in (tenant, f"{tenant}-other"):
        with pytest.raises(JobAlreadyExists, match=f"a policy run with the id {first.id} already exists") as caught:
            await runs.insert(policy_run(tenant_id, id=first.id, run_id="another"))
        assert tenant not in str(caught.value)
    assert first == await runs.get(tenant, first.id)
    assert None is await runs.get(f"{tenant}-other", first.id)


async def test_get_of_an_unknown_run_returns_none(runs: PolicyRunRepository, tenant: str) -> None:
    """Also under text that is no id."""
    assert None is await runs.get(tenant, uuid.uuid4())
    assert None is await runs.get(tenant, "no id")
    assert None is await runs.get_by_run_id(tenant, "nobody's")
    assert () == tuple(await runs.events(tenant, uuid.uuid4()))
    assert () == tuple(await runs.events(tenant, "no id"))


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
async def test_immediate_availability_follows_the_clock_of_the_database(
    runs: PolicyRunRepository, tenant: str, off: timedelta
) -> None:
    """By a clock that is ahead it would wait; by one that is behind, pass those that wait."""
    made = datetime.now(UTC) + off
    now = await runs.insert(policy_run(tenant, available_at=made, created_at=made, queued_at=made))
    taken = await queue_of(runs).lease("owner", _MINUTE, attempts_max=5, limit=10, tenant_id=tenant)
    assert [now.id] == [run.id for run in taken.runs]
    assert made == now.created_at
    assert abs(now.available_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_later_available_at_is_kept(runs: PolicyRunRepository, tenant: str) -> None:
    """It is available when it says."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    later_on = await runs.insert(policy_run(tenant, available_at=ahead))

    taken = await queue_of(runs).lease("owner", _MINUTE, attempts_max=5, limit=10, tenant_id=tenant)

    assert ahead == later_on.available_at
    assert () == taken.runs


# Moves


async def test_each_legal_transition_is_stored_and_logged(runs: PolicyRunRepository, tenant: str) -> None:
    """From pending to the end, as the pure moves say; and each answer is the row."""
    run = await runs.insert(policy_run(tenant))
    held = await runs.replace(run.lease(at=AT, owner="owner", until=later(60)), None, actor="by hand")
    assert held.job is not None
    renewed = await runs.replace(held.job.renew(at=AT, until=later(120)), "owner")
    assert renewed.job is not None
    back = await runs.replace(renewed.job.release(at=AT, available_at=AT, error="away"), "owner")
    assert back.job is not None
    again = await runs.replace(back.job.lease(at=AT, owner="other", until=later(60)), None)
    assert again.job is not None
    taken = await runs.replace(again.job.submit(at=AT), "other")
    assert taken.job is not None
    done = await runs.replace(taken.job.complete(at=AT), None)

    assert all(result.applied and result for result in (held, renewed, back, again, taken, done))
    assert done.job == await runs.get(tenant, run.id)
    moves = [(event.get("from"), event["to"], event["attempts"]) for event in await log(runs, run)]
    assert [
        (None, "pending", 0),
        ("pending", "dispatching", 1),
        ("dispatching", "dispatching", 1),
        ("dispatching", "pending", 1),
        ("pending", "dispatching", 2),
        ("dispatching", "submitted", 2),
        ("submitted", "completed", 2),
    ] == moves
    versions = [event.created_at for event in await runs.events(tenant, run.id)]
    assert sorted(set(versions)) == versions
    assert done.job is not None
    assert versions[-1] == done.job.updated_at


@pytest.mark.parametrize("owner", [None, "other", "Owner", "owner "])
async def test_only_the_lease_owner_updates_a_dispatching_run(
    runs: PolicyRunRepository, tenant: str, owner: str | None
) -> None:
    """The answer to another owner has the owner of the lease, and nothing changes."""
    held = await leased(runs, policy_run(tenant))
    for move in (held.submit(at=AT), held.fail(at=AT, error="so")):
        result = await runs.replace(move, owner)
        assert not result
        assert UpdateOutcome.CONFLICT is result.outcome
        assert held == result.job
        assert "a later read found it dispatching by 'owner' at attempts 1" in result.reason
    assert held == await runs.get(tenant, held.id)
    assert 2 == len(await log(runs, held))


async def test_a_lost_attempt_is_not_ended_by_its_former_owner(runs: PolicyRunRepository, tenant: str) -> None:
    """Though he bears the same name: the attempt is another one."""
    first = await leased(runs, policy_run(tenant))
    await runs.replace(first.release(at=AT, available_at=AT), "owner")
    (second,) = (await queue_of(runs).lease("owner", _MINUTE, attempts_max=5, tenant_id=tenant)).runs

    late = await runs.replace(first.submit(at=AT), "owner")

    assert (UpdateOutcome.CONFLICT, second) == (late.outcome, late.job)
    assert (2, Status.DISPATCHING) == (second.attempts, second.status)


async def test_an_update_that_keeps_the_status_compares_the_version(runs: PolicyRunRepository, tenant: str) -> None:
    """Else a heartbeat of the holder would be written over."""
    held = await leased(runs, policy_run(tenant))
    await queue_of(runs).renew([held], timedelta(hours=1))
    stale = await runs.replace(held.request_cancellation(at=AT), "owner")
    assert stale.job is not None
    fresh = await runs.replace(stale.job.request_cancellation(at=AT, reason="why"), "owner")
    assert (UpdateOutcome.CONFLICT, UpdateOutcome.APPLIED) == (stale.outcome, fresh.outcome)
    assert fresh.job is not None
    assert (True, "why", stale.job.lease_expires_at) == (
        fresh.job.cancellation_requested,
        fresh.job.cancellation_reason,
        fresh.job.lease_expires_at,
    )


async def test_a_concurrent_cancellation_request_is_kept(runs: PolicyRunRepository, tenant: str) -> None:
    """The answer has the acknowledged request, and a run with a request is not released."""
    held = await leased(runs, policy_run(tenant))
    asked = await runs.replace(held.request_cancellation(at=AT, reason="why"), "owner")
    assert asked.applied

    back = await runs.replace(held.release(at=AT, available_at=AT), "owner")
    taken = await runs.replace(held.submit(at=AT), "owner")

    assert UpdateOutcome.CONFLICT is back.outcome
    assert taken.job is not None
    assert (Status.SUBMITTED, True, AT, "why") == (
        taken.job.status,
        taken.job.cancellation_requested,
        taken.job.cancellation_requested_at,
        taken.job.cancellation_reason,
    )
    assert taken.job == await runs.get(tenant, held.id)


@pytest.mark.parametrize(
    "change",
    [
        {"policy_id": "other"},
        {"policy_version": 4},
        {"mode": PolicyRunMode.SIMULATE},
        {"priority": PolicyRunPriority.HIGH},
        {"run_id": "other"},
        {"queued_at": later(1)},
        {"created_at": later(1)},
        {"metadata": {"a": "b"}},
        {"inputs": PolicyRunInputs(environment={"a": 1})},
        {"correlation_id": "c"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_the_requested_fields_never_change(
    runs: PolicyRunRepository, tenant: str, change: dict[str, Any]
) -> None:
    """A move of a value that says otherwise is refused, and not half stored."""
    held = await leased(runs, policy_run(tenant))
    result = await runs.replace(held.replace(**change).submit(at=AT), "owner")
    assert (UpdateOutcome.CONFLICT, held) == (result.outcome, result.job)
    assert "its request differs" in result.reason


async def test_an_illegal_update_is_reported_before_any_sql(runs: PolicyRunRepository, tenant: str) -> None:
    """By both words."""
    run = await runs.insert(policy_run(tenant))
    result = await runs.replace(run, "owner")
    done = (await submitted(runs, policy_run(tenant))).complete(at=AT)
    illegal = await runs.replace(done, "owner")
    missing = await runs.replace(policy_run(tenant).cancel(at=AT), None)
    assert (UpdateOutcome.CONFLICT, UpdateOutcome.ILLEGAL) == (result.outcome, illegal.outcome)
    assert "a policy run cannot go from dispatching to completed" in illegal.reason
    assert (UpdateOutcome.NOT_FOUND, None) == (missing.outcome, missing.job)


async def test_a_repeated_transition_id_is_applied_once(runs: PolicyRunRepository, tenant: str) -> None:
    """And answers the same; its id under another move is refused."""
    held = await leased(runs, policy_run(tenant))
    transition_id = uuid.uuid4()
    first = await runs.replace(held.submit(at=AT), "owner", transition_id=transition_id)
    again = await runs.replace(held.submit(at=AT), "owner", transition_id=transition_id)
    assert first == again
    assert first.applied
    assert 3 == len(await log(runs, held))
    with pytest.raises(InvalidJob, match="belongs to another transition") as caught:
        await runs.replace(held.fail(at=AT, error="so"), "owner", transition_id=transition_id)
    assert "transition_id" == caught.value.field


# Pages


async def test_pages_are_newest_first_and_hold_each_run_once(runs: PolicyRunRepository, tenant: str) -> None:
    """Ties by id; a cursor goes on where the page ended."""
    stored = [await runs.insert(policy_run(tenant, queued_at=later(step // 3))) for step in range(10)]
    expected = sorted(stored, key=lambda run: (run.queued_at, run.id), reverse=True)
    found: list[PolicyRunJob] = []
    cursor = None
    pages = 0
    while pages == 0 or cursor is not None:
        pages += 1
        page = await runs.list(tenant, PolicyRunQuery(limit=3, cursor=cursor))
        found += page.runs
        cursor = page.next_cursor
    assert expected == found
    assert 4 == pages
    assert expected == list((await runs.list(tenant, PolicyRunQuery(limit=10))).runs)
    assert None is (await runs.list(tenant, PolicyRunQuery(limit=10))).next_cursor


async def test_filters_combine(runs: PolicyRunRepository, tenant: str) -> None:
    """Each choice holds what a dictionary of the same runs would; and so counts."""
    stored: list[PolicyRunJob] = []
    for step in range(24):
        run = policy_run(
            tenant,
            policy_id=f"P-{step % 2}",
            mode=("full", "simulate", "incremental")[step % 3],
            inputs=PolicyRunInputs(sbom_set=("a",)),
            queued_at=later(step),
        )
        if step % 4 == 1:
            run = run.cancel(at=AT)
        elif step % 4 == 2:
            run = run.lease(at=AT, owner="owner", until=later(60)).fail(at=AT, error="so")
        stored.append(await runs.insert(run))
    newest = stored[::-1]
    for policy, mode, statuses, after in itertools.product(
        (None, "P-1"),
        (None, PolicyRunMode.SIMULATE),
        ((), (Status.PENDING,), (Status.CANCELED, Status.FAILED)),
        (None, later(7)),
    ):
        expected = [
            run
            for run in newest
            if policy in (None, run.policy_id)
            and mode in (None, run.mode)
            and (not statuses or run.status in statuses)
            and (after is None or run.queued_at > after)
        ]
        query = PolicyRunQuery(policy_id=policy, mode=mode, statuses=statuses, queued_after=after, limit=100)
        assert expected == list((await runs.list(tenant, query)).runs)
        assert len(expected) == (await runs.count(tenant, query)).value


async def test_a_cursor_continues_its_own_list_only(runs: PolicyRunRepository, tenant: str) -> None:
    """Another filter, another tenant, or a list of graph jobs: refused by its name."""
    for _ in range(3):
        await runs.insert(policy_run(tenant))
        await runs.insert(policy_run(f"{tenant}-other"))
    cursor = (await runs.list(tenant, PolicyRunQuery(limit=1))).next_cursor
    assert 2 == len((await runs.list(tenant, PolicyRunQuery(cursor=cursor, limit=500))).runs)
    for call in (
        runs.list(tenant, PolicyRunQuery(mode=PolicyRunMode.FULL, cursor=cursor)),
        runs.list(tenant, PolicyRunQuery(policy_id="P-7", cursor=cursor)),
        runs.list(tenant, PolicyRunQuery(statuses=(Status.PENDING,), cursor=cursor)),
        runs.list(tenant, PolicyRunQuery(queued_after=AT, cursor=cursor)),
        runs.list(f"{tenant}-other", PolicyRunQuery(cursor=cursor)),
        runs.list(tenant, PolicyRunQuery(cursor="bogus")),
    ):
        with pytest.raises(InvalidJob, match=r"^cursor ") as caught:
            await call
        assert "cursor" == caught.value.field


async def test_a_count_is_exact_up_to_its_cap(
    runs: PolicyRunRepository, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it says that there are more."""
    for _ in range(6):
        await runs.insert(policy_run(tenant))
    assert "6" == str(await runs.count(tenant))
    monkeypatch.setattr(repository_room, "COUNT_MAX", 5)
    assert "more than 5" == str(await runs.count(tenant))
    assert COUNT_MAX == 10_000


# Metrics


async def test_percentiles_are_of_the_newest_of_all_modes(
    runs: PolicyRunRepository, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though there are more of each mode than are looked at; those counted are those looked at."""
    monkeypatch.setattr("graphjobs.policy_runs.repository.COUNT_MAX", 10)
    for mode, seconds in (("full", 2_000), ("simulate", 10)):
        queued_at = datetime.now(UTC) - timedelta(seconds=seconds)
        for _ in range(12):
            run = policy_run(tenant, mode=mode, queued_at=queued_at)
            await runs.insert(run.lease(at=AT, owner="owner", until=later(60)).submit(at=AT).complete(at=AT))
    metrics = await runs.metrics(tenant)
    assert 10 == metrics.completed
    assert pytest.approx(10, abs=9) == metrics.p50 == pytest.approx(metrics.p99, abs=9)


async def test_metrics_have_depth_age_and_latency(runs: PolicyRunRepository, tenant: str) -> None:
    """By mode and priority, each pair; percentiles of what was completed, by the database's clock."""
    now = datetime.now(UTC)
    for minutes, priority in ((1, "normal"), (5, "normal"), (2, "emergency")):
        await runs.insert(policy_run(tenant, priority=priority, queued_at=now - timedelta(minutes=minutes)))
    await runs.insert(policy_run(tenant, mode="simulate", queued_at=now + timedelta(hours=1)))
    for hours in (1, 2, 3, 100):
        queued = now - timedelta(hours=hours)
        # It is completed now, by the version of its row.
        held = policy_run(tenant, queued_at=queued).lease(at=queued, owner="owner", until=queued)
        await runs.insert(held.submit(at=queued).complete(at=queued))
    metrics = await runs.metrics(tenant)

    depths = {cell: depth for cell, depth in metrics.queue.items() if depth.count.value}
    assert 9 == len(metrics.queue)
    full, simulate = PolicyRunMode.FULL, PolicyRunMode.SIMULATE
    normal, emergency = PolicyRunPriority.NORMAL, PolicyRunPriority.EMERGENCY
    counts = {(full, normal): 2, (full, emergency): 1, (simulate, normal): 1}
    assert counts == {cell: depth.count.value for cell, depth in depths.items()}
    assert pytest.approx(300, abs=60) == depths[full, normal].oldest
    assert pytest.approx(120, abs=60) == depths[full, emergency].oldest
    assert 0 == depths[simulate, normal].oldest
    assert (3, timedelta(days=1)) == (metrics.completed, metrics.window)
    assert pytest.approx(7_200, abs=60) == metrics.p50
    assert metrics.p50 is not None
    assert metrics.p95 is not None
    assert metrics.p99 is not None
    assert metrics.p50 <= metrics.p95 <= metrics.p99
    assert pytest.approx(10_800, rel=0.05) == metrics.p99
    nobody = await runs.metrics(f"{tenant}-nobody")
    assert (None, 0, {None}) == (nobody.p50, nobody.completed, {depth.oldest for depth in nobody.queue.values()})


# Bad input


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda runs: runs.insert("run"), "job"),
        (lambda runs: runs.insert(policy_run(), actor=""), "actor"),
        (lambda runs: runs.get("", uuid.uuid4()), "tenant_id"),
        (lambda runs: runs.get("acme", 7), "job_id"),
        (lambda runs: runs.get_by_run_id("acme", "x" * 257), "run_id"),
        (lambda runs: runs.replace(None, None), "job"),
        (lambda runs: runs.replace(policy_run(), "x" * 10_000), "expected_lease_owner"),
        (lambda runs: runs.replace(policy_run(), None, transition_id="7"), "transition_id"),
        (lambda runs: runs.list("acme", PolicyRunQuery(limit=0)), "limit"),
        (lambda runs: runs.list("acme", PolicyRunQuery(limit=1_001)), "limit"),
        (lambda runs: runs.list("acme", PolicyRunQuery(limit=True)), "limit"),
        (lambda runs: runs.list("acme", PolicyRunQuery(mode="partial")), "mode"),  # type: ignore[arg-type]
        (lambda runs: runs.list("acme", PolicyRunQuery(statuses=("queued",))), "statuses.0"),  # type: ignore[arg-type]
        (lambda runs: runs.list("acme", PolicyRunQuery(policy_id="a\0b")), "policy_id"),
        (lambda runs: runs.list("acme", PolicyRunQuery(queued_after=datetime(2026, 1, 1))), "queued_after"),  # noqa: DTZ001
        (lambda runs: runs.list("acme\n"), "tenant_id"),
        (lambda runs: runs.count("acme", "full"), "query"),
        (lambda runs: runs.events("acme", uuid.uuid4(), after=-1), "after"),
        (lambda runs: runs.events("acme", uuid.uuid4(), limit=0), "limit"),
        (lambda runs: runs.metrics("acme", window=timedelta(0)), "window"),
        (lambda runs: runs.metrics("acme", window=timedelta(days=367)), "window"),
        (lambda runs: runs.metrics("acme", window=60), "window"),
    ],
)
async def test_an_error_names_the_invalid_field(
    storage: Storage, call: Callable[[Any], Awaitable[object]], field: str
) -> None:
    """Before any SQL."""
    with pytest.raises(InvalidJob) as caught:
        await call(storage.policy_runs)
    assert field == caught.value.field


# Sessions


async def test_a_rolled_back_transaction_changes_nothing(storage: Storage, tenant: str) -> None:
    """Runs and the caller's own rows commit or vanish together."""
    async with storage.session() as session:
        runs = storage.policy_runs.using(session)
        run = await runs.insert(policy_run(tenant))
        (held,) = (
            await storage.policy_run_queue.using(session).lease("owner", _MINUTE, attempts_max=5, tenant_id=tenant)
        ).runs
        assert run.id == held.id
        await session.rollback()
    assert None is await storage.policy_runs.get(tenant, run.id)


async def test_pending_runs_send_a_notification(graphjobs_settings: Settings) -> None:
    """If the settings say so: after an insertion, and after a release without a delay."""
    heard = asyncio.Event()
    async with open_storage(graphjobs_settings.model_copy(update={"notify": True})) as storage:
        listening = asyncio.ensure_future(storage.listen(heard.set))
        await asyncio.wait_for(heard.wait(), 10)  # it begins with one
        heard.clear()
        await storage.policy_runs.insert(policy_run())
        await asyncio.wait_for(heard.wait(), 10)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


# Round trips


class _Counting:
    """An executor that counts the statements it runs: alone, each is one round trip."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.number = 0

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        self.number += 1
        return await self._executor.fetch_all(statement, params)

    def using(self, session: AsyncSession) -> SessionExecutor:
        return self._executor.using(session)


async def test_each_method_is_one_round_trip(storage: Storage, tenant: str) -> None:
    """Where nothing is lost: a second read is for late calls only."""
    counting = _Counting(storage.database)
    runs = PostgresPolicyRunRepository(counting)
    run = policy_run(tenant)

    async def counted(call: Awaitable[Any]) -> Any:
        before = counting.number
        answer = await call
        assert before + 1 == counting.number
        return answer

    first = await counted(runs.insert(run))
    assert first == await counted(runs.insert(run.replace(id=uuid.uuid4())))
    await counted(runs.get(tenant, run.id))
    await counted(runs.get_by_run_id(tenant, run.run_id))
    (held,) = (await counted(PolicyRunQueue(counting).lease("owner", _MINUTE, attempts_max=5, tenant_id=tenant))).runs
    await counted(PolicyRunQueue(counting).lease("owner", _MINUTE, attempts_max=5, limit=1))
    await counted(PolicyRunQueue(counting).renew([held], timedelta(microseconds=1)))
    seen = await counted(PolicyRunQueue(counting).expired(tenant_id=tenant))
    await counted(PolicyRunQueue(counting).rescue(seen, attempts_max=5))
    other = await leased(runs, policy_run(tenant, priority="emergency"))
    await counted(PolicyRunQueue(counting).end([LeaseResult.submitted(other)]))
    now = await runs.get(tenant, other.id)
    assert now is not None
    assert await counted(runs.replace(now.complete(at=AT), None))
    await counted(runs.list(tenant))
    await counted(runs.count(tenant))
    await counted(runs.events(tenant, run.id))
    await counted(runs.metrics(tenant))
