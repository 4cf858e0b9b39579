"""The way down: rows are never dropped unasked, neither by us nor by the SQL we render."""

import asyncio
from collections.abc import Callable

import pytest

from graphjobs.database.migrations import commands
from graphjobs.database.schema import REVISION
from graphjobs.errors import DatabaseUnavailable, GraphJobsError
from graphjobs.settings import Settings
from tests.migrations.blocking_sessions import session, until_refused_a_lock, until_waiting
from tests.migrations.cli_tools import Done, alembic, ask, dump, psql

_INSERT_JOB = """
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload) VALUES (gen_random_uuid(), 't', 0, 0, '{}')
"""
_TWO_JOBS_AND_AN_EVENT = f"""
{_INSERT_JOB}; {_INSERT_JOB};
INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)
    SELECT id, tenant_id, status, payload FROM scheduler.graph_jobs LIMIT 1;
"""
_COUNTS = "SELECT (SELECT count(*) FROM scheduler.graph_jobs), (SELECT count(*) FROM scheduler.graph_job_events)"
_TABLES_ARE_GONE = (
    "SELECT to_regclass('scheduler.graph_jobs') IS NULL AND to_regclass('scheduler.graph_job_events') IS NULL"
)
_VERSION = "SELECT version_num FROM scheduler.graphjobs_schema_version"
_REFUSED = "2 rows of scheduler.graph_jobs and 1 of scheduler.graph_job_events"
_DOWN = f"{REVISION}:base"


def _says_how_to_keep_them(sentence: str) -> None:
    """The refusal names the program, both tables and the word that goes on."""
    assert "keep them first with graphjobs export FOLDER, or" in sentence
    assert "pg_dump --data-only --table=scheduler.graph_jobs --table=scheduler.graph_job_events" in sentence
    assert "-x drop-data=yes" in sentence


async def test_a_downgrade_of_tables_with_rows_is_refused(
    graphjobs_settings: Settings, graphjobs_database_url: str
) -> None:
    """It says how many rows and how to keep them, and changes nothing."""
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    before = dump(graphjobs_database_url)
    with pytest.raises(GraphJobsError, match=_REFUSED) as caught:
        await commands.downgrade(graphjobs_settings, revision="base")

    _says_how_to_keep_them(str(caught.value))
    assert before == dump(graphjobs_database_url)
    assert ask(graphjobs_database_url, _COUNTS) == "2|1"
    assert ask(graphjobs_database_url, _VERSION) == REVISION


async def test_a_downgrade_that_may_drop_rows_goes_on(
    graphjobs_settings: Settings, graphjobs_database_url: str
) -> None:
    """The explicit word is enough, and the database is at no revision then."""
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    assert await commands.downgrade(graphjobs_settings, revision="base", drop_data=True) is None
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"
    assert await commands.current(graphjobs_settings) is None


async def test_a_downgrade_of_empty_tables_goes_without_asking(
    graphjobs_settings: Settings, graphjobs_database_url: str
) -> None:
    """There is nothing to lose."""
    assert await commands.downgrade(graphjobs_settings, revision="base") is None
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"


def test_alembic_itself_refuses_and_goes_on_with_the_word(graphjobs_database_url: str) -> None:
    """The program in the repository's root stands under the same guard, and only drop-data=yes lifts it."""
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    refused = alembic("-x", "drop-data=no", "-x", "yes", "downgrade", "base", url=graphjobs_database_url)
    counted = ask(graphjobs_database_url, _COUNTS)
    went_on = alembic("-x", "drop-data=yes", "downgrade", "base", url=graphjobs_database_url)

    assert refused.returncode != 0
    assert _REFUSED in refused.stderr
    assert counted == "2|1"
    assert went_on.returncode == 0, went_on.stderr
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"


@pytest.mark.parametrize("stop", [True, False], ids=["that stops at an error", "that goes on after an error"])
def test_the_rendered_downgrade_refuses_tables_with_rows(graphjobs_database_url: str, stop: bool) -> None:
    """Also in a psql that goes on: it says how many rows and how to keep them, and drops none of them.

    Going on, psql still drops what holds no rows, the index of 015; the database says so itself then.
    """
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    before = dump(graphjobs_database_url)
    done = psql(graphjobs_database_url, commands.sql(_DOWN, down=True), stop=stop)

    assert _REFUSED in done.stderr
    _says_how_to_keep_them(done.stderr)
    assert not stop or done.returncode == 3
    assert not stop or before == dump(graphjobs_database_url)
    assert ask(graphjobs_database_url, _COUNTS) == "2|1"
    assert ask(graphjobs_database_url, _VERSION) == (REVISION if stop else "014_graph_jobs")


