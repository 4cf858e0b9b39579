"""Dumps that tests write, backfills that they run, and states of the tables that they compare."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from graphjobs.backfill.extract.sources import open_source
from graphjobs.backfill.runner import BackfillReport, run_backfill
from graphjobs.backfill.transform.uuids import LegacyUuids
from graphjobs.backfill.verify import Comparison, verify
from graphjobs.storage import Storage
from tests.backfill import dumps
from tests.backfill.dumps import GeneratedDocument, Outcome
from tests.migrations.cli_tools import Done, ask

TABLES = ("graph_jobs", "policy_runs", "graph_job_events", "policy_run_events")

DOCUMENTS_READ = "SELECT coalesce(sum((counts::json->>'documents')::int), 0) FROM scheduler.backfill_checkpoints"

Command: TypeAlias = Callable[..., Done]


def records(done: Done) -> list[dict[str, Any]]:
    """Return the JSON lines that a command printed."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def write_dumps(folder: Path, **collections: list[dict[str, Any]]) -> Path:
    """Write documents to files of BSON in a folder: `graph_jobs=[...]`."""
    folder.mkdir(exist_ok=True)
    for collection, documents in collections.items():
        (folder / f"{collection}.bson").write_bytes(dumps.encode_file(documents, "bson"))
    return folder


def imported_of(generated: Iterable[GeneratedDocument]) -> list[GeneratedDocument]:
    """Return the documents that a backfill imports."""
    return [document for document in generated if document.outcome is not Outcome.REJECTED]


def rejected_of(generated: Iterable[GeneratedDocument]) -> list[GeneratedDocument]:
    """Return the documents that a backfill rejects."""
    return [document for document in generated if document.outcome is Outcome.REJECTED]


def rows_of(url: str, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table of `scheduler` in the order of their keys."""
    lines = ask(url, f"SELECT to_jsonb(t) FROM scheduler.{table} t ORDER BY t.id")
    return [json.loads(line) for line in lines.split("\n") if line]


def pending_entries(url: str) -> list[dict[str, Any]]:
    """Return the pending entries of the quarantine, without the time of the last read."""
    entries = rows_of(url, "backfill_quarantine")
    return [{**entry, "last_seen_at": None} for entry in entries if entry["resolved_at"] is None]


def state(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the four tables, and the pending entries."""
    return {**{table: rows_of(url, table) for table in TABLES}, "pending": pending_entries(url)}


async def backfill_path(storage: Storage, location: Path | str, legacy_uuids: LegacyUuids = "csharp") -> BackfillReport:
    """Run a backfill of a source."""
    async with open_source(str(location)) as source:
        return await run_backfill(storage, source, legacy_uuids=legacy_uuids)


async def verify_path(storage: Storage, location: Path | str) -> Comparison:
    """Compare a source with the tables."""
    async with open_source(str(location)) as source:
        return await verify(storage, source)
