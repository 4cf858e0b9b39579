"""Revision 018 builds the indexes of transition ids; no event is too large for them."""

import pytest

from graphjobs.database.migrations import commands
from graphjobs.settings import Settings
from tests.migrations.cli_tools import ask, dump

_BEFORE = "017_backfill"
_INSERT = """
INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload) VALUES (gen_random_uuid(), 't', 0, 0, '{}');
INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)
SELECT id, tenant_id, 0, event.payload FROM scheduler.graph_jobs, LATERAL (VALUES
    (jsonb_build_object('transitionId', id)),
    (jsonb_build_object('transitionId', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n))),
    ('[]'), ('{"transitionId": {"nested": [null]}}'), ('"transitionId"')) AS event (payload)
"""
_VALID = """
SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid = ANY(ARRAY[
    to_regclass('scheduler.idx_graph_job_events_transition'),
    to_regclass('scheduler.idx_policy_run_events_transition')])
"""


@pytest.fixture
async def at_017(empty_settings: Settings) -> Settings:
    """Settings of a database at the revision before."""
    assert await commands.upgrade(empty_settings, revision=_BEFORE) == _BEFORE
    return empty_settings


async def test_it_adds_and_removes_its_indexes(at_017: Settings, empty_url: str) -> None:
    """The rows stay, and the schema after the downgrade is that before the upgrade."""
    ask(empty_url, _INSERT)
    before = dump(empty_url)
    await commands.upgrade(at_017, revision="018_transition_index")
    valid = ask(empty_url, _VALID)
    ask(empty_url, _INSERT)
    await commands.downgrade(at_017, revision=_BEFORE)

    assert valid == "2"
    assert before == dump(empty_url)
    assert ask(empty_url, "SELECT count(*) FROM scheduler.graph_job_events") == "15"


async def test_an_invalid_index_of_an_interrupted_build_is_rebuilt(at_017: Settings, empty_url: str) -> None:
    """`IF NOT EXISTS` would keep it."""
    ask(
        empty_url,
        "CREATE INDEX idx_policy_run_events_transition ON scheduler.policy_run_events (tenant_id);"
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'scheduler.idx_policy_run_events_transition'::regclass",
    )
    await commands.upgrade(at_017)
    assert ask(empty_url, _VALID) == "2"
    await commands.check(at_017)
