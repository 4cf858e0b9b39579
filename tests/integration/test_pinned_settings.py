"""What a role or a database sets does not change the statements: search path and isolation level are pinned."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from graphjobs import ConfigurationError, GraphJobStatus, open_storage
from graphjobs.database.engine import connect
from graphjobs.database.migrations import commands
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.faults.backend_monitor import url_of, with_settings

QUEUED = GraphJobStatus.QUEUED
TENANT = "acme"

_HOSTILE = (
    "CREATE SCHEMA app",
    "CREATE TABLE app.own (id integer)",
    "CREATE FUNCTION app.to_jsonb(integer) RETURNS jsonb LANGUAGE sql AS $$ SELECT '\"taken over\"'::jsonb $$",
    "CREATE FUNCTION app.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'infinity'::timestamptz $$",
    "ALTER DATABASE {} SET search_path = app, public, pg_catalog",
    "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'",
)


@pytest.fixture
async def hostile(graphjobs_settings: Settings) -> Settings:
    """A database in which another role's functions come first, and with another isolation level."""
    connection = await connect(url_of(graphjobs_settings), graphjobs_settings)
    name = await connection.fetchval("SELECT current_database()")
    for statement in _HOSTILE:
        await connection.execute(statement.format(name))
    await connection.close()
    return graphjobs_settings


@asynccontextmanager
async def _store(storage: Storage, way: str) -> AsyncIterator[Any]:
    if way == "alone":
        yield storage.graph_jobs
        return
    async with storage.session() as session, session.begin():
        yield storage.graph_jobs.using(session)


@pytest.mark.parametrize("pooler", ["direct", "transaction"])
@pytest.mark.parametrize("way", ["alone", "session"])
async def test_functions_of_other_schemas_are_not_called(hostile: Settings, pooler: str, way: str) -> None:
    """Each update is applied, with the server's clock."""
    async with open_storage(with_settings(hostile, pooler=pooler)) as storage:
        job = await storage.graph_jobs.add(build_job(TENANT))
        async with _store(storage, way) as jobs:
            result = await jobs.update(job.start(at=AT), expected=QUEUED)
        assert "applied" == result.outcome
        assert result.job.updated_at.year < 9000


@pytest.mark.parametrize("pooler", ["direct", "transaction"])
@pytest.mark.parametrize("way", ["alone", "session"])
async def test_a_lost_race_is_a_conflict_and_no_error(hostile: Settings, pooler: str, way: str) -> None:
    """At REPEATABLE READ it would be error 40001, and a conflict reads what the winner wrote."""
    async with open_storage(with_settings(hostile, pooler=pooler)) as storage:
        job = await storage.graph_jobs.add(build_job(TENANT))
        async with _store(storage, way) as jobs:
            assert job == await jobs.get_build_job(TENANT, job.id)  # a snapshot, if it were to last
            async with storage.session() as other, other.begin():
                await storage.graph_jobs.using(other).update(job.cancel(at=AT), expected=QUEUED)
                losing = asyncio.create_task(jobs.update(job.start(at=AT), expected=QUEUED))
                await asyncio.sleep(0.1)
            result = await losing
        assert ("conflict", GraphJobStatus.CANCELED) == (result.outcome, result.job.status)


@pytest.mark.parametrize("pooler", ["direct", "transaction"])
async def test_sessions_see_the_schemas_of_the_setting(hostile: Settings, pooler: str) -> None:
    """`pg_catalog` stays first; single statements never see them."""
    shown = text("SELECT current_setting('search_path'), current_setting('transaction_isolation')")
    for path, expected in (("", "pg_catalog"), ('app, "A b"', 'pg_catalog, app, "A b"')):
        async with open_storage(with_settings(hostile, pooler=pooler, search_path=path)) as storage:
            async with storage.session() as session:
                assert (expected, "read committed") == tuple((await session.execute(shown)).one())
                if path:
                    assert 0 == await session.scalar(text("SELECT count(*) FROM own"))
            assert ("pg_catalog", "read committed") == tuple((await storage.database.fetch_all(shown, {}))[0])


@pytest.mark.parametrize("path", ["app;", "App", "app, ", "x'y", '"a', "a b"])
def test_a_search_path_is_a_list_of_schemas(path: str) -> None:
    """The error names the variable."""
    with pytest.raises(ConfigurationError, match="GRAPHJOBS_SEARCH_PATH is invalid: it must be schemas"):
        Settings.load(search_path=path)


@pytest.mark.parametrize("pinned", [False, True])
async def test_the_path_of_a_callers_own_engine_holds(hostile: Settings, pinned: bool) -> None:
    """The docs say so: `using(session)` changes nothing in it, and pinning is the caller's work."""
    arguments = {"server_settings": {"search_path": "pg_catalog"}} if pinned else {}
    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args={"dsn": url_of(hostile), **arguments}, isolation_level="READ COMMITTED"
    )
    try:
        async with open_storage(hostile) as storage, AsyncSession(engine) as session, session.begin():
            job = await storage.graph_jobs.add(build_job(TENANT))
            result = await storage.graph_jobs.using(session).update(job.start(at=AT), expected=QUEUED)
        assert ("applied" if pinned else "conflict") == result.outcome
    finally:
        await engine.dispose()


async def test_migrations_call_no_function_of_other_schemas(hostile: Settings) -> None:
    """Down and up again on the database with the hostile path."""
    assert await commands.downgrade(hostile, revision="base", drop_data=True) is None
    await commands.upgrade(hostile)
    await commands.check(hostile)
    async with open_storage(hostile) as storage:
        assert (await storage.graph_jobs.add(build_job(TENANT))).updated_at is not None
