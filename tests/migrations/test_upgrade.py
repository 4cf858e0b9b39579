"""Upgrades: concurrent, behind locks of other sessions, for roles with few privileges, online and as rendered SQL."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

import pytest_graphjobs
from graphjobs import open_storage, upgrade
from graphjobs.database.migrations import alembic_env, commands
from graphjobs.database.schema import REVISION
from graphjobs.errors import ConfigurationError, DatabaseUnavailable, SchemaOutOfDate
from graphjobs.settings import Settings
from tests.migrations.blocking_sessions import Session, session, until, until_refused_a_lock, until_waiting
from tests.migrations.cli_tools import alembic, ask, dump, graphjobs, psql

_VERSION = "SELECT version_num FROM scheduler.graphjobs_schema_version"
_EXISTS = "SELECT to_regclass('scheduler.graph_jobs') IS NOT NULL"


async def _two_in_one_loop(url: str) -> list[object]:
    settings = Settings.load(database_url=url)
    return list(await asyncio.gather(upgrade(settings), upgrade(settings)))


async def _two_in_two_threads(url: str) -> list[object]:
    settings = Settings.load(database_url=url)
    both = [asyncio.to_thread(asyncio.run, upgrade(settings)) for _ in range(2)]
    return list(await asyncio.gather(*both))


async def _two_in_two_processes(url: str) -> list[object]:
    both = await asyncio.gather(*(asyncio.to_thread(graphjobs, "db", "upgrade", url=url) for _ in range(2)))
    outputs = {(done.returncode, done.stdout, done.stderr) for done in both}
    assert {(0, f"the database is at revision {REVISION}\n", "")} == outputs
    return [REVISION for _ in both]


@asynccontextmanager
async def _start_together(url: str, *, waiting: int) -> AsyncIterator[None]:
    """Hold the migration lock until `waiting` sessions have requested it, so that they run concurrently."""
    async with session(url) as holder:
        await holder.execute("SELECT pg_advisory_lock($1::bigint)".replace("$1", str(alembic_env._LOCK_KEY)))

        async def all_are_waiting() -> bool:
            count: int = await holder.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                "pid <> pg_backend_pid() AND query LIKE 'SELECT pg_try_advisory_lock%'"
            )
            return count == waiting

        yield
        await until(all_are_waiting)


@pytest.mark.parametrize(
    ("two_at_once", "waiting"),
    [(_two_in_one_loop, 1), (_two_in_two_threads, 1), (_two_in_two_processes, 2)],  # a process connects once at a time
    ids=["in one loop", "in two threads", "in two processes"],
)
async def test_two_concurrent_upgrades_both_succeed(
    empty_url: str, two_at_once: Callable[[str], Awaitable[list[object]]], waiting: int
) -> None:
    async with _start_together(empty_url, waiting=waiting):
        both = asyncio.ensure_future(two_at_once(empty_url))
    assert [REVISION, REVISION] == await asyncio.wait_for(both, 30)
    assert ask(empty_url, _VERSION) == REVISION


def test_concurrent_upgrades_of_two_databases_in_one_process_both_succeed(graphjobs_server_url: str) -> None:
    """Alembic has the running migration in module globals, so two threads must take turns."""
    with (
        pytest_graphjobs._database(graphjobs_server_url, "") as one,
        pytest_graphjobs._database(graphjobs_server_url, "") as other,
        ThreadPoolExecutor(2) as threads,
    ):
        loads = [Settings.load(database_url=url) for url in (one, other)]
        reached = list(threads.map(lambda settings: asyncio.run(upgrade(settings)), loads, timeout=30))
    assert [REVISION, REVISION] == reached


async def test_an_upgrade_runs_inside_a_running_loop(empty_settings: Settings, empty_url: str) -> None:
    """A service may await it at its start; a second upgrade changes nothing."""
    assert await upgrade(empty_settings) == REVISION
    before = dump(empty_url)
    assert await upgrade(empty_settings, revision=REVISION) == REVISION
    assert before == dump(empty_url)


async def test_the_wait_for_another_migration_is_limited(
    empty_settings: Settings, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the limit the error is DatabaseUnavailable, which is safe to retry."""
    monkeypatch.setattr(alembic_env, "LOCK_WAIT", alembic_env.LOCK_WAIT / 400)
    async with session(empty_url) as holder:
        await holder.execute(f"SELECT pg_advisory_lock({alembic_env._LOCK_KEY})")
        with pytest.raises(DatabaseUnavailable, match="another migration"):
            await asyncio.wait_for(upgrade(empty_settings), 15)
    assert ask(empty_url, "SELECT to_regnamespace('scheduler') IS NULL") == "t"


