"""Reads sources for tests: all that is found, and what of it matters."""

from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graphjobs.backfill.extract.records import Found, Position
from graphjobs.backfill.extract.sources import open_source


async def found_in(place: Path | str, collection: str = "graph_jobs", after: Position | None = None) -> list[Found]:
    """Gives all that is found in one collection of a source."""
    async with open_source(str(place)) as source:
        part = next(part for part in source.parts if part.collection == collection)
        async with aclosing(source.read(part, after)) as reading:
            return [found async for found in reading]


async def documents_in(place: Path | str, collection: str = "graph_jobs") -> list[dict[str, Any]]:
    """Gives the documents of one collection, and fails where something is wrong."""
    found = await found_in(place, collection)
    assert [] == problems_of(found)
    return documents_of(found)


def document_of(found: Found) -> dict[str, Any] | None:
    """Gives the document of an entry; None where something is wrong."""
    decoded = found.decoded()
    return None if isinstance(decoded, str) else decoded


def problem_of(found: Found) -> str | None:
    """Gives what is wrong with an entry."""
    decoded = found.decoded()
    return decoded if isinstance(decoded, str) else None


def documents_of(found: list[Found]) -> list[dict[str, Any]]:
    """Gives the documents among entries."""
    return [document for document in map(document_of, found) if document is not None]


def problems_of(found: list[Found]) -> list[str]:
    """Gives what is wrong among entries."""
    return [problem for problem in map(problem_of, found) if problem is not None]


def outline(found: list[Found]) -> list[tuple[Any, ...]]:
    """Gives what was found such that it can be compared."""
    return [(each.place, each.decoded(), each.raw) for each in found]


def as_read(value: Any) -> Any:
    """Gives a document as a source hands it out: its times are naive, and in UTC."""
    match value:
        case datetime():
            return value.astimezone(UTC).replace(tzinfo=None)
        case dict():
            return {key: as_read(item) for key, item in value.items()}
        case list():
            return [as_read(item) for item in value]
    return value
