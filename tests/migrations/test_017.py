"""Revision 017: the two tables of the backfill. A downgrade does not drop pending documents without the option."""

import pytest

from graphjobs.database.migrations import commands
from graphjobs.errors import GraphJobsError
from graphjobs.settings import Settings
from tests.migrations.cli_tools import ask, psql, relative_to_head

_BEFORE = "016_policy_runs"
_INSERT = """
INSERT INTO scheduler.backfill_quarantine (id, collection, location, field, reason, document)
VALUES (gen_random_uuid(), 'graph_jobs', 'graph_jobs.bson, entry 1', 'status', 'no status', '{}')
"""


async def test_downgrade_drops_no_pending_documents_without_the_option(
    empty_settings: Settings, empty_url: str
) -> None:
    """The error names their number and how to keep them, and changes nothing; with the option it succeeds."""
    await commands.upgrade(empty_settings)
    ask(empty_url, _INSERT)
    with pytest.raises(
        GraphJobsError, match=r"1 pending rows of scheduler\.backfill_quarantine.*graphjobs quarantine write"
    ):
        await commands.downgrade(empty_settings, revision=relative_to_head(_BEFORE))
    assert ask(empty_url, "SELECT count(*) FROM scheduler.backfill_quarantine") == "1"
    await commands.downgrade(empty_settings, revision=_BEFORE, drop_data=True)
    assert await commands.current(empty_settings) == _BEFORE


@pytest.mark.parametrize("content", ["'{}', 'x'", "NULL, NULL"])
async def test_an_entry_has_a_document_or_bytes(empty_settings: Settings, empty_url: str, content: str) -> None:
    await commands.upgrade(empty_settings)
    sql = _INSERT.replace("document)", "document, raw)").replace("'{}')", f"{content})")
    assert "backfill_quarantine_content_check" in psql(empty_url, sql).stderr