def test_the_rendered_downgrade_that_may_drop_rows_goes_on(graphjobs_database_url: str) -> None:
    """The word is in what was rendered."""
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    done = psql(graphjobs_database_url, commands.sql(_DOWN, down=True, drop_data=True))
    assert (0, "") == (done.returncode, done.stderr)
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"


def test_the_rendered_downgrade_of_empty_tables_goes_without_asking(graphjobs_database_url: str) -> None:
    """And the rendered way up leads back to the very same schema."""
    before = dump(graphjobs_database_url)
    down = psql(graphjobs_database_url, commands.sql(_DOWN, down=True))
    gone = ask(graphjobs_database_url, _TABLES_ARE_GONE)
    up = psql(graphjobs_database_url, commands.sql())

    assert (0, "") == (down.returncode, down.stderr)
    assert gone == "t"
    assert (0, "") == (up.returncode, up.stderr)
    assert before == dump(graphjobs_database_url)


async def _online(url: str) -> str:
    """What a downgrade by us is refused with."""
    with pytest.raises(GraphJobsError) as caught:
        await commands.downgrade(Settings.load(database_url=url), revision="base")
    return str(caught.value)


async def _rendered(url: str) -> str:
    """What a downgrade by rendered SQL is refused with."""
    done: Done = await asyncio.to_thread(psql, url, commands.sql(_DOWN, down=True))
    return done.stderr


_WAYS = pytest.mark.parametrize("downgrade", [_online, _rendered], ids=["online", "rendered"])


@_WAYS
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_row_that_is_inserted_while_the_downgrade_waits_is_not_lost(
    graphjobs_database_url: str, downgrade: Callable[[str], "asyncio.Future[str]"], isolation: str
) -> None:
    """The rows are counted after the lock is held, whatever isolation the host has set for its database."""
    name = ask(graphjobs_database_url, "SELECT current_database()")
    ask(graphjobs_database_url, f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    async with session(graphjobs_database_url) as writer, session(graphjobs_database_url) as watcher:
        insert = writer.transaction()
        await insert.start()
        await writer.execute(_INSERT_JOB)
        refusal = asyncio.ensure_future(downgrade(graphjobs_database_url))
        await until_waiting(watcher)
        await insert.commit()
        assert "1 rows of scheduler.graph_jobs and 0 of scheduler.graph_job_events" in await refusal
    assert ask(graphjobs_database_url, _COUNTS) == "1|0"
    assert ask(graphjobs_database_url, _VERSION) == REVISION


async def test_a_downgrade_behind_a_long_reader_lets_other_readers_go_on(
    graphjobs_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others queue behind the lock it waits for, but no longer than the lock time-out; then it gives up."""
    monkeypatch.setattr(commands, "_RETRIES_MAX", 2)
    settings = Settings.load(database_url=graphjobs_database_url, lock_timeout="0.3")
    async with (
        session(graphjobs_database_url) as long_reader,
        session(graphjobs_database_url) as reader,
        session(graphjobs_database_url) as watcher,
        long_reader.transaction(),
    ):
        await long_reader.fetch(_COUNTS)
        ended = asyncio.ensure_future(commands.downgrade(settings, revision="base"))
        await until_waiting(watcher)
        read = await asyncio.wait_for(reader.fetch(_COUNTS), 5)
        with pytest.raises(DatabaseUnavailable, match="lock") as caught:
            await asyncio.wait_for(ended, 15)
    assert [(0, 0)] == [tuple(row) for row in read]
    assert caught.value.sqlstate == "55P03"
    assert ask(graphjobs_database_url, _VERSION) == REVISION


async def test_a_downgrade_that_found_a_lock_taken_is_tried_again(graphjobs_database_url: str) -> None:
    """A reader that goes away in time costs the operator nothing."""
    settings = Settings.load(database_url=graphjobs_database_url, lock_timeout="0.1")
    async with session(graphjobs_database_url) as long_reader, session(graphjobs_database_url) as watcher:
        reading = long_reader.transaction()
        await reading.start()
        await long_reader.fetch(_COUNTS)
        ended = asyncio.ensure_future(commands.downgrade(settings, revision="base"))
        await until_waiting(watcher)
        await until_refused_a_lock(watcher)
        await reading.rollback()
        assert await asyncio.wait_for(ended, 20) is None
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"
