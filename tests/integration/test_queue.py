"""The queue of graph jobs, in autocommit and in a session."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from graphjobs import CorruptRow, GraphJobsError, GraphJobStatus, IllegalTransition, InvalidJob
from graphjobs.core.results import StalledItem
from graphjobs.graph_jobs.attempt_results import AttemptResult
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.graph_jobs.status import GraphJobType
from graphjobs.storage import Storage
from tests.builders import AT, build_job, overlay_job
from tests.integration.conftest import Access
from tests.integration.states import MICROSECOND, MINUTE, ids, later, payloads

Status = GraphJobStatus

_BUILD, _OVERLAY = GraphJobType


async def log(access: Access, job: AnyJob) -> list[dict[str, Any]]:
    """Return the payloads of a log, without ids."""
    return payloads(await access.store.events(job.tenant_id, job.id))


async def claim(access: Access, tenant: str, limit: int = 10) -> list[Any]:
    """Claim build jobs."""
    return list((await access.queue.claim(tenant, _BUILD, limit=limit)).jobs)


# Claims


async def test_a_claim_starts_the_oldest_first(access: Access, tenant: str) -> None:
    added = [await access.store.add(build_job(tenant, created_at=later(step))) for step in (3, 1, 4, 0, 2)]
    by_age = [added[place].id for place in (3, 1, 4, 0, 2)]
    claims = [ids(await claim(access, tenant, limit=2)) for _ in range(4)]
    assert [by_age[:2], by_age[2:4], by_age[4:], []] == claims


async def test_a_claimed_job_equals_the_result_of_start_but_for_the_clock(access: Access, tenant: str) -> None:
    queued = build_job(tenant, metadata={"branch": "main"}, correlation_id="upload")
    before: Any = await access.store.add(queued)

    (job,) = (await access.queue.claim(tenant, "build", limit=10, actor="worker 1")).jobs

    assert job.started_at is not None
    assert job == queued.start(at=job.started_at)
    assert before.updated_at < job.updated_at
    assert abs(job.started_at - datetime.now(UTC)) < MINUTE
    found = await access.now(job)
    assert (job, job.updated_at) == (found, found.updated_at)
    claimed = {"from": "queued", "to": "running", "attempts": 1, "actor": "worker 1"}
    assert claimed == (await log(access, job))[-1]
    (*_, event) = await access.store.events(tenant, job.id)
    assert (job.updated_at, Status.RUNNING) == (event.created_at, event.status)


async def test_a_claim_of_one_type_does_not_take_the_other(access: Access, tenant: str) -> None:
    build, overlay = await access.store.add(build_job(tenant)), await access.store.add(overlay_job(tenant))
    assert [overlay.id] == ids((await access.queue.claim(tenant, _OVERLAY, limit=10)).jobs)
    assert [build.id] == ids(await claim(access, tenant))


async def test_a_claim_takes_only_queued_jobs_of_its_tenant(access: Access, tenant: str) -> None:
    other = build_job(f"{tenant}-other")
    await access.store.add(other)
    running = await access.claimed(build_job(tenant))
    await access.queue.end(
        [AttemptResult.completed(await access.claimed(build_job(tenant)), graph_snapshot_id="graph")]
    )

    assert [] == await claim(access, tenant)
    assert running == await access.now(running)
    assert other == await access.now(other)


async def test_a_second_attempt_forgets_the_error_of_the_first(access: Access, tenant: str) -> None:
    """The transition of the model clears the error, too."""
    job = await access.claimed(build_job(tenant))
    await access.sql(
        "UPDATE scheduler.graph_jobs SET status = 0, payload = payload || "
        """'{"status": "queued", "error": "released"}' WHERE id = $1""",
        job.id,
    )

    (again,) = await claim(access, tenant)
    assert (2, None) == (again.attempts, again.error)


async def test_several_tenants_get_equal_shares(access: Access, tenant: str) -> None:
    tenants = [f"{tenant}-{letter}" for letter in "abc"]
    for tenant_id, number in zip(tenants, (20, 20, 1), strict=True):
        for step in range(number):
            await access.store.add(build_job(tenant_id, created_at=later(step)))

    claimed = await access.queue.claim(tenants, _BUILD, limit=8)

    assert [3, 3, 1] == [len([job for job in claimed.jobs if job.tenant_id == tenant_id]) for tenant_id in tenants]


async def test_the_shares_of_many_tenants_are_within_the_limit(access: Access, tenant: str) -> None:
    tenants = [f"{tenant}-{number:02}" for number in range(7)]
    for tenant_id in tenants:
        for _ in range(3):
            await access.store.add(build_job(tenant_id))

    claimed = await access.queue.claim(tenants, _BUILD, limit=7)

    assert tenants == sorted(job.tenant_id for job in claimed.jobs)


@pytest.mark.parametrize("limit", [0, -1, 1_001, True, "5", None, 2.0])
async def test_an_invalid_limit_is_named(autocommit: Access, tenant: str, limit: Any) -> None:
    with pytest.raises(InvalidJob, match="limit must be between 1 and 1,000") as caught:
        await autocommit.queue.claim(tenant, _BUILD, limit=limit)
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
        (lambda queue: queue.stalled(None, _BUILD, lease=MINUTE, after="tomorrow"), "after"),
        (lambda queue: queue.stalled(None, _BUILD, lease=MINUTE, after=f"{AT.isoformat()} \0"), "after"),
    ],
)
async def test_bad_input_is_named(autocommit: Access, call: Callable[[Any], Awaitable[object]], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        await call(autocommit.queue)
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
async def test_a_claim_fails_an_unreadable_row_and_takes_the_others(
    autocommit: Access, tenant: str, spoiled: str
) -> None:
    unreadable = await autocommit.store.add(build_job(tenant, created_at=later(0)))
    sound = await autocommit.store.add(build_job(tenant, created_at=later(1)))
    await autocommit.sql(f"UPDATE scheduler.graph_jobs SET {spoiled} WHERE id = $1", unreadable.id)

    claimed = await autocommit.queue.claim(tenant, _BUILD, limit=10)

    assert [sound.id] == ids(claimed.jobs)
    assert [unreadable.id] == [error.row_id for error in claimed.unreadable]
    async with autocommit.storage.session() as session:
        connection = await session.connection()
        found = await connection.exec_driver_sql(
            "SELECT status, ARRAY(SELECT status FROM scheduler.graph_job_events WHERE job_id = job.id ORDER BY id)"
            " FROM scheduler.graph_jobs AS job WHERE id = $1",
            (unreadable.id,),
        )
        assert [(3, [0, 1, 3])] == [tuple(row) for row in found]
    assert [] == await claim(autocommit, tenant)


async def test_an_unreadable_row_that_cannot_fail_breaks_a_claim_only_in_a_session(
    graphjobs_storage: Storage,
) -> None:
    """In autocommit the other jobs are claimed; in a session the error ends the transaction."""
    queue = graphjobs_storage.graph_job_queue
    unreadable, sound = [await graphjobs_storage.graph_jobs.add(build_job("acme", created_at=later(n))) for n in (0, 1)]
    async with graphjobs_storage.session() as session, session.begin():
        for statement in (
            "CREATE FUNCTION scheduler.refuse() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE EXCEPTION 'no failures today'; END $$",
            f"UPDATE scheduler.graph_jobs SET payload = '[]' WHERE id = '{unreadable.id}'",
            "CREATE TRIGGER refuse BEFORE UPDATE ON scheduler.graph_jobs FOR EACH ROW WHEN (NEW.status = 3) "
            "EXECUTE FUNCTION scheduler.refuse()",
        ):
            await session.execute(text(statement))
    with pytest.raises(GraphJobsError, match="P0001"):
        async with graphjobs_storage.session() as session, session.begin():
            await queue.using(session).claim("acme", _BUILD, limit=10)
    claimed = await queue.claim("acme", _BUILD, limit=10)
    assert [sound.id] == ids(claimed.jobs)
    assert [unreadable.id] == [error.row_id for error in claimed.unreadable]


@pytest.mark.parametrize("version", ["infinity", "-infinity", "12000-01-01", "294276-12-31 23:59:59.999999+00"])
async def test_a_claim_replaces_a_version_that_python_cannot_represent(
    autocommit: Access, tenant: str, version: str
) -> None:
    """Afterwards heartbeats and results increase it, and the claim of other jobs succeeds."""
    jobs = [await autocommit.store.add(build_job(tenant)) for _ in range(2)]
    await autocommit.sql(f"UPDATE scheduler.graph_jobs SET updated_at = '{version}' WHERE id = $1", jobs[0].id)

    claimed = await claim(autocommit, tenant)

    assert {job.id for job in jobs} == {job.id for job in claimed}
    assert all(job.updated_at is not None for job in claimed)
    assert 2 == len((await autocommit.queue.renew(claimed)).versions)
    assert 2 == len((await autocommit.queue.end([AttemptResult.failed(job, "done with") for job in claimed])).versions)


@pytest.mark.parametrize("invalid_tenant", ["", "x" * 300, "a\tb"])
async def test_a_claim_fails_the_jobs_of_an_invalid_tenant(graphjobs_storage: Storage, invalid_tenant: str) -> None:
    """Such a tenant stops neither the claims of all tenants nor their rescues."""
    access = Access.autocommit(graphjobs_storage)
    queue = access.queue
    sound, odd, stopped = [await access.store.add(build_job("acme")) for _ in range(3)]
    await access.sql("UPDATE scheduler.graph_jobs SET tenant_id = $2 WHERE id = $1", odd.id, invalid_tenant)
    await access.sql(
        "UPDATE scheduler.graph_jobs SET tenant_id = $2, status = 1 WHERE id = $1", stopped.id, invalid_tenant
    )

    found: list[uuid.UUID] = []
    cursor = ""
    for _ in range(3):
        claimed = await queue.claim(None, _BUILD, limit=1, after=cursor)
        cursor = claimed.cursor
        found += ids(claimed.jobs) + [error.row_id for error in claimed.unreadable]  # type: ignore[misc]
    await asyncio.sleep(0.001)
    seen, _ = await queue.stalled(None, _BUILD, lease=MICROSECOND)
    rescued = await queue.rescue(seen, attempts_max=3)

    assert {sound.id, odd.id} == set(found)
    assert stopped.id in {*rescued.requeued, *rescued.failed}


# Tenant rotation


async def test_tenants_with_work_are_listed_in_rotation(access: Access, tenant: str) -> None:
    names = [f"{tenant}-{letter}" for letter in "abcd"]
    for name in names:
        await access.store.add(build_job(name))
    await access.store.add(overlay_job(f"{tenant}-e"))
    await access.claimed(build_job(f"{tenant}-f"))

    async def listed(after: str, limit: int = 1_000) -> list[str]:
        found = await access.queue.tenants_with(_BUILD, after=after, limit=limit)
        return [name for name in found if name.startswith(tenant)]

    assert [*names[2:], *names[:2]] == await listed(names[1])
    assert names == await listed(f"{tenant}-")
    assert names[:2] == await listed(f"{tenant}-", 2)
    running = await access.queue.tenants_with(_BUILD, "running")
    assert f"{tenant}-f" in running
    assert not set(names) & set(running)


async def test_claims_of_all_tenants_reach_each_tenant_in_a_bounded_number_of_claims(
    graphjobs_storage: Storage,
) -> None:
    """With T tenants and a limit of n, each gets a job in ceil(T / n) claims, however many jobs the others have."""
    queue, store = graphjobs_storage.graph_job_queue, graphjobs_storage.graph_jobs
    tenants = [f"tenant-{number:02}" for number in range(23)]
    for number, tenant_id in enumerate(tenants):
        # The first tenants have many more jobs, which are older.
        await store.add_many(
            build_job(tenant_id, created_at=later(step - 1_000 * (number < 5)))
            for step in range(60 if number < 5 else 3)
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


# Results


async def test_one_statement_stores_many_results(access: Access, tenant: str) -> None:
    other = f"{tenant}-other"
    built, failed = await access.claimed(build_job(tenant)), await access.claimed(build_job(tenant))
    laid, returned = await access.claimed(overlay_job(other)), await access.claimed(build_job(other))

    ended = await access.queue.end(
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
        assert ended.versions[job.id] == (await access.now(job)).updated_at
    now = await access.now(built)
    assert now == built.replace(metadata={"nodes": "5"}).complete(at=now.completed_at, graph_snapshot_id="graph")
    now = await access.now(failed)
    assert now == failed.fail(at=now.completed_at, error="ValueError: no such file")
    assert Status.COMPLETED is (await access.now(laid)).status
    assert await access.now(returned) == returned.requeue()
    payload = {"from": "running", "attempts": 1, "actor": "worker 2"}
    assert {**payload, "to": "completed"} == (await log(access, built))[-1]
    assert {**payload, "to": "failed", "error": "ValueError: no such file"} == (await log(access, failed))[-1]
    assert {**payload, "to": "queued"} == (await log(access, returned))[-1]


async def test_a_result_of_an_earlier_attempt_is_reported_as_lost(access: Access, tenant: str) -> None:
    first = await access.claimed(build_job(tenant))
    await access.queue.end([AttemptResult.released(first)])
    (second,) = await claim(access, tenant)
    sound = await access.claimed(build_job(tenant))
    before = await log(access, first)

    ended = await access.queue.end(
        [
            AttemptResult.completed(first, graph_snapshot_id="stale"),
            AttemptResult.completed(sound, graph_snapshot_id="graph"),
        ]
    )

    assert {sound.id} == set(ended.versions)
    assert {first.id} == set(ended.lost)
    assert "attempt 1 no longer runs: a later read found the job running at attempt 2" == ended.lost[first.id]
    assert second == await access.now(first)
    assert before == await log(access, first)


async def test_a_result_of_a_canceled_or_deleted_job_is_reported_as_lost(access: Access, tenant: str) -> None:
    canceled, gone = await access.claimed(build_job(tenant)), await access.claimed(build_job(tenant))
    await access.store.update(canceled.cancel(at=AT), expected=Status.RUNNING)
    await access.sql("DELETE FROM scheduler.graph_jobs WHERE id = $1", gone.id)

    ended = await access.queue.end([AttemptResult.failed(canceled, "late"), AttemptResult.failed(gone, "late")])

    assert {} == ended.versions
    assert ended.lost[canceled.id].endswith("a later read found the job canceled at attempt 1")
    assert f"tenant {tenant!r} has no such job" == ended.lost[gone.id]


async def test_no_call_changes_the_job_of_another_tenant(access: Access, tenant: str) -> None:
    job = await access.claimed(build_job(tenant))
    forged = job.replace(tenant_id=f"{tenant}-thief")

    ended = await access.queue.end([AttemptResult.failed(forged, "taken")])
    renewed = await access.queue.renew([forged])
    rescued = await access.queue.rescue(
        [StalledItem(job.id, forged.tenant_id, job.updated_at, job.attempts)], attempts_max=3
    )

    assert {} == ended.versions
    assert {job.id} == renewed.lost
    assert () == rescued.requeued
    assert (job, job.updated_at) == (await access.now(job), (await access.now(job)).updated_at)


async def test_a_repeated_result_with_its_transition_id_answers_the_same(access: Access, tenant: str) -> None:
    job, transition_id = await access.claimed(build_job(tenant)), uuid.uuid4()
    ending = AttemptResult.completed(job, graph_snapshot_id="graph")

    first = await access.queue.end([ending], transition_id=transition_id)
    second = await access.queue.end([ending], transition_id=transition_id)
    third = await access.queue.end([ending], transition_id=uuid.uuid4())

    assert first == second
    assert {job.id} == set(third.lost)
    assert 3 == len(await log(access, job))


async def test_a_followup_is_added_with_the_completion_or_not_at_all(access: Access, tenant: str) -> None:
    """A lost job has no followup."""
    built, lost = await access.claimed(build_job(tenant)), await access.claimed(build_job(tenant))
    await access.queue.end([AttemptResult.released(lost)])
    follows, vanishes = overlay_job(tenant, build_job_id=built.id), overlay_job(tenant, build_job_id=lost.id)

    ended = await access.queue.end(
        [
            AttemptResult.completed(built, graph_snapshot_id="graph", followups=[follows]),
            AttemptResult.completed(lost, graph_snapshot_id="graph", followups=[vanishes]),
        ],
        actor="worker 3",
    )

    assert {built.id} == set(ended.versions)
    assert follows == await access.now(follows)
    assert [{"to": "queued", "attempts": 0, "actor": "worker 3"}] == await log(access, follows)
    assert await access.store.get_job(tenant, vanishes.id) is None


async def test_a_followup_with_a_taken_id_is_left_out(access: Access, tenant: str) -> None:
    """A second attempt would add it again; the result is stored."""
    taken = await access.store.add(overlay_job(tenant))
    built = await access.claimed(build_job(tenant))

    ended = await access.queue.end([AttemptResult.completed(built, graph_snapshot_id="graph", followups=[taken])])

    assert {built.id} == set(ended.versions)
    assert 1 == len(await log(access, taken))


async def test_a_followup_with_an_id_of_another_tenant_keeps_its_job_from_completion(
    access: Access, tenant: str
) -> None:
    """Both or neither; the other results of the call are stored."""
    foreign = await access.store.add(overlay_job(f"{tenant} other"))
    built, sound = await access.claimed(build_job(tenant)), await access.claimed(build_job(tenant))
    follows = overlay_job(tenant)
    results = [
        AttemptResult.completed(
            built, graph_snapshot_id="graph", followups=[follows, overlay_job(tenant, id=foreign.id)]
        ),
        AttemptResult.completed(sound, graph_snapshot_id="graph"),
    ]

    ended = await access.queue.end(results)
    failed = await access.queue.end([AttemptResult.failed(built, ended.refused[built.id])])

    assert ({sound.id}, {built.id}) == (set(ended.versions), set(ended.refused))
    assert str(foreign.id) in ended.refused[built.id]
    assert await access.store.get_job(tenant, follows.id) is None
    assert {built.id} == set(failed.versions)
    assert 1 == len(await access.store.events(foreign.tenant_id, foreign.id))


def test_an_invalid_result_is_refused_when_it_is_built() -> None:
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


async def test_a_heartbeat_raises_the_version_and_nothing_else(access: Access, tenant: str) -> None:
    jobs = [await access.claimed(build_job(tenant)) for _ in range(3)]
    logs = [await log(access, job) for job in jobs]

    renewed = await access.queue.renew(jobs)

    assert frozenset() == renewed.lost
    for job, before in zip(jobs, logs, strict=True):
        now = await access.now(job)
        assert job == now
        assert job.updated_at < renewed.versions[job.id] == now.updated_at
        assert before == await log(access, job)


async def test_a_heartbeat_reports_the_lost_jobs(access: Access, tenant: str) -> None:
    held, retaken, ended, gone = [await access.claimed(build_job(tenant)) for _ in range(4)]
    await access.queue.end([AttemptResult.released(retaken), AttemptResult.failed(ended, "over")])
    await access.queue.claim(tenant, _BUILD, limit=1)
    await access.sql("DELETE FROM scheduler.graph_jobs WHERE id = $1", gone.id)

    renewed = await access.queue.renew([held, retaken, ended, gone])

    assert {retaken.id, ended.id, gone.id} == renewed.lost
    assert {held.id} == set(renewed.versions)


# Rescues


async def test_a_stalled_job_is_queued_again(access: Access, tenant: str) -> None:
    job = await access.claimed(build_job(tenant))

    seen, _ = await access.queue.stalled(tenant, _BUILD, lease=MICROSECOND)
    if access.session is not None:  # within one transaction no time passes
        assert () == seen
        seen = (StalledItem(job.id, tenant, job.updated_at, job.attempts),)
    rescued = await access.queue.rescue(seen, attempts_max=3, actor="worker 4")

    assert ((job.id,), ()) == (rescued.requeued, rescued.failed)
    assert job.requeue() == await access.now(job)
    payload = {"from": "running", "to": "queued", "attempts": 1, "actor": "worker 4", "rescued": True}
    assert payload == (await log(access, job))[-1]
    assert {} == (await access.queue.end([AttemptResult.completed(job, graph_snapshot_id="late")])).versions


async def test_a_job_that_stalls_at_its_last_attempt_fails_with_a_reason(access: Access, tenant: str) -> None:
    job = await access.claimed(build_job(tenant))
    seen = StalledItem(job.id, tenant, job.updated_at, job.attempts)

    rescued = await access.queue.rescue([seen], attempts_max=1)

    assert ((), (job.id,)) == (rescued.requeued, rescued.failed)
    now = await access.now(job)
    reason = "the worker stopped sending heartbeats at attempt 1; at most 1 attempts are made"
    assert job.fail(at=now.completed_at, error=reason) == now
    assert reason == (await log(access, job))[-1]["error"]


async def test_released_attempts_do_not_count(autocommit: Access, tenant: str) -> None:
    """A job does not fail because workers stopped in order; it fails after too many stalled attempts."""
    job = await autocommit.claimed(build_job(tenant))
    for _ in range(4):
        await autocommit.queue.end([AttemptResult.released(job)])
        (job,) = await claim(autocommit, tenant)
    rescues = []
    for _ in range(2):
        await asyncio.sleep(0.001)
        seen, _ = await autocommit.queue.stalled(tenant, _BUILD, lease=MICROSECOND)
        assert [4] == [item.released for item in seen]
        rescued = await autocommit.queue.rescue(seen, attempts_max=2)
        rescues.append((len(rescued.requeued), len(rescued.failed)))
        await claim(autocommit, tenant)

    assert [(1, 0), (0, 1)] == rescues
    failed = await autocommit.now(job)
    assert "at attempt 6, 4 of them released in order; at most 2 attempts are made" in failed.error


async def test_only_jobs_without_a_heartbeat_are_listed_as_stalled(autocommit: Access, tenant: str) -> None:
    """A version in the future of the database is stalled, too: the clock was set back."""
    quiet, _, ahead = [await autocommit.claimed(build_job(tenant)) for _ in range(3)]
    for job, age in ((quiet, "- interval '2 minutes'"), (ahead, "+ interval '2 minutes'")):
        await autocommit.sql(f"UPDATE scheduler.graph_jobs SET updated_at = now() {age} WHERE id = $1", job.id)

    seen, _ = await autocommit.queue.stalled(tenant, _BUILD, lease=timedelta(minutes=1))

    assert {quiet.id, ahead.id} == {item.job_id for item in seen}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize("all_tenants", [True, False])
async def test_a_scan_finds_each_stalled_job_once_in_whatever_parts(
    autocommit: Access, tenant: str, limit: int, all_tenants: bool
) -> None:
    """Jobs of equal times stay together; tenants with nothing that runs are passed over."""
    tenants = [tenant, *(f"{tenant} {number}" for number in range(4))] if all_tenants else [tenant]
    stalled = set()
    for number, name in enumerate(tenants):
        jobs = [build_job(name, created_at=later(step // 3)) for step in range(6)] if number % 2 == 0 else []
        for job in await autocommit.store.add_many(jobs) and (await autocommit.queue.claim(name, _BUILD, limit=9)).jobs:
            stalled.add(job.id)
        await autocommit.store.add(build_job(name))
    (alive, *_) = await claim(autocommit, tenant)
    await autocommit.sql(
        "UPDATE scheduler.graph_jobs SET updated_at = now() - interval '1 hour' WHERE id = ANY($1)", list(stalled)
    )

    found, cursor, parts = [], "", 0
    while cursor or not parts:
        items, cursor = await autocommit.queue.stalled(
            None if all_tenants else tenant, _BUILD, lease=MINUTE, after=cursor, limit=limit
        )
        found += [item.job_id for item in items if item.tenant_id.startswith(tenant)]
        parts += 1

    assert sorted(stalled) == sorted(found)
    assert alive.id not in found
    assert limit > 6 or parts > 1


async def test_a_stalled_row_without_an_attempt_is_failed(autocommit: Access, tenant: str) -> None:
    """A row without an attempt has no fence; the rescue of other rows continues."""
    unreadable, sound = await autocommit.claimed(build_job(tenant)), await autocommit.claimed(build_job(tenant))
    await autocommit.sql("UPDATE scheduler.graph_jobs SET payload = '[]' WHERE id = $1", unreadable.id)
    await asyncio.sleep(0.001)

    seen, _ = await autocommit.queue.stalled(tenant, _BUILD, lease=MICROSECOND)
    rescued = await autocommit.queue.rescue(seen, attempts_max=3)

    assert ((sound.id,), (unreadable.id,)) == (rescued.requeued, rescued.failed)
    with pytest.raises(CorruptRow):
        await autocommit.now(unreadable)


async def test_a_clock_that_was_set_back_never_lowers_a_version(autocommit: Access, tenant: str) -> None:
    """Each transition raises the version of the row."""
    job = await autocommit.claimed(build_job(tenant))
    ahead = datetime.now(UTC) + timedelta(days=400)
    await autocommit.sql("UPDATE scheduler.graph_jobs SET updated_at = $2 WHERE id = $1", job.id, ahead)

    renewed = await autocommit.queue.renew([job])
    ended = await autocommit.queue.end([AttemptResult.released(job)])
    (again,) = await claim(autocommit, tenant)

    assert ahead < renewed.versions[job.id] < ended.versions[job.id] < again.updated_at


async def test_empty_lists_have_empty_answers(autocommit: Access) -> None:
    assert {} == (await autocommit.queue.end([])).versions
    assert {} == (await autocommit.queue.renew([])).versions
    assert () == (await autocommit.queue.rescue([], attempts_max=3)).requeued
    assert () == (await autocommit.queue.claim([], _BUILD, limit=1)).jobs
