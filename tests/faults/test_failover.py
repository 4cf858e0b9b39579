"""A real primary and its synchronous standby change roles twice, with writers, workers and a listener running."""

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.exc import SQLAlchemyError

from graphjobs import (
    BuildResult,
    ConfigurationError,
    DatabaseUnavailable,
    GraphBuildJob,
    GraphJobsError,
    GraphJobStatus,
    GraphJobWorker,
    JobAlreadyExists,
    WorkerOptions,
    open_storage,
    upgrade,
)
from graphjobs.database import listener
from graphjobs.database.embedded.cluster import Cluster, socket_dir_for
from graphjobs.database.embedded.private_dirs import make_private
from graphjobs.database.embedded.server import throwaway_cluster
from graphjobs.database.engine import connect
from graphjobs.database.url import parse_url
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from graphjobs.worker import JobContext
from tests.builders import build_job
from tests.faults.backend_monitor import Watch, url_of
from tests.faults.faulty_proxy import FaultProxy

TENANT = "acme"
RECOVERY_SECONDS = 30.0
_SYNCHRONOUS = ("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")


async def _until(condition: Callable[[], Awaitable[bool] | bool], what: str) -> None:
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            result = condition()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.05)
    raise AssertionError(what)


async def _sql(cluster: Cluster, *statements: str) -> object:
    connection = await connect(cluster.url(), Settings.load(database_url=cluster.url()))
    try:
        for statement in statements:
            value = await connection.fetchval(statement)
    finally:
        connection.terminate()
    return value


@contextmanager
def _pair() -> Iterator[tuple[Cluster, Cluster]]:
    """Run a primary, and a copy of it that follows it."""
    with throwaway_cluster(options={"synchronous_commit": "on"}) as first:
        home = first.data_dir.parent / "second"
        second = replace(first, data_dir=home, socket_dir=socket_dir_for(home))
        make_private(home, owner=first.programs.owner())
        done = first.programs.run(
            "pg_basebackup", "-D", str(home), "-h", str(first.socket_dir), "-U", "graphjobs", "-c", "fast", "-R"
        )
        assert done.returncode == 0, done.stderr
        second.start()
        try:
            yield first, second
        finally:
            second.stop()
            shutil.rmtree(second.socket_dir)


