"""Query plans: EXPLAIN of prepared statements, and the description of a domain's statements and expected plans."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

import asyncpg
from sqlalchemy import Executable

from graphjobs.database.engine import connect
from graphjobs.database.executor import compiled
from graphjobs.database.schema import Base
from graphjobs.settings import Settings

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Node: TypeAlias = dict[str, Any]

ROWS: Final = 50_000
"""The rows of each tenant. From about this number on, indexes of one table differ in their number of levels."""
LIMIT: Final = 50
DEAD_ROWS: Final = 24 * LIMIT
"""Each rolled-back write of many rows left a dead version of each row, which a bitmap of the index counts."""
KNOWN, NEW = "known", "new"
"""A tenant of the statistics, if there are any, and a tenant that is in none."""

PLANNER_SETTINGS = (
    "enable_bitmapscan",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_incremental_sort",
    "enable_indexonlyscan",
    "enable_indexscan",
    "enable_material",
    "enable_memoize",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_seqscan",
    "enable_sort",
    "enable_tidscan",
)


def statements_of(*modules: ModuleType) -> dict[str, Executable]:
    """Return the statements that these modules declare, by name."""
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", name) and isinstance(value, Executable)
    }


def nodes_of(plan: Node) -> Iterator[Node]:
    """List the nodes of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


def _literal(value: object) -> str:
    """Write a value as SQL without a type: the parameter of the statement has it."""
    match value:
        case None:
            return "NULL"
        case timedelta():
            return f"'{value // timedelta(microseconds=1)} microseconds'"
        case list():
            items = ",".join("NULL" if item is None else json.dumps(str(item)) for item in value)
            return f"'{{{items}}}'"
    return f"'{value}'"


async def plan_of(connection: Connection, statement: Executable, arguments: Sequence[object], mode: str) -> list[Node]:
    """Run a statement once, roll back its writes, and return the nodes of its plan.

    EXPLAIN alone would treat the arguments as constants in each mode: only EXECUTE has generic plans.
    """
    values = f"({', '.join(map(_literal, arguments))})" if arguments else ""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE statement AS {compiled(statement).sql}")
        rows = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE statement {values}")
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE statement")
    return list(nodes_of(json.loads(rows)[0]["Plan"]))


def indexes_in(nodes: Sequence[Node]) -> set[str]:
    """Return the indexes of a plan."""
    return {node["Index Name"] for node in nodes if "Index Name" in node}


def rows_read(node: Node) -> int:
    """Count the rows that a node read in all its loops, with the rows that it filtered out."""
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int(rows * node["Actual Loops"])


def pages_read(node: Node) -> int:
    """Count the pages that a node read, of the index and of the table."""
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


def tables_and_tenants_in(statement: Executable) -> tuple[int, int]:
    """Count how often a statement reads a table, and how often it compares a tenant.

    Raises:
        AssertionError: the statement writes a row without a tenant, selects `*`, or has a bind with a column's name.
    """
    sql, binds = compiled(statement).sql, compiled(statement).binds
    assert "*" not in sql
    # In a session, a bind with a column's name would be written to that column.
    tables = (table for name, table in Base.metadata.tables.items() if f"{name} SET " in sql or f"INTO {name} " in sql)
    columns = {column.name for table in tables for column in table.c}
    assert not columns & set(binds), columns & set(binds)
    writes = re.findall(r"INSERT INTO scheduler\.\w+ \(([^)]*)\)", sql)
    assert all("tenant_id" in columns for columns in writes)
    reads = len(re.findall(r"(?:FROM|UPDATE|JOIN) scheduler\.\w+\b(?!\.)", sql))
    return reads, len(re.findall(r'(?:scheduler\.\w+|page_of_log)\.tenant_id(?: COLLATE "C"\))? = ', sql))


class PlanCase(NamedTuple):
    """A statement, the indexes that it may read, and the arguments that differ from the usual ones.

    Attributes:
        extra_rows: the rows that a scan may read beyond the limit.
        pages_per_row: more than one if the scan descends the index for each row.
        scans: how many scans one node of the plan may stand for.
        instead: indexes that the planner may take instead of some of `indexes`, where it estimates one row of each and
            these have fewer levels; of a tenant's index without the type, every second row is of the other type.
    """

    statement: str
    indexes: set[str]
    arguments: Mapping[str, object] = MappingProxyType({})
    extra_rows: int = 0
    pages_per_row: int = 1
    scans: int = 1
    instead: Set[str] = frozenset()


class Start(NamedTuple):
    """A claim or lease with one right answer."""

    statement: Executable
    arguments: Mapping[str, object]
    expected: set[Any]


@dataclass(frozen=True)
class Plans(ABC):
    """The statements of a domain and their expected plans, on two tenants of 50,000 rows."""

    table: ClassVar[str]
    events: ClassVar[str]
    statements: ClassVar[Mapping[str, Executable]]
    cases: ClassVar[Mapping[str, PlanCase]]
    across_tenants: ClassVar[set[str]]
    """The statements that read the rows of all tenants."""
    acquire: ClassVar[ModuleType]
    starts: ClassVar[Mapping[str, Callable[[Connection], Any]]]
    """Builders of a `Start` by scope; they may update rows first."""
    page_factor: ClassVar[float] = 1
    places_per_loop: ClassVar[bool] = False
    """Whether each loop of a node searches a place in the index."""

    @abstractmethod
    async def fill(self, connection: Connection, tenant: str, first: int) -> None:
        """Store the rows of a tenant, with ids from `first` on, and an event of each."""

    @abstractmethod
    async def usual_arguments(self, connection: Connection, case: PlanCase, tenant: str) -> Mapping[str, object]:
        """Return the arguments of the statement of a case by bind, and those of other statements."""

    async def plan(self, connection: Connection, case: PlanCase, tenant: str, mode: str) -> list[Node]:
        """Run the statement of a case once, and return the nodes of its plan."""
        return await plan_of(
            connection, self.statements[case.statement], await self.arguments(connection, case, tenant), mode
        )

    async def arguments(self, connection: Connection, case: PlanCase, tenant: str) -> list[object]:
        """Return the arguments of the statement of a case, in order."""
        arguments = await self.usual_arguments(connection, case, tenant)
        return [arguments[bind] for bind in compiled(self.statements[case.statement]).binds]

    @asynccontextmanager
    async def filled(self, url: str, *, analysed: bool) -> AsyncIterator[Connection]:
        """Connect to an empty database and fill it; the statistics are those of one tenant, if analysed, or none."""
        driver = await connect(url, Settings.load(database_url=url))
        for table in (self.table, self.events):
            await driver.execute(f"ALTER TABLE scheduler.{table} SET (autovacuum_enabled = off)")
        await self.fill(driver, KNOWN, 1)
        if analysed:
            await driver.execute(f"ANALYZE scheduler.{self.table}, scheduler.{self.events}")
        await self.fill(driver, NEW, ROWS + 1)
        try:
            yield driver
        finally:
            await driver.close()