@asynccontextmanager
async def _version_table_locked(url: str) -> AsyncIterator[Session]:
    """Lock the version table, which a downgrade to base has left, in the transaction of another session."""
    await commands.upgrade(Settings.load(database_url=url))
    await commands.downgrade(Settings.load(database_url=url), revision="base")
    async with session(url) as holder:
        await holder.execute("BEGIN; LOCK TABLE scheduler.graphjobs_schema_version IN ACCESS EXCLUSIVE MODE")
        yield holder


async def test_an_upgrade_behind_a_lock_is_tried_again(empty_url: str) -> None:
    settings = Settings.load(database_url=empty_url, lock_timeout="0.1")
    async with _version_table_locked(empty_url) as holder, session(empty_url) as watcher:
        ended = asyncio.ensure_future(upgrade(settings))
        await until_waiting(watcher)
        await until_refused_a_lock(watcher)
        await holder.execute("ROLLBACK")
        assert await asyncio.wait_for(ended, 20) == REVISION


async def test_an_upgrade_behind_a_permanent_lock_fails(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_RETRIES_MAX", 2)
    settings = Settings.load(database_url=empty_url, lock_timeout="0.1")
    async with _version_table_locked(empty_url):
        with pytest.raises(DatabaseUnavailable, match="lock") as caught:
            await asyncio.wait_for(upgrade(settings), 15)
    assert caught.value.sqlstate == "55P03"
    assert ask(empty_url, _EXISTS) == "f"


async def test_an_upgrade_succeeds_while_the_host_creates_the_schema(empty_settings: Settings, empty_url: str) -> None:
    """The host's migration does not take the migration lock, so both may create the schema."""
    async with session(empty_url) as host, session(empty_url) as watcher:
        creating = host.transaction()
        await creating.start()
        await host.execute("CREATE SCHEMA scheduler")
        ended = asyncio.ensure_future(upgrade(empty_settings))
        await until_waiting(watcher)
        await creating.commit()
        assert await asyncio.wait_for(ended, 20) == REVISION


async def test_the_hosts_own_alembic_version_is_unchanged(empty_settings: Settings, empty_url: str) -> None:
    """Its version table, in `public` and even in `scheduler`, is neither read nor written."""
    rows = "SELECT string_agg(version_num, ',') FROM {}.alembic_version"
    ask(
        empty_url,
        "CREATE SCHEMA scheduler;"
        "CREATE TABLE public.alembic_version (version_num VARCHAR(32) PRIMARY KEY);"
        "CREATE TABLE scheduler.alembic_version (version_num VARCHAR(32) PRIMARY KEY);"
        "INSERT INTO public.alembic_version VALUES ('host_1');"
        "INSERT INTO scheduler.alembic_version VALUES ('host_2')",
    )
    await upgrade(empty_settings)
    await commands.check(empty_settings)
    await commands.downgrade(empty_settings, revision="base")
    await upgrade(empty_settings)
    versions = [ask(empty_url, rows.format(schema)) for schema in ("public", "scheduler")]
    assert ["host_1", "host_2"] == versions


async def test_the_hosts_schema_keeps_its_tables_and_its_owner(
    empty_settings: Settings, empty_url: str, role: str
) -> None:
    """An existing schema is used unchanged."""
    ask(
        empty_url,
        f"CREATE SCHEMA scheduler AUTHORIZATION {role};"
        "CREATE TABLE scheduler.runs (id INT PRIMARY KEY); INSERT INTO scheduler.runs VALUES (7)",
    )
    before = dump(empty_url, "runs")
    assert await upgrade(empty_settings) == REVISION
    owner = "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'scheduler'"
    assert ask(empty_url, owner) == role
    assert ask(empty_url, "SELECT id FROM scheduler.runs") == "7"
    assert before == dump(empty_url, "runs")


async def test_the_owner_of_the_schema_upgrades_online(owned_schema: str, graphjobs_database_url: str) -> None:
    settings = Settings.load(database_url=owned_schema)
    assert await upgrade(settings) == REVISION
    await commands.check(settings)
    await commands.downgrade(settings, revision="base")
    assert await upgrade(settings) == REVISION
    tables = ("graph_jobs", "graph_job_events")
    assert _without_owner(dump(graphjobs_database_url, *tables)) == _without_owner(dump(owned_schema, *tables))


def test_the_owner_of_the_schema_upgrades_by_rendered_sql(owned_schema: str, graphjobs_database_url: str) -> None:
    done = psql(owned_schema, commands.sql())
    assert (0, "") == (done.returncode, done.stderr)
    assert _without_owner(dump(graphjobs_database_url)) == _without_owner(dump(owned_schema))


def _without_owner(dumped: str) -> str:
    """Remove the owners from a dump."""
    return re.sub(r"OWNER TO \S+;|Owner: \S+|CREATE SCHEMA.*", "", dumped)


async def test_a_missing_privilege_is_a_one_line_error(empty_url: str, role: str, url_of_role: str) -> None:
    """The error has neither a statement nor a traceback, for a missing privilege on the database or the schema."""
    settings = Settings.load(database_url=url_of_role)
    for host in ("SELECT 1", "CREATE SCHEMA scheduler", f"GRANT USAGE ON SCHEMA scheduler TO {role}"):
        ask(empty_url, host)
        with pytest.raises(ConfigurationError, match="the database role lacks a privilege") as caught:
            await upgrade(settings)
        assert caught.value.sqlstate == "42501"
        assert "\n" not in str(caught.value)
    assert ask(empty_url, _EXISTS) == "f"


@pytest.mark.parametrize("revision", ["999_nowhere", "head:head", "098", "", "@", "head-98"])
async def test_an_unknown_revision_is_a_one_line_error(empty_settings: Settings, empty_url: str, revision: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await upgrade(empty_settings, revision=revision)
    assert "\n" not in str(caught.value)
    assert ask(empty_url, _EXISTS) == "f"


def test_alembic_and_graphjobs_render_the_same_sql(empty_url: str) -> None:
    """`alembic upgrade REVISION --sql` needs no database, and has no URL here."""
    by_alembic = alembic("upgrade", REVISION, "--sql")
    by_us = graphjobs("db", "sql", REVISION)
    assert (0, 0) == (by_alembic.returncode, by_us.returncode), by_alembic.stderr + by_us.stderr
    assert by_alembic.stdout == by_us.stdout == commands.sql(REVISION)
    assert psql(empty_url, by_alembic.stdout).returncode == 0


async def test_the_rendered_sql_leads_to_the_same_database(graphjobs_database_url: str, empty_url: str) -> None:
    rendered = commands.sql()
    done = psql(empty_url, rendered)
    assert (0, "") == (done.returncode, done.stderr)
    assert dump(graphjobs_database_url) == dump(empty_url)
    assert await commands.current(Settings.load(database_url=empty_url)) == REVISION
    await commands.check(Settings.load(database_url=empty_url))


def test_a_second_run_of_the_rendered_sql_changes_nothing(graphjobs_database_url: str) -> None:
    """An existing schema stays unchanged, even with a psql that continues after an error."""
    before = dump(graphjobs_database_url)
    done = psql(graphjobs_database_url, commands.sql(), stop=False)
    assert "already exists" in done.stderr
    assert before == dump(graphjobs_database_url)
    assert ask(graphjobs_database_url, _VERSION) == REVISION


def test_rendered_sql_sets_the_lock_time_out_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHJOBS_LOCK_TIMEOUT", "2.5")
    for rendered in (commands.sql(), commands.sql(f"{REVISION}:base", down=True)):
        assert "SET lock_timeout = 2500;" in rendered
        assert rendered.index("SET lock_timeout") < rendered.index("BEGIN;")


async def test_storage_refuses_a_database_that_was_never_migrated(empty_settings: Settings) -> None:
    """A database with a URL is never migrated automatically."""
    with pytest.raises(SchemaOutOfDate, match="graphjobs db upgrade") as caught:
        async with open_storage(empty_settings):
            pytest.fail("it opened")
    assert (None, REVISION) == (caught.value.found, caught.value.expected)


@pytest.mark.parametrize("found", ["013_before", None])
async def test_storage_refuses_an_earlier_revision(
    graphjobs_settings: Settings, graphjobs_database_url: str, found: str | None
) -> None:
    change = f"UPDATE scheduler.graphjobs_schema_version SET version_num = '{found}'"
    ask(graphjobs_database_url, change if found else "DELETE FROM scheduler.graphjobs_schema_version")
    with pytest.raises(SchemaOutOfDate) as caught:
        async with open_storage(graphjobs_settings):
            pytest.fail("it opened")
    assert (found, REVISION) == (caught.value.found, caught.value.expected)


async def test_storage_works_on_a_later_revision_it_does_not_know(
    graphjobs_settings: Settings, graphjobs_database_url: str
) -> None:
    """Later revisions only add, so older code works during a deploy."""
    ask(graphjobs_database_url, "UPDATE scheduler.graphjobs_schema_version SET version_num = '099_future'")
    async with open_storage(graphjobs_settings) as storage:
        assert await storage.graph_job_repository.list_build_jobs("acme", limit=1) == ()
    assert await commands.current(graphjobs_settings) == "099_future"
