"""What the tables hold, such that two states can be compared; and moves as tests begin them."""

import json
from pathlib import Path
from typing import Any

from graphjobs.backfill.extract.sources import open_source
from graphjobs.backfill.runner import Report, run_backfill
from graphjobs.backfill.transform.legacy_ids import LegacyUuids
from graphjobs.backfill.verify import Comparison, verify
from graphjobs.storage import Storage
from tests.migrations.cli_tools import ask

TABLES = ("graph_jobs", "policy_runs", "graph_job_events", "policy_run_events")


def rows_of(url: str, table: str) -> list[dict[str, Any]]:
    """Gives the rows of a table of `scheduler` in the order of their keys."""
    told = ask(url, f"SELECT to_jsonb(t) FROM scheduler.{table} t ORDER BY t.id")
    return [json.loads(line) for line in told.split("\n") if line]


def waiting(url: str) -> list[dict[str, Any]]:
    """Gives what waits in the quarantine, without when it was seen last."""
    entries = rows_of(url, "backfill_quarantine")
    return [{**each, "seen_at": None} for each in entries if each["settled_at"] is None]


def state(url: str) -> dict[str, list[dict[str, Any]]]:
    """Gives all rows of the tables that come and go, and what waits."""
    return {**{table: rows_of(url, table) for table in TABLES}, "waiting": waiting(url)}


async def backfilled(storage: Storage, place: Path | str, legacy_uuids: LegacyUuids = "csharp") -> Report:
    """Brings what a place holds."""
    async with open_source(str(place)) as source:
        return await run_backfill(storage, source, legacy_uuids=legacy_uuids)


async def compared(storage: Storage, place: Path | str) -> Comparison:
    """Compares a place with the tables."""
    async with open_source(str(place)) as source:
        return await verify(storage, source)
