"""The output and exit codes of `graphjobs db`, which never prints a traceback or a password."""

import asyncio
import time
from collections.abc import Iterator

import asyncpg
import pytest

from graphjobs.database.embedded.server import throwaway_cluster
from graphjobs.database.migrations.commands import sql
from graphjobs.database.schema import REVISION
from tests.migrations.cli_tools import Command, Done, ask, assert_failed, dump, psql

_PASSWORD = "hunter2-is-secret"
_ROW = """
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload) VALUES (gen_random_uuid(), 't', 0, 0, '{}')
"""


def _assert_failed(done: Done, *, code: int, words: str) -> None:
    """Assert that the output is one sentence with the words and without the password."""
    assert_failed(done, words, code=code)
    assert _PASSWORD not in done.stderr


def test_a_database_is_upgraded_checked_and_downgraded(graphjobs: Command, empty_url: str) -> None:
    steps = {
        "none\n": ["current"],
        f"the database is at revision {REVISION}\n": ["upgrade"],
        f"{REVISION}\n": ["current"],
        "the database has the declared tables\n": ["check"],
        "the database has no tables of graphjobs now\n": ["downgrade", "base"],
    }
    for output, command in steps.items():
        done = graphjobs("db", *command, url=empty_url)
        assert (0, output, "") == (done.returncode, done.stdout, done.stderr)
    assert ask(empty_url, "SELECT to_regclass('scheduler.graph_jobs') IS NULL") == "t"


def test_history_and_sql_need_no_database(graphjobs: Command) -> None:
    history, up = graphjobs("db", "history"), graphjobs("db", "sql")
    down = graphjobs("db", "sql", "--down", f"{REVISION}:base")
    assert (0, "") == (history.returncode, history.stderr)
    assert history.stdout.splitlines()[0].startswith("014_graph_jobs  Create the tables of graph jobs")
    assert (0, sql(), "") == (up.returncode, up.stdout, up.stderr)
    assert (0, sql(f"{REVISION}:base", down=True), "") == (down.returncode, down.stdout, down.stderr)


def test_a_downgrade_that_would_drop_rows_exits_1_without_drop_data(
    graphjobs: Command, graphjobs_database_url: str
) -> None:
    ask(graphjobs_database_url, _ROW)
    before = dump(graphjobs_database_url)
    refused = graphjobs("db", "downgrade", "base", url=graphjobs_database_url)
    unchanged = ask(graphjobs_database_url, "SELECT count(*) FROM scheduler.graph_jobs"), dump(graphjobs_database_url)
    forced = graphjobs("db", "downgrade", "base", "-x", "drop-data=yes", url=graphjobs_database_url)

    _assert_failed(
        refused, code=1, words="would drop 1 rows of scheduler.graph_jobs and 0 of scheduler.graph_job_events"
    )
    assert "pg_dump --data-only" in refused.stderr
    assert "-x drop-data=yes" in refused.stderr
    assert ("1", before) == unchanged
    assert forced.returncode == 0, forced.stderr
    assert ask(graphjobs_database_url, "SELECT to_regclass('scheduler.graph_jobs') IS NULL") == "t"


def test_printed_sql_that_may_drop_rows_works_in_psql(graphjobs: Command, graphjobs_database_url: str) -> None:
    ask(graphjobs_database_url, _ROW)
    done = graphjobs("db", "sql", "--down", f"{REVISION}:base", "-x", "drop-data=yes")
    assert psql(graphjobs_database_url, done.stdout).returncode == 0
    assert ask(graphjobs_database_url, "SELECT to_regclass('scheduler.graph_jobs') IS NULL") == "t"


def test_a_drift_exits_1(graphjobs: Command, graphjobs_database_url: str) -> None:
    ask(graphjobs_database_url, "DROP INDEX scheduler.idx_graph_job_events_job")
    done = graphjobs("db", "check", url=graphjobs_database_url)
    _assert_failed(done, code=1, words="idx_graph_job_events_job")


def test_a_missing_or_outdated_schema_exits_5(graphjobs: Command, empty_url: str) -> None:
    _assert_failed(graphjobs("db", "check", url=empty_url), code=5, words="run `graphjobs db upgrade`")
    ask(
        empty_url,
        "CREATE SCHEMA scheduler; CREATE TABLE scheduler.graphjobs_schema_version (version_num VARCHAR(32) NOT NULL)",
    )
    _assert_failed(graphjobs("db", "check", url=empty_url), code=5, words="run `graphjobs db upgrade`")


def test_an_invalid_argument_exits_2_or_3(graphjobs: Command, graphjobs_database_url: str) -> None:
    """2 is a usage error; 3 is an unknown revision."""
    calls = {
        ("nonsense",): 2,
        ("downgrade",): 2,
        ("downgrade", "base", "-x", "drop_data"): 2,
        ("upgrade", "999_nowhere"): 3,
        ("upgrade", ""): 3,
        ("downgrade", "999_nowhere"): 3,
        ("sql", "999_nowhere"): 3,
        ("sql", "--down"): 3,
    }
    results = [graphjobs("db", *call, url=graphjobs_database_url) for call in calls]
    assert list(calls.values()) == [done.returncode for done in results], [done.stderr for done in results]
    for done in results:
        assert "Traceback" not in done.stderr
        if done.returncode == 3:
            _assert_failed(done, code=3, words="")
    assert ask(graphjobs_database_url, "SELECT version_num FROM scheduler.graphjobs_schema_version") == REVISION


