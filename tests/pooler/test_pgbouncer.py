"""The repository behind pgbouncer in transaction mode, which shares its few server connections between all clients."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
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
from graphjobs.attempts import Sighting
from graphjobs.database.engine import connect
from graphjobs.jobs.repository import PostgresGraphJobRepository
from graphjobs.settings import Settings
from graphjobs.testing import run
from graphjobs.worker import JobContext
from tests.builders import AT, build_job, overlay_job

_S = GraphJobStatus
_SERVER_CONNECTIONS = 3


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def direct(graphjobs_new_database: Callable[[], str]) -> Settings:
    """The database itself."""
    return Settings.load(database_url=graphjobs_new_database())


@pytest.fixture(scope="module")
def pooled(direct: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The same database behind pgbouncer, on a port of the loopback interface."""
    assert direct.database_url is not None
    url = urlsplit(direct.database_url.get_secret_value())
    query = parse_qs(url.query)
    host, server_port = (query["host"][0], query["port"][0]) if "host" in query else (url.hostname, url.port)
    folder, port = tmp_path_factory.mktemp("pgbouncer"), _free_port()
    configuration = folder / "pgbouncer.ini"
    lines = [
        "[databases]",
        f"* = host={host} port={server_port} user={url.username}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        f"default_pool_size = {_SERVER_CONNECTIONS}",
        "max_client_conn = 500",
    ]
    if os.geteuid() == 0:  # it refuses to run as root; the embedded server's own user may enter its socket's folder
        lines.append("user = graphjobs")
    configuration.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([os.environ["GRAPHJOBS_TEST_PGBOUNCER"], configuration], stderr=subprocess.DEVNULL)
    pooled = Settings.load(
        database_url=urlunsplit(url._replace(netloc=f"{url.username}@127.0.0.1:{port}", query="")),
        pooler="transaction",
        statement_timeout=timedelta(seconds=3),
        lock_timeout=timedelta(milliseconds=300),
    )
    try:
        run(_until_it_answers(pooled))
        yield pooled
    finally:
        process.terminate()
        process.wait(timeout=10)


async def _until_it_answers(settings: Settings) -> None:
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


async def _life(jobs: PostgresGraphJobRepository, tenant: str) -> None:
    """A job's whole life: each verb once."""
    job = await jobs.insert(build_job(tenant))
    started = job.start(at=AT)
    assert await jobs.try_replace(started, _S.QUEUED)
    assert not await jobs.try_replace(started, _S.QUEUED)
    event = await jobs.append_event(GraphJobEvent(job_id=job.id, tenant_id=tenant, status=_S.RUNNING))
    assert started == await jobs.get_build_job(tenant, job.id)
    assert started in await jobs.list_build_jobs(tenant, limit=100)
    assert (event,) == await jobs.list_events(tenant, job.id)


async def test_many_clients_share_few_connections(pooled: Settings, tenant: str) -> None:
    """60 callers at once over 3 server connections: alone and in sessions, nobody gets another's statement."""
    async with open_storage(pooled) as storage:

        async def in_session(number: int) -> None:
            async with storage.session() as session, session.begin():
                await _life(PostgresGraphJobRepository(storage.database.using(session)), f"{tenant}-{number}")

        alone = PostgresGraphJobRepository(storage.database)
        await asyncio.gather(
            *(_life(alone, f"{tenant}-{number}") for number in range(30)), *(in_session(number) for number in range(30))
        )
        assert 2 == len(await alone.list_build_jobs(f"{tenant}-7", limit=100))


async def test_time_outs_hold_behind_the_pooler_too(pooled: Settings, direct: Settings, tenant: str) -> None:
    """They are set as each transaction begins, and gone with it: the shared connection keeps none of them."""
    assert direct.database_url is not None
    async with open_storage(pooled) as storage, open_storage(direct) as other:
        job = await storage.graph_job_repository.insert(build_job(tenant))
        async with other.session() as holder, holder.begin():
            await holder.execute(text("SELECT 1 FROM scheduler.graph_jobs WHERE id = :job FOR UPDATE"), {"job": job.id})
            with pytest.raises(DatabaseUnavailable) as caught:
                await storage.graph_job_repository.try_replace(job.start(at=AT), _S.QUEUED)
        assert caught.value.sqlstate == "55P03"
        async with storage.session() as session:
            names = ("statement_timeout", "lock_timeout", "TimeZone")
            shown = [await session.scalar(text(f"SHOW {name}")) for name in names]
        assert ["3s", "300ms", "UTC"] == shown
        assert await storage.graph_job_repository.try_replace(job.start(at=AT), _S.QUEUED)


