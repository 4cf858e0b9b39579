"""The queue's promises on a real database, alone and inside a session of the caller's."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from graphjobs import CorruptRow, GraphJobsError, GraphJobStatus, IllegalTransition, InvalidJob
from graphjobs.core.results import StalledItem
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.status import GraphJobType
from graphjobs.graph_jobs.store import GraphJobStore
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job

Status = GraphJobStatus

_BUILD, _OVERLAY = GraphJobType
_LONG_AGO = timedelta(microseconds=1)


@dataclass(frozen=True)
class Way:
    """One way to the queue, and SQL by hand on the same way."""

    queue: GraphJobQueue
    store: GraphJobStore
    session: AsyncSession | None
    storage: Storage

    async def sql(self, statement: str, *binds: object) -> None:
        """Does by hand what no code of ours would."""
        if self.session is not None:
            await (await self.session.connection()).exec_driver_sql(statement, binds)
            return
        async with self.storage.session() as session, session.begin():
            await (await session.connection()).exec_driver_sql(statement, binds)

    async def add(self, job: AnyJob) -> AnyJob:
        """Stores a job."""
        return await self.store.add(job)

    async def now(self, job: AnyJob) -> AnyJob:
        """Reads a job as it is."""
        found = await self.store.get_job(job.tenant_id, job.id)
        assert found is not None
        return found

    async def claimed(self, job: AnyJob) -> AnyJob:
        """Stores a job and claims it."""
        await self.store.add(job)
        (found,) = (await self.queue.claim(job.tenant_id, job.type, limit=1)).jobs
        return found


@pytest_asyncio.fixture(params=["alone", "in a session"])
async def way(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[Way]:
    """The queue, both ways: what it promises is the same."""
    if request.param == "alone":
        yield Way(storage.graph_job_queue, storage.graph_jobs, None, storage)
        return
    async with storage.session() as session, session.begin():
        yield Way(storage.graph_job_queue.using(session), storage.graph_jobs.using(session), session, storage)


@pytest_asyncio.fixture
async def alone(storage: Storage) -> Way:
    """The queue, each call its own transaction."""
    return Way(storage.graph_job_queue, storage.graph_jobs, None, storage)


def later(step: int) -> datetime:
    """A creation time, in order."""
    return AT + timedelta(seconds=step)


async def log(way: Way, job: AnyJob) -> list[dict[str, Any]]:
    """What the log tells of a job, without ids."""
    told = [dict(event.payload) for event in await way.store.events(job.tenant_id, job.id)]
    for payload in told:
        assert uuid.UUID(payload.pop("transitionId"))
        payload.pop("digest", None)
    return told


# Claims


async def test_a_claim_starts_the_oldest_first(way: Way, tenant: str) -> None:
    """Whatever the order they came in; and never more than asked for."""
    added = [await way.add(build_job(tenant, created_at=later(step))) for step in (3, 1, 4, 0, 2)]
    by_age = [added[place].id for place in (3, 1, 4, 0, 2)]

    first = await way.queue.claim(tenant, _BUILD, limit=2)
    second = await way.queue.claim(tenant, _BUILD, limit=2)
    third = await way.queue.claim(tenant, _BUILD, limit=2)

    assert by_age[:2] == [job.id for job in first.jobs]
    assert by_age[2:4] == [job.id for job in second.jobs]
    assert by_age[4:] == [job.id for job in third.jobs]
    assert () == (await way.queue.claim(tenant, _BUILD, limit=2)).jobs


async def test_a_claimed_job_is_what_its_own_move_would_give_but_for_the_clock(way: Way, tenant: str) -> None:
    """Running, an attempt more, started now by the database's clock, no error of an attempt before; and logged."""
    queued = build_job(tenant, metadata={"branch": "main"}, correlation_id="upload")
    before = await way.add(queued)

    (job,) = (await way.queue.claim(tenant, "build", limit=10, actor="worker 1")).jobs

    assert job.started_at is not None
    assert job == queued.start(at=job.started_at)
    assert before.updated_at is not None
    assert job.updated_at is not None
    assert job.updated_at > before.updated_at
    assert abs(job.started_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert await way.now(job) == job
    assert (await way.now(job)).updated_at == job.updated_at
    claimed = {"from": "queued", "to": "running", "attempts": 1, "actor": "worker 1"}
    assert claimed == (await log(way, job))[-1]
    (*_, event) = await way.store.events(tenant, job.id)
    assert (job.updated_at, Status.RUNNING) == (event.created_at, event.status)


async def test_a_claim_of_one_kind_leaves_the_other(way: Way, tenant: str) -> None:
    """Builds to builders."""
    build, overlay = await way.add(build_job(tenant)), await way.add(overlay_job(tenant))

    assert [overlay.id] == [job.id for job in (await way.queue.claim(tenant, _OVERLAY, limit=10)).jobs]
    assert [build.id] == [job.id for job in (await way.queue.claim(tenant, _BUILD, limit=10)).jobs]


async def test_a_claim_takes_only_what_is_queued_and_the_tenants_own(way: Way, tenant: str) -> None:
    """Neither what runs or has ended, nor what is another's."""
    other = build_job(f"{tenant}-other")
    await way.add(other)
    running = await way.claimed(build_job(tenant))
    await way.queue.end([AttemptResult.completed(await way.claimed(build_job(tenant)), graph_snapshot_id="graph")])

    assert () == (await way.queue.claim(tenant, _BUILD, limit=10)).jobs
    assert running == await way.now(running)
    assert other == await way.now(other)


async def test_a_second_attempt_forgets_the_error_of_the_first(way: Way, tenant: str) -> None:
    """`start` does, and so does a claim."""
    job = await way.claimed(build_job(tenant))
    await way.sql(
        "UPDATE scheduler.graph_jobs SET status = 0, payload = payload || "
        """'{"status": "queued", "error": "it was given back"}' WHERE id = $1""",
        job.id,
    )

    (again,) = (await way.queue.claim(tenant, _BUILD, limit=1)).jobs

    assert (2, None) == (again.attempts, again.error)


async def test_several_tenants_get_equal_shares(way: Way, tenant: str) -> None:
    """Whatever the others have queued; and the first get what is left over."""
    tenants = [f"{tenant}-{letter}" for letter in "abc"]
    for whose, number in zip(tenants, (20, 20, 1), strict=True):
        for step in range(number):
            await way.add(build_job(whose, created_at=later(step)))

    claimed = await way.queue.claim(tenants, _BUILD, limit=8)

    assert [3, 3, 1] == [len([job for job in claimed.jobs if job.tenant_id == whose]) for whose in tenants]


async def test_a_share_never_goes_past_the_limit(way: Way, tenant: str) -> None:
    """One job for each of as many tenants as are asked for."""
    tenants = [f"{tenant}-{number:02}" for number in range(7)]
    for whose in tenants:
        for _ in range(3):
            await way.add(build_job(whose))

    claimed = await way.queue.claim(tenants, _BUILD, limit=7)

    assert tenants == sorted(job.tenant_id for job in claimed.jobs)


@pytest.mark.parametrize("limit", [0, -1, 1_001, True, "5", None, 2.0])
async def test_a_limit_that_cannot_be_is_named(alone: Way, tenant: str, limit: Any) -> None:
    """With its bounds."""
    with pytest.raises(InvalidJob, match="limit must be between 1 and 1,000") as caught:
        await alone.queue.claim(tenant, _BUILD, limit=limit)
    assert "limit" == caught.value.field


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda queue: queue.claim("", _BUILD, limit=1), "tenants"),
        (lambda queue: queue.claim("a\0b", _BUILD, limit=1), "tenants"),
        (lambda queue: queue.claim(["a", "a"], _BUILD, limit=5), "tenants"),
        (lambda queue: queue.claim(["a", "b"], _BUILD, limit=1), "tenants"),
        (lambda queue: queue.claim([None], _BUILD, limit=1), "tenants"),
        (lambda queue: queue.claim(5, _BUILD, limit=1), "tenants"),
        (lambda queue: queue.claim("a", "policy", limit=1), "kind"),
        (lambda queue: queue.claim("a", 0, limit=1), "kind"),
        (lambda queue: queue.claim("a", _BUILD, limit=1, actor="x" * 10_000), "actor"),
        (lambda queue: queue.claim(None, _BUILD, limit=1, after="a\0b"), "after"),
        (lambda queue: queue.claim(None, _BUILD, limit=1, after=5), "after"),
        (lambda queue: queue.claim(["\ud800"], _BUILD, limit=1), "tenants"),
        (lambda queue: queue.tenants_with(_BUILD, "busy"), "status"),
        (lambda queue: queue.tenants_with(_BUILD, limit=1_001), "limit"),
        (lambda queue: queue.renew([None]), "job"),
        (lambda queue: queue.renew(None), "jobs"),
        (lambda queue: queue.renew([build_job()] * 2), "jobs"),
        (lambda queue: queue.renew(build_job() for _ in range(1_001)), "jobs"),
        (lambda queue: queue.end([build_job()]), "results"),
        (lambda queue: queue.rescue([build_job()], attempts_max=3), "stalled"),
        (lambda queue: queue.rescue([], attempts_max=0), "attempts_max"),
        (lambda queue: queue.rescue([], attempts_max=True), "attempts_max"),
        (lambda queue: queue.stalled(None, _BUILD, lease=timedelta(0)), "lease"),
        (lambda queue: queue.stalled(None, _BUILD, lease=timedelta(days=2)), "lease"),
        (lambda queue: queue.stalled(None, _BUILD, lease=60), "lease"),
    ],
)
async def test_bad_input_is_named(alone: Way, call: Callable[[Any], Awaitable[object]], field: str) -> None:
    """Before any SQL."""
    with pytest.raises(InvalidJob) as caught:
        await call(alone.queue)
    assert field == caught.value.field


