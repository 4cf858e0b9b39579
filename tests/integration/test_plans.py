"""The plan of every statement: by key only the primary key, lists only their index; never more rows than asked for.

Each is looked at on a table that was never analysed and for a tenant the statistics do not know, with custom and with
generic plans: that is when the planner guesses, and a wrong guess reads all of a tenant.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import Executable

from graphjobs.database.engine import connect
from graphjobs.database.executor import compiled
from graphjobs.jobs import statements
from graphjobs.settings import Settings
from tests.builders import AT, build_job

_ROWS = 20_000
_LIMIT = 50
_KNOWN, _NEW = "known", "new"
_JOB = uuid.UUID(int=_ROWS // 2)

_BY_STATUS = "idx_graph_jobs_tenant_type_status"
_SCANS: dict[str, set[str]] = {
    "INSERT_JOB": set(),
    "REPLACE_JOB": {"graph_jobs_pkey"},
    "EDIT_JOB": {"graph_jobs_pkey"},
    "GET_JOB": {"graph_jobs_pkey"},
    "LIST_JOBS": {_BY_STATUS},
    "LIST_JOBS_OF_STATUS": {_BY_STATUS},
    "APPEND_EVENT": {"graph_jobs_pkey"},
    "LIST_EVENTS": {"idx_graph_job_events_job"},
}


@pytest_asyncio.fixture(scope="module", params=["never analysed", "analysed before"])
async def connection(
    request: pytest.FixtureRequest, graphjobs_new_database: Any
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Two tenants of 20,000 rows, in a database of this module's own; the statistics know one of them, or none."""
    settings = Settings.load(database_url=graphjobs_new_database())
    assert settings.database_url is not None
    driver = await connect(settings.database_url.get_secret_value(), settings)
    for table in ("graph_jobs", "graph_job_events"):
        await driver.execute(f"ALTER TABLE scheduler.{table} SET (autovacuum_enabled = off)")
    await _fill(driver, _KNOWN, first=1)
    if request.param == "analysed before":
        await driver.execute("ANALYZE scheduler.graph_jobs, scheduler.graph_job_events")
    await _fill(driver, _NEW, first=_ROWS + 1)
    yield driver
    await driver.close()


async def _fill(driver: "asyncpg.Connection[asyncpg.Record]", tenant: str, *, first: int) -> None:
    payload = build_job(tenant, created_at=AT).to_json()
    await driver.execute(
        """
        INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at)
        SELECT lpad(to_hex(n), 32, '0')::uuid, $1, n / 5 % 2, n % 5, $2::text::jsonb, now() - n * interval '1 second'
        FROM generate_series($3::int, $3::int + $4::int - 1) n
        """,
        tenant,
        payload,
        first,
        _ROWS,
    )
    await driver.execute(
        """
        INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)
        SELECT id, tenant_id, 0, '{}' FROM scheduler.graph_jobs WHERE tenant_id = $1
        """,
        tenant,
    )


def _all_statements() -> Iterator[str]:
    for name in vars(statements):
        if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", name) and isinstance(getattr(statements, name), Executable):
            yield name


def _arguments(name: str, tenant: str) -> list[object]:
    values: dict[str, object] = {
        "job": _JOB if tenant == _KNOWN else uuid.UUID(int=_JOB.int + _ROWS),
        "tenant": tenant,
        "kind": 0,
        "target": 1,
        "document": "{}",
        "created": AT,
        "correlation": None,
        "expected": 0,
        "expected_attempts": 0,
        "seen": AT,
        "limit_rows": _LIMIT,
        "after_event": 0,
    }
    return [values[bind] for bind in compiled(getattr(statements, name)).binds]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _plan(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, tenant: str, mode: str
) -> list[dict[str, Any]]:
    """Runs the statement once and gives the nodes of its plan; what it wrote is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        sql = compiled(getattr(statements, name)).sql
        rows = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *_arguments(name, tenant))
    finally:
        await transaction.rollback()
    return list(_nodes(json.loads(rows)[0]["Plan"]))


def test_every_statement_has_its_plan_here() -> None:
    """A statement that is added is looked at, too."""
    assert set(_SCANS) == set(_all_statements())


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("tenant", [_KNOWN, _NEW])
@pytest.mark.parametrize("name", list(_SCANS))
async def test_each_statement_reads_only_what_it_was_asked_for(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, tenant: str, mode: str
) -> None:
    """Its own index serves it, and no scan reads more rows than the answer can hold."""
    nodes = await _plan(connection, name, tenant, mode)
    assert _SCANS[name] == {node["Index Name"] for node in nodes if "Index Name" in node}
    assert not [node["Node Type"] for node in nodes if node["Node Type"] == "Seq Scan"]
    read = [node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in nodes if "Index Name" in node]
    assert all(rows <= _LIMIT + 1 for rows in read), read


@pytest.mark.parametrize("connection", ["analysed before"], indirect=True)
async def test_without_the_collation_the_planner_would_read_the_whole_tenant(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    """Why statements by key compare the tenant as they do; when this fails, the helper can go."""
    sql = compiled(statements.GET_JOB).sql.replace('($2::VARCHAR COLLATE "C")', "$2::VARCHAR")
    assert "COLLATE" not in sql
    rows = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *_arguments("GET_JOB", _NEW))
    used = {node["Index Name"] for node in _nodes(json.loads(rows)[0]["Plan"]) if "Index Name" in node}
    assert used != {"graph_jobs_pkey"}


async def test_every_statement_gives_the_tenant_on_every_table_and_names_its_columns() -> None:
    """Isolation by construction: no statement touches a table without saying whose rows."""
    for name in _SCANS:
        sql = compiled(getattr(statements, name)).sql
        assert "*" not in sql
        writes = re.findall(r"INSERT INTO scheduler\.\w+ \(([^)]*)\)", sql)
        assert all("tenant_id" in columns for columns in writes)
        reads = len(re.findall(r"(?:FROM|UPDATE|JOIN) scheduler\.", sql))
        compared = len(re.findall(r"scheduler\.\w+\.tenant_id = ", sql))
        assert reads <= compared, f"{name} reads {reads} tables and compares the tenant {compared} times"
