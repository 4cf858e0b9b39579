"""Revision 017: the two tables of the backfill. A downgrade does not drop pending documents without the option."""

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement, SetColumnComment

import graphjobs.backfill.tables  # noqa: F401  # declares the tables
from graphjobs.database.migrations import commands
from graphjobs.database.schema import Base
from graphjobs.errors import GraphJobsError
from graphjobs.settings import Settings
from tests.migrations.cli_tools import ask, dump, psql

_BEFORE = "016_policy_runs"
_TABLES = ("backfill_checkpoints", "backfill_quarantine")
_INSERT = """
INSERT INTO scheduler.backfill_quarantine (id, collection, location, field, reason, document)
VALUES (gen_random_uuid(), 'graph_jobs', 'graph_jobs.bson, entry 1', 'status', 'no status', '{}')
"""


@pytest.fixture
async def at_016(empty_settings: Settings) -> Settings:
    """Settings of a database at the revision before."""
    assert await commands.upgrade(empty_settings, revision=_BEFORE) == _BEFORE
    return empty_settings


async def test_upgrade_adds_the_tables_and_downgrade_drops_them(at_016: Settings, empty_url: str) -> None:
    """The schema before and after is the same."""
    before = dump(empty_url)
    await commands.upgrade(at_016, revision="017_backfill")
    added = dump(empty_url)
    await commands.downgrade(at_016, revision=_BEFORE)
    assert all(f"CREATE TABLE scheduler.{table}" in added for table in _TABLES)
    assert before == dump(empty_url)


async def test_the_declared_tables_are_those_of_the_revision(at_016: Settings, empty_url: str) -> None:
    """Byte for byte, including the constraint, which `check` does not compare."""
    await commands.upgrade(at_016)
    await commands.check(at_016)
    revised = dump(empty_url, *_TABLES)
    await commands.downgrade(at_016, revision=_BEFORE)
    tables = [Base.metadata.tables[f"scheduler.{name}"] for name in _TABLES]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    statements: list[ExecutableDDLElement] = [CreateTable(table) for table in tables]
    statements += [CreateIndex(index) for table in tables for index in table.indexes]
    statements += [SetColumnComment(column) for table in tables for column in table.c if column.comment]
    ask(empty_url, ";".join(str(statement.compile(dialect=dialect)) for statement in statements))
    assert revised == dump(empty_url, *_TABLES)


async def test_downgrade_drops_no_pending_documents_without_the_option(at_016: Settings, empty_url: str) -> None:
    """The error names their number and how to keep them, and changes nothing; with the option it succeeds."""
    await commands.upgrade(at_016)
    ask(empty_url, _INSERT)
    with pytest.raises(
        GraphJobsError, match=r"1 pending rows of scheduler\.backfill_quarantine.*graphjobs quarantine write"
    ):
        await commands.downgrade(at_016, revision="-2")
    assert ask(empty_url, "SELECT count(*) FROM scheduler.backfill_quarantine") == "1"
    await commands.downgrade(at_016, revision=_BEFORE, drop_data=True)
    assert await commands.current(at_016) == _BEFORE


@pytest.mark.parametrize("content", ["'{}', 'x'", "NULL, NULL"])
async def test_an_entry_has_a_document_or_bytes(at_016: Settings, empty_url: str, content: str) -> None:
    """Never both, and never neither."""
    await commands.upgrade(at_016)
    sql = _INSERT.replace("document)", "document, raw)").replace("'{}')", f"{content})")
    assert "backfill_quarantine_content_check" in psql(empty_url, sql).stderr
