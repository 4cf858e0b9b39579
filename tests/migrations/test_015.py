"""Revision 015 builds an index concurrently, and rebuilds an index that an interrupted build left invalid."""

import asyncio

import pytest

from graphjobs.database.migrations import commands
from graphjobs.errors import GraphJobsError
from graphjobs.settings import Settings
from tests.migrations.blocking_sessions import session, until_waiting
from tests.migrations.cli_tools import ask, dump

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


async def test_it_adds_and_removes_its_index(at_014: Settings, empty_url: str) -> None:
    """The rows stay, and the schema after the downgrade is that before the upgrade."""
    ask(empty_url, _INSERT)
    before = dump(empty_url)
    await commands.upgrade(at_014, revision="015_correlation_index")
    valid = ask(empty_url, _VALID)
    await commands.downgrade(at_014, revision=_BEFORE)

    assert valid == "t"
    assert before == dump(empty_url)
    assert ask(empty_url, "SELECT count(*) FROM scheduler.graph_jobs") == "1"


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
    for revision in ("base", "-5"):
        with pytest.raises(GraphJobsError, match=r"1 rows of scheduler\.graph_jobs"):
            await commands.downgrade(at_014, revision=revision)
    assert ask(empty_url, _VALID) == "t"
    assert await commands.current(at_014) == commands.history()[-1].revision
