"""graphjobs behind pgbouncer in transaction mode, which shares a few server connections between all clients."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from graphjobs import (
    BuildResult,
    ConfigurationError,
    DatabaseUnavailable,
    GraphBuildJob,
    GraphJobEvent,
    GraphJobQuery,
    GraphJobStatus,
    GraphJobWorker,
    GraphOverlayJob,
    WorkerOptions,
    open_storage,
)
from graphjobs.core.results import StalledItem
from graphjobs.database.engine import connect
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.policy_runs.attempt_results import LeaseResult, RetryBackoff
from graphjobs.policy_runs.filters import PolicyRunQuery
from graphjobs.policy_runs.repository import PolicyRunRepository
from graphjobs.policy_runs.requests import PolicyRunCompletion
from graphjobs.policy_runs.service import PolicyRunService
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.settings import Settings
from graphjobs.worker import JobContext
from pytest_graphjobs import run
from tests.builders import AT, build_job, overlay_job, policy_run, queue_of
from tests.integration.states import MICROSECOND, MINUTE, applied, read

Status = GraphJobStatus

_SERVER_CONNECTIONS = 3
_NO_BACKOFF = RetryBackoff(first=MICROSECOND, cap=MICROSECOND)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def direct(graphjobs_new_database: Callable[[], str]) -> Settings:
    """Settings of the database without pgbouncer."""
    return Settings.load(database_url=graphjobs_new_database())


@contextmanager
def _pgbouncer(direct: Settings, folder: Path, mode: str, **settings: Any) -> Iterator[Settings]:
    """Run pgbouncer in front of a database, on a port of the loopback interface."""
    assert direct.database_url is not None
    url = urlsplit(direct.database_url.get_secret_value())
    query = parse_qs(url.query)
    host, server_port = (query["host"][0], query["port"][0]) if "host" in query else (url.hostname, url.port)
    port = _free_port()
    configuration = folder / "pgbouncer.ini"
    lines = [
        "[databases]",
        f"* = host={host} port={server_port} user={url.username}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        f"pool_mode = {mode}",
        f"default_pool_size = {_SERVER_CONNECTIONS}",
        "max_client_conn = 500",
    ]
    if os.geteuid() == 0:  # pgbouncer refuses to run as root; this user can enter the embedded server's socket folder
        lines.append("user = graphjobs")
    configuration.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([os.environ["GRAPHJOBS_TEST_PGBOUNCER"], configuration], stderr=subprocess.DEVNULL)
    pooled = Settings.load(
        database_url=urlunsplit(url._replace(netloc=f"{url.username}@127.0.0.1:{port}", query="")),
        pooler="transaction",
        **settings,
    )
    try:
        run(_wait_until_reachable(pooled))
        yield pooled
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def pooled(direct: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The same database behind pgbouncer in transaction mode."""
    waits = {"statement_timeout": timedelta(seconds=13), "lock_timeout": timedelta(milliseconds=300)}
    with _pgbouncer(direct, tmp_path_factory.mktemp("pgbouncer"), "transaction", **waits) as pooled:
        yield pooled


async def _wait_until_reachable(settings: Settings) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                assert settings.database_url is not None
                connection = await connect(settings.database_url.get_secret_value(), settings)
            except DatabaseUnavailable:
                await asyncio.sleep(0.05)
            else:
                await connection.close()
                return


async def _call_each_verb(jobs: GraphJobRepository, tenant: str) -> None:
    """Call each verb of the repository once."""
    job = await jobs.insert(build_job(tenant))
    started = job.start(at=AT)
    assert await jobs.try_replace(started, Status.QUEUED)
    assert not await jobs.try_replace(started, Status.QUEUED)
    event = await jobs.append_event(GraphJobEvent(job_id=job.id, tenant_id=tenant, status=Status.RUNNING))
    assert started == await jobs.get_build_job(tenant, job.id)
    assert started in await jobs.list_build_jobs(tenant, limit=100)
    assert (event,) == await jobs.list_events(tenant, job.id)


async def test_many_clients_share_three_connections(pooled: Settings, tenant: str) -> None:
    async with open_storage(pooled) as storage:

        async def in_session(number: int) -> None:
            async with storage.session() as session, session.begin():
                await _call_each_verb(GraphJobRepository(storage.database.using(session)), f"{tenant}-{number}")

        alone = GraphJobRepository(storage.database)
        await asyncio.gather(
            *(_call_each_verb(alone, f"{tenant}-{number}") for number in range(30)),
            *(in_session(number) for number in range(30)),
        )
        assert 2 == len(await alone.list_build_jobs(f"{tenant}-7", limit=100))


