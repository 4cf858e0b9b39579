"""How a statement is planned and what it reads: EXPLAIN of a prepared one, run once and rolled back."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import ModuleType
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy import Executable

from graphjobs.database.executor import compiled
from graphjobs.database.schema import Base

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Node: TypeAlias = dict[str, Any]

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
    """Every statement that these rooms declare, by its name."""
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", name) and isinstance(value, Executable)
    }


def nodes_of(plan: Node) -> Iterator[Node]:
    """A plan's nodes."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


def _literal(value: object) -> str:
    """Writes a value as SQL of no type, which the statement's own parameter then gives it."""
    match value:
        case None:
            return "NULL"
        case timedelta():
            return f"'{value // timedelta(microseconds=1)} microseconds'"
        case list():
            listed = ",".join("NULL" if item is None else json.dumps(str(item)) for item in value)
            return f"'{{{listed}}}'"
    return f"'{value}'"


async def plan_of(connection: Connection, statement: Executable, arguments: Sequence[object], mode: str) -> list[Node]:
    """Runs a statement once and gives the nodes of its plan; what it wrote is rolled back.

    EXPLAIN itself would take the driver's arguments for constants, whatever the mode: only EXECUTE has generic plans.
    """
    values = [_literal(value) for value in arguments]
    given = f" ({', '.join(values)})" if values else ""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE asked AS {compiled(statement).sql}")
        rows = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE asked{given}")
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE asked")
    return list(nodes_of(json.loads(rows)[0]["Plan"]))


def indexes_in(nodes: Sequence[Node]) -> set[str]:
    """The indexes that a plan names."""
    return {node["Index Name"] for node in nodes if "Index Name" in node}


def rows_read(node: Node) -> int:
    """How many rows a node met, those it threw away among them; it may have run many times."""
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int(rows * node["Actual Loops"])


def pages_read(node: Node) -> int:
    """How many pages a node looked at, of the index and of the table."""
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


def tables_and_tenants_in(statement: Executable) -> tuple[int, int]:
    """How often a statement reads a table, and how often it compares a tenant.

    Raises:
        AssertionError: it writes rows of no tenant, does not name its columns, or has a bind of a column's name.
    """
    sql, binds = compiled(statement).sql, compiled(statement).binds
    assert "*" not in sql
    # In a session, a bind of a column's name would be written to that column.
    tables = (table for name, table in Base.metadata.tables.items() if f"{name} SET " in sql or f"INTO {name} " in sql)
    columns = {column.name for table in tables for column in table.c}
    assert not columns & set(binds), columns & set(binds)
    writes = re.findall(r"INSERT INTO scheduler\.\w+ \(([^)]*)\)", sql)
    assert all("tenant_id" in columns for columns in writes)
    reads = len(re.findall(r"(?:FROM|UPDATE|JOIN) scheduler\.\w+\b(?!\.)", sql))
    return reads, len(re.findall(r'scheduler\.\w+\.tenant_id(?: COLLATE "C"\))? = ', sql))
