"""Another tenant's policy run is as one that is not there: to each verb that names a tenant, and nothing changes."""

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

Status = PolicyRunStatus

MINUTE: Final = timedelta(minutes=1)
Verb = Callable[[PolicyRunRepository, str, PolicyRunJob], Awaitable[Any]]


@dataclass(frozen=True)
class Scene:
    """Runs of one tenant in each state that something can be done with, and a way to the repository."""

    runs: PolicyRunRepository
    session: AsyncSession | None
    storage: Storage
    thief: str
    pending: PolicyRunJob
    held: PolicyRunJob
    run_out: PolicyRunJob
    submitted: PolicyRunJob
    failed: PolicyRunJob

    @property
    def all(self) -> list[PolicyRunJob]:
        """Each of them."""
        return [self.pending, self.held, self.run_out, self.submitted, self.failed]

    async def rows(self) -> Sequence[Any]:
        """All that is stored of them, as text."""
        statement = (
            "SELECT run::text FROM scheduler.policy_runs AS run WHERE tenant_id = ANY($1)"
            " UNION ALL SELECT event::text FROM scheduler.policy_run_events AS event WHERE tenant_id = ANY($1)"
            " ORDER BY 1"
        )
        binds = ([self.pending.tenant_id, self.thief],)
        if self.session is not None:
            return (await (await self.session.connection()).exec_driver_sql(statement, binds)).all()
        async with self.storage.session() as session:
            return (await (await session.connection()).exec_driver_sql(statement, binds)).all()


@pytest_asyncio.fixture(params=["alone", "in a session"])
async def scene(request: pytest.FixtureRequest, storage: Storage, tenant: str) -> AsyncIterator[Scene]:
    """Runs of one tenant, made undisturbed, and both ways to them; the thief's name differs in case alone."""
    runs = storage.policy_runs
    for _ in range(4):
        await runs.insert(policy_run(tenant, priority="high"))
    leased = await storage.policy_run_queue.lease("A", MINUTE, attempts_max=9, limit=4, tenant_id=tenant)
    held, run_out, submitted, failed = leased.runs
    (run_out,) = (await storage.policy_run_queue.renew([run_out], timedelta(microseconds=1))).runs
    await storage.policy_run_queue.end(
        [LeaseResult.submitted(submitted), LeaseResult.failed(failed, "no engine took it")]
    )
    pending = await runs.insert(policy_run(tenant))
    found = [await runs.get(tenant, run.id) for run in (pending, held, run_out, submitted, failed)]
    made = [run for run in found if run is not None]
    if request.param == "alone":
        yield Scene(runs, None, storage, tenant.upper(), *made)
        return
    async with storage.session() as session, session.begin():
        yield Scene(runs.using(session), session, storage, tenant.upper(), *made)


def stolen(thief: str, run: PolicyRunJob) -> PolicyRunJob:
    """A run as it is but for its tenant."""
    return run.replace(tenant_id=thief)


async def answer_of(call: Awaitable[Any], run: PolicyRunJob) -> Any:
    """Gives what a call answers or raises, without the ids that differ from run to run and from call to call."""
    try:
        answer = await call
    except (JobNotFound, InvalidJob) as error:
        answer = error
    return repr(answer).replace(run.run_id, "<name>").replace(str(run.id), "<id>")


