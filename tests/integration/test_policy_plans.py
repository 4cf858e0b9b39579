"""The plan of every statement on policy runs: only its own indexes, never more rows than asked for.

As for graph jobs: on a table that was never analysed and for a tenant the statistics do not know, with custom and with
generic plans.
"""

import re
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from graphjobs.core.transitions import event_payload
from graphjobs.database.engine import connect
from graphjobs.database.executor import compiled
from graphjobs.policy_runs.sql import acquire, finish, lists, single
from graphjobs.settings import Settings
from tests.builders import AT, policy_run
from tests.integration.plans import (
    PLANNER_SETTINGS,
    Connection,
    indexes_in,
    pages_read,
    plan_of,
    rows_read,
    statements_of,
    tables_and_tenants_in,
)

_ROWS = 20_000
_LIMIT = 50
_PAGES_TO_THE_PLACE = 10
_KNOWN, _NEW = "known", "new"
_NO_CASE: Mapping[str, object] = MappingProxyType({})

_KEY = "policy_runs_pkey"
_NAME = "idx_policy_runs_run_id"
_PENDING = "idx_policy_runs_pending"
_DEPTH = "idx_policy_runs_depth"
_LEASED = "idx_policy_runs_leased"
_BY_STATUS = "idx_policy_runs_tenant_status"
_BY_POLICY = "idx_policy_runs_tenant_policy_status"
_LOG = "idx_policy_run_events_job"
_ACROSS = {"LEASE_RUNS", "FIND_LEASED_RUNS", "LIST_EXPIRED_RUNS"}
"""Named as such: they serve everybody."""


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


_SCANS = 18
"""Of a page and a count: one for each status and mode."""
_DEAD = 24 * _LIMIT
"""Each write of many that was rolled back here left a dead version of each row, which a bitmap of the index counts."""
_OF_KEYS = 8
"""Pages of an index's levels and of the table, for each row that is found by its key; some versions of it are dead."""
_FROM_MIDDLE: Mapping[str, object] = {"p_after_queued_at": "middle", "p_after_id": "middle"}
_CHOICES: Mapping[str, Mapping[str, object]] = {
    "all": _NO_CASE,
    "one status": {"p_statuses": [4]},
    "one mode": {"p_modes": [2]},
    "one of each": {"p_statuses": [3], "p_modes": [1]},
    "from the middle": _FROM_MIDDLE,
    "of a range": {**_FROM_MIDDLE, "p_queued_from": "middle"},
    "the most at once": {"p_limit": 1_001},
}

_CASES: dict[str, _Case] = {
    "INSERT_RUN": _Case("INSERT_RUN", {_NAME}),
    "GET_RUN": _Case("GET_RUN", {_KEY}),
    "GET_RUN_BY_RUN_ID": _Case("GET_RUN_BY_RUN_ID", {_NAME}),
    "TRANSITION_RUN": _Case("TRANSITION_RUN", {_KEY}),
    "TRANSITION_RUN_AT_VERSION": _Case("TRANSITION_RUN_AT_VERSION", {_KEY}),
    "FIND_TRANSITION": _Case("FIND_TRANSITION", {_LOG}),
    "LIST_EVENTS": _Case("LIST_EVENTS", {_LOG}),
    "RUN_METRICS": _Case("RUN_METRICS", {_DEPTH, _BY_STATUS}, reads_more=10_000),
    # An event each is looked at only where attempts may be used up.
    "LEASE_RUNS": _Case("LEASE_RUNS", {_PENDING, _KEY, _LOG}, reads_more=_DEAD, pages_a_row=_OF_KEYS),
    "LEASE_RUNS, the last attempt": _Case(
        "LEASE_RUNS", {_PENDING, _KEY, _LOG}, {"p_attempts_max": 1}, reads_more=_DEAD, pages_a_row=_OF_KEYS
    ),
    "LEASE_RUNS_OF_TENANT": _Case(
        "LEASE_RUNS_OF_TENANT", {_PENDING, _KEY, _LOG}, reads_more=_DEAD, pages_a_row=_OF_KEYS
    ),
    # All that are leased: it is asked once, after an answer was lost.
    "FIND_LEASED_RUNS": _Case("FIND_LEASED_RUNS", {_LEASED, _LOG}, reads_more=2 * _ROWS, pages_a_row=_OF_KEYS),
    # All that are leased, too: an index by the leases' ends would be written with each heartbeat.
    "LIST_EXPIRED_RUNS": _Case(
        "LIST_EXPIRED_RUNS", {_LEASED, _LOG}, {"p_tenant_id": None}, reads_more=2 * _ROWS, pages_a_row=_OF_KEYS
    ),
    **{
        name: _Case(name, {index}, reads_more=_DEAD, pages_a_row=_OF_KEYS)
        for name, index in {
            "FINISH_RUNS": _KEY,
            "TAKE_OVER_RUNS": _KEY,
            "RENEW_RUNS": _KEY,
            "FIND_TRANSITIONED": _LOG,
            "GET_STATES": _KEY,
        }.items()
    },
    **{
        f"{verb}_BY_{whose}, {what}": (
            # The key asks the scans which rows, and their pages count with its own.
            _Case(f"{verb}_BY_{whose}", {index, _KEY}, binds, pages_a_row=_SCANS + _OF_KEYS)
            if verb == "LIST"
            else _Case(f"{verb}_BY_{whose}", {index}, binds)
        )
        for verb in ("LIST", "COUNT")
        for whose, index in (("TENANT", _BY_STATUS), ("POLICY", _BY_POLICY))
        for what, binds in _CHOICES.items()
    },
}
_STATEMENTS = statements_of(single, lists, acquire, finish)


