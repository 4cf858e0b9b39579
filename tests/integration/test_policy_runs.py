"""The repository of policy runs in autocommit and in a session."""

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
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
from graphjobs.policy_runs import repository as repository_module
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.repository import PostgresPolicyRunRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, expired_of, policy_run, queue_of
from tests.integration.states import (
    MICROSECOND,
    MINUTE,
    OWNER,
    add_leased,
    add_submitted,
    applied,
    ids,
    later,
    lease,
    payloads,
    read,
)

Status = PolicyRunStatus


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
    run = policy_run(tenant, run_id="nightly/7 \N{SNOWMAN}", **_FULL)

    stored = await runs.insert(run, actor="ci")

    assert run == stored.stored(updated_at=run.updated_at, available_at=run.available_at)
    assert abs(stored.updated_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert stored == await runs.get(tenant, run.id)
    assert stored == await runs.get(tenant, str(run.id).upper())
    assert stored == await runs.get_by_run_id(tenant, run.run_id)
    assert [{"to": "pending", "attempts": 0, "actor": "ci"}] == payloads(await runs.events(tenant, run.id))
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
    """JSONB returns 1e300 as 301 digits; the limit of the size is that of the request."""
    inputs = PolicyRunInputs(environment={"x": numbers})
    stored = await runs.insert(policy_run(tenant, inputs=inputs))
    assert inputs == stored.inputs
    assert stored == await runs.get(tenant, stored.id)


async def test_a_run_of_any_status_can_be_stored(runs: PolicyRunRepository, tenant: str) -> None:
    held = policy_run(tenant).lease(at=AT, owner=OWNER, until=later(60))
    for run in (
        held,
        held.submit(at=AT),
        held.submit(at=AT).complete(at=AT),
        held.fail(at=AT, error="broken"),
        policy_run(tenant).request_cancellation(at=AT, reason="not needed"),
        held.submit(at=AT).request_cancellation(at=AT),
    ):
        other = run.replace(id=uuid.uuid4(), run_id=str(uuid.uuid4()))
        stored = await runs.insert(other)
        assert other == stored.stored(updated_at=other.updated_at)
        assert stored == await runs.get(tenant, other.id)


async def test_a_second_insert_of_a_run_id_returns_the_first_run(runs: PolicyRunRepository, tenant: str) -> None:
    """The second insert adds no row and no event; another tenant may use the run id."""
    first = await add_leased(runs, policy_run(tenant, run_id="nightly"))

    again = await runs.insert(policy_run(tenant, run_id="nightly", priority="high"))
    others = await runs.insert(policy_run(f"{tenant}-other", run_id="nightly"))

    assert first == again
    assert others.id not in (first.id, None)
    assert ["pending", "dispatching"] == [event.status for event in await runs.events(tenant, first.id)]
    assert 1 == (await runs.count(tenant)).value


async def test_an_id_that_is_taken_is_an_error(runs: PolicyRunRepository, tenant: str) -> None:
    first = await runs.insert(policy_run(tenant))
    for tenant_id in (tenant, f"{tenant}-other"):
        with pytest.raises(JobAlreadyExists, match=f"a policy run with the id {first.id} already exists") as caught:
            await runs.insert(policy_run(tenant_id, id=first.id, run_id="another"))
        assert tenant not in str(caught.value)
    assert first == await runs.get(tenant, first.id)
    assert None is await runs.get(f"{tenant}-other", first.id)


async def test_get_of_an_unknown_run_returns_none(runs: PolicyRunRepository, tenant: str) -> None:
    """Text that is not a UUID has the same answer as an unknown UUID."""
    assert None is await runs.get(tenant, uuid.uuid4())
    assert None is await runs.get(tenant, "no id")
    assert None is await runs.get_by_run_id(tenant, "nobody's")
    assert () == tuple(await runs.events(tenant, uuid.uuid4()))
    assert () == tuple(await runs.events(tenant, "no id"))


@pytest.mark.parametrize("offset", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
async def test_immediate_availability_follows_the_clock_of_the_database(
    runs: PolicyRunRepository, tenant: str, offset: timedelta
) -> None:
    """With the clock of the caller the run would wait, or would come before earlier runs."""
    created_at = datetime.now(UTC) + offset
    run = await runs.insert(policy_run(tenant, available_at=created_at, created_at=created_at, queued_at=created_at))
    assert [run.id] == ids((await lease(runs, tenant, limit=10)).runs)
    assert created_at == run.created_at
    assert abs(run.available_at - datetime.now(UTC)) < MINUTE


async def test_a_later_available_at_is_kept(runs: PolicyRunRepository, tenant: str) -> None:
    """The run is not leased before that time."""
    available_at = datetime.now(UTC) + timedelta(hours=1)
    run = await runs.insert(policy_run(tenant, available_at=available_at))
    assert available_at == run.available_at
    assert () == (await lease(runs, tenant, limit=10)).runs


# Updates


async def test_each_legal_transition_is_stored_and_logged(runs: PolicyRunRepository, tenant: str) -> None:
    """Each answer is the stored row."""
    run = await runs.insert(policy_run(tenant))
    leased = applied(await runs.replace(run.lease(at=AT, owner=OWNER, until=later(60)), None, actor="by hand"))
    renewed = applied(await runs.replace(leased.renew(at=AT, until=later(120)), OWNER))
    released = applied(await runs.replace(renewed.release(at=AT, available_at=AT, error="away"), OWNER))
    again = applied(await runs.replace(released.lease(at=AT, owner="other", until=later(60)), None))
    submitted = applied(await runs.replace(again.submit(at=AT), "other"))
    completed = applied(await runs.replace(submitted.complete(at=AT), None))

    assert completed == await runs.get(tenant, run.id)
    events = await runs.events(tenant, run.id)
    assert [
        (None, "pending", 0),
        ("pending", "dispatching", 1),
        ("dispatching", "dispatching", 1),
        ("dispatching", "pending", 1),
        ("pending", "dispatching", 2),
        ("dispatching", "submitted", 2),
        ("submitted", "completed", 2),
    ] == [(event.payload.get("from"), event.payload["to"], event.payload["attempts"]) for event in events]
    versions = [event.created_at for event in events]
    assert sorted(set(versions)) == versions
    assert versions[-1] == completed.updated_at


@pytest.mark.parametrize("owner", [None, "other", "Owner", "owner "])
async def test_only_the_lease_owner_updates_a_dispatching_run(
    runs: PolicyRunRepository, tenant: str, owner: str | None
) -> None:
    """The answer to another owner has the owner of the lease, and nothing changes."""
    run = await add_leased(runs, policy_run(tenant))
    for target in (run.submit(at=AT), run.fail(at=AT, error="broken")):
        result = await runs.replace(target, owner)
        assert not result
        assert (UpdateOutcome.CONFLICT, run) == (result.outcome, result.job)
        assert "a later read found it dispatching by 'owner' at attempts 1" in result.reason
    assert run == await runs.get(tenant, run.id)
    assert 2 == len(await runs.events(tenant, run.id))


async def test_an_update_that_keeps_the_status_compares_the_version(runs: PolicyRunRepository, tenant: str) -> None:
    """Without the comparison an update would overwrite a heartbeat."""
    run = await add_leased(runs, policy_run(tenant))
    (renewed,) = (await queue_of(runs).renew([run], timedelta(hours=1))).runs
    stale = await runs.replace(run.request_cancellation(at=AT), OWNER)
    fresh = applied(await runs.replace(renewed.request_cancellation(at=AT, reason="not wanted"), OWNER))
    assert (UpdateOutcome.CONFLICT, renewed) == (stale.outcome, stale.job)
    assert ("not wanted", renewed.lease_expires_at) == (fresh.cancellation_reason, fresh.lease_expires_at)


async def test_a_concurrent_cancellation_request_is_kept(runs: PolicyRunRepository, tenant: str) -> None:
    """The answer has the request, and a run with a request is not released."""
    run = await add_leased(runs, policy_run(tenant))
    applied(await runs.replace(run.request_cancellation(at=AT, reason="not wanted"), OWNER))
    release = await runs.replace(run.release(at=AT, available_at=AT), OWNER)
    submitted = applied(await runs.replace(run.submit(at=AT), OWNER))
    assert UpdateOutcome.CONFLICT is release.outcome
    assert (Status.SUBMITTED, AT) == (submitted.status, submitted.cancellation_requested_at)
    assert (True, "not wanted") == (submitted.cancellation_requested, submitted.cancellation_reason)
    assert submitted == await runs.get(tenant, run.id)


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
    """An update with another value is a conflict, and no part of it is stored."""
    run = await add_leased(runs, policy_run(tenant))
    result = await runs.replace(run.replace(**change).submit(at=AT), OWNER)
    assert (UpdateOutcome.CONFLICT, run) == (result.outcome, result.job)
    assert "its request differs" in result.reason


async def test_an_illegal_update_has_both_statuses_in_its_reason(runs: PolicyRunRepository, tenant: str) -> None:
    """An update that keeps the status pending is a conflict, and one of a missing run is not found."""
    pending = await runs.replace(await runs.insert(policy_run(tenant)), OWNER)
    submitted = await add_submitted(runs, policy_run(tenant, priority="high"))
    illegal = await runs.replace(submitted.complete(at=AT), OWNER)
    missing = await runs.replace(policy_run(tenant).cancel(at=AT), None)
    assert (UpdateOutcome.CONFLICT, UpdateOutcome.ILLEGAL) == (pending.outcome, illegal.outcome)
    assert "a policy run cannot go from dispatching to completed" in illegal.reason
    assert (UpdateOutcome.NOT_FOUND, None) == (missing.outcome, missing.job)


async def test_the_transition_id_of_another_update_is_refused(runs: PolicyRunRepository, tenant: str) -> None:
    """A second use of the id would make the answer of the first update wrong."""
    run, transition_id = await add_leased(runs, policy_run(tenant)), uuid.uuid4()
    submitted = applied(await runs.replace(run.submit(at=AT), OWNER, transition_id=transition_id))
    with pytest.raises(InvalidJob, match="belongs to another transition") as caught:
        await runs.replace(run.fail(at=AT, error="broken"), OWNER, transition_id=transition_id)
    assert "transition_id" == caught.value.field
    assert submitted == await runs.get(tenant, run.id)


# Pages


async def test_pages_are_newest_first_and_hold_each_run_once(runs: PolicyRunRepository, tenant: str) -> None:
    """Runs of one time are in the order of their ids."""
    stored = [await runs.insert(policy_run(tenant, queued_at=later(step // 3))) for step in range(10)]
    expected = sorted(stored, key=lambda run: (run.queued_at, run.id), reverse=True)
    pages = [await runs.list(tenant, PolicyRunQuery(limit=3))]
    while (cursor := pages[-1].next_cursor) is not None:
        pages.append(await runs.list(tenant, PolicyRunQuery(limit=3, cursor=cursor)))
    whole = await runs.list(tenant, PolicyRunQuery(limit=10))
    assert expected == [run for page in pages for run in page.runs] == list(whole.runs)
    assert (4, None) == (len(pages), whole.next_cursor)


async def test_filters_combine(runs: PolicyRunRepository, tenant: str) -> None:
    """Lists and counts have the runs that match all filters."""
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
            run = run.lease(at=AT, owner=OWNER, until=later(60)).fail(at=AT, error="broken")
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
    """A cursor with another filter or tenant is refused."""
    for _ in range(3):
        await runs.insert(policy_run(tenant))
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
    """The text of a larger count says that there are more."""
    for _ in range(6):
        await runs.insert(policy_run(tenant))
    assert "6" == str(await runs.count(tenant))
    monkeypatch.setattr(repository_module, "COUNT_MAX", 5)
    assert "more than 5" == str(await runs.count(tenant))
    assert COUNT_MAX == 10_000


# Metrics


async def test_percentiles_are_of_the_newest_runs_of_all_modes(
    runs: PolicyRunRepository, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mode has more completed runs than the cap, and `completed` is the number of the compared runs."""
    monkeypatch.setattr(repository_module, "SAMPLE_MAX", 10)
    for mode, seconds in (("full", 2_000), ("simulate", 10)):
        queued_at = datetime.now(UTC) - timedelta(seconds=seconds)
        for _ in range(12):
            run = policy_run(tenant, mode=mode, queued_at=queued_at)
            await runs.insert(run.lease(at=AT, owner=OWNER, until=later(60)).submit(at=AT).complete(at=AT))
    metrics = await runs.metrics(tenant)
    assert 10 == metrics.completed
    assert pytest.approx(10, abs=9) == metrics.p50 == pytest.approx(metrics.p99, abs=9)


async def test_metrics_have_depth_age_and_latency(runs: PolicyRunRepository, tenant: str) -> None:
    """Depths and ages by mode and priority; percentiles of the completed runs, by the clock of the database."""
    now = datetime.now(UTC)
    for minutes, priority in ((1, "normal"), (5, "normal"), (2, "emergency")):
        await runs.insert(policy_run(tenant, priority=priority, queued_at=now - timedelta(minutes=minutes)))
    await runs.insert(policy_run(tenant, mode="simulate", queued_at=now + timedelta(hours=1)))
    for hours in (1, 2, 3, 100):
        queued = now - timedelta(hours=hours)
        # The insertion sets the version, which is the time of the completion.
        leased = policy_run(tenant, queued_at=queued).lease(at=queued, owner=OWNER, until=queued)
        await runs.insert(leased.submit(at=queued).complete(at=queued))
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


# Invalid arguments; tests/faults/test_policy_hostile.py has the others


def test_an_invalid_status_is_named_with_its_place() -> None:
    """A public status is not a filter."""
    with pytest.raises(InvalidJob) as caught:
        PolicyRunQuery(statuses=("queued",))  # type: ignore[arg-type]
    assert "statuses.0" == caught.value.field


async def test_a_tenant_with_a_newline_at_its_end_is_refused(storage: Storage) -> None:
    """The error names the field."""
    with pytest.raises(InvalidJob) as caught:
        await storage.policy_runs.list("acme\n")
    assert "tenant_id" == caught.value.field


# Sessions


async def test_a_rolled_back_transaction_changes_nothing(storage: Storage, tenant: str) -> None:
    """Neither an insertion nor a lease is stored."""
    async with storage.session() as session:
        run = await add_leased(storage.policy_runs.using(session), policy_run(tenant))
        await session.rollback()
    assert None is await storage.policy_runs.get(tenant, run.id)


async def test_pending_runs_send_a_notification(graphjobs_settings: Settings) -> None:
    """The setting `notify` sends one after an insertion and after a release without a delay."""
    notified = asyncio.Event()

    async def is_notified() -> bool:
        await asyncio.wait_for(notified.wait(), 10)
        notified.clear()
        return True

    async with open_storage(graphjobs_settings.model_copy(update={"notify": True})) as storage:
        listening = asyncio.ensure_future(storage.listen(notified.set))
        assert await is_notified(), "listening begins with a notification"
        run = await storage.policy_runs.insert(policy_run())
        assert await is_notified()
        (leased,) = (await lease(storage.policy_runs)).runs
        assert not notified.is_set()
        await storage.policy_run_queue.end([LeaseResult.released(leased)])
        assert await is_notified()
        assert run.id == leased.id
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


# Round trips


class _Counting:
    """An executor that counts the statements it runs: in autocommit a statement is one round trip."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.number = 0

    async def fetch_all(self, statement: Executable, params: Params) -> Sequence[Row]:
        self.number += 1
        return await self._executor.fetch_all(statement, params)

    def using(self, session: AsyncSession) -> SessionExecutor:
        return self._executor.using(session)


async def test_each_method_is_one_round_trip(storage: Storage, tenant: str) -> None:
    counting = _Counting(storage.database)
    runs, queue = PostgresPolicyRunRepository(counting), PolicyRunQueue(counting)
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
    (leased,) = (await counted(queue.lease(OWNER, MINUTE, attempts_max=5, tenant_id=tenant))).runs
    await counted(queue.lease(OWNER, MINUTE, attempts_max=5, limit=1))
    await counted(queue.renew([leased], MICROSECOND))
    await counted(queue.expired(tenant_id=tenant))
    await counted(queue.rescue(await expired_of(queue, tenant), attempts_max=5))
    other = await add_leased(runs, policy_run(tenant, priority="emergency"))
    await counted(queue.end([LeaseResult.submitted(other)]))
    submitted = await read(runs, other)
    assert await counted(runs.replace(submitted.complete(at=AT), None))
    await counted(runs.list(tenant))
    await counted(runs.count(tenant))
    await counted(runs.events(tenant, run.id))
    await counted(runs.metrics(tenant))
