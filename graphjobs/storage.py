"""The one place where engines, executors and repositories are built and joined."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from graphjobs.core.notifications import CHANNEL
from graphjobs.database.engine import autocommit_engine, resolve_url, transactional_engine
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
    """What a service holds while it runs.

    Attributes:
        database: runs each statement alone; `database.using(session)` inside a session.
        graph_jobs: graph jobs with their log, each call its own transaction; `graph_jobs.using(session)` inside a
            session.
        graph_job_queue: hands queued jobs to workers, and takes them back; `graph_job_queue.using(session)` inside a
            session.
        graph_job_repository: the plan's contract on the same tables, without the log.
        policy_runs: policy runs with their log; `policy_runs.using(session)` inside a session.
        policy_run_queue: leases pending policy runs to dispatchers; `policy_run_queue.using(session)` inside a session.
    """

    database: AutocommitExecutor
    graph_jobs: GraphJobStore
    graph_job_queue: GraphJobQueue
    graph_job_repository: GraphJobRepository
    policy_runs: PolicyRunRepository
    policy_run_queue: PolicyRunQueue
    _sessions: async_sessionmaker[AsyncSession]
    # Not shown: it knows the URL, and that may hold a password.
    _listen: Callable[[Callable[[], None]], Coroutine[None, None, None]] = field(repr=False)

    def session(self) -> AsyncSession:
        """Gives a new session on the transactional engine; `async with` closes it and rolls back what is open.

        What the caller runs on it himself, its commit among that, raises SQLAlchemy's own errors. A COMMIT whose answer
        was lost may have landed, and tells so no more than one that did not: read what it should have written.

        For a transaction that holds jobs and the caller's own rows::

            async with storage.session() as session, session.begin():
                jobs = storage.graph_jobs.using(session)
        """
        self.database.require_own_loop()
        return self._sessions()

    async def listen(self, on_notify: Callable[[], None]) -> None:
        """Calls `heard` whenever something may have been queued, until it is cancelled; on a connection of its own.

        Only storages whose settings say `notify` tell of what they queue, and a notice can be lost: it may save a wait,
        and replaces no look.

        Raises:
            ConfigurationError: a pooler in transaction mode is in between.
        """
        await self._listen(on_notify)


@asynccontextmanager
async def open_storage(settings: Settings | None = None) -> AsyncIterator[Storage]:
    """Opens the data layer, and closes it cleanly.

    With no URL set it starts the embedded server if need be, and brings its schema up to date: that database is ours.
    A database that a URL names is never migrated unasked.

    Args:
        settings: where and how long; None means those of the environment.

    Raises:
        ConfigurationError: what is configured cannot work.
        DatabaseUnavailable: nobody answers.
        SchemaOutOfDate: the database is at an earlier revision: run `graphjobs db upgrade`.
    """
    given = settings or Settings.load()
    url = await resolve_url(given)
    alone = autocommit_engine(url, given)
    transactional = transactional_engine(url, given)
    try:
        database = AutocommitExecutor(alone, given)
        try:
            await require_revision(database)
        except SchemaOutOfDate:
            if given.database_url is not None:
                raise
            # Alembic takes a fifth of a second to import, and most who open a storage never need it.
            from graphjobs.database.migrations.commands import upgrade

            await upgrade(given)
        yield Storage(
            database=database,
            graph_jobs=PostgresGraphJobStore(database, notify=given.notify),
            graph_job_queue=GraphJobQueue(database, notify=given.notify),
            graph_job_repository=GraphJobRepository(database),
            policy_runs=PostgresPolicyRunRepository(database, notify=given.notify),
            policy_run_queue=PolicyRunQueue(database, notify=given.notify),
            _sessions=async_sessionmaker(transactional, expire_on_commit=False),
            _listen=partial(listen, url, given, CHANNEL),
        )
    finally:
        await run_to_completion(_dispose((alone, transactional), given))


async def _dispose(engines: tuple[AsyncEngine, ...], settings: Settings) -> None:
    """Closes the pools; a network that swallows our farewell is not waited for."""
    try:
        async with asyncio.timeout(settings.connect_timeout.total_seconds()):
            for engine in engines:
                await engine.dispose()
    except TimeoutError:
        _log.warning("the database did not answer a farewell; its connections were left to end by themselves")
