"""Revision 016: the tables of policy runs and their check constraints."""

import subprocess

import pytest

from graphjobs import SchemaOutOfDate, open_storage
from graphjobs.database.migrations import commands
from graphjobs.errors import GraphJobsError
from graphjobs.settings import Settings
from tests.builders import build_job
from tests.migrations.cli_tools import ask, dump, psql, relative_to_head

_BEFORE = "015_correlation_index"
_INSERT = """
INSERT INTO scheduler.policy_runs
    (id, tenant_id, run_id, policy_id, mode, priority, status, attempts, queued_at, available_at, payload)
VALUES (gen_random_uuid(), 't', 'r', 'p', 0, 0, 0, 0, now(), now(), '{}')
"""


@pytest.fixture
async def at_015(empty_settings: Settings) -> Settings:
    """Settings of a database at the previous revision."""
    assert await commands.upgrade(empty_settings, revision=_BEFORE) == _BEFORE
    return empty_settings


async def test_the_event_table_has_the_shape_of_014(at_015: Settings, empty_url: str) -> None:
    """The dumps of both event tables differ only in names and comments."""
    await commands.upgrade(at_015, revision="016_policy_runs")
    runs, jobs = (
        [line for line in dump(empty_url, table).splitlines() if "COMMENT" not in line and not line.startswith("-- ")]
        for table in ("policy_run_events", "graph_job_events")
    )
    renamed = [line.replace("policy_run", "graph_job") for line in runs]
    assert [line for line in jobs if line.strip("- ")] == [line for line in renamed if line.strip("- ")]


async def test_existing_jobs_stay_and_older_schemas_are_refused(at_015: Settings, empty_url: str) -> None:
    """Jobs of the previous revision are readable after the upgrade; before it the storage names the command."""
    ask(
        empty_url,
        "INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload)"
        f" SELECT id, 'acme', 0, 0, doc FROM (SELECT '{(job := build_job()).id}'::uuid AS id,"
        f" '{job.to_json()}'::jsonb AS doc) job",
    )
    with pytest.raises(SchemaOutOfDate, match="graphjobs db upgrade"):
        async with open_storage(at_015):
            pass
    await commands.upgrade(at_015)
    async with open_storage(at_015) as storage:
        assert 1 == (await storage.graph_jobs.count("acme")).value
        assert () == (await storage.policy_runs.list("acme")).runs


@pytest.mark.parametrize("revision", ["base", _BEFORE, relative_to_head(_BEFORE)])
async def test_a_downgrade_refuses_to_drop_runs(at_015: Settings, empty_url: str, revision: str) -> None:
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
        ("lease_owner = 'dispatcher'", "lease"),
        ("lease_expires_at = now()", "lease"),
        ("cancellation_requested_at = now()", "cancellation"),
        ("queued_at = 'infinity'", "times"),
        ("updated_at = '12000-01-01'", "times"),
        ("completed_at = '-infinity'", "times"),
    ],
)
async def test_check_constraints_refuse_invalid_rows(
    graphjobs_settings: Settings, graphjobs_database_url: str, change: str, check: str
) -> None:
    """Lists and leases rely on these constraints, for manual writes too."""
    del graphjobs_settings
    ask(graphjobs_database_url, _INSERT)
    done: subprocess.CompletedProcess[str] = psql(graphjobs_database_url, f"UPDATE scheduler.policy_runs SET {change}")
    assert f'violates check constraint "policy_runs_{check}_check"' in done.stderr