@pytest.mark.parametrize(
    "spoiled",
    [
        """payload = '[1, 2]'""",
        """payload = '"text"'""",
        """payload = 'null'""",
        """payload = payload - 'attempts'""",
        """payload = payload || '{"attempts": 1e400}'""",
        """payload = payload || '{"attempts": -1}'""",
        """payload = payload || '{"attempts": 1.5}'""",
        """payload = payload || '{"attempts": "1"}'""",
        """payload = payload || '{"attempts": 99999}'""",
        """payload = payload || '{"attempts": {"deep": true}}'""",
        """payload = payload || '{"sbomDigest": "md5"}'""",
        """payload = payload || '{"tenantId": "another"}'""",
        """payload = payload || '{"unknown": 1}'""",
        """created_at = '-infinity'""",
    ],
)
async def test_a_row_that_cannot_be_read_is_failed_and_stops_no_other(alone: Way, tenant: str, spoiled: str) -> None:
    """It is reported, does not come again, and loses nothing of what it holds."""
    strange = await alone.add(build_job(tenant, created_at=later(0)))
    sound = await alone.add(build_job(tenant, created_at=later(1)))
    await alone.sql(f"UPDATE scheduler.graph_jobs SET {spoiled} WHERE id = $1", strange.id)

    claimed = await alone.queue.claim(tenant, _BUILD, limit=10)

    assert [sound.id] == [job.id for job in claimed.jobs]
    assert [strange.id] == [error.row_id for error in claimed.unreadable]
    async with alone.storage.session() as session:
        connection = await session.connection()
        found = await connection.exec_driver_sql(
            "SELECT status, ARRAY(SELECT status FROM scheduler.graph_job_events WHERE job_id = job.id ORDER BY id)"
            " FROM scheduler.graph_jobs AS job WHERE id = $1",
            (strange.id,),
        )
        assert [(3, [0, 1, 3])] == [tuple(row) for row in found]
    assert () == (await alone.queue.claim(tenant, _BUILD, limit=10)).jobs