@pytest_asyncio.fixture(scope="module", params=["never analysed", "analysed before"])
async def connection(request: pytest.FixtureRequest, graphjobs_new_database: Any) -> AsyncIterator[Connection]:
    """Two tenants of 20,000 runs, in a database of this module's own; the statistics know one of them, or none."""
    settings = Settings.load(database_url=graphjobs_new_database())
    assert settings.database_url is not None
    driver = await connect(settings.database_url.get_secret_value(), settings)
    for table in ("policy_runs", "policy_run_events"):
        await driver.execute(f"ALTER TABLE scheduler.{table} SET (autovacuum_enabled = off)")
    await _fill(driver, _KNOWN, first=1)
    if request.param == "analysed before":
        await driver.execute("ANALYZE scheduler.policy_runs, scheduler.policy_run_events")
    await _fill(driver, _NEW, first=_ROWS + 1)
    yield driver
    await driver.close()


async def _fill(driver: Connection, tenant: str, *, first: int) -> None:
    """Statuses go round in six, modes in three, priorities in three of other length; five policies."""
    await driver.execute(
        """
        INSERT INTO scheduler.policy_runs (id, tenant_id, run_id, policy_id, mode, priority, status, attempts,
            queued_at, available_at, last_attempt_at, lease_owner, lease_expires_at, payload)
        SELECT lpad(to_hex(n), 32, '0')::uuid, $1, 'run ' || n, 'policy ' || n % 5, n / 6 % 3, n / 18 % 3, n % 6,
            n % 6 / 5, now() - n * interval '1 second', now() - n * interval '1 second',
            CASE WHEN n % 6 > 0 THEN now() - n * interval '1 second' END,
            CASE WHEN n % 6 = 1 THEN 'owner' END,
            CASE WHEN n % 6 = 1 THEN now() + (n % 2 * 2 - 1) * interval '1 hour' END, $2::text::jsonb
        FROM generate_series($3::int, $3::int + $4::int - 1) n
        """,
        tenant,
        policy_run(tenant).payload_json(),
        first,
        _ROWS,
    )
    await driver.execute(
        """
        INSERT INTO scheduler.policy_run_events (job_id, tenant_id, status, payload)
        SELECT id, tenant_id, 0, $2::text::jsonb FROM scheduler.policy_runs WHERE tenant_id = $1
        """,
        tenant,
        event_payload("pending", "dispatching", uuid.UUID(int=first), "a dispatcher on some host/4711", attempts=1),
    )