_CLOSED_PORT = f"127.0.0.1:1/graphjobs?user=alice&password={_PASSWORD}"
_SETTINGS: dict[str, tuple[str, dict[str, str], int, str]] = {
    "another database's scheme": (
        "upgrade",
        {"url": f"mysql://alice:{_PASSWORD}@localhost/graphjobs"},
        3,
        "GRAPHJOBS_DATABASE_URL is invalid: it must start with postgresql://",
    ),
    "no URL at all": ("current", {"url": f"alice {_PASSWORD}"}, 3, "GRAPHJOBS_DATABASE_URL is invalid"),
    "an invalid port": (
        "upgrade",
        {"url": f"postgresql://alice:{_PASSWORD}@localhost:port/graphjobs"},
        3,
        "GRAPHJOBS_DATABASE_URL is invalid",
    ),
    "a server that is down": (
        "upgrade",
        {"url": f"postgresql://alice:{_PASSWORD}@127.0.0.1:1/graphjobs"},
        4,
        "no PostgreSQL answers at 127.0.0.1:1/graphjobs",
    ),
    "a server that is down, the password in the query": (
        "current",
        {"url": f"postgresql://{_CLOSED_PORT}"},
        4,
        "127.0.0.1:1",
    ),
    "a server that is down, an odd password not escaped": (
        "check",
        {"url": f"postgresql://localhost:1/{_PASSWORD}@db.internal/graphjobs"},
        4,
        "no PostgreSQL answers at",
    ),
    "an invalid timeout": (
        "upgrade",
        {"GRAPHJOBS_LOCK_TIMEOUT": "soon"},
        3,
        "GRAPHJOBS_LOCK_TIMEOUT is invalid",
    ),
    "a pooler": (
        "upgrade",
        {"url": f"postgresql://{_CLOSED_PORT}", "GRAPHJOBS_POOLER": "transaction"},
        3,
        "migrations need a direct connection: set GRAPHJOBS_POOLER=direct",
    ),
}


@pytest.mark.parametrize("setting", list(_SETTINGS))
def test_an_invalid_setting_exits_with_its_code(graphjobs: Command, setting: str) -> None:
    command, settings, code, words = _SETTINGS[setting]
    _assert_failed(graphjobs("db", command, **settings), code=code, words=words)


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """The URL of a server that requires a password of all roles but its superuser."""
    with throwaway_cluster() as cluster:
        hba = cluster.data_dir / "pg_hba.conf"
        hba.write_text("local all graphjobs trust\nlocal all all scram-sha-256\n")
        ask(cluster.url(), f"CREATE ROLE alice LOGIN PASSWORD '{_PASSWORD}'; SELECT pg_reload_conf()")
        _until_refused(_as_alice(cluster.url(), "wrong"))
        yield cluster.url()


def _as_alice(url: str, password: str) -> str:
    """Return the URL for the role alice with a password."""
    return url.replace("//graphjobs@", f"//alice:{password}@")


def _until_refused(url: str) -> None:
    """Wait until the server has reloaded its rules."""
    deadline = time.monotonic() + 20
    while True:
        try:
            asyncio.run(_connect_once(url))
        except asyncpg.InvalidPasswordError:
            return
        assert time.monotonic() < deadline, "the server still accepts connections without a password"


async def _connect_once(url: str) -> None:
    await (await asyncpg.connect(url, timeout=10)).close()


def test_a_wrong_password_exits_3(graphjobs: Command, guarded_url: str) -> None:
    accepted = graphjobs("db", "current", url=_as_alice(guarded_url, _PASSWORD))
    assert (0, "none\n", "") == (accepted.returncode, accepted.stdout, accepted.stderr)
    done = graphjobs("db", "upgrade", url=_as_alice(guarded_url, _PASSWORD + "x"))
    _assert_failed(done, code=3, words="the database refused the password: check GRAPHJOBS_DATABASE_URL")


def test_a_missing_database_or_role_exits_3(graphjobs: Command, guarded_url: str) -> None:
    nowhere = guarded_url.replace("/postgres?", "/nowhere?")
    done = graphjobs("db", "upgrade", url=_as_alice(nowhere, _PASSWORD))
    _assert_failed(done, code=3, words="the database does not exist on the server")
    done = graphjobs("db", "current", url=guarded_url.replace("//graphjobs@", f"//nobody:{_PASSWORD}@"))
    _assert_failed(done, code=3, words="the database refused the password")


def test_a_role_without_privileges_exits_3(graphjobs: Command, guarded_url: str) -> None:
    done = graphjobs("db", "upgrade", url=_as_alice(guarded_url, _PASSWORD))
    _assert_failed(done, code=3, words="the database role lacks a privilege")