async def test_a_row_that_cannot_be_failed_breaks_the_transaction_of_a_claim_and_it_says_so(
    graphjobs_storage: Storage,
) -> None:
    """Alone, the others are claimed all the same; in a session nothing is."""
    queue = graphjobs_storage.graph_job_queue
    strange, sound = [await graphjobs_storage.graph_jobs.add(build_job("acme", created_at=later(n))) for n in (0, 1)]
    async with graphjobs_storage.session() as session, session.begin():
        for statement in (
            "CREATE FUNCTION scheduler.refuse() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE EXCEPTION 'no failures today'; END $$",
            f"UPDATE scheduler.graph_jobs SET payload = '[]' WHERE id = '{strange.id}'",
            "CREATE TRIGGER refuse BEFORE UPDATE ON scheduler.graph_jobs FOR EACH ROW WHEN (NEW.status = 3) "
            "EXECUTE FUNCTION scheduler.refuse()",
        ):
            await session.execute(text(statement))
    with pytest.raises(GraphJobsError, match="P0001"):
        async with graphjobs_storage.session() as session, session.begin():
            await queue.using(session).claim("acme", _BUILD, limit=10)
    claimed = await queue.claim("acme", _BUILD, limit=10)
    assert [sound.id] == [job.id for job in claimed.jobs]
    assert [strange.id] == [error.row_id for error in claimed.unreadable]


