"""A downgrade drops rows only with drop_data, online and as rendered SQL."""

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


def _assert_names_the_export(message: str) -> None:
    """Assert that the error names the export, both tables and the option that drops the rows."""
    assert "keep them first with graphjobs export FOLDER, or" in message
    assert "pg_dump --data-only --table=scheduler.graph_jobs --table=scheduler.graph_job_events" in message
    assert "-x drop-data=yes" in message


async def test_a_downgrade_of_tables_with_rows_is_refused(
    graphjobs_settings: Settings, graphjobs_database_url: str
) -> None:
    """The error has the number of rows and how to keep them, and nothing changes."""
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    before = dump(graphjobs_database_url)
    with pytest.raises(GraphJobsError, match=_REFUSED) as caught:
        await commands.downgrade(graphjobs_settings, revision="base")

    _assert_names_the_export(str(caught.value))
    assert before == dump(graphjobs_database_url)
    assert ask(graphjobs_database_url, _COUNTS) == "2|1"
    assert ask(graphjobs_database_url, _VERSION) == REVISION


async def test_a_downgrade_with_drop_data_drops_rows(graphjobs_settings: Settings, graphjobs_database_url: str) -> None:
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    assert await commands.downgrade(graphjobs_settings, revision="base", drop_data=True) is None
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"
    assert await commands.current(graphjobs_settings) is None


async def test_a_downgrade_of_empty_tables_needs_no_option(
    graphjobs_settings: Settings, graphjobs_database_url: str
) -> None:
    assert await commands.downgrade(graphjobs_settings, revision="base") is None
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"


def test_the_alembic_command_drops_rows_only_with_drop_data(graphjobs_database_url: str) -> None:
    """The command in the repository's root has the same guard, and only drop-data=yes disables it."""
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    refused = alembic("-x", "drop-data=no", "-x", "yes", "downgrade", "base", url=graphjobs_database_url)
    counted = ask(graphjobs_database_url, _COUNTS)
    dropped = alembic("-x", "drop-data=yes", "downgrade", "base", url=graphjobs_database_url)

    assert refused.returncode != 0
    assert _REFUSED in refused.stderr
    assert counted == "2|1"
    assert dropped.returncode == 0, dropped.stderr
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"


@pytest.mark.parametrize("stop", [True, False], ids=["psql stops at an error", "psql continues after an error"])
def test_the_rendered_downgrade_refuses_tables_with_rows(graphjobs_database_url: str, stop: bool) -> None:
    """The error has the number of rows and how to keep them, and no row is dropped.

    A psql that continues after the error still runs the steps without a guard, such as that of the index of 015.
    """
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    before = dump(graphjobs_database_url)
    done = psql(graphjobs_database_url, commands.sql(_DOWN, down=True), stop=stop)

    assert _REFUSED in done.stderr
    _assert_names_the_export(done.stderr)
    assert not stop or done.returncode == 3
    assert not stop or before == dump(graphjobs_database_url)
    assert ask(graphjobs_database_url, _COUNTS) == "2|1"
    assert ask(graphjobs_database_url, _VERSION) == (REVISION if stop else "014_graph_jobs")


def test_the_rendered_downgrade_with_drop_data_drops_rows(graphjobs_database_url: str) -> None:
    ask(graphjobs_database_url, _TWO_JOBS_AND_AN_EVENT)
    done = psql(graphjobs_database_url, commands.sql(_DOWN, down=True, drop_data=True))
    assert (0, "") == (done.returncode, done.stderr)
    assert ask(graphjobs_database_url, _TABLES_ARE_GONE) == "t"


def test_the_rendered_downgrade_of_empty_tables_needs_no_option(graphjobs_database_url: str) -> None:
    before = dump(graphjobs_database_url)
    down = psql(graphjobs_database_url, commands.sql(_DOWN, down=True))
    gone = ask(graphjobs_database_url, _TABLES_ARE_GONE)
    up = psql(graphjobs_database_url, commands.sql())

    assert (0, "") == (down.returncode, down.stderr)
    assert gone == "t"
    assert (0, "") == (up.returncode, up.stderr)
    assert before == dump(graphjobs_database_url)


async def _online(url: str) -> str:
    """Return the error of an online downgrade."""
    with pytest.raises(GraphJobsError) as caught:
        await commands.downgrade(Settings.load(database_url=url), revision="base")
    return str(caught.value)


async def _rendered(url: str) -> str:
    """Return the error of a downgrade by rendered SQL."""
    done: Done = await asyncio.to_thread(psql, url, commands.sql(_DOWN, down=True))
    return done.stderr


_WAYS = pytest.mark.parametrize("downgrade", [_online, _rendered], ids=["online", "rendered"])


@_WAYS
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_row_inserted_while_the_downgrade_waits_is_not_lost(
    graphjobs_database_url: str, downgrade: Callable[[str], "asyncio.Future[str]"], isolation: str
) -> None:
    """The guard counts rows after it has the lock, whatever the default isolation of the database."""
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


async def test_a_downgrade_behind_a_long_reader_blocks_other_readers_only_briefly(
    graphjobs_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other readers wait behind its lock request, but no longer than the lock time-out, after which it fails."""
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


async def test_a_downgrade_behind_a_lock_is_tried_again(graphjobs_database_url: str) -> None:
    """The downgrade succeeds after the reader has ended its transaction."""
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


@pytest.mark.parametrize("drop_data", [False, True])
@pytest.mark.parametrize(
    ("create", "named"),
    [
        ("CREATE VIEW public.open_jobs AS SELECT id FROM scheduler.graph_jobs", "the view public.open_jobs"),
        (
            "CREATE TABLE public.orders (job uuid REFERENCES scheduler.graph_jobs)",
            "the foreign key orders_job_fkey of public.orders",
        ),
    ],
    ids=["view", "foreign key"],
)
async def test_a_downgrade_that_the_hosts_objects_block_changes_nothing(
    graphjobs_settings: Settings, graphjobs_database_url: str, create: str, named: str, drop_data: bool
) -> None:
    """Revision 014 comes last: without the guard, the revisions after it would be gone by then."""
    ask(graphjobs_database_url, create)
    with pytest.raises(GraphJobsError, match=f"drop these first: {named}"):
        await commands.downgrade(graphjobs_settings, revision="base", drop_data=drop_data)
    assert REVISION == ask(graphjobs_database_url, _VERSION)


async def test_a_policy_that_hides_rows_does_not_hide_them_from_the_guard(owned_schema: str, empty_url: str) -> None:
    """An owner under forced row-level security counts no row: the downgrade is refused, and not for the count."""
    owner = Settings.load(database_url=owned_schema)
    await commands.upgrade(owner)
    ask(
        empty_url,
        f"{_INSERT_JOB}; ALTER TABLE scheduler.graph_jobs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    )
    assert "0" == ask(owned_schema, "SELECT count(*) FROM scheduler.graph_jobs")
    with pytest.raises(GraphJobsError, match="row-level security hides rows"):
        await commands.downgrade(owner, revision="base")
    assert "1" == ask(empty_url, "SELECT count(*) FROM scheduler.graph_jobs")