async def test_cancelled_calls_leave_the_pooler_usable(pooled: Settings, direct: Settings, tenant: str) -> None:
    """After 60 cancelled lives no server connection is in a transaction, and the next callers are served."""
    assert direct.database_url is not None
    async with open_storage(pooled) as storage:
        alone = PostgresGraphJobRepository(storage.database)
        tasks = [asyncio.ensure_future(_life(alone, f"{tenant}-{number}")) for number in range(60)]
        for number, task in enumerate(tasks):
            asyncio.get_running_loop().call_later(number / 200, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        await _life(alone, tenant)
    connection = await asyncpg.connect(direct.database_url.get_secret_value())
    try:
        async with asyncio.timeout(10):
            while await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
                "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ):
                await asyncio.sleep(0.05)
        left = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
    assert left <= _SERVER_CONNECTIONS


async def test_the_store_adds_moves_pages_and_counts(pooled: Settings, direct: Settings) -> None:
    """A move and its event are one statement there, too; asked again, it answers the same."""
    async with open_storage(pooled) as storage, open_storage(direct) as beside:
        jobs = storage.graph_jobs
        job = await jobs.add(build_job("store", correlation_id="c"), actor="me")
        transition = uuid4()
        first = await jobs.update(job.start(at=AT), expected=_S.QUEUED, transition_id=transition)
        again = await jobs.update(job.start(at=AT), expected=_S.QUEUED, transition_id=transition)
        lost = await jobs.update(job.cancel(at=AT), expected=_S.QUEUED)
        many = await jobs.add_many([build_job("store") for _ in range(20)])
        pages = await jobs.get_jobs("store", GraphJobQuery(statuses=(_S.QUEUED,), limit=15))
        rest = await jobs.get_jobs("store", GraphJobQuery(statuses=(_S.QUEUED,), cursor=pages.next_cursor))
        lag = await jobs.overlay_lag("store", window=timedelta(days=1))

        assert first.applied
        assert first == again
        assert first.job == lost.job == await beside.graph_jobs.get_job("store", job.id)
        assert "conflict" == lost.outcome
        assert {one.id for one in many} == {one.id for one in (*pages.jobs, *rest.jobs)}
        assert ["queued", "running"] == [str(event.status) for event in await beside.graph_jobs.events("store", job.id)]
        assert (1, 0) == ((await jobs.count("store", GraphJobQuery(correlation_id="c"))).value, lag.completed)


async def test_workers_do_every_job_once(pooled: Settings, tenant: str) -> None:
    """Claims, ends and rescues in transactions; they poll, for nobody can listen through the pooler."""
    done: list[object] = []

    async def build(job: GraphBuildJob, context: JobContext) -> BuildResult:
        await context.renew()
        done.append(job.id)
        return BuildResult("graph", following=[overlay_job(tenant, build_job_id=job.id)])

    async def overlay(job: GraphOverlayJob, _context: JobContext) -> None:
        done.append(job.id)

    async with open_storage(pooled) as storage:
        await storage.graph_jobs.add_many(build_job(tenant) for _ in range(40))
        (stopped,) = (await storage.graph_job_queue.claim(tenant, "build", limit=1)).jobs
        seen = Sighting(stopped.id, tenant, stopped.updated_at, stopped.attempts)
        assert (stopped.id,) == (await storage.graph_job_queue.rescue([seen], attempts_max=3)).requeued
        options = WorkerOptions(tenant=tenant, concurrency=6, batch=5, poll=timedelta(milliseconds=20))
        workers = [GraphJobWorker(storage, build=build, overlay=overlay, options=options) for _ in range(3)]
        await asyncio.gather(*(worker.run(until_empty=True) for worker in workers))
        assert 80 == len(done) == len(set(done)) == sum(worker.counts.completed for worker in workers)
        with pytest.raises(ConfigurationError, match="listening needs a connection of its own"):
            await storage.listen(lambda: None)
