"""Calls with another tenant: each answers as for a run that is not stored, and changes nothing."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs import InvalidJob, JobAlreadyExists, JobNotFound, PolicyRunJob, PolicyRunStatus
from graphjobs.core.results import StalledItem
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.policy_runs.attempt_results import LeaseResult
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.requests import PolicyRunCompletion
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.storage import Storage
from tests.builders import AT, policy_run, queue_of, run_request
from tests.contract.domains import MINUTE, PolicyRuns

Status = PolicyRunStatus

Verb = Callable[[PolicyRunRepository, str, PolicyRunJob], Awaitable[Any]]


@dataclass(frozen=True)
class Scene:
    """Runs of one tenant in several states, and a repository in autocommit or in a session.

    Attributes:
        other: the tenant that makes the calls, and has no runs at first.
    """

    runs: PolicyRunRepository
    session: AsyncSession | None
    storage: Storage
    other: str
    pending: PolicyRunJob
    leased: PolicyRunJob
    expired: PolicyRunJob
    submitted: PolicyRunJob
    failed: PolicyRunJob

    @property
    def all(self) -> list[PolicyRunJob]:
        """All runs."""
        return [self.pending, self.leased, self.expired, self.submitted, self.failed]

    async def rows(self) -> Sequence[Any]:
        """Read the rows and events of both tenants, as text."""
        statement = (
            "SELECT run::text FROM scheduler.policy_runs AS run WHERE tenant_id = ANY($1)"
            " UNION ALL SELECT event::text FROM scheduler.policy_run_events AS event WHERE tenant_id = ANY($1)"
            " ORDER BY 1"
        )
        binds = ([self.pending.tenant_id, self.other],)
        if self.session is not None:
            return (await (await self.session.connection()).exec_driver_sql(statement, binds)).all()
        async with self.storage.session() as session:
            return (await (await session.connection()).exec_driver_sql(statement, binds)).all()


@pytest_asyncio.fixture(params=["alone", "in a session"])
async def scene(request: pytest.FixtureRequest, storage: Storage, tenant: str) -> AsyncIterator[Scene]:
    """Runs of one tenant; the name of the other tenant differs only in case."""
    runs = storage.policy_runs
    for _ in range(4):
        await runs.insert(policy_run(tenant, priority="high"))
    batch = await storage.policy_run_queue.lease("A", MINUTE, attempts_max=9, limit=4, tenant_id=tenant)
    leased, expired, submitted, failed = batch.runs
    await storage.policy_run_queue.renew([expired], timedelta(microseconds=1))
    await storage.policy_run_queue.end(
        [LeaseResult.submitted(submitted), LeaseResult.failed(failed, "no engine took it")]
    )
    pending = await runs.insert(policy_run(tenant))
    found = [await runs.get(tenant, run.id) for run in (pending, leased, expired, submitted, failed)]
    stored = [run for run in found if run is not None]
    if request.param == "alone":
        yield Scene(runs, None, storage, tenant.upper(), *stored)
        return
    async with storage.session() as session, session.begin():
        yield Scene(runs.using(session), session, storage, tenant.upper(), *stored)


async def answer_of(call: Awaitable[Any], run: PolicyRunJob) -> Any:
    """Return the answer or the error of a call as text, without the ids of the run."""
    try:
        answer = await call
    except (JobNotFound, InvalidJob) as error:
        answer = error
    return repr(answer).replace(run.run_id, "<name>").replace(str(run.id), "<id>")


VERBS: Final[dict[str, Verb]] = {
    "get": lambda runs, tenant, run: runs.get(tenant, run.id),
    "get by text": lambda runs, tenant, run: runs.get(tenant, str(run.id)),
    "get_by_run_id": lambda runs, tenant, run: runs.get_by_run_id(tenant, run.run_id),
    "list": lambda runs, tenant, _run: runs.list(tenant),
    "list of a policy": lambda runs, tenant, run: runs.list(
        tenant, PolicyRunQuery(policy_id=run.policy_id, mode=run.mode)
    ),
    "count": lambda runs, tenant, _run: runs.count(tenant),
    "events": lambda runs, tenant, run: runs.events(tenant, run.id),
    "metrics": lambda runs, tenant, _run: runs.metrics(tenant, window=timedelta(days=366)),
    "lease": lambda runs, tenant, _run: queue_of(runs).lease("B", MINUTE, attempts_max=9, limit=99, tenant_id=tenant),
    "expired": lambda runs, tenant, _run: queue_of(runs).expired(tenant_id=tenant),
    "bring_forward": lambda runs, tenant, _run: queue_of(runs).bring_forward(MINUTE, tenant_id=tenant),
    "rescue": lambda runs, tenant, run: queue_of(runs).rescue(
        [StalledItem(run.id, tenant, run.updated_at, run.attempts)], attempts_max=1
    ),
    "get of the service": lambda runs, tenant, run: PolicyRunService(runs).get(tenant, run.run_id),
    "list of the service": lambda runs, tenant, _run: PolicyRunService(runs).list(tenant),
    "count of the service": lambda runs, tenant, _run: PolicyRunService(runs).count(tenant),
    "metrics of the service": lambda runs, tenant, _run: PolicyRunService(runs).metrics(tenant),
    "request_cancellation": lambda runs, tenant, run: PolicyRunService(runs).request_cancellation(tenant, run.run_id),
    "complete": lambda runs, tenant, run: PolicyRunService(runs).complete(
        tenant, PolicyRunCompletion(run_id=run.run_id, status="completed")
    ),
    "retry": lambda runs, tenant, run: PolicyRunService(runs).retry(tenant, run.run_id, new_run_id="again"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_the_run_of_another_tenant_is_answered_as_one_that_is_not_stored(scene: Scene, verb: str) -> None:
    before = await scene.rows()
    for run in scene.all:
        missing = run.replace(id=uuid.uuid4(), run_id=f"run:{uuid.uuid4()}")
        answer = await answer_of(VERBS[verb](scene.runs, scene.other, run), run)
        assert await answer_of(VERBS[verb](scene.runs, scene.other, missing), missing) == answer
    assert before == await scene.rows()


async def test_the_lease_of_another_tenant_can_neither_be_renewed_nor_finished(scene: Scene) -> None:
    before = await scene.rows()
    run = scene.leased.replace(tenant_id=scene.other)
    for make in PolicyRuns.results.values():
        finished = await queue_of(scene.runs).end([make(run)])
        assert ({}, {run.id: f"tenant {scene.other!r} has no such run"}) == (finished.versions, finished.lost)
        assert frozenset() == finished.busy
    renewed = await queue_of(scene.runs).renew([run], MINUTE)
    assert ((), frozenset({run.id}), frozenset()) == (renewed.runs, renewed.lost, renewed.busy)
    assert before == await scene.rows()


async def test_no_update_changes_the_run_of_another_tenant(scene: Scene) -> None:
    before = await scene.rows()
    leased, pending, submitted = [
        run.replace(tenant_id=scene.other) for run in (scene.leased, scene.pending, scene.submitted)
    ]
    (event, *_) = (await scene.runs.events(scene.pending.tenant_id, scene.pending.id))[-1:]
    for target, owner in (
        (pending.lease(at=AT, owner="B", until=AT), None),
        (pending.request_cancellation(at=AT), None),
        (leased.submit(at=AT), "A"),
        (leased.renew(at=AT, until=AT), "A"),
        (leased.request_cancellation(at=AT), "A"),
        (leased.release(at=AT, available_at=AT), "A"),
        (submitted.complete(at=AT), None),
        (submitted.request_cancellation(at=AT), None),
        (submitted.fail(at=AT, error="x"), None),
    ):
        for transition in (None, uuid.UUID(event.payload["transitionId"])):
            result = await scene.runs.replace(target, owner, transition_id=transition)
            assert (UpdateOutcome.NOT_FOUND, None, None) == (result.outcome, result.job, result.event_id)
            assert f"tenant {scene.other!r} has no policy run {target.id}" == result.reason
    assert before == await scene.rows()


async def test_a_run_with_a_wrong_tenant_does_not_affect_the_other_runs_of_a_call(scene: Scene) -> None:
    await scene.runs.insert(policy_run(scene.other))
    (own,) = (await queue_of(scene.runs).lease("A", MINUTE, attempts_max=9, tenant_id=scene.other)).runs
    wrong = scene.leased.replace(tenant_id=scene.other)

    renewed = await queue_of(scene.runs).renew([wrong, own], MINUTE)
    stalled = [StalledItem(scene.expired.id, scene.other, scene.expired.updated_at, 1)]
    rescued = await queue_of(scene.runs).rescue(stalled, attempts_max=3)
    ended = await queue_of(scene.runs).end([LeaseResult.submitted(wrong), LeaseResult.submitted(own)])

    assert ([own.id], frozenset({wrong.id})) == ([run.id for run in renewed.runs], renewed.lost)
    assert ((), ()) == (rescued.requeued, rescued.failed)
    assert ({own.id}, {wrong.id}) == (set(ended.versions), set(ended.lost))
    assert [run.updated_at for run in scene.all] == [
        found.updated_at for run in scene.all if (found := await scene.runs.get(run.tenant_id, run.id)) is not None
    ]


async def test_two_results_of_one_statement_with_swapped_tenants_change_nothing(scene: Scene) -> None:
    await scene.runs.insert(policy_run(scene.other))
    (own,) = (await queue_of(scene.runs).lease("A", MINUTE, attempts_max=9, tenant_id=scene.other)).runs
    before = await scene.rows()

    crossed = [scene.leased.replace(tenant_id=scene.other), own.replace(tenant_id=scene.leased.tenant_id)]
    renewed = await queue_of(scene.runs).renew(crossed, MINUTE)
    ended = await queue_of(scene.runs).end(map(LeaseResult.submitted, crossed))
    rescued = await queue_of(scene.runs).rescue(
        [StalledItem(run.id, run.tenant_id, run.updated_at, run.attempts) for run in crossed], attempts_max=3
    )

    ids = frozenset(run.id for run in crossed)
    assert ((), ids, frozenset()) == (renewed.runs, renewed.lost, renewed.busy)
    assert ({}, ids) == (ended.versions, frozenset(ended.lost))
    assert ((), ()) == (rescued.requeued, rescued.failed)
    assert before == await scene.rows()


async def test_two_tenants_may_use_the_same_run_id(scene: Scene) -> None:
    """The repository and the service insert a second run, and the list of the first tenant stays as it was."""
    before = {run.id for run in scene.all}
    for number, run in enumerate(scene.all):
        if number % 2:
            answer = await scene.runs.insert(policy_run(scene.other, run_id=run.run_id))
        else:
            answer = await PolicyRunService(scene.runs).enqueue(run_request(scene.other, run_id=run.run_id))
        assert (scene.other, run.run_id, Status.PENDING) == (answer.tenant_id, answer.run_id, answer.status)
        assert answer.id not in before
    assert before == {run.id for run in (await scene.runs.list(scene.leased.tenant_id)).runs}


async def test_an_insertion_with_the_id_of_another_tenants_run_is_refused(scene: Scene) -> None:
    before = await scene.rows()
    with pytest.raises(JobAlreadyExists) as caught:
        await scene.runs.insert(policy_run(scene.other, id=scene.leased.id))
    assert scene.leased.tenant_id not in str(caught.value)
    assert before == await scene.rows()


async def test_a_cursor_of_another_tenants_page_is_refused(scene: Scene) -> None:
    page = await scene.runs.list(scene.leased.tenant_id, PolicyRunQuery(limit=2))
    assert page.next_cursor is not None
    with pytest.raises(InvalidJob) as caught:
        await scene.runs.list(scene.other, PolicyRunQuery(limit=2, cursor=page.next_cursor))
    assert "cursor" == caught.value.field
