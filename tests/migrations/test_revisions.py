"""Revisions after 014: a downgrade leads back to the same schema, and the declared tables are those of the revision."""

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement, SetColumnComment

import graphjobs.backfill.tables  # noqa: F401  # declares the tables
from graphjobs.database.migrations import commands
from graphjobs.database.schema import Base
from graphjobs.settings import Settings
from tests.migrations.cli_tools import ask, dump

_TABLES_OF_014 = ("graph_jobs", "graph_job_events")
_TABLES = {
    "016_policy_runs": ("policy_runs", "policy_run_events"),
    "017_backfill": ("backfill_checkpoints", "backfill_quarantine"),
}
_INSERT_JOB = """
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload) VALUES (gen_random_uuid(), 't', 0, 0, '{}')
"""


def _before(revision: str) -> str:
    """Return the previous revision."""
    revisions = [script.revision for script in commands.history()]
    return revisions[revisions.index(revision) - 1]


@pytest.mark.parametrize("revision", ["015_correlation_index", *_TABLES])
async def test_a_downgrade_leads_back_to_the_schema_before_the_revision(
    empty_settings: Settings, empty_url: str, revision: str
) -> None:
    """Rows of graph jobs stay; a revision that adds tables does not change those of graph jobs."""
    await commands.upgrade(empty_settings, revision=_before(revision))
    ask(empty_url, _INSERT_JOB)
    before, graph_jobs_before = dump(empty_url), dump(empty_url, *_TABLES_OF_014)
    await commands.upgrade(empty_settings, revision=revision)
    added, graph_jobs_after = dump(empty_url), dump(empty_url, *_TABLES_OF_014)
    await commands.downgrade(empty_settings, revision=_before(revision))

    assert before != added
    assert (graph_jobs_before == graph_jobs_after) == (revision in _TABLES)
    assert all(f"CREATE TABLE scheduler.{table}" in added for table in _TABLES.get(revision, ()))
    assert before == dump(empty_url)
    assert "1" == ask(empty_url, "SELECT count(*) FROM scheduler.graph_jobs")


@pytest.mark.parametrize("revision", _TABLES)
async def test_the_declared_tables_are_those_of_the_revision(
    empty_settings: Settings, empty_url: str, revision: str
) -> None:
    """The dumps are equal, with check constraints and collations, which `check` does not compare."""
    await commands.upgrade(empty_settings)
    await commands.check(empty_settings)
    revised = dump(empty_url, *_TABLES[revision])
    await commands.downgrade(empty_settings, revision=_before(revision))
    tables = [Base.metadata.tables[f"scheduler.{name}"] for name in _TABLES[revision]]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    statements: list[ExecutableDDLElement] = [CreateTable(table) for table in tables]
    statements += [CreateIndex(index) for table in tables for index in table.indexes]
    statements += [SetColumnComment(column) for table in tables for column in table.c if column.comment]
    ask(empty_url, ";".join(str(statement.compile(dialect=dialect)) for statement in statements))
    assert revised == dump(empty_url, *_TABLES[revision])
