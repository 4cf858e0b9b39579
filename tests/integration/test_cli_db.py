"""`graphjobs db` as a script sees it: what it prints, and what its exit codes are; never a traceback or a password."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import asyncpg
import pytest

import pytest_graphjobs
from graphjobs.database.embedded.server import throwaway_cluster
from graphjobs.database.migrations.commands import sql
from graphjobs.database.schema import REVISION
from tests.migrations.cli_tools import Done, ask, dump, many_graphjobs, psql

Command: TypeAlias = Callable[..., Done]

_PASSWORD = "hunter2-is-secret"
_ROW = """
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload) VALUES (gen_random_uuid(), 't', 0, 0, '{}')
"""


def _failed(done: Done, *, code: int, words: str) -> None:
    """The command ended with that code and one sentence that holds these words, and told no secret."""
    assert code == done.returncode, done.stderr
    assert "" == done.stdout
    assert words in done.stderr
    assert done.stderr.startswith("graphjobs: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert _PASSWORD not in done.stderr


@pytest.fixture(scope="module")
def graphjobs() -> Iterator[Command]:
    """The command."""
    with many_graphjobs() as command:
        yield command


@pytest.fixture
def empty_url(graphjobs_server_url: str) -> Iterator[str]:
    """The URL of a database without so much as a schema."""
    with pytest_graphjobs._database(graphjobs_server_url, "") as url:
        yield url


def test_a_database_is_taken_up_looked_at_and_taken_down(graphjobs: Command, empty_url: str) -> None:
    """Each command says in a line what is, and ends with 0."""
    steps = {
        "none\n": ["current"],
        f"the database is at revision {REVISION}\n": ["upgrade"],
        f"{REVISION}\n": ["current"],
        "the database is what this code declares\n": ["check"],
        "the database holds no tables of graphjobs now\n": ["downgrade", "base"],
    }
    for said, command in steps.items():
        done = graphjobs("db", *command, url=empty_url)
        assert (0, said, "") == (done.returncode, done.stdout, done.stderr)
    assert ask(empty_url, "SELECT to_regclass('scheduler.graph_jobs') IS NULL") == "t"


def test_what_needs_no_database_asks_none(graphjobs: Command) -> None:
    """`history` and `sql` work without a URL, which would else start the embedded server."""
    history, up = graphjobs("db", "history"), graphjobs("db", "sql")
    down = graphjobs("db", "sql", "--down", f"{REVISION}:base")
    assert (0, "") == (history.returncode, history.stderr)
    assert history.stdout.splitlines()[0].startswith("014_graph_jobs  Create the tables of graph jobs")
    assert (0, sql(), "") == (up.returncode, up.stdout, up.stderr)
    assert (0, sql(f"{REVISION}:base", down=True), "") == (down.returncode, down.stdout, down.stderr)


def test_a_downgrade_that_would_drop_rows_ends_with_1_unless_told(
    graphjobs: Command, graphjobs_database_url: str
) -> None:
    """The sentence has the number of rows and the word that goes on."""
    ask(graphjobs_database_url, _ROW)
    before = dump(graphjobs_database_url)
    refused = graphjobs("db", "downgrade", "base", url=graphjobs_database_url)
    kept = ask(graphjobs_database_url, "SELECT count(*) FROM scheduler.graph_jobs"), dump(graphjobs_database_url)
    went_on = graphjobs("db", "downgrade", "base", "-x", "drop-data=yes", url=graphjobs_database_url)

    _failed(refused, code=1, words="would drop 1 rows of scheduler.graph_jobs and 0 of scheduler.graph_job_events")
    assert "pg_dump --data-only" in refused.stderr
    assert "-x drop-data=yes" in refused.stderr
    assert ("1", before) == kept
    assert went_on.returncode == 0, went_on.stderr
    assert ask(graphjobs_database_url, "SELECT to_regclass('scheduler.graph_jobs') IS NULL") == "t"


def test_rendered_sql_that_may_drop_rows_works_in_psql(graphjobs: Command, graphjobs_database_url: str) -> None:
    """`graphjobs db sql --down -x drop-data=yes | psql` is the way down for whoever runs SQL only by hand."""
    ask(graphjobs_database_url, _ROW)
    done = graphjobs("db", "sql", "--down", f"{REVISION}:base", "-x", "drop-data=yes")
    assert psql(graphjobs_database_url, done.stdout).returncode == 0
    assert ask(graphjobs_database_url, "SELECT to_regclass('scheduler.graph_jobs') IS NULL") == "t"


def test_a_drift_ends_with_1(graphjobs: Command, graphjobs_database_url: str) -> None:
    """And names what differs."""
    ask(graphjobs_database_url, "DROP INDEX scheduler.idx_graph_job_events_job")
    done = graphjobs("db", "check", url=graphjobs_database_url)
    _failed(done, code=1, words="idx_graph_job_events_job")


def test_a_schema_that_is_missing_or_at_another_revision_ends_with_5(graphjobs: Command, empty_url: str) -> None:
    """The sentence says what to run."""
    _failed(graphjobs("db", "check", url=empty_url), code=5, words="run `graphjobs db upgrade`")
    ask(
        empty_url,
        "CREATE SCHEMA scheduler; CREATE TABLE scheduler.graphjobs_schema_version (version_num VARCHAR(32) NOT NULL)",
    )
    _failed(graphjobs("db", "check", url=empty_url), code=5, words="run `graphjobs db upgrade`")


def test_a_word_nobody_knows_ends_with_2_or_3(graphjobs: Command, graphjobs_database_url: str) -> None:
    """2 where the call cannot be understood; 3 where what it names is not there."""
    calls = {
        ("nonsense",): 2,
        ("downgrade",): 2,
        ("downgrade", "base", "-x", "drop_data"): 3,
        ("upgrade", "999_nowhere"): 3,
        ("upgrade", ""): 3,
        ("downgrade", "999_nowhere"): 3,
        ("sql", "999_nowhere"): 3,
        ("sql", "--down"): 3,
    }
    ended = [graphjobs("db", *call, url=graphjobs_database_url) for call in calls]
    assert list(calls.values()) == [done.returncode for done in ended], [done.stderr for done in ended]
    for done in ended:
        assert "Traceback" not in done.stderr
        if done.returncode == 3:
            _failed(done, code=3, words="")
    assert ask(graphjobs_database_url, "SELECT version_num FROM scheduler.graphjobs_schema_version") == REVISION


_NOBODY = f"127.0.0.1:1/graphjobs?user=alice&password={_PASSWORD}"
_SETTINGS: dict[str, tuple[str, dict[str, str], int, str]] = {
    "another database's scheme": (
        "upgrade",
        {"url": f"mysql://alice:{_PASSWORD}@localhost/graphjobs"},
        3,
        "GRAPHJOBS_DATABASE_URL is invalid: it must start with postgresql://",
    ),
    "no URL at all": ("current", {"url": f"alice {_PASSWORD}"}, 3, "GRAPHJOBS_DATABASE_URL is invalid"),
    "a port that is none": (
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
        {"url": f"postgresql://{_NOBODY}"},
        4,
        "127.0.0.1:1",
    ),
    "a server that is down, an odd password not escaped": (
        "check",
        {"url": f"postgresql://localhost:1/{_PASSWORD}@db.internal/graphjobs"},
        4,
        "no PostgreSQL answers at",
    ),
    "a time-out that is none": (
        "upgrade",
        {"GRAPHJOBS_LOCK_TIMEOUT": "soon"},
        3,
        "GRAPHJOBS_LOCK_TIMEOUT is invalid",
    ),
    "a pooler in between": (
        "upgrade",
        {"url": f"postgresql://{_NOBODY}", "GRAPHJOBS_POOLER": "transaction"},
        3,
        "migrations need a direct connection: set GRAPHJOBS_POOLER=direct",
    ),
}


@pytest.mark.parametrize("setting", list(_SETTINGS))
def test_a_setting_that_cannot_work_ends_with_a_code_of_its_own(graphjobs: Command, setting: str) -> None:
    """3 where the configuration is wrong, 4 where nobody answers: only that is worth trying again."""
    command, given, code, words = _SETTINGS[setting]
    _failed(graphjobs("db", command, **given), code=code, words=words)


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """The URL of a server that asks everybody but its superuser for a password."""
    with throwaway_cluster() as cluster:
        hba = cluster.data_dir / "pg_hba.conf"
        hba.write_text("local all graphjobs trust\nlocal all all scram-sha-256\n")
        ask(cluster.url(), f"CREATE ROLE alice LOGIN PASSWORD '{_PASSWORD}'; SELECT pg_reload_conf()")
        _until_refused(_as_alice(cluster.url(), "wrong"))
        yield cluster.url()


def _as_alice(url: str, password: str) -> str:
    """The same URL for the role with the password."""
    return url.replace("//graphjobs@", f"//alice:{password}@")


def _until_refused(url: str) -> None:
    """Returns when the server has read its rules anew."""
    deadline = time.monotonic() + 20
    while True:
        try:
            asyncio.run(_connect_once(url))
        except asyncpg.InvalidPasswordError:
            return
        assert time.monotonic() < deadline, "the server still asks for no password"


async def _connect_once(url: str) -> None:
    await (await asyncpg.connect(url, timeout=10)).close()


def test_a_wrong_password_ends_with_3(graphjobs: Command, guarded_url: str) -> None:
    """The right one of the same role is let in, so it is the password that is refused."""
    let_in = graphjobs("db", "current", url=_as_alice(guarded_url, _PASSWORD))
    assert (0, "none\n", "") == (let_in.returncode, let_in.stdout, let_in.stderr)
    done = graphjobs("db", "upgrade", url=_as_alice(guarded_url, _PASSWORD + "x"))
    _failed(done, code=3, words="the database refused the password: check GRAPHJOBS_DATABASE_URL")


def test_a_database_or_a_role_that_is_not_there_ends_with_3(graphjobs: Command, guarded_url: str) -> None:
    """Both are the configuration's mistake, and creating them is not ours to do."""
    nowhere = guarded_url.replace("/postgres?", "/nowhere?")
    done = graphjobs("db", "upgrade", url=_as_alice(nowhere, _PASSWORD))
    _failed(done, code=3, words="the database does not exist on the server")
    done = graphjobs("db", "current", url=guarded_url.replace("//graphjobs@", f"//nobody:{_PASSWORD}@"))
    _failed(done, code=3, words="the database refused the password")


def test_a_role_that_may_not_ends_with_3(graphjobs: Command, guarded_url: str) -> None:
    """It may log in, but neither create the schema nor use one."""
    done = graphjobs("db", "upgrade", url=_as_alice(guarded_url, _PASSWORD))
    _failed(done, code=3, words="the database role lacks a privilege")