async def test_time_outs_hold_behind_the_pooler_too(pooled: Settings, direct: Settings, tenant: str) -> None:
    """Each transaction sets them at its start, and they end with it: the shared connection has none of them."""
    assert direct.database_url is not None
    async with open_storage(pooled) as storage, open_storage(direct) as other:
        job = await storage.graph_job_repository.insert(build_job(tenant))
        async with other.session() as holder, holder.begin():
            await holder.execute(text("SELECT 1 FROM scheduler.graph_jobs WHERE id = :job FOR UPDATE"), {"job": job.id})
            with pytest.raises(DatabaseUnavailable) as caught:
                await storage.graph_job_repository.try_replace(job.start(at=AT), Status.QUEUED)
        assert caught.value.sqlstate == "55P03"
        async with storage.session() as session:
            names = ("statement_timeout", "lock_timeout", "TimeZone")
            shown = [await session.scalar(text(f"SHOW {name}")) for name in names]
        assert ["13s", "300ms", "UTC"] == shown
        assert await storage.graph_job_repository.try_replace(job.start(at=AT), Status.QUEUED)


async def test_cancelled_calls_leave_the_pooler_usable(pooled: Settings, direct: Settings, tenant: str) -> None:
    """After 60 cancelled callers no server connection is in a transaction, and the next caller succeeds."""
    assert direct.database_url is not None
    async with open_storage(pooled) as storage:
        alone = GraphJobRepository(storage.database)
        tasks = [asyncio.ensure_future(_call_each_verb(alone, f"{tenant}-{number}")) for number in range(60)]
        for number, task in enumerate(tasks):
            asyncio.get_running_loop().call_later(number / 200, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        await _call_each_verb(alone, tenant)
    connection = await asyncpg.connect(direct.database_url.get_secret_value())
    try:
        async with asyncio.timeout(10):
            while await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
                "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ):
                await asyncio.sleep(0.05)
        connections = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
    assert connections <= _SERVER_CONNECTIONS


async def test_the_store_adds_updates_pages_and_counts(pooled: Settings, direct: Settings) -> None:
    async with open_storage(pooled) as storage, open_storage(direct) as beside:
        jobs = storage.graph_jobs
        job = await jobs.add(build_job("store", correlation_id="c"), actor="me")
        transition = uuid4()
        first = await jobs.update(job.start(at=AT), expected=Status.QUEUED, transition_id=transition)
        again = await jobs.update(job.start(at=AT), expected=Status.QUEUED, transition_id=transition)
        lost = await jobs.update(job.cancel(at=AT), expected=Status.QUEUED)
        many = await jobs.add_many([build_job("store") for _ in range(20)])
        pages = await jobs.get_jobs("store", GraphJobQuery(statuses=(Status.QUEUED,), limit=15))
        rest = await jobs.get_jobs("store", GraphJobQuery(statuses=(Status.QUEUED,), cursor=pages.next_cursor))
        lag = await jobs.overlay_lag("store", window=timedelta(days=1))

        assert first.applied
        assert first == again
        assert first.job == lost.job == await beside.graph_jobs.get_job("store", job.id)
        assert "conflict" == lost.outcome
        assert {job.id for job in many} == {job.id for job in (*pages.jobs, *rest.jobs)}
        assert ["queued", "running"] == [str(event.status) for event in await beside.graph_jobs.events("store", job.id)]
        assert (1, 0) == ((await jobs.count("store", GraphJobQuery(correlation_id="c"))).value, lag.completed)


async def test_workers_do_every_job_once(pooled: Settings, tenant: str) -> None:
    """Workers claim, finish and rescue in transactions, and poll, because a pooler does not allow to listen."""
    done: list[object] = []

    async def build(job: GraphBuildJob, context: JobContext) -> BuildResult:
        await context.renew()
        done.append(job.id)
        return BuildResult("graph", followups=[overlay_job(tenant, build_job_id=job.id)])

    async def overlay(job: GraphOverlayJob, _context: JobContext) -> None:
        done.append(job.id)

    async with open_storage(pooled) as storage:
        await storage.graph_jobs.add_many(build_job(tenant) for _ in range(40))
        (stopped,) = (await storage.graph_job_queue.claim(tenant, "build", limit=1)).jobs
        stalled = StalledItem(stopped.id, tenant, stopped.updated_at, stopped.attempts)
        assert (stopped.id,) == (await storage.graph_job_queue.rescue([stalled], attempts_max=3)).requeued
        options = WorkerOptions(tenant=tenant, concurrency=6, batch=5, poll=timedelta(milliseconds=20))
        workers = [GraphJobWorker(storage, build=build, overlay=overlay, options=options) for _ in range(3)]
        await asyncio.gather(*(worker.run(until_empty=True) for worker in workers))
        assert 80 == len(done) == len(set(done)) == sum(worker.stats.completed for worker in workers)
        with pytest.raises(ConfigurationError, match="listening needs a direct connection"):
            await storage.listen(lambda: None)


async def _call_each_run_verb(runs: PolicyRunRepository, tenant: str) -> None:
    """Call each verb of policy runs once, and repeated and late calls."""
    run = policy_run(tenant, run_id="nightly").replace(queued_at=datetime.now(UTC))
    transition_id = uuid4()
    assert (await runs.insert(run)).id == run.id == (await runs.insert(policy_run(tenant, run_id="nightly"))).id
    (first,) = (await queue_of(runs).lease("A", MINUTE, attempts_max=3, limit=9, tenant_id=tenant)).runs
    (renewed,) = (await queue_of(runs).renew([first], MINUTE)).runs
    assert ((), "") == await queue_of(runs).expired(tenant_id=tenant)
    stalled = StalledItem(run.id, tenant, renewed.updated_at, renewed.attempts)
    assert (run.id,) == (await queue_of(runs).rescue([stalled], attempts_max=3, backoff=_NO_BACKOFF)).requeued
    assert {run.id} == (await queue_of(runs).renew([first], MINUTE)).lost
    # now() stands still in the transaction of a session, and advances in autocommit.
    await runs.replace(first.submit(at=AT), "A")
    again = await read(runs, run)
    leased = applied(await runs.replace(again.lease(at=AT, owner="B", until=AT), None))
    ended = await queue_of(runs).end([LeaseResult.submitted(leased)], transition_id=transition_id)
    assert {run.id} == set(ended.versions)
    assert ended == await queue_of(runs).end([LeaseResult.submitted(leased)], transition_id=transition_id)
    assert {run.id} == set((await queue_of(runs).end([LeaseResult.released(first)])).lost)
    completion = PolicyRunCompletion(run_id="nightly", status="completed")
    completed = await PolicyRunService(runs).complete(tenant, completion)
    assert [completed] == list((await runs.list(tenant)).runs)
    assert (1, 1) == ((await runs.count(tenant)).value, (await runs.metrics(tenant)).completed)
    log = ["pending", "dispatching", "pending", "dispatching", "submitted", "completed"]
    assert log == [str(event.status) for event in await runs.events(tenant, run.id)]


async def test_policy_runs_of_many_clients_share_three_connections(pooled: Settings, tenant: str) -> None:
    """40 concurrent callers, in autocommit and in sessions, get their own results."""
    async with open_storage(pooled) as storage:

        async def in_session(number: int) -> None:
            async with storage.session() as session, session.begin():
                await _call_each_run_verb(storage.policy_runs.using(session), f"{tenant}-{number}")

        await asyncio.gather(
            *(_call_each_run_verb(storage.policy_runs, f"{tenant}-{number}") for number in range(20)),
            *(in_session(number) for number in range(20, 40)),
        )
        assert 1 == (await storage.policy_runs.count(f"{tenant}-27")).value


async def test_policy_runs_are_leased_once_and_ended_once(pooled: Settings, direct: Settings, tenant: str) -> None:
    """Six concurrent dispatchers share three connections; one is cancelled, and its runs are rescued."""
    added, ended = [policy_run(tenant) for _ in range(30)], list[object]()

    async def dispatcher(runs: PolicyRunRepository, owner: str) -> None:
        while leased := (
            await storage.policy_run_queue.lease(owner, MINUTE, attempts_max=9, limit=3, tenant_id=tenant)
        ).runs:
            await storage.policy_run_queue.renew(leased, MINUTE)
            answer = await storage.policy_run_queue.end([LeaseResult.submitted(run) for run in leased])
            ended.extend(answer.versions)
            assert (0, 0) == (len(answer.lost), len(answer.busy))

    async with open_storage(pooled) as storage, open_storage(direct) as beside:
        runs = storage.policy_runs
        await asyncio.gather(*(runs.insert(run) for run in added))
        (stopped,) = (
            await storage.policy_run_queue.lease("gone", timedelta(milliseconds=1), attempts_max=9, tenant_id=tenant)
        ).runs
        cancelled = asyncio.create_task(dispatcher(runs, "cancelled"))
        asyncio.get_running_loop().call_later(0.01, cancelled.cancel)
        await asyncio.gather(*(dispatcher(runs, f"dispatcher {number}") for number in range(5)))
        await asyncio.wait([cancelled])
        dispatching = PolicyRunQuery(statuses=(PolicyRunStatus.DISPATCHING,), limit=100)
        abandoned = (await beside.policy_runs.list(tenant, dispatching)).runs
        stalled = [StalledItem(run.id, tenant, run.updated_at, run.attempts) for run in abandoned]
        rescued = await storage.policy_run_queue.rescue(stalled, attempts_max=9, backoff=_NO_BACKOFF)
        await dispatcher(runs, "the last")
        submitted = PolicyRunQuery(statuses=(PolicyRunStatus.SUBMITTED,), limit=20)
        page = await runs.list(tenant, submitted)
        rest = await runs.list(tenant, submitted.replace(cursor=page.next_cursor))

        assert stopped.id in rescued.requeued
        assert {run.id for run in abandoned} == set(rescued.requeued)
        assert len(ended) == len(set(ended))
        assert {run.id for run in added} == {run.id for run in (*page.runs, *rest.runs)}
        for run in (*page.runs, *rest.runs):
            log = [str(event.status) for event in await beside.policy_runs.events(tenant, run.id)]
            assert ["pending", *["dispatching", "pending"] * (run.attempts - 1), "dispatching", "submitted"] == log


async def test_a_policy_run_meets_the_time_outs_behind_the_pooler_too(
    pooled: Settings, direct: Settings, tenant: str
) -> None:
    """A replace that waits for a lock times out without a change; batches skip locked rows and do not wait."""
    async with open_storage(pooled) as storage, open_storage(direct) as other:
        runs = storage.policy_runs
        await runs.insert(policy_run(tenant))
        (run,) = (await storage.policy_run_queue.lease("A", MINUTE, attempts_max=3, tenant_id=tenant)).runs
        async with other.session() as holder, holder.begin():
            await holder.execute(text("SELECT 1 FROM scheduler.policy_runs WHERE id = :id FOR UPDATE"), {"id": run.id})
            with pytest.raises(DatabaseUnavailable) as caught:
                await runs.replace(run.submit(at=AT), "A")
            renewed, ended = (
                await storage.policy_run_queue.renew([run], MINUTE),
                await storage.policy_run_queue.end([LeaseResult.submitted(run)]),
            )
        assert "55P03" == caught.value.sqlstate
        assert [frozenset({run.id})] * 2 == [renewed.busy, ended.busy]
        assert run == await runs.get(tenant, run.id)
        assert {run.id} == set((await storage.policy_run_queue.end([LeaseResult.submitted(run)])).versions)


async def test_a_pooler_that_refuses_settings_is_not_a_missing_server(
    direct: Settings, tmp_path: Path, tenant: str
) -> None:
    """In session mode too: the error says which setting helps, and with it all verbs work."""
    with _pgbouncer(direct, tmp_path, "session") as pooled:
        assert pooled.database_url is not None
        with pytest.raises(
            ConfigurationError, match=r"refuses the setting .* set GRAPHJOBS_POOLER=transaction"
        ) as caught:
            async with open_storage(Settings.load(database_url=pooled.database_url.get_secret_value())):
                pass
        assert "08P01" == caught.value.sqlstate
        async with open_storage(pooled) as storage:
            await _call_each_verb(GraphJobRepository(storage.database), tenant)


async def test_the_settings_of_the_database_do_not_reach_through_the_pooler(
    graphjobs_settings: Settings, tmp_path: Path
) -> None:
    """A lost race is a conflict and not an error, and only `pg_catalog` is searched, in sessions and alone."""
    assert graphjobs_settings.database_url is not None
    connection = await connect(graphjobs_settings.database_url.get_secret_value(), graphjobs_settings)
    name = await connection.fetchval("SELECT current_database()")
    for setting in ("default_transaction_isolation = 'repeatable read'", "search_path = public"):
        await connection.execute(f"ALTER DATABASE {name} SET {setting}")
    await connection.close()
    with _pgbouncer(graphjobs_settings, tmp_path, "transaction") as pooled:
        async with open_storage(pooled) as storage:
            shown = text("SELECT current_setting('transaction_isolation'), current_setting('search_path')")
            async with storage.session() as session:
                assert ("read committed", "pg_catalog") == tuple((await session.execute(shown)).one())
            assert ("read committed", "pg_catalog") == tuple((await storage.database.fetch_all(shown, {}))[0])
            job = await storage.graph_jobs.add(build_job("acme"))
            async with storage.session() as winner, winner.begin():
                await storage.graph_jobs.using(winner).update(job.cancel(at=AT), expected=Status.QUEUED)
                losing = asyncio.create_task(storage.graph_jobs.update(job.start(at=AT), expected=Status.QUEUED))
                await asyncio.sleep(0.2)
            assert "conflict" == (await losing).outcome
