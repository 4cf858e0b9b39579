"""Plans of statements on graph jobs that policy runs do not have; see tests/contract/test_plans.py for the others."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest
import pytest_asyncio

from graphjobs.backfill.load.staging import ROW_STATEMENTS
from graphjobs.database.executor import compiled
from graphjobs.graph_jobs.sql import single
from tests.contract.graph_job_plans import BUSY_JOB, CASES, KEY, LOG, TRANSITION, GraphJobPlans
from tests.contract.plans import (
    KNOWN,
    LIMIT,
    NEW,
    Connection,
    PlanCase,
    indexes_in,
    nodes_of,
    pages_read,
    plan_of,
    rows_read,
)

PLANS: Final = GraphJobPlans()
MODES: Final = pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])


@pytest_asyncio.fixture(scope="module", params=[False, True], ids=["not analysed", "analysed"])
async def connection(
    request: pytest.FixtureRequest, graphjobs_new_database: Callable[[], str]
) -> AsyncIterator[Connection]:
    """A filled database."""
    async with PLANS.filled(graphjobs_new_database(), analysed=request.param) as connection:
        yield connection


@MODES
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.arguments.get("p_statuses") == [1]])
async def test_a_status_that_is_not_requested_is_not_read(connection: Connection, name: str, mode: str) -> None:
    """One statement serves every set of statuses, and the scans of the others never begin."""
    nodes = await PLANS.plan(connection, CASES[name], NEW, mode)
    assert 1 == len([node for node in nodes if "Index Name" in node and node["Actual Loops"]])


@MODES
async def test_a_transition_of_a_busy_job_is_found_without_its_log(connection: Connection, mode: str) -> None:
    """A look-up reads the events of its transition id only, however long the log of the job is."""
    case = PlanCase("FIND_TRANSITION", {TRANSITION}, {"p_job_id": BUSY_JOB})
    nodes = await PLANS.plan(connection, case, KNOWN, mode)
    assert case.indexes == indexes_in(nodes)
    assert 10 >= max(map(pages_read, nodes))


@MODES
async def test_a_page_of_a_long_log_is_read_from_where_it_is_asked(connection: Connection, mode: str) -> None:
    """The events before and after the page are not read."""
    middle = await connection.fetchval(
        "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id) FROM scheduler.graph_job_events WHERE job_id = $1",
        BUSY_JOB,
    )
    for after in (0, middle):
        case = PlanCase("LIST_EVENTS", {KEY, LOG}, {"p_job_id": BUSY_JOB, "p_after_event_id": after})
        nodes = await PLANS.plan(connection, case, KNOWN, mode)
        assert case.indexes == indexes_in(nodes)
        assert LIMIT >= max(rows_read(node) for node in nodes if "Index Name" in node)


async def test_the_groups_of_a_verification_are_read_in_the_order_of_the_table(connection: Connection) -> None:
    """In the order of an index, each row would be another page."""
    nodes = await plan_of(connection, ROW_STATEMENTS["graph_jobs"].groups, (), "auto")
    assert ["Seq Scan"] == [node["Node Type"] for node in nodes if "Relation Name" in node]


@pytest.mark.parametrize("connection", [True], ids=["analysed"], indirect=True)
async def test_without_the_collation_the_planner_would_read_all_jobs_of_the_tenant(connection: Connection) -> None:
    """The reason for the comparison of tenants in statements by key; when this test fails, the collation can go."""
    sql = compiled(single.GET_JOB).sql.replace('($2::VARCHAR COLLATE "C")', "$2::VARCHAR")
    assert "COLLATE" not in sql
    arguments = await PLANS.arguments(connection, CASES["GET_JOB"], NEW)
    rows = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments)
    assert indexes_in(list(nodes_of(json.loads(rows)[0]["Plan"]))) != {KEY}
