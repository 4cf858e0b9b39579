"""Helpers of tests that read sources."""

from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graphjobs.backfill.extract.records import ReadOffset, SourceRecord
from graphjobs.backfill.extract.sources import open_source


async def read_records(
    source_path: Path | str, collection: str = "graph_jobs", after: ReadOffset | None = None
) -> list[SourceRecord]:
    """Return the records of one collection of a source."""
    async with open_source(str(source_path)) as source:
        part = next(part for part in source.parts if part.collection == collection)
        async with aclosing(source.read(part, after)) as reading:
            return [record async for record in reading]


async def read_documents(source_path: Path | str, collection: str = "graph_jobs") -> list[dict[str, Any]]:
    """Return the documents of one collection, which must be without problems."""
    records = await read_records(source_path, collection)
    assert [] == decode_problems(records)
    return decode_documents(records)


def decode_document(record: SourceRecord) -> dict[str, Any] | None:
    """Return the document of a record, or None if it has a problem."""
    outcome = record.decode()
    return None if isinstance(outcome, str) else outcome


def decode_problem(record: SourceRecord) -> str | None:
    """Return the problem of a record, or None."""
    outcome = record.decode()
    return outcome if isinstance(outcome, str) else None


def decode_documents(records: list[SourceRecord]) -> list[dict[str, Any]]:
    """Return the documents of all records without a problem."""
    return [document for document in map(decode_document, records) if document is not None]


def decode_problems(records: list[SourceRecord]) -> list[str]:
    """Return the problems of records."""
    return [problem for problem in map(decode_problem, records) if problem is not None]


def comparable(records: list[SourceRecord]) -> list[tuple[Any, ...]]:
    """Return records as values that can be compared."""
    return [(record.location, record.decode(), record.raw) for record in records]


def as_decoded(value: Any) -> Any:
    """Return a document as a source decodes it, with naive times in UTC."""
    match value:
        case datetime():
            return value.astimezone(UTC).replace(tzinfo=None)
        case dict():
            return {key: as_decoded(item) for key, item in value.items()}
        case list():
            return [as_decoded(item) for item in value]
    return value
