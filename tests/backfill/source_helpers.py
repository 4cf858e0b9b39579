"""Reads sources for tests: all that is found, and what of it matters."""

from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graphjobs.backfill.extract.records import ReadOffset, SourceRecord
from graphjobs.backfill.extract.sources import open_source


async def read_records(
    place: Path | str, collection: str = "graph_jobs", after: ReadOffset | None = None
) -> list[SourceRecord]:
    """Gives all that is found in one collection of a source."""
    async with open_source(str(place)) as source:
        part = next(part for part in source.parts if part.collection == collection)
        async with aclosing(source.read(part, after)) as reading:
            return [found async for found in reading]


async def read_documents(place: Path | str, collection: str = "graph_jobs") -> list[dict[str, Any]]:
    """Gives the documents of one collection, and fails where something is wrong."""
    found = await read_records(place, collection)
    assert [] == decode_problems(found)
    return decode_documents(found)


def decode_document(found: SourceRecord) -> dict[str, Any] | None:
    """Gives the document of an entry; None where something is wrong."""
    decoded = found.decode()
    return None if isinstance(decoded, str) else decoded


def decode_problem(found: SourceRecord) -> str | None:
    """Gives what is wrong with an entry."""
    decoded = found.decode()
    return decoded if isinstance(decoded, str) else None


def decode_documents(found: list[SourceRecord]) -> list[dict[str, Any]]:
    """Gives the documents among entries."""
    return [document for document in map(decode_document, found) if document is not None]


def decode_problems(found: list[SourceRecord]) -> list[str]:
    """Gives what is wrong among entries."""
    return [problem for problem in map(decode_problem, found) if problem is not None]


def comparable(found: list[SourceRecord]) -> list[tuple[Any, ...]]:
    """Gives what was found such that it can be compared."""
    return [(each.location, each.decode(), each.raw) for each in found]


def as_decoded(value: Any) -> Any:
    """Gives a document as a source hands it out: its times are naive, and in UTC."""
    match value:
        case datetime():
            return value.astimezone(UTC).replace(tzinfo=None)
        case dict():
            return {key: as_decoded(item) for key, item in value.items()}
        case list():
            return [as_decoded(item) for item in value]
    return value
