"""Revision 015 builds an index concurrently, and rebuilds an index that an interrupted build left invalid."""

import asyncio
from datetime import timedelta

import pytest

from graphjobs.database.migrations import commands
from graphjobs.errors import DatabaseUnavailable, GraphJobsError
from graphjobs.settings import Settings
from tests.migrations.blocking_sessions import session, until_waiting
from tests.migrations.cli_tools import ask, relative_to_head

_BEFORE = "014_graph_jobs"
_INSERT = """
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, correlation_id)
VALUES (gen_random_uuid(), 't', 0, 0, '{}', 'c')
"""
_VALID = """
SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('scheduler.idx_graph_jobs_tenant_correlation')
"""


@pytest.fixture
async def at_014(empty_settings: Settings) -> Settings:
    """Settings of a database at the previous revision."""
    assert await commands.upgrade(empty_settings, revision=_BEFORE) == _BEFORE
    return empty_settings


async def test_writers_continue_during_the_build(at_014: Settings, empty_url: str) -> None:
    """The build waits for an older transaction and blocks no writer meanwhile."""
    async with session(empty_url) as reader, session(empty_url) as writer, session(empty_url) as watcher:
        reading = reader.transaction(isolation="repeatable_read")
        await reading.start()
        await reader.fetch("SELECT count(*) FROM scheduler.graph_jobs")
        ended = asyncio.ensure_future(commands.upgrade(at_014))
        await until_waiting(watcher)
        await asyncio.wait_for(writer.execute(_INSERT), 5)
        await reading.rollback()
        assert await asyncio.wait_for(ended, 20) == commands.history()[-1].revision
    assert ask(empty_url, _VALID) == "t"


async def test_the_build_waits_longer_than_the_lock_time_out_and_says_for_whom(
    at_014: Settings, empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for every older transaction of the database; the lock time-out of other statements is unchanged."""
    settings = at_014.model_copy(update={"lock_timeout": timedelta(milliseconds=50)})
    async with session(empty_url) as reader:
        reading = reader.transaction(isolation="repeatable_read")
        await reading.start()
        await reader.fetch("SELECT")
        ended = asyncio.ensure_future(commands.upgrade(settings))
        waits_for = f"the migration waits for process {reader.get_server_pid()}"
        async with asyncio.timeout(20):
            while waits_for not in caplog.text:
                await asyncio.sleep(0.05)
        assert not ended.done()
        await reading.rollback()
        await asyncio.wait_for(ended, 20)
    assert ask(empty_url, _VALID) == "t"


async def test_an_upgrade_with_a_lost_connection_says_what_stays(at_014: Settings, empty_url: str) -> None:
    """The lock is of the same session, so no other migration runs beside it; the next upgrade continues."""
    async with session(empty_url) as reader, session(empty_url) as watcher:
        reading = reader.transaction(isolation="repeatable_read")
        await reading.start()
        await reader.fetch("SELECT")
        ended = asyncio.ensure_future(commands.upgrade(at_014))
        await until_waiting(watcher)
        await watcher.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        with pytest.raises(DatabaseUnavailable, match="revisions that finished stay"):
            await ended
        await reading.rollback()
    assert await commands.upgrade(at_014) == commands.history()[-1].revision
    assert ask(empty_url, _VALID) == "t"


async def test_an_invalid_index_of_an_interrupted_build_is_rebuilt(at_014: Settings, empty_url: str) -> None:
    """`IF NOT EXISTS` would keep the invalid index."""
    ask(empty_url, _INSERT)
    async with session(empty_url) as reader, session(empty_url) as builder, session(empty_url) as watcher:
        reading = reader.transaction(isolation="repeatable_read")
        await reading.start()
        await reader.fetch("SELECT count(*) FROM scheduler.graph_jobs")
        building = asyncio.ensure_future(
            builder.execute(
                "CREATE INDEX CONCURRENTLY idx_graph_jobs_tenant_correlation ON scheduler.graph_jobs (tenant_id)"
            )
        )
        await until_waiting(watcher)
        await watcher.fetchval("SELECT pg_terminate_backend($1)", builder.get_server_pid())
        assert isinstance((await asyncio.gather(building, return_exceptions=True))[0], Exception)
        await reading.rollback()
    invalid = ask(empty_url, _VALID)
    await commands.upgrade(at_014)

    assert invalid == "f"
    assert ask(empty_url, _VALID) == "t"
    await commands.check(at_014)


async def test_a_downgrade_is_refused_before_its_first_step(at_014: Settings, empty_url: str) -> None:
    """A refusal after a step would leave the database between revisions."""
    await commands.upgrade(at_014)
    ask(empty_url, _INSERT)
    for revision in ("base", relative_to_head(None)):
        with pytest.raises(GraphJobsError, match=r"1 rows of scheduler\.graph_jobs"):
            await commands.downgrade(at_014, revision=revision)
    assert ask(empty_url, _VALID) == "t"
    assert await commands.current(at_014) == commands.history()[-1].revision