@pytest.mark.parametrize("version", ["infinity", "-infinity", "12000-01-01", "294276-12-31 23:59:59.999999+00"])
async def test_a_version_that_python_cannot_hold_begins_anew(alone: Way, tenant: str, version: str) -> None:
    """It can be read then, can rise, and tells a heartbeat; nor does it end the claim of others."""
    jobs = [await alone.add(build_job(tenant)) for _ in range(2)]
    await alone.sql(f"UPDATE scheduler.graph_jobs SET updated_at = '{version}' WHERE id = $1", jobs[0].id)

    claimed = (await alone.queue.claim(tenant, _BUILD, limit=10)).jobs

    assert {job.id for job in jobs} == {job.id for job in claimed}
    assert all(job.updated_at is not None for job in claimed)
    assert 2 == len((await alone.queue.renew(claimed)).versions)
    assert 2 == len((await alone.queue.end([AttemptResult.failed(job, "done with") for job in claimed])).versions)


@pytest.mark.parametrize("strange", ["", "x" * 300, "a\tb"])
async def test_a_tenant_that_no_job_can_have_is_listed_and_set_aside(graphjobs_storage: Storage, strange: str) -> None:
    """Written by hand, it neither stops the claims of everybody's jobs nor their rescue."""
    queue, store = graphjobs_storage.graph_job_queue, graphjobs_storage.graph_jobs
    way = Way(queue, store, None, graphjobs_storage)
    sound, odd, stopped = [await way.add(build_job("acme")) for _ in range(3)]
    await way.sql("UPDATE scheduler.graph_jobs SET tenant_id = $2 WHERE id = $1", odd.id, strange)
    await way.sql("UPDATE scheduler.graph_jobs SET tenant_id = $2, status = 1 WHERE id = $1", stopped.id, strange)

    found: list[uuid.UUID] = []
    cursor = ""
    for _ in range(3):
        claimed = await queue.claim(None, _BUILD, limit=1, after=cursor)
        cursor = claimed.cursor
        found += [job.id for job in claimed.jobs] + [error.row_id for error in claimed.unreadable]  # type: ignore[misc]
    await asyncio.sleep(0.001)
    seen, _ = await queue.stalled(None, _BUILD, lease=_LONG_AGO)
    rescued = await queue.rescue(seen, attempts_max=3)

    assert {sound.id, odd.id} == set(found)
    assert stopped.id in {*rescued.requeued, *rescued.failed}


async def test_claims_in_a_session_vanish_with_it(alone: Way, tenant: str) -> None:
    """Both or neither, with whatever else the caller does there."""
    job = await alone.add(build_job(tenant))
    async with alone.storage.session() as session:
        await alone.storage.graph_job_queue.using(session).claim(tenant, _BUILD, limit=1)
        await session.rollback()

    assert Status.QUEUED is (await alone.now(job)).status
    assert 1 == len(await log(alone, job))


# Tenants in turns


