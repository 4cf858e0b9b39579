"""Revision 016: two more tables, whose own checks refuse what no code of ours would write; nothing else is touched."""

import subprocess

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement, SetColumnComment

from graphjobs import SchemaOutOfDate, open_storage
from graphjobs.database.migrations import commands
from graphjobs.database.schema import Base
from graphjobs.errors import GraphJobsError
from graphjobs.settings import Settings
from tests.builders import build_job
from tests.migrations.cli_tools import ask, dump, psql

_BEFORE = "015_correlation_index"
_OF_GRAPHS = ("graph_jobs", "graph_job_events")
_INSERT = """
INSERT INTO scheduler.policy_runs
    (id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, payload)
VALUES (gen_random_uuid(), 't', 'r', 'p', 0, 0, 0, 0, now(), now(), '{}')
"""


@pytest.fixture
async def at_015(empty_settings: Settings) -> Settings:
    """Settings of a database at the revision before."""
    assert await commands.upgrade(empty_settings, revision=_BEFORE) == _BEFORE
    return empty_settings


async def test_it_adds_its_tables_and_takes_them_away_again(at_015: Settings, empty_url: str) -> None:
    """The schema before and after are the same, and the tables of graph jobs are never touched."""
    before, of_graphs = dump(empty_url), dump(empty_url, *_OF_GRAPHS)
    await commands.upgrade(at_015, revision="016_policy_runs")
    between = dump(empty_url, *_OF_GRAPHS)
    added = dump(empty_url)
    await commands.downgrade(at_015, revision=_BEFORE)

    assert of_graphs == between
    assert "CREATE TABLE scheduler.policy_runs" in added
    assert before == dump(empty_url)


async def test_the_log_has_the_shape_of_014s(at_015: Settings, empty_url: str) -> None:
    """But for its name and its comments, a dump of the one is a dump of the other."""
    await commands.upgrade(at_015)
    runs, jobs = (
        [line for line in dump(empty_url, table).splitlines() if "COMMENT" not in line and not line.startswith("-- ")]
        for table in ("policy_run_events", "graph_job_events")
    )
    renamed = [line.replace("policy_run", "graph_job") for line in runs]
    assert [line for line in jobs if line.strip("- ")] == [line for line in renamed if line.strip("- ")]


async def test_the_declared_tables_are_those_of_the_revision(at_015: Settings, empty_url: str) -> None:
    """To the letter, checks and collations included, which `check` does not compare."""
    await commands.upgrade(at_015)
    revised = dump(empty_url, "policy_runs", "policy_run_events")
    await commands.downgrade(at_015, revision=_BEFORE)
    tables = [Base.metadata.tables[f"scheduler.{name}"] for name in ("policy_runs", "policy_run_events")]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    statements: list[ExecutableDDLElement] = [CreateTable(table) for table in tables]
    statements += [CreateIndex(index) for table in tables for index in table.indexes]
    statements += [SetColumnComment(column) for table in tables for column in table.c if column.comment]
    ask(empty_url, ";".join(str(one.compile(dialect=dialect)) for one in statements))
    assert revised == dump(empty_url, "policy_runs", "policy_run_events")


async def test_jobs_go_on_beside_it_and_runs_need_it(at_015: Settings, empty_url: str) -> None:
    """What was there before works on; code that knows runs says what to do where they are missing."""
    ask(
        empty_url,
        "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload)"
        f" SELECT id, 'acme', 0, 0, doc FROM (SELECT '{(job := build_job()).id}'::uuid AS id,"
        f" '{job.to_json()}'::jsonb AS doc) given",
    )
    with pytest.raises(SchemaOutOfDate, match="graphjobs db upgrade"):
        async with open_storage(at_015):
            pass
    await commands.upgrade(at_015)
    async with open_storage(at_015) as storage:
        assert 1 == (await storage.graph_jobs.count("acme")).value
        assert () == (await storage.policy_runs.list("acme")).runs


@pytest.mark.parametrize("revision", ["base", _BEFORE, "-2"])
async def test_rows_of_runs_are_not_dropped_unasked(at_015: Settings, empty_url: str, revision: str) -> None:
    """The refusal counts, says how to keep them, and changes nothing; with the word it goes on."""
    await commands.upgrade(at_015)
    ask(empty_url, _INSERT)
    before = dump(empty_url)
    with pytest.raises(GraphJobsError, match=r"1 rows of scheduler\.policy_runs and 0 of") as caught:
        await commands.downgrade(at_015, revision=revision)
    assert "--table=scheduler.policy_runs --table=scheduler.policy_run_events" in str(caught.value)
    assert before == dump(empty_url)
    assert ask(empty_url, "SELECT count(*) FROM scheduler.policy_runs") == "1"
    await commands.downgrade(at_015, revision=_BEFORE, drop_data=True)
    assert ask(empty_url, "SELECT to_regclass('scheduler.policy_runs') IS NULL") == "t"


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("mode = 3", "mode"),
        ("priority = -1", "priority"),
        ("status = 6", "status"),
        ("attempts = 100000", "attempts"),
        ("status = 1", "lease"),
        ("lease_owner = 'somebody'", "lease"),
        ("lease_expires_at = now()", "lease"),
        ("cancellation_requested_at = now()", "cancellation"),
        ("queued_at = 'infinity'", "times"),
        ("updated_at = '12000-01-01'", "times"),
        ("completed_at = '-infinity'", "times"),
    ],
)
async def test_the_tables_checks_refuse_what_no_value_could_be(
    graphjobs_settings: Settings, graphjobs_database_url: str, change: str, check: str
) -> None:
    """Written by hand, too: what lists and leases rely on."""
    del graphjobs_settings
    ask(graphjobs_database_url, _INSERT)
    done: subprocess.CompletedProcess[str] = psql(graphjobs_database_url, f"UPDATE scheduler.policy_runs SET {change}")
    assert f'violates check constraint "policy_runs_{check}_check"' in done.stderr
