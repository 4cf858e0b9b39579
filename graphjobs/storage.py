"""The composition root: the only module that builds and joins engines, executors, stores and queues."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from graphjobs.core.notifications import CHANNEL
from graphjobs.database.engine import Engines, create_engines, resolve_url
from graphjobs.database.executor import AutocommitExecutor, run_to_completion
from graphjobs.database.listener import listen
from graphjobs.database.schema_version import require_revision
from graphjobs.errors import SchemaOutOfDate
from graphjobs.graph_jobs.queue import GraphJobQueue
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.graph_jobs.store import GraphJobStore, PostgresGraphJobStore
from graphjobs.policy_runs.queue import PolicyRunQueue
from graphjobs.policy_runs.repository import PolicyRunRepository, PostgresPolicyRunRepository
from graphjobs.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Storage:
    """The open data layer of a service. Each part has `using(session)`, which runs it inside a session.

    Attributes:
        database: runs each statement in autocommit.
        graph_jobs: graph jobs with their event log; each call is a transaction.
        graph_job_queue: hands queued jobs to workers and stores their results.
        graph_job_repository: the plan's contract on the same tables, without the event log.
        policy_runs: policy runs with their event log; each call is a transaction.
        policy_run_queue: leases pending policy runs to dispatchers and stores their results.
    """

    database: AutocommitExecutor
    graph_jobs: GraphJobStore
    graph_job_queue: GraphJobQueue
    graph_job_repository: GraphJobRepository
    policy_runs: PolicyRunRepository
    policy_run_queue: PolicyRunQueue
    _sessions: async_sessionmaker[AsyncSession]
    _listen: Callable[[Callable[[], None]], Coroutine[None, None, None]] = field(repr=False)

    def session(self) -> AsyncSession:
        """Return a new session on the transactional engine; `async with` closes it and rolls back an open transaction.

        Statements of the caller on the session, and its commit, raise SQLAlchemy's own errors. After a COMMIT without
        an answer the outcome is unknown: read the rows that it should have written.

        For a transaction with jobs and the caller's own rows::

            async with storage.session() as session, session.begin():
                jobs = storage.graph_jobs.using(session)
        """
        self.database.require_own_loop()
        return self._sessions()

    async def listen(self, on_notify: Callable[[], None]) -> None:
        """Call `on_notify` whenever work may have been queued, until cancelled; on a separate connection.

        Only storages with the setting `notify` send notifications, and a notification may be lost: it can shorten the
        wait between polls, and cannot replace them.

        Raises:
            ConfigurationError: the setting `pooler` is "transaction".
        """
        await self._listen(on_notify)


@asynccontextmanager
async def open_storage(settings: Settings | None = None) -> AsyncIterator[Storage]:
    """Open the data layer, and close it at the end.

    Without a URL, start the embedded server unless it runs, and upgrade its schema. A database with a URL is never
    migrated automatically.

    Args:
        settings: the database and the time-outs; None means the settings of the environment.

    Raises:
        ConfigurationError: the settings are invalid.
        DatabaseUnavailable: no server answers.
        SchemaOutOfDate: the database is at an earlier revision: run `graphjobs db upgrade`.
    """
    settings = settings or Settings.load()
    url = await resolve_url(settings)
    engines = create_engines(url, settings)
    try:
        database = AutocommitExecutor(engines.autocommit, settings)
        # Heartbeats and ends must not wait behind the calls of handlers: their jobs would be done twice.
        queues = AutocommitExecutor(engines.autocommit, settings, reserve=engines.reserve)
        try:
            await require_revision(database)
        except SchemaOutOfDate:
            if settings.database_url is not None:
                raise
            # Imported here because alembic takes 0.2 s to import and is rarely needed.
            from graphjobs.database.migrations.commands import upgrade

            await upgrade(settings)
        yield Storage(
            database=database,
            graph_jobs=PostgresGraphJobStore(database, notify=settings.notify),
            graph_job_queue=GraphJobQueue(queues, notify=settings.notify),
            graph_job_repository=GraphJobRepository(database),
            policy_runs=PostgresPolicyRunRepository(database, notify=settings.notify),
            policy_run_queue=PolicyRunQueue(queues, notify=settings.notify),
            _sessions=async_sessionmaker(engines.transactional, expire_on_commit=False),
            _listen=partial(listen, url, settings, CHANNEL),
        )
    finally:
        await run_to_completion(_dispose(engines, settings))


async def _dispose(engines: Engines, settings: Settings) -> None:
    """Close the pools, and wait no longer than the connect time-out for an unreachable server."""
    try:
        async with asyncio.timeout(settings.connect_timeout.total_seconds()):
            await engines.dispose()
    except TimeoutError:
        _log.warning("the database did not answer while the pools were closed; its connections end by themselves")
