"""Revision 019 builds the indexes of logs, and takes one away that they replace."""

from graphjobs.database.migrations import commands
from graphjobs.settings import Settings
from tests.migrations.cli_tools import ask, dump

_BEFORE = "018_transition_index"
_VALID = """
SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text) FROM pg_index
WHERE indisvalid AND indrelid IN ('scheduler.graph_job_events'::regclass, 'scheduler.policy_run_events'::regclass)
    AND indexrelid::regclass::text ~ '_(job|log)$'
"""


async def test_it_replaces_its_indexes_and_brings_them_back(empty_settings: Settings, empty_url: str) -> None:
    """An invalid index of an interrupted build is built again; the downgrade restores the schema before."""
    await commands.upgrade(empty_settings, revision=_BEFORE)
    before = dump(empty_url)
    ask(
        empty_url,
        "CREATE INDEX idx_policy_run_events_log ON scheduler.policy_run_events (tenant_id);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'scheduler.idx_policy_run_events_log'::regclass",
    )
    await commands.upgrade(empty_settings, revision="019_event_log_index")
    await commands.check(empty_settings)
    valid = ask(empty_url, _VALID)
    await commands.downgrade(empty_settings, revision=_BEFORE)

    names = ("graph_job_events_job", "graph_job_events_log", "policy_run_events_log")
    assert valid == " ".join(f"scheduler.idx_{name}" for name in names)
    assert before == dump(empty_url)
