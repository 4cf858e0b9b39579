"""The plan of each statement of both domains: only its own indexes, and never more rows than it returns.

On a table that was never analysed, and for a tenant that the statistics do not know, with custom and with generic
plans: there the planner guesses, and a wrong guess reads all rows of a tenant.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
import pytest_asyncio

from graphjobs.database.executor import compiled
from tests.contract.graph_job_plans import TIES, GraphJobPlans
from tests.contract.plans import (
    KNOWN,
    LIMIT,
    NEW,
    PLANNER_SETTINGS,
    Connection,
    Plans,
    indexes_in,
    pages_read,
    rows_read,
    tables_and_tenants_in,
)
from tests.contract.policy_run_plans import PolicyRunPlans

PAGES_PER_PLACE: Final = 10
"""The pages of a search for one place in an index."""
PLANS: Final[tuple[Plans, ...]] = (GraphJobPlans(), PolicyRunPlans())
DATABASES: Final = [(plans, analysed) for plans in PLANS for analysed in (False, True)]
MODES: Final = pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])


def of_each_database(argument: str, values: Callable[[Plans], Mapping[str, Any]]) -> pytest.MarkDecorator:
    """Return the parameters of a test of these values of each domain, on each of its databases."""
    params = [
        pytest.param(database, name, id=f"{database[0].table}-{'analysed' if database[1] else 'not analysed'}-{name}")
        for database in DATABASES
        for name in values(database[0])
    ]
    return pytest.mark.parametrize(("database", argument), params, indirect=["database"])


@pytest_asyncio.fixture(scope="module")
async def connections(
    graphjobs_new_database: Callable[[], str],
) -> AsyncIterator[Callable[[Plans, bool], Awaitable[Connection]]]:
    """Connections to filled databases, one per domain and kind; each is filled once, at its first use."""
    async with AsyncExitStack() as stack:
        opened: dict[tuple[Plans, bool], Connection] = {}

        async def connection_to(plans: Plans, analysed: bool) -> Connection:
            if (plans, analysed) not in opened:
                filled = plans.filled(graphjobs_new_database(), analysed=analysed)
                opened[plans, analysed] = await stack.enter_async_context(filled)
            return opened[plans, analysed]

        yield connection_to


@pytest_asyncio.fixture
async def database(
    request: pytest.FixtureRequest, connections: Callable[[Plans, bool], Awaitable[Connection]]
) -> tuple[Plans, Connection]:
    """A filled database of one domain."""
    return request.param[0], await connections(*request.param)


@pytest.mark.parametrize("plans", PLANS, ids=lambda plans: plans.table)
def test_every_statement_has_an_expected_plan(plans: Plans) -> None:
    """Also a new statement."""
    assert {case.statement for case in plans.cases.values()} == plans.statements.keys()


@pytest.mark.parametrize("plans", PLANS, ids=lambda plans: plans.table)
def test_the_statements_across_tenants_are_named_in_their_module(plans: Plans) -> None:
    """In its docstring."""
    assert all(name in (plans.acquire.__doc__ or "") for name in plans.across_tenants)


@MODES
@pytest.mark.parametrize("tenant", [KNOWN, NEW])
@of_each_database("name", lambda plans: plans.cases)
async def test_a_statement_reads_only_the_rows_that_it_returns(
    database: tuple[Plans, Connection], name: str, tenant: str, mode: str
) -> None:
    """Its own indexes serve it, and no scan reads more rows than the answer can have, and rows of the same time."""
    plans, connection = database
    case = plans.cases[name]
    nodes = await plans.plan(connection, case, tenant, mode)
    used = indexes_in(nodes)
    assert case.indexes == used or (case.instead & used and used <= case.indexes | case.instead)
    assert not [node["Node Type"] for node in nodes if node["Node Type"] == "Seq Scan"]
    scans = [node for node in nodes if "Index Name" in node]
    rows = [rows_read(node) for node in scans]
    limit = case.arguments.get("p_limit", LIMIT)
    assert isinstance(limit, int)
    # Rows before and after a page may have the time of its ends.
    ties = 2 * TIES if isinstance(plans, GraphJobPlans) else 0
    rows_max = case.scans * limit + ties + case.extra_rows
    excess = [
        (node["Index Name"], count)
        for node, count in zip(scans, rows, strict=True)
        if count > rows_max * (2 if node["Index Name"] in case.instead else 1)
    ]
    assert not excess
    # A scan does not leaf through the index: it reads a few pages to find a place, and at most one for each row.
    pages = [pages_read(node) for node in scans]
    loops = [int(node["Actual Loops"]) for node in scans]
    pages_max = [
        plans.page_factor * case.pages_per_row * (count if case.pages_per_row == 1 else max(count, times))
        + PAGES_PER_PLACE * (max(times, 1) if plans.places_per_loop else 1)
        for count, times in zip(rows, loops, strict=True)
    ]
    assert all(count <= bound for count, bound in zip(pages, pages_max, strict=True)), (pages, pages_max)
    # A plan has each lock of its statement once: a second node could lock more rows than the limit.
    locks = compiled(plans.statements[case.statement]).sql.count("FOR NO KEY UPDATE")
    assert locks == len([node for node in nodes if node["Node Type"] == "LockRows"])


@MODES
@pytest.mark.parametrize("setting", ["all on", *PLANNER_SETTINGS])
@of_each_database("scope", lambda plans: plans.starts)
async def test_a_start_takes_the_right_items_whatever_the_planner_may_not_use(
    database: tuple[Plans, Connection], scope: str, setting: str, mode: str
) -> None:
    """Another plan could apply the limit to each row anew, or lose an order."""
    plans, connection = database
    count = f"SELECT count(*) FROM scheduler.{plans.events}"
    transaction = connection.transaction()
    await transaction.start()
    try:
        start = await plans.starts[scope](connection)
        if setting != "all on":
            await connection.execute(f"SET LOCAL {setting} = off")
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        statement = compiled(start.statement)
        events = await connection.fetchval(count)
        rows = await connection.fetch(statement.sql, *[start.arguments[bind] for bind in statement.binds])
        assert start.expected == {row[0] for row in rows}
        assert len(start.expected) == len(rows)
        assert events + len(rows) == await connection.fetchval(count)
    finally:
        await transaction.rollback()


@pytest.mark.parametrize(
    ("plans", "name"),
    [pytest.param(plans, name, id=f"{plans.table}-{name}") for plans in PLANS for name in sorted(plans.statements)],
)
def test_a_statement_compares_the_tenant_of_every_table_and_names_its_columns(plans: Plans, name: str) -> None:
    """Isolation by construction: only the statements across tenants read a table without its tenant."""
    reads, compared = tables_and_tenants_in(plans.statements[name])
    assert name in plans.across_tenants or reads <= compared, f"{name}: {reads} tables, {compared} tenants"