def _follow(standby: Cluster, primary: Cluster) -> None:
    """Make a stopped server a standby of another one at its next start."""
    with (standby.data_dir / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = 'host={primary.socket_dir} user=graphjobs'\n")
    signal = standby.data_dir / "standby.signal"
    signal.touch()
    os.chown(signal, *standby.programs.owner())


async def _pg_ctl(cluster: Cluster, *arguments: str) -> None:
    done = await asyncio.to_thread(cluster.programs.run, "pg_ctl", "-s", "-w", *arguments)
    assert done.returncode == 0, done.stderr


@dataclass
class Load:
    """Writers, a worker and a listener on one storage.

    Attributes:
        storage: their storage.
        acknowledged: the jobs that were acknowledged.
        errors: the errors that were retried.
        notified: the number of notifications.
    """

    storage: Storage
    acknowledged: list[UUID] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    notified: int = 0
    stopping: bool = False

    async def write(self, insert: Callable[[GraphBuildJob], Awaitable[object]]) -> None:
        """Add jobs until the end; a job without an answer is added again under the same id."""
        while not self.stopping:
            job = build_job(TENANT)
            while True:
                try:
                    await insert(job)
                except JobAlreadyExists:
                    break
                except (GraphJobsError, SQLAlchemyError, OSError) as error:
                    self.errors.append(error)
                    await asyncio.sleep(0.05)
                else:
                    break
            self.acknowledged.append(job.id)
            await asyncio.sleep(0.02)

    async def insert_in_session(self, job: GraphBuildJob) -> None:
        """Add a job in a session."""
        async with self.storage.session() as session, session.begin():
            await self.storage.graph_jobs.using(session).add(job)

    def heard(self) -> None:
        """Count a notification."""
        self.notified += 1

    async def recovers(self) -> None:
        """Wait until writers, worker and listener have all done something after this moment."""
        written, notified = len(self.acknowledged), self.notified
        await _until(lambda: len(self.acknowledged) > written + 4, "no write was acknowledged")
        last = self.acknowledged[-1]

        async def is_done() -> bool:
            try:
                job = await self.storage.graph_jobs.get_build_job(TENANT, last)
            except GraphJobsError:
                return False
            return job is not None and job.status is GraphJobStatus.COMPLETED

        await _until(is_done, "the worker completed no job")
        await _until(lambda: self.notified > notified, "the listener heard nothing")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Run until the context ends."""

        async def build(job: GraphBuildJob, _context: JobContext) -> BuildResult:
            return BuildResult(f"graph-{job.id}")

        options = WorkerOptions(tenant=TENANT, poll=timedelta(milliseconds=50), lease=timedelta(seconds=4))
        worker = GraphJobWorker(self.storage, build=build, options=options)
        writers = [
            asyncio.create_task(self.write(insert)) for insert in (self.storage.graph_jobs.add, self.insert_in_session)
        ]
        others = [asyncio.create_task(worker.run()), asyncio.create_task(self.storage.listen(self.heard))]
        try:
            yield self
            self.stopping = True
            await asyncio.wait_for(asyncio.gather(*writers), RECOVERY_SECONDS)
        finally:
            for task in (*writers, *others):
                task.cancel()
            await asyncio.gather(*writers, *others, return_exceptions=True)


async def test_everything_recovers_from_two_failovers(tmp_path: Path) -> None:
    """Through an address that is moved, and with both servers in the URL; nothing acknowledged is lost or done twice.

    First the primary becomes a standby, and the address leads to it for a while. Then the new primary crashes.
    """
    with _pair() as (first, second):
        await upgrade(Settings.load(database_url=first.url()))
        # Only now: without the standby no commit would end.
        await _sql(first, *_SYNCHRONOUS)
        proxy = FaultProxy(first.url(), tmp_path)
        both = first.url().replace("host=", f"host={second.socket_dir},").replace("port=5432", "port=5432,5432")
        # A statement that times out while it waits for the standby is committed, and acknowledged, on one server only.
        waits = {"connect_timeout": timedelta(seconds=3), "statement_timeout": timedelta(seconds=20)}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(proxy.running())
            loads = []
            for url in (proxy.url, both):
                settings = Settings.load(database_url=url, pool_size=4, notify=True, **waits)
                load = Load(await stack.enter_async_context(open_storage(settings)))
                loads.append(await stack.enter_async_context(load.running()))
            await asyncio.gather(*(load.recovers() for load in loads))

            # The roles change; the address still leads to the old primary, which is read-only now.
            await _pg_ctl(first, "stop", "-m", "fast")
            await _pg_ctl(second, "promote")
            _follow(first, second)
            await asyncio.to_thread(first.start)
            # Not before the standby runs, without which no commit would end. ALTER SYSTEM is not replicated.
            await _sql(second, *_SYNCHRONOUS)
            await _until(
                lambda: any(_is_read_only(error) for error in loads[0].errors), "no write met the read-only server"
            )
            await loads[1].recovers()
            assert [] == [error for error in loads[1].errors if _is_read_only(error)]
            proxy.server_url = second.url()
            await asyncio.gather(*(load.recovers() for load in loads))

            # The primary crashes, its standby becomes the primary, and the address is moved at once.
            await _pg_ctl(second, "stop", "-m", "immediate")
            await _sql(first, "ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()")
            await _pg_ctl(first, "promote")
            proxy.server_url = first.url()
            await asyncio.gather(*(load.recovers() for load in loads))

        acknowledged = [job_id for load in loads for job_id in load.acknowledged]
        async with open_storage(Settings.load(database_url=first.url())) as storage:
            for job_id in acknowledged:
                assert await storage.graph_jobs.get_build_job(TENANT, job_id), "an acknowledged job is lost"
                log = [str(event.status) for event in await storage.graph_jobs.events(TENANT, job_id)]
                assert log[0] == "queued"
                assert log.count("completed") <= 1
                assert log.count("running") <= 1 + log[1:].count("queued")
    assert any(load.errors for load in loads)


def _is_read_only(error: BaseException) -> bool:
    return "25006" in (getattr(error, "sqlstate", None), getattr(getattr(error, "orig", None), "sqlstate", None))


async def test_a_server_that_is_fenced_off_is_left_by_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connections stay open, and answer that they are read-only; the listener looks by itself."""
    monkeypatch.setattr(listener, "_PROBE_EVERY_SECONDS", 0.1)
    fenced = "ALTER SYSTEM SET default_transaction_read_only = {}"
    with throwaway_cluster() as cluster:
        settings = Settings.load(database_url=cluster.url(), pool_size=2, notify=True)
        await upgrade(settings)
        async with open_storage(settings) as storage:
            load = Load(storage)
            listening = asyncio.create_task(storage.listen(load.heard))
            await _until(lambda: load.notified > 0, "it does not listen")
            await _sql(cluster, fenced.format("on"), "SELECT pg_reload_conf()")
            await _until(lambda: "the server has become read-only" in caplog.text, "the listener stayed")
            with pytest.raises(DatabaseUnavailable) as caught:
                await storage.graph_jobs.add(build_job(TENANT))
            assert _is_read_only(caught.value)
            await _sql(cluster, fenced.format("off"), "SELECT pg_reload_conf()")
            await _until(lambda: _is_added(storage), "no write was acknowledged")
            heard = load.notified
            await _until(lambda: load.notified > heard, "the listener heard nothing")
            listening.cancel()


async def _is_added(storage: Storage) -> bool:
    try:
        return await storage.graph_jobs.add(build_job(TENANT)) is not None
    except DatabaseUnavailable:
        return False


async def test_a_listener_ends_where_no_retry_can_help(graphjobs_settings: Settings, watch: Watch) -> None:
    """Its role may no longer log in; a lost connection alone does not end it."""
    role, heard = f"listener_{secrets.token_hex(4)}", list[None]()
    await watch.connection.execute(f"CREATE ROLE {role} LOGIN")
    backends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1"
    url = parse_url(f"{url_of(graphjobs_settings)}{'&' if '?' in url_of(graphjobs_settings) else '?'}user={role}")
    try:
        listening = asyncio.create_task(listener.listen(url, graphjobs_settings, "c", lambda: heard.append(None)))
        await _until(lambda: len(heard) == 1, "it does not listen")
        await watch.connection.fetchval(backends, role)
        await _until(lambda: len(heard) == 2, "it does not listen again")
        await watch.connection.execute(f"ALTER ROLE {role} NOLOGIN")
        await watch.connection.fetchval(backends, role)
        with pytest.raises(ConfigurationError, match="refused the login"):
            await asyncio.wait_for(listening, RECOVERY_SECONDS)
    finally:
        await watch.connection.execute(f"DROP ROLE {role}")
