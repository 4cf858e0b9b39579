"""Lost answers of calls that only the store of graph jobs has: transition ids of additions, and batches."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from graphjobs import DatabaseUnavailable, GraphJobStatus, JobAlreadyExists, OutcomeUnknown
from graphjobs.core.transitions import UpdateOutcome
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job
from tests.contract.domains import GraphJobs
from tests.contract.wired_storage import changes_nothing, cut_while_it_waits, injected, open_wired
from tests.faults.backend_monitor import Watch
from tests.faults.faulty_proxy import Wire


@pytest_asyncio.fixture
async def wired(wire: Wire, shared_settings: Settings, tenant: str) -> AsyncIterator[Storage]:
    """A storage behind the wire, with one connection and each statement prepared."""
    async with open_wired(wire, shared_settings) as storage:
        await GraphJobs(storage, tenant).prepare()
        yield storage


async def test_an_addition_that_another_call_made_changed_nothing_after_a_lost_answer(
    wired: Storage, wire: Wire, storage: Storage, tenant: str
) -> None:
    """The job is stored, but with another transition id; a repeated call reports that the id is taken."""
    job, transition_id = overlay_job(tenant), uuid.uuid4()
    taken = await storage.graph_jobs.add(job)
    with changes_nothing(wire):
        await wired.graph_jobs.add(job, transition_id=transition_id)
    with pytest.raises(JobAlreadyExists):
        await wired.graph_jobs.add(job, transition_id=transition_id)
    assert 1 == len(await storage.graph_jobs.events(taken.tenant_id, taken.id))


async def test_a_waiting_addition_that_lost_its_connection_and_then_its_id_changed_nothing(
    wired: Storage, wire: Wire, storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """The transaction that holds the id commits."""
    job = overlay_job(tenant)
    async with storage.session() as session, session.begin():
        await storage.graph_jobs.using(session).add(job)
        waiting = await cut_while_it_waits(wired.graph_jobs.add(job), wire, shared_watch)
    with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
        await waiting


async def test_many_additions_with_a_lost_answer_are_unknown_and_can_be_repeated(
    wired: Storage, wire: Wire, storage: Storage, tenant: str
) -> None:
    """The second call leaves out the stored jobs; each has one event."""
    jobs = [build_job(tenant) for _ in range(3)]
    await wired.graph_jobs.add_many([build_job(f"{tenant}-other")])
    with injected(wire), pytest.raises(OutcomeUnknown):
        await wired.graph_jobs.add_many(jobs)
    late = build_job(tenant)
    assert (late,) == await wired.graph_jobs.add_many([*jobs, late])
    assert [1] * 4 == [len(await storage.graph_jobs.events(tenant, job.id)) for job in (*jobs, late)]


async def test_two_batches_of_the_same_ids_never_deadlock(storage: Storage, shared_watch: Watch, tenant: str) -> None:
    """In opposite orders, with a lock on the job between: one of the batches adds each job once."""
    jobs = sorted((build_job(tenant) for _ in range(3)), key=lambda job: job.id)
    async with storage.session() as session:
        await storage.graph_jobs.using(session).add(jobs[1])
        both = [asyncio.create_task(storage.graph_jobs.add_many(batch)) for batch in (jobs, jobs[::-1])]
        await shared_watch.until_waiting(2)
        await session.rollback()
    batches = await asyncio.gather(*both)
    assert [0, 3] == sorted(len(batch) for batch in batches)
    assert [1, 1, 1] == [len(await storage.graph_jobs.events(tenant, job.id)) for job in jobs]


async def test_the_event_of_another_update_with_the_same_id_is_not_taken_for_a_lost_one(
    wired: Storage, wire: Wire, storage: Storage, shared_watch: Watch, tenant: str
) -> None:
    """The second update waits for a lock and loses its answer; it is applied, and reported so."""
    queued, shared = await storage.graph_jobs.add(build_job(tenant)), uuid.uuid4()
    started = await storage.graph_jobs.update(queued.start(at=AT), expected=GraphJobStatus.QUEUED, transition_id=shared)
    assert started.job is not None
    completed = started.job.complete(at=AT, graph_snapshot_id="graph")
    async with shared_watch.holding(queued.id):
        call = wired.graph_jobs.update(completed, expected=GraphJobStatus.RUNNING, transition_id=shared)
        waiting = await cut_while_it_waits(call, wire, shared_watch)
    result = await waiting
    assert (UpdateOutcome.APPLIED, completed) == (result.outcome, result.job)
