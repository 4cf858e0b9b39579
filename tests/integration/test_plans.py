"""The plan of every statement: by key only the primary key, lists only their index; never more rows than asked for.

Each is looked at on a table that was never analysed and for a tenant the statistics do not know, with custom and with
generic plans: that is when the planner guesses, and a wrong guess reads all of a tenant.
"""

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import asyncpg
import pytest
import pytest_asyncio

from graphjobs.core import notifications
from graphjobs.database.engine import connect
from graphjobs.database.executor import compiled
from graphjobs.graph_jobs.sql import acquire, finish, lists, single
from graphjobs.settings import Settings
from tests.builders import AT, build_job
from tests.integration.plans import (
    PLANNER_SETTINGS,
    indexes_in,
    nodes_of,
    pages_read,
    plan_of,
    rows_read,
    statements_of,
    tables_and_tenants_in,
)

_ROWS = 20_000
_LIMIT = 50
_TIES = 20
"""So many rows have the same time."""
_PAGES_TO_THE_PLACE = 10
_KNOWN, _NEW = "known", "new"
_JOB = uuid.UUID(int=_ROWS // 2)
_BUSY = uuid.UUID(int=1)
"""A job that was renewed a few thousand times."""
_ALL_STATUSES = [0, 1, 2, 3, 4, -1, 5]
_NO_CASE: Mapping[str, object] = MappingProxyType({})

_KEY = "graph_jobs_pkey"
_BY_STATUS = "idx_graph_jobs_tenant_status"
_BY_KIND = "idx_graph_jobs_tenant_type_status"
_BY_CORRELATION = "idx_graph_jobs_tenant_correlation"
_LOG = "idx_graph_job_events_job"


class _Case(NamedTuple):
    """A statement, the indexes it may read, and what it is bound to where that is not the usual.

    Attributes:
        reads_more: rows it may read over what it answers with.
        pages_a_row: more than one where it goes down an index for each row, and not along it.
    """

    statement: str
    indexes: set[str]
    binds: Mapping[str, object] = _NO_CASE
    reads_more: int = 0
    pages_a_row: int = 1


_ONE: Mapping[str, object] = {"p_statuses": [1]}
_TWO: Mapping[str, object] = {"p_statuses": [0, 1]}
_FROM_MIDDLE: Mapping[str, object] = {"p_after_created_at": "middle", "p_after_id": "middle"}
_OF_A_RANGE: Mapping[str, object] = {**_FROM_MIDDLE, "p_created_from": "middle"}
_LONGEST: Mapping[str, object] = {"p_limit": 1_001}
_THAT_RUN: Mapping[str, object] = {"p_job_ids": "running", "p_tenant_ids": "each its tenant"}
_DEAD = 24 * _LIMIT
"""Each write of many that was rolled back here left a dead version of each row, which a bitmap of the index counts."""
_OF_KEYS = 6
"""Pages of an index's levels and of the table, for each row that is found by its key; some versions of it are dead."""

_CASES: dict[str, _Case] = {
    "INSERT_JOB": _Case("INSERT_JOB", set()),
    "INSERT_JOB_WITH_EVENT": _Case("INSERT_JOB_WITH_EVENT", set()),
    "INSERT_JOBS_WITH_EVENTS": _Case("INSERT_JOBS_WITH_EVENTS", set()),
    "REPLACE_JOB": _Case("REPLACE_JOB", {_KEY}),
    "REPLACE_JOB_AT_VERSION": _Case("REPLACE_JOB_AT_VERSION", {_KEY}),
    "TRANSITION_JOB": _Case("TRANSITION_JOB", {_KEY}),
    "TRANSITION_JOB_AT_VERSION": _Case("TRANSITION_JOB_AT_VERSION", {_KEY}),
    "GET_JOB": _Case("GET_JOB", {_KEY}),
    "GET_ANY_JOB": _Case("GET_ANY_JOB", {_KEY}),
    "APPEND_EVENT": _Case("APPEND_EVENT", {_KEY}),
    "LIST_EVENTS": _Case("LIST_EVENTS", {_LOG}),
    "FIND_TRANSITION": _Case("FIND_TRANSITION", {_LOG}),
    "LIST_JOBS": _Case("LIST_JOBS", {_BY_KIND}),
    "LIST_JOBS_BY_STATUS": _Case("LIST_JOBS_BY_STATUS", {_BY_KIND}),
    "OVERLAY_LAG": _Case("OVERLAY_LAG", {_BY_KIND}),
    "NOTIFY_QUEUED": _Case("NOTIFY_QUEUED", set()),
    "LIST_TENANTS_WITH_STATUS": _Case("LIST_TENANTS_WITH_STATUS", {_BY_KIND, _BY_STATUS}),
    "CLAIM_JOBS": _Case("CLAIM_JOBS", {_BY_KIND, _KEY}, reads_more=_DEAD, pages_a_row=_OF_KEYS),
    # All that run of the kind: it is asked once, after an answer was lost.
    "FIND_CLAIMED_JOBS": _Case("FIND_CLAIMED_JOBS", {_BY_KIND, _LOG}, reads_more=_ROWS // 5, pages_a_row=_OF_KEYS),
    **{
        name: _Case(name, {index}, _THAT_RUN, reads_more=_DEAD, pages_a_row=_OF_KEYS)
        for name, index in {
            "FINISH_JOBS": _KEY,
            "FINISH_JOBS_WITH_FOLLOWUPS": _KEY,
            "TAKE_OVER_JOBS": _KEY,
            "RENEW_JOBS": _KEY,
            "FIND_TRANSITIONED": _LOG,
            "GET_STATES": _KEY,
        }.items()
    },
    "LIST_STALLED_JOBS": _Case("LIST_STALLED_JOBS", {_BY_KIND, _LOG}, reads_more=_DEAD, pages_a_row=2 * _OF_KEYS),
    **{
        f"{verb}_BY_{whose}, {what}": _Case(f"{verb}_BY_{whose}", {index}, binds)
        for verb in ("LIST", "COUNT")
        for whose, index, choices in (
            ("TENANT", _BY_STATUS, {"one status": _ONE, "two": _TWO}),
            ("TYPE", _BY_KIND, {"one status": _ONE, "two": _TWO}),
            ("CORRELATION", _BY_CORRELATION, {}),
        )
        for what, binds in {
            **choices,
            "all": _NO_CASE,
            "from the middle": _FROM_MIDDLE,
            "of a range": _OF_A_RANGE,
            "the most at once": _LONGEST,
            **{f"{choice} from the middle": {**chosen, **_FROM_MIDDLE} for choice, chosen in choices.items()},
        }.items()
    },
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
    await driver.execute(
        "INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)"
        " SELECT $1, $2, 1, '{}' FROM generate_series(1, $3::int)",
        _BUSY,
        _KNOWN,
        _ROWS // 4,
    )
    if request.param == "analysed before":
        await driver.execute("ANALYZE scheduler.graph_jobs, scheduler.graph_job_events")
    await _fill(driver, _NEW, first=_ROWS + 1)
    yield driver
    await driver.close()


async def _fill(driver: "asyncpg.Connection[asyncpg.Record]", tenant: str, *, first: int) -> None:
    """Each time is that of twenty rows, and two thirds of the rows belong to one of two correlations."""
    payload = build_job(tenant, created_at=AT).to_json()
    await driver.execute(
        """
        INSERT INTO scheduler.graph_jobs (id, tenant_id, type, status, payload, created_at, correlation_id)
        SELECT lpad(to_hex(n), 32, '0')::uuid, $1, n / 5 % 2, n % 5, $2::text::jsonb,
            now() - n / $5::int * interval '1 minute', nullif('correlation ' || n % 3, 'correlation 0')
        FROM generate_series($3::int, $3::int + $4::int - 1) n
        """,
        tenant,
        payload,
        first,
        _ROWS,
        _TIES,
    )
    await driver.execute(
        """
        INSERT INTO scheduler.graph_job_events (job_id, tenant_id, status, payload)
        SELECT id, tenant_id, 0, '{}' FROM scheduler.graph_jobs WHERE tenant_id = $1
        """,
        tenant,
    )


_STATEMENTS = statements_of(single, lists, acquire, finish, notifications)


async def _arguments(connection: "asyncpg.Connection[asyncpg.Record]", case: _Case, tenant: str) -> list[object]:
    job = _JOB if tenant == _KNOWN else uuid.UUID(int=_JOB.int + _ROWS)
    time = await connection.fetchval("SELECT created_at FROM scheduler.graph_jobs WHERE id = $1", job)
    fresh = [uuid.UUID(int=2**64 + number) for number in range(_LIMIT)]
    # The oldest: what is rolled back leaves dead rows behind, which lists of the newest shall not meet.
    last = _ROWS if tenant == _KNOWN else 2 * _ROWS
    running = [uuid.UUID(int=last - 9 - 10 * number) for number in range(_LIMIT)]
    values: dict[str, object] = {
        "p_job_id": job,
        "p_tenant_id": tenant,
        "p_type": 0,
        "p_status": 1,
        "p_payload": "{}",
        "p_event_payload": "{}",
        "p_created_at": AT,
        "p_correlation_id": "correlation 1",
        "p_expected_status": 0,
        "p_expected_attempts": 0,
        "p_expected_version": AT,
        "p_limit": _LIMIT,
        "p_after_event_id": 0,
        "p_transition_id": str(job),
        "p_job_ids": fresh,
        **{name: [0] * _LIMIT for name in ("p_types", "p_new_statuses")},
        **{name: ["{}"] * _LIMIT for name in ("p_payloads", "p_event_payloads")},
        "p_created_ats": [AT] * _LIMIT,
        "p_correlation_ids": [None] * _LIMIT,
        "p_statuses": _ALL_STATUSES,
        "p_created_from": datetime(1, 1, 2, tzinfo=UTC),
        "p_after_created_at": datetime(9999, 12, 30, tzinfo=UTC),
        "p_after_id": uuid.UUID(int=2**128 - 1),
        "p_window": timedelta(days=366),
        "p_after_tenant_id": "",
        "p_tenant_ids": [tenant],
        "p_distinct_tenant_ids": [tenant],
        "p_shares": [_LIMIT],
        "p_lease": timedelta(microseconds=1),
        "p_attempts": [0] * _LIMIT,
        "p_versions": [AT] * _LIMIT,
        "p_parent_ids": running,
        "p_followup_ids": fresh,
        **{name: ["{}"] * _LIMIT for name in ("p_followup_payloads", "p_followup_event_payloads")},
    }
    meant = {
        "middle": {"p_after_created_at": time, "p_after_id": job, "p_created_from": time - timedelta(days=1)},
        "running": {"p_job_ids": running},
        "each its tenant": {"p_tenant_ids": [tenant] * _LIMIT},
    }
    chosen = {name: meant[value][name] if isinstance(value, str) else value for name, value in case.binds.items()}
    return [{**values, **chosen}[bind] for bind in compiled(_STATEMENTS[case.statement]).binds]


async def _plan(
    connection: "asyncpg.Connection[asyncpg.Record]", case: _Case, tenant: str, mode: str
) -> list[dict[str, Any]]:
    """Runs the statement once and gives the nodes of its plan; what it wrote is rolled back."""
    return await plan_of(connection, _STATEMENTS[case.statement], await _arguments(connection, case, tenant), mode)


def test_every_statement_has_its_plan_here() -> None:
    """A statement that is added is looked at, too."""
    assert {case.statement for case in _CASES.values()} == set(_STATEMENTS)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("tenant", [_KNOWN, _NEW])
@pytest.mark.parametrize("name", list(_CASES))
async def test_each_statement_reads_only_what_it_was_asked_for(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, tenant: str, mode: str
) -> None:
    """Its own index serves it, and no scan reads more rows than the answer can hold, and those of one time."""
    case = _CASES[name]
    nodes = await _plan(connection, case, tenant, mode)
    assert case.indexes == indexes_in(nodes)
    assert not [node["Node Type"] for node in nodes if node["Node Type"] == "Seq Scan"]
    read = [rows_read(node) for node in nodes if "Index Name" in node]
    limit = case.binds.get("p_limit", _LIMIT)
    assert isinstance(limit, int)
    # The times at both ends may be shared: what comes before the page, and what comes after it.
    assert all(rows <= limit + 2 * _TIES + case.reads_more for rows in read), read
    # Nor does it leaf through the index for them: some pages to find the place, and at most one for each row.
    pages = [pages_read(node) for node in nodes if "Index Name" in node]
    loops = [int(node["Actual Loops"]) for node in nodes if "Index Name" in node]
    most = [
        case.pages_a_row * (rows if case.pages_a_row == 1 else max(rows, times)) + _PAGES_TO_THE_PLACE
        for rows, times in zip(read, loops, strict=True)
    ]
    assert all(met <= allowed for met, allowed in zip(pages, most, strict=True)), pages


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", [name for name, case in _CASES.items() if case.binds.get("p_statuses") == [1]])
async def test_a_status_that_is_not_asked_for_is_not_read(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, mode: str
) -> None:
    """One statement serves every set of statuses, and the scans of the others never begin."""
    nodes = await _plan(connection, _CASES[name], _NEW, mode)
    assert 1 == len([node for node in nodes if "Index Name" in node and node["Actual Loops"]])


@pytest.mark.parametrize("connection", ["analysed before"], indirect=True)
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_move_is_looked_for_in_the_log_of_its_job_only(
    connection: "asyncpg.Connection[asyncpg.Record]", mode: str
) -> None:
    """However long that is: a move that is not in it would else be looked for in the logs of all jobs."""
    case = _Case("FIND_TRANSITION", {_LOG}, {"p_job_id": _BUSY})
    nodes = await _plan(connection, case, _KNOWN, mode)
    assert case.indexes == indexes_in(nodes)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("setting", ["all on", *PLANNER_SETTINGS])
async def test_claims_take_the_oldest_and_never_more_whatever_the_planner_may_not_use(
    connection: "asyncpg.Connection[asyncpg.Record]", setting: str, mode: str
) -> None:
    """Of two tenants in different shares: planned otherwise, the limit could be asked for each row anew."""
    sql = compiled(acquire.CLAIM_JOBS)
    shares = {_KNOWN: 7, _NEW: 5}
    values = {"p_tenant_ids": list(shares), "p_shares": list(shares.values()), "p_type": 0, "p_event_payload": "{}"}
    oldest = (
        "SELECT id FROM (SELECT id, created_at, row_number() OVER (PARTITION BY tenant_id ORDER BY created_at) AS place"
        " FROM scheduler.graph_jobs WHERE tenant_id = $1 AND type = 0 AND status = 0) AS job WHERE place <= $2"
    )
    transaction = connection.transaction()
    await transaction.start()
    try:
        for whose, share in shares.items():
            # Without ties, so that there is one right answer.
            await connection.execute(
                "UPDATE scheduler.graph_jobs SET created_at = created_at - interval '1 year'"
                " - abs(hashtext(id::text)) * interval '1 microsecond' WHERE tenant_id = $1 AND id = ANY("
                "ARRAY(SELECT id FROM scheduler.graph_jobs WHERE tenant_id = $1 AND type = 0 AND status = 0 LIMIT $2))",
                whose,
                3 * share,
            )
        expected = {row[0] for whose, share in shares.items() for row in await connection.fetch(oldest, whose, share)}
        if setting != "all on":
            await connection.execute(f"SET LOCAL {setting} = off")
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        events = await connection.fetchval("SELECT count(*) FROM scheduler.graph_job_events")
        rows = await connection.fetch(sql.sql, *[values[bind] for bind in sql.binds])
        assert expected == {row[0] for row in rows}
        assert sum(shares.values()) == len(rows)
        assert events + len(rows) == await connection.fetchval("SELECT count(*) FROM scheduler.graph_job_events")
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("connection", ["analysed before"], indirect=True)
async def test_without_the_collation_the_planner_would_read_the_whole_tenant(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    """Why statements by key compare the tenant as they do; when this fails, the helper can go."""
    sql = compiled(single.GET_JOB).sql.replace('($2::VARCHAR COLLATE "C")', "$2::VARCHAR")
    assert "COLLATE" not in sql
    arguments = await _arguments(connection, _CASES["GET_JOB"], _NEW)
    rows = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments)
    used = indexes_in(list(nodes_of(json.loads(rows)[0]["Plan"])))
    assert used != {_KEY}


@pytest.mark.parametrize("name", sorted(_STATEMENTS))
def test_every_statement_gives_the_tenant_on_every_table_and_names_its_columns(name: str) -> None:
    """Isolation by construction: no statement touches a table without saying whose rows."""
    reads, compared = tables_and_tenants_in(_STATEMENTS[name])
    if name == "LIST_TENANTS_WITH_STATUS":  # named as such: the one read across tenants
        return
    assert reads <= compared, f"{name} reads {reads} tables and compares the tenant {compared} times"