async def test_tenants_with_work_are_listed_in_a_circle(way: Way, tenant: str) -> None:
    """From after one on, around, and to this one; who has no such work is not among them."""
    names = [f"{tenant}-{letter}" for letter in "abcd"]
    for name in names:
        await way.add(build_job(name))
    await way.add(overlay_job(f"{tenant}-e"))
    await way.claimed(build_job(f"{tenant}-f"))

    async def listed(after: str, limit: int = 1_000) -> list[str]:
        found = await way.queue.tenants_with(_BUILD, after=after, limit=limit)
        return [name for name in found if name.startswith(tenant)]

    assert [*names[2:], *names[:2]] == await listed(names[1])
    assert names == await listed(f"{tenant}-")
    assert names[:2] == await listed(f"{tenant}-", 2)
    running = await way.queue.tenants_with(_BUILD, "running")
    assert f"{tenant}-f" in running
    assert not set(names) & set(running)


async def test_each_tenant_that_waits_is_served_within_as_many_claims_as_there_are_batches_of_tenants(
    graphjobs_storage: Storage,
) -> None:
    """T tenants, batches of n: within ceil(T / n), whatever the others have queued."""
    queue, store = graphjobs_storage.graph_job_queue, graphjobs_storage.graph_jobs
    tenants = [f"tenant-{number:02}" for number in range(23)]
    for number, whose in enumerate(tenants):
        # Those in front have much more, and older.
        await store.add_many(
            build_job(whose, created_at=later(step - 1_000 * (number < 5))) for step in range(60 if number < 5 else 3)
        )
    cursor, limit = "", 5
    for _ in range(3):
        served: set[str] = set()
        for _ in range(-(-len(tenants) // limit)):
            claimed = await queue.claim(None, _BUILD, limit=limit, after=cursor)
            cursor = claimed.cursor
            assert len(claimed.jobs) <= limit
            served |= {job.tenant_id for job in claimed.jobs}
        assert set(tenants) == served


# Endings


async def test_many_jobs_end_in_one_statement_each_as_it_is_told(way: Way, tenant: str) -> None:
    """Completed, failed and given back, of two tenants and both kinds."""
    other = f"{tenant}-other"
    built, failed = await way.claimed(build_job(tenant)), await way.claimed(build_job(tenant))
    laid, returned = await way.claimed(overlay_job(other)), await way.claimed(build_job(other))

    ended = await way.queue.end(
        [
            AttemptResult.completed(built, graph_snapshot_id="graph", metadata={"nodes": "5"}),
            AttemptResult.failed(failed, "ValueError: no such file"),
            AttemptResult.completed(laid),
            AttemptResult.released(returned),
        ],
        actor="worker 2",
    )

    assert {} == ended.lost
    for job in (built, failed, laid, returned):
        assert ended.versions[job.id] == (await way.now(job)).updated_at
    now = await way.now(built)
    assert now.completed_at is not None
    assert now == built.replace(metadata={"nodes": "5"}).complete(at=now.completed_at, graph_snapshot_id="graph")  # type: ignore[call-arg]
    now = await way.now(failed)
    assert now.completed_at is not None
    assert now == failed.fail(at=now.completed_at, error="ValueError: no such file")
    assert Status.COMPLETED is (await way.now(laid)).status
    assert await way.now(returned) == returned.requeue()
    told = {"from": "running", "attempts": 1, "actor": "worker 2"}
    assert {**told, "to": "completed"} == (await log(way, built))[-1]
    assert {**told, "to": "failed", "error": "ValueError: no such file"} == (await log(way, failed))[-1]
    assert {**told, "to": "queued"} == (await log(way, returned))[-1]


async def test_who_lost_the_job_cannot_end_it_and_is_told(way: Way, tenant: str) -> None:
    """The fence is the attempt; the others of the batch are ended all the same."""
    first = await way.claimed(build_job(tenant))
    await way.queue.end([AttemptResult.released(first)])
    (second,) = (await way.queue.claim(tenant, _BUILD, limit=1)).jobs
    sound = await way.claimed(build_job(tenant))
    before = await log(way, first)

    ended = await way.queue.end(
        [
            AttemptResult.completed(first, graph_snapshot_id="stale"),
            AttemptResult.completed(sound, graph_snapshot_id="graph"),
        ]
    )

    assert {sound.id} == set(ended.versions)
    assert {first.id} == set(ended.lost)
    assert "attempt 1 no longer runs: a later read found the job running at attempt 2" == ended.lost[first.id]
    assert second == await way.now(first)
    assert before == await log(way, first)


async def test_who_lost_the_job_to_a_cancel_or_a_delete_is_told(way: Way, tenant: str) -> None:
    """Canceled by a service, or gone."""
    canceled, gone = await way.claimed(build_job(tenant)), await way.claimed(build_job(tenant))
    await way.store.update(canceled.cancel(at=AT), expected=Status.RUNNING)
    await way.sql("DELETE FROM scheduler.graph_jobs WHERE id = $1", gone.id)

    ended = await way.queue.end([AttemptResult.failed(canceled, "late"), AttemptResult.failed(gone, "late")])

    assert {} == ended.versions
    assert ended.lost[canceled.id].endswith("a later read found the job canceled at attempt 1")
    assert f"tenant {tenant!r} has no such job" == ended.lost[gone.id]


async def test_another_tenants_job_cannot_be_ended(way: Way, tenant: str) -> None:
    """Not even by who knows its id and attempts."""
    job = await way.claimed(build_job(tenant))
    forged = job.replace(tenant_id=f"{tenant}-thief")

    ended = await way.queue.end([AttemptResult.failed(forged, "taken")])
    renewed = await way.queue.renew([forged])
    rescued = await way.queue.rescue(
        [StalledItem(job.id, forged.tenant_id, job.updated_at, job.attempts)], attempts_max=3
    )

    assert {} == ended.versions
    assert {job.id} == renewed.lost
    assert () == rescued.requeued
    assert (job, job.updated_at) == (await way.now(job), (await way.now(job)).updated_at)


async def test_an_ending_asked_again_with_its_id_answers_the_same(way: Way, tenant: str) -> None:
    """As after a lost answer: what the first call ended is not lost to the second."""
    job, named = await way.claimed(build_job(tenant)), uuid.uuid4()
    ending = AttemptResult.completed(job, graph_snapshot_id="graph")

    first = await way.queue.end([ending], transition_id=named)
    second = await way.queue.end([ending], transition_id=named)
    third = await way.queue.end([ending], transition_id=uuid.uuid4())

    assert first == second
    assert {job.id} == set(third.lost)
    assert 3 == len(await log(way, job))


async def test_what_follows_from_a_job_is_added_with_its_end_or_not_at_all(way: Way, tenant: str) -> None:
    """Both or neither: of a job that was lost nothing follows."""
    built, lost = await way.claimed(build_job(tenant)), await way.claimed(build_job(tenant))
    await way.queue.end([AttemptResult.released(lost)])
    follows, vanishes = overlay_job(tenant, build_job_id=built.id), overlay_job(tenant, build_job_id=lost.id)

    ended = await way.queue.end(
        [
            AttemptResult.completed(built, graph_snapshot_id="graph", followups=[follows]),
            AttemptResult.completed(lost, graph_snapshot_id="graph", followups=[vanishes]),
        ],
        actor="worker 3",
    )

    assert {built.id} == set(ended.versions)
    assert follows == await way.now(follows)
    assert [{"to": "queued", "attempts": 0, "actor": "worker 3"}] == await log(way, follows)
    assert await way.store.get_job(tenant, vanishes.id) is None


async def test_a_following_job_whose_id_is_taken_is_left_out(way: Way, tenant: str) -> None:
    """As a second attempt would add it again: the end counts."""
    taken = await way.add(overlay_job(tenant))
    built = await way.claimed(build_job(tenant))

    ended = await way.queue.end([AttemptResult.completed(built, graph_snapshot_id="graph", followups=[taken])])

    assert {built.id} == set(ended.versions)
    assert 1 == len(await log(way, taken))


def test_an_ending_that_cannot_be_is_refused_when_it_is_made() -> None:
    """With the field."""
    running = build_job().start(at=AT)
    laid = overlay_job().start(at=AT)
    for make, field in (
        (lambda: AttemptResult.completed(running), "graph_snapshot_id"),
        (lambda: AttemptResult.completed(running, graph_snapshot_id="\0"), "graph_snapshot_id"),
        (lambda: AttemptResult.completed(running, graph_snapshot_id="x" * 257), "graph_snapshot_id"),
        (lambda: AttemptResult.completed(laid, graph_snapshot_id="graph"), "graph_snapshot_id"),
        (lambda: AttemptResult.completed(laid, metadata={"a": 1}), "metadata"),  # type: ignore[dict-item]
        (lambda: AttemptResult.completed(laid, metadata=5), "metadata"),  # type: ignore[arg-type]
        (lambda: AttemptResult.completed(laid, followups=5), "followups"),  # type: ignore[arg-type]
        (lambda: AttemptResult.completed(laid, followups=[overlay_job("other")]), "followups"),
        (lambda: AttemptResult.completed(laid, followups=[running]), "followups"),
        (lambda: AttemptResult.completed(laid, followups=[overlay_job(id=laid.id)] * 2), "followups"),
        (lambda: AttemptResult.completed(laid, followups=[overlay_job() for _ in range(101)]), "followups"),
        (lambda: AttemptResult.failed(None, "x"), "job"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidJob) as caught:
            make()  # type: ignore[no-untyped-call]
        assert field == caught.value.field
    with pytest.raises(IllegalTransition):
        AttemptResult.completed(overlay_job())


# Heartbeats


async def test_a_heartbeat_raises_the_version_and_nothing_else(way: Way, tenant: str) -> None:
    """Many jobs at once, no event, not a byte of the payload."""
    jobs = [await way.claimed(build_job(tenant)) for _ in range(3)]
    logs = [await log(way, job) for job in jobs]

    renewed = await way.queue.renew(jobs)

    assert frozenset() == renewed.lost
    for job, before in zip(jobs, logs, strict=True):
        now = await way.now(job)
        assert job == now
        assert renewed.versions[job.id] == now.updated_at
        assert job.updated_at is not None
        assert renewed.versions[job.id] > job.updated_at
        assert before == await log(way, job)


async def test_a_heartbeat_tells_which_jobs_are_lost(way: Way, tenant: str) -> None:
    """Given back and taken by another, ended, or gone; the others are renewed."""
    held, retaken, ended, gone = [await way.claimed(build_job(tenant)) for _ in range(4)]
    await way.queue.end([AttemptResult.released(retaken), AttemptResult.failed(ended, "over")])
    await way.queue.claim(tenant, _BUILD, limit=1)
    await way.sql("DELETE FROM scheduler.graph_jobs WHERE id = $1", gone.id)

    renewed = await way.queue.renew([held, retaken, ended, gone])

    assert {retaken.id, ended.id, gone.id} == renewed.lost
    assert {held.id} == set(renewed.versions)


# Rescues


async def test_a_stopped_job_is_queued_again(way: Way, tenant: str) -> None:
    """And the next attempt is another's."""
    job = await way.claimed(build_job(tenant))

    seen, _ = await way.queue.stalled(tenant, _BUILD, lease=_LONG_AGO)
    if way.session is not None:  # within one transaction no time passes
        assert () == seen
        seen = (StalledItem(job.id, tenant, job.updated_at, job.attempts),)
    rescued = await way.queue.rescue(seen, attempts_max=3, actor="worker 4")

    assert ((job.id,), ()) == (rescued.requeued, rescued.failed)
    assert job.requeue() == await way.now(job)
    told = {"from": "running", "to": "queued", "attempts": 1, "actor": "worker 4", "rescued": True}
    assert told == (await log(way, job))[-1]
    assert {} == (await way.queue.end([AttemptResult.completed(job, graph_snapshot_id="late")])).versions


async def test_a_job_that_stopped_at_its_last_attempt_fails_with_a_reason(way: Way, tenant: str) -> None:
    """One sentence, in the job and in its log."""
    job = await way.claimed(build_job(tenant))
    seen = StalledItem(job.id, tenant, job.updated_at, job.attempts)

    rescued = await way.queue.rescue([seen], attempts_max=1)

    assert ((), (job.id,)) == (rescued.requeued, rescued.failed)
    now = await way.now(job)
    assert now.completed_at is not None
    reason = "the worker stopped sending heartbeats at attempt 1; at most 1 attempts are made"
    assert job.fail(at=now.completed_at, error=reason) == now
    assert reason == (await log(way, job))[-1]["error"]


async def test_attempts_that_were_given_back_in_order_do_not_count(alone: Way, tenant: str) -> None:
    """A job is not failed because workers were told to stop; it is once it has stopped so many of them."""
    job = await alone.claimed(build_job(tenant))
    for _ in range(4):
        await alone.queue.end([AttemptResult.released(job)])
        (job,) = (await alone.queue.claim(tenant, _BUILD, limit=1)).jobs
    stops = []
    for _ in range(2):
        await asyncio.sleep(0.001)
        seen, _ = await alone.queue.stalled(tenant, _BUILD, lease=_LONG_AGO)
        assert [4] == [sighting.released for sighting in seen]
        rescued = await alone.queue.rescue(seen, attempts_max=2)
        stops.append((len(rescued.requeued), len(rescued.failed)))
        await alone.queue.claim(tenant, _BUILD, limit=1)

    assert [(1, 0), (0, 1)] == stops
    failed = await alone.now(job)
    assert failed.error is not None
    assert "at attempt 6, 4 of them released in order; at most 2 attempts are made" in failed.error


async def test_only_jobs_that_were_silent_are_seen(alone: Way, tenant: str) -> None:
    """By the database's clock; a version ahead of it is looked at, too, for that clock was set back."""
    quiet, lively, ahead = [await alone.claimed(build_job(tenant)) for _ in range(3)]
    for job, age in ((quiet, "- interval '2 minutes'"), (ahead, "+ interval '2 minutes'")):
        await alone.sql(f"UPDATE scheduler.graph_jobs SET updated_at = now() {age} WHERE id = $1", job.id)

    seen, _ = await alone.queue.stalled(tenant, _BUILD, lease=timedelta(minutes=1))

    assert {quiet.id, ahead.id} == {sighting.job_id for sighting in seen}
    assert lively.id not in {sighting.job_id for sighting in seen}


async def test_a_stopped_row_that_does_not_tell_its_attempt_is_failed(alone: Way, tenant: str) -> None:
    """It could not be fenced; nor does it hold up the rescue of others."""
    strange, sound = await alone.claimed(build_job(tenant)), await alone.claimed(build_job(tenant))
    await alone.sql("UPDATE scheduler.graph_jobs SET payload = '[]' WHERE id = $1", strange.id)
    await asyncio.sleep(0.001)

    seen, _ = await alone.queue.stalled(tenant, _BUILD, lease=_LONG_AGO)
    rescued = await alone.queue.rescue(seen, attempts_max=3)

    assert ((sound.id,), (strange.id,)) == (rescued.requeued, rescued.failed)
    with pytest.raises(CorruptRow):
        await alone.now(strange)


async def test_a_clock_that_was_set_back_never_lowers_a_version(alone: Way, tenant: str) -> None:
    """Whatever the row's version, each move raises it."""
    job = await alone.claimed(build_job(tenant))
    ahead = datetime.now(UTC) + timedelta(days=400)
    await alone.sql("UPDATE scheduler.graph_jobs SET updated_at = $2 WHERE id = $1", job.id, ahead)

    renewed = await alone.queue.renew([job])
    ended = await alone.queue.end([AttemptResult.released(job)])
    (again,) = (await alone.queue.claim(tenant, _BUILD, limit=1)).jobs

    assert again.updated_at is not None
    assert ahead < renewed.versions[job.id] < ended.versions[job.id] < again.updated_at


async def test_nothing_is_done_for_nothing(alone: Way) -> None:
    """Empty lists are answered empty."""
    assert {} == (await alone.queue.end([])).versions
    assert {} == (await alone.queue.renew([])).versions
    assert () == (await alone.queue.rescue([], attempts_max=3)).requeued
    assert () == (await alone.queue.claim([], _BUILD, limit=1)).jobs