async def _arguments(connection: Connection, case: _Case, tenant: str) -> list[object]:
    last = _ROWS if tenant == _KNOWN else 2 * _ROWS
    middle = uuid.UUID(int=last - _ROWS // 2)
    time = await connection.fetchval("SELECT queued_at FROM scheduler.policy_runs WHERE id = $1", middle)
    oldest_leased = last - (last - 1) % 6
    leased = [uuid.UUID(int=oldest_leased - 6 * number) for number in range(_LIMIT)]
    fresh = policy_run(tenant)
    values: dict[str, object] = {
        **_written(fresh),
        "p_event_payload": "{}",
        "p_expected_status": 0,
        "p_expected_lease_owner": None,
        "p_expected_attempts": 0,
        "p_expected_version": AT,
        "p_limit": _LIMIT,
        "p_after_event_id": 0,
        "p_transition_id": str(middle),
        "p_statuses": [0, 1, 2, 3, 4, 5],
        "p_modes": [0, 1, 2],
        "p_queued_from": datetime(1, 1, 2, tzinfo=UTC),
        "p_after_queued_at": datetime(9999, 12, 30, tzinfo=UTC),
        "p_after_id": uuid.UUID(int=2**128 - 1),
        "p_window": timedelta(days=366),
        "p_after_tenant_id": "",
        "p_after_emergency_tenant_id": "",
        "p_completed_limit": 10_000,
        "p_lease_duration": timedelta(minutes=1),
        "p_attempts_max": 5,
        "p_rotation_offset": 7,
        "p_job_ids": leased,
        "p_tenant_ids": [tenant] * _LIMIT,
        "p_distinct_tenant_ids": [tenant],
        "p_lease_attempts": [0] * _LIMIT,
        "p_lease_owners": ["owner"] * _LIMIT,
        "p_versions": [AT] * _LIMIT,
        "p_new_statuses": [2] * _LIMIT,
        "p_delays": [timedelta(0)] * _LIMIT,
        "p_last_errors": [None] * _LIMIT,
        "p_event_payloads": ["{}"] * _LIMIT,
    }
    if case.statement == "RUN_METRICS":
        values |= lists.metric_params()
    if case.statement in ("FIND_LEASED_RUNS", "LEASE_RUNS", "LEASE_RUNS_OF_TENANT"):
        values["p_lease_owner"] = "owner"
    if case.statement not in ("INSERT_RUN",):
        values |= {"p_job_id": middle, "p_run_id": f"run {middle.int}", "p_policy_id": "policy 1"}
    meant = {"middle": {"p_after_queued_at": time, "p_after_id": middle, "p_queued_from": time - timedelta(hours=1)}}
    chosen = {name: meant[value][name] if isinstance(value, str) else value for name, value in case.binds.items()}
    return [{**values, **chosen}[bind] for bind in compiled(_STATEMENTS[case.statement]).binds]


def _written(run: Any) -> dict[str, object]:
    from graphjobs.policy_runs.row_mapping import run_params

    return run_params(run)


def test_every_statement_has_its_plan_here() -> None:
    """A statement that is added is looked at, too."""
    assert {case.statement for case in _CASES.values()} == set(_STATEMENTS)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("tenant", [_KNOWN, _NEW])
@pytest.mark.parametrize("name", list(_CASES))
async def test_each_statement_reads_only_what_it_was_asked_for(
    connection: Connection, name: str, tenant: str, mode: str
) -> None:
    """Its own indexes serve it, and no scan reads more rows than the answer can hold."""
    case = _CASES[name]
    nodes = await plan_of(connection, _STATEMENTS[case.statement], await _arguments(connection, case, tenant), mode)
    assert case.indexes == indexes_in(nodes)
    assert not [node["Node Type"] for node in nodes if node["Node Type"] == "Seq Scan"]
    scanned = [node for node in nodes if "Index Name" in node]
    read = [rows_read(node) for node in scanned]
    limit = case.binds.get("p_limit", _LIMIT)
    assert isinstance(limit, int)
    each = _SCANS if case.statement.startswith(("LIST_BY", "COUNT")) else 1
    assert all(rows <= each * limit + case.reads_more for rows in read), read
    # Nor does it leaf through the index for them: some pages to find each place, and at most one for each row.
    pages = [pages_read(node) for node in scanned]
    loops = [int(node["Actual Loops"]) for node in scanned]
    most = [
        1.1 * case.pages_a_row * max(rows, times if case.pages_a_row > 1 else 0) + _PAGES_TO_THE_PLACE * max(times, 1)
        for rows, times in zip(read, loops, strict=True)
    ]
    assert all(met <= allowed for met, allowed in zip(pages, most, strict=True)), list(zip(pages, most, strict=True))
    # What locks stands in the plan as often as in the statement: twice, it could take more than was asked for.
    locking = compiled(_STATEMENTS[case.statement]).sql.count("FOR NO KEY UPDATE")
    assert locking == len([node for node in nodes if node["Node Type"] == "LockRows"])


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("setting", ["all on", *PLANNER_SETTINGS])
@pytest.mark.parametrize("whose", ["everybody's", "one tenant's"])
async def test_leases_take_the_right_runs_and_never_more_whatever_the_planner_may_not_use(
    connection: Connection, whose: str, setting: str, mode: str
) -> None:
    """Planned otherwise, a limit could be asked for each row anew, or an order be lost."""
    statement = _STATEMENTS["LEASE_RUNS" if whose == "everybody's" else "LEASE_RUNS_OF_TENANT"]
    urgency = 2 if whose == "everybody's" else 1
    shares = {_KNOWN: 8, _NEW: 7} if whose == "everybody's" else {_NEW: 15}
    oldest = (
        "SELECT id FROM scheduler.policy_runs WHERE tenant_id = $1 AND status = 0 AND priority = $2"
        " ORDER BY available_at LIMIT $3"
    )
    transaction = connection.transaction()
    await transaction.start()
    try:
        if whose != "everybody's":
            await connection.execute("UPDATE scheduler.policy_runs SET priority = 1 WHERE priority = 2 AND status = 0")
            # Of sixteen that are taken, two are the normal ones that wait for longest.
            expected = {row[0] for row in await connection.fetch(oldest, _NEW, 0, 2)}
            expected |= {row[0] for row in await connection.fetch(oldest, _NEW, urgency, 13)}
        else:
            expected = {
                row[0] for name, share in shares.items() for row in await connection.fetch(oldest, name, urgency, share)
            }
        if setting != "all on":
            await connection.execute(f"SET LOCAL {setting} = off")
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        values = {
            "p_lease_owner": "somebody",
            "p_lease_duration": timedelta(minutes=1),
            "p_attempts_max": 5,
            "p_limit": 15,
            "p_event_payload": "{}",
            "p_rotation_offset": 1,
            "p_after_tenant_id": "",
            "p_after_emergency_tenant_id": "",
            "p_tenant_id": _NEW,
        }
        sql = compiled(statement)
        events = await connection.fetchval("SELECT count(*) FROM scheduler.policy_run_events")
        rows = await connection.fetch(sql.sql, *[values[bind] for bind in sql.binds])
        assert expected == {row[0] for row in rows}
        assert 15 == len(rows)
        assert events + 15 == await connection.fetchval("SELECT count(*) FROM scheduler.policy_run_events")
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("name", sorted(_STATEMENTS))
def test_every_statement_gives_the_tenant_on_every_table_and_names_its_columns(name: str) -> None:
    """Isolation by construction: no statement touches a table without saying whose rows, but for those that say so."""
    reads, compared = tables_and_tenants_in(_STATEMENTS[name])
    assert name in _ACROSS or reads <= compared, f"{name} reads {reads} tables and compares {compared} tenants"


def test_those_that_look_across_tenants_are_named_where_they_are() -> None:
    """In the room's own docstring."""
    assert all(name in (acquire.__doc__ or "") for name in _ACROSS)


def test_the_walk_from_tenant_to_tenant_compares_them_by_bytes_only() -> None:
    """Mixed with the order of the database's own language, which not every server here has, it would pass over some."""
    sql = compiled(_STATEMENTS["LEASE_RUNS"]).sql
    one = r"\(SELECT [^()]*(?:\([^()]*\)[^()]*)+ LIMIT 1\) COLLATE \"C\""
    assert 4 == sql.count("least((SELECT") == len(re.findall(rf"least\({one}, {one}\)", sql))
    assert not re.findall(r"tenant_id (?:>|>=|<=) ", sql)