VERBS: Final[dict[str, Verb]] = {
    "get": lambda runs, thief, run: runs.get(thief, run.id),
    "get by its text": lambda runs, thief, run: runs.get(thief, str(run.id)),
    "get_by_run_id": lambda runs, thief, run: runs.get_by_run_id(thief, run.run_id),
    "list": lambda runs, thief, _run: runs.list(thief),
    "list of a policy": lambda runs, thief, run: runs.list(
        thief, PolicyRunQuery(policy_id=run.policy_id, mode=run.mode)
    ),
    "count": lambda runs, thief, _run: runs.count(thief),
    "events": lambda runs, thief, run: runs.events(thief, run.id),
    "metrics": lambda runs, thief, _run: runs.metrics(thief, window=timedelta(days=366)),
    "lease": lambda runs, thief, _run: queue_of(runs).lease("B", MINUTE, attempts_max=9, limit=99, tenant_id=thief),
    "expired": lambda runs, thief, _run: queue_of(runs).expired(tenant_id=thief),
    "rescue": lambda runs, thief, run: queue_of(runs).rescue(
        [StalledItem(run.id, thief, run.updated_at, run.attempts)], attempts_max=1
    ),
    "get of the service": lambda runs, thief, run: PolicyRunService(runs).get(thief, run.run_id),
    "list of the service": lambda runs, thief, _run: PolicyRunService(runs).list(thief),
    "count of the service": lambda runs, thief, _run: PolicyRunService(runs).count(thief),
    "metrics of the service": lambda runs, thief, _run: PolicyRunService(runs).metrics(thief),
    "request_cancellation": lambda runs, thief, run: PolicyRunService(runs).request_cancellation(thief, run.run_id),
    "complete": lambda runs, thief, run: PolicyRunService(runs).complete(
        thief, PolicyRunCompletion(run_id=run.run_id, status="completed")
    ),
    "retry": lambda runs, thief, run: PolicyRunService(runs).retry(thief, run.run_id, new_run_id="again"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_another_tenants_run_is_as_one_that_is_not_there(scene: Scene, verb: str) -> None:
    """In each status the answer is that for a missing run, and no row and no event changes."""
    before = await scene.rows()
    for run in scene.all:
        nobodys = run.replace(id=uuid.uuid4(), run_id=f"run:{uuid.uuid4()}")
        answer = await answer_of(VERBS[verb](scene.runs, scene.thief, run), run)
        assert await answer_of(VERBS[verb](scene.runs, scene.thief, nobodys), nobodys) == answer
    assert before == await scene.rows()


async def test_another_tenants_lease_can_neither_be_renewed_nor_ended(scene: Scene) -> None:
    """Even with its id, attempts, owner and version."""
    before = await scene.rows()
    held = stolen(scene.thief, scene.held)
    for how in (
        LeaseResult.submitted,
        LeaseResult.released,
        LeaseResult.canceled,
        lambda run: LeaseResult.failed(run, "x"),
    ):
        ended = await queue_of(scene.runs).end([how(held)])
        assert ({}, {held.id: f"tenant {scene.thief!r} has no such run"}) == (ended.versions, ended.lost)
        assert frozenset() == ended.busy
    renewed = await queue_of(scene.runs).renew([held], MINUTE)
    assert ((), frozenset({held.id}), frozenset()) == (renewed.runs, renewed.lost, renewed.busy)
    assert before == await scene.rows()


async def test_no_update_changes_the_run_of_another_tenant(scene: Scene) -> None:
    """From each status and with each transition id; the answer does not show the status of the run."""
    before = await scene.rows()
    held, pending, submitted = [stolen(scene.thief, run) for run in (scene.held, scene.pending, scene.submitted)]
    (event, *_) = (await scene.runs.events(scene.pending.tenant_id, scene.pending.id))[-1:]
    for move, owner in (
        (pending.lease(at=AT, owner="B", until=AT), None),
        (pending.request_cancellation(at=AT), None),
        (held.submit(at=AT), "A"),
        (held.renew(at=AT, until=AT), "A"),
        (held.request_cancellation(at=AT), "A"),
        (held.release(at=AT, available_at=AT), "A"),
        (submitted.complete(at=AT), None),
        (submitted.request_cancellation(at=AT), None),
        (submitted.fail(at=AT, error="x"), None),
    ):
        for transition in (None, uuid.UUID(event.payload["transitionId"])):
            result = await scene.runs.replace(move, owner, transition_id=transition)
            assert (UpdateOutcome.NOT_FOUND, None, None) == (result.outcome, result.job, result.event_id)
            assert f"tenant {scene.thief!r} has no policy run {move.id}" == result.reason
    assert before == await scene.rows()


async def test_of_many_only_the_tenants_own_are_touched(scene: Scene) -> None:
    """One statement has runs of both tenants: a wrong tenant does not affect the other runs."""
    await scene.runs.insert(policy_run(scene.thief))
    (own,) = (await queue_of(scene.runs).lease("A", MINUTE, attempts_max=9, tenant_id=scene.thief)).runs
    taken = stolen(scene.thief, scene.held)

    renewed = await queue_of(scene.runs).renew([taken, own], MINUTE)
    sightings = [StalledItem(scene.run_out.id, scene.thief, scene.run_out.updated_at, 1)]
    rescued = await queue_of(scene.runs).rescue(sightings, attempts_max=3)
    ended = await queue_of(scene.runs).end([LeaseResult.submitted(taken), LeaseResult.submitted(own)])

    assert ([own.id], frozenset({taken.id})) == ([run.id for run in renewed.runs], renewed.lost)
    assert ((), ()) == (rescued.requeued, rescued.failed)
    assert ({own.id}, {taken.id}) == (set(ended.versions), set(ended.lost))
    assert [run.updated_at for run in scene.all] == [
        found.updated_at for run in scene.all if (found := await scene.runs.get(run.tenant_id, run.id)) is not None
    ]


async def test_two_results_of_one_statement_with_swapped_tenants_change_nothing(scene: Scene) -> None:
    """Both tenants are in the statement, and both runs; what does not belong together is lost."""
    await scene.runs.insert(policy_run(scene.thief))
    (own,) = (await queue_of(scene.runs).lease("A", MINUTE, attempts_max=9, tenant_id=scene.thief)).runs
    before = await scene.rows()

    crossed = [stolen(scene.thief, scene.held), stolen(scene.held.tenant_id, own)]
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


async def test_names_of_runs_are_each_tenants_own(scene: Scene) -> None:
    """The same name is another run, by the repository and by the service; neither tells that another has it."""
    before = {run.id for run in scene.all}
    for number, run in enumerate(scene.all):
        if number % 2:
            answer = await scene.runs.insert(policy_run(scene.thief, run_id=run.run_id))
        else:
            answer = await PolicyRunService(scene.runs).enqueue(run_request(scene.thief, run_id=run.run_id))
        assert (scene.thief, run.run_id, Status.PENDING) == (answer.tenant_id, answer.run_id, answer.status)
        assert answer.id not in before
    assert before == {run.id for run in (await scene.runs.list(scene.held.tenant_id)).runs}


async def test_an_id_of_another_tenant_is_taken_and_the_error_names_no_tenant(scene: Scene) -> None:
    """Nor is the other's run given, as one of the same name would be."""
    before = await scene.rows()
    with pytest.raises(JobAlreadyExists) as caught:
        await scene.runs.insert(policy_run(scene.thief, id=scene.held.id))
    assert scene.held.tenant_id not in str(caught.value)
    assert before == await scene.rows()


async def test_a_cursor_of_another_tenants_page_is_refused(scene: Scene) -> None:
    """It is bound to its own query and tenant."""
    page = await scene.runs.list(scene.held.tenant_id, PolicyRunQuery(limit=2))
    assert page.next_cursor is not None
    with pytest.raises(InvalidJob) as caught:
        await scene.runs.list(scene.thief, PolicyRunQuery(limit=2, cursor=page.next_cursor))
    assert "cursor" == caught.value.field
