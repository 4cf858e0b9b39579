"""Batches of a source, the unit of writing: mapped documents as rows, and rejected documents.

A batch may come from another process, so it is small: it has a document's bytes and decodes them again only for a
rejection.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, runtime_checkable
from uuid import UUID

from graphjobs.backfill.extract.decoding import Encoding
from graphjobs.backfill.extract.records import (
    EVENTS,
    JOBS,
    RUN_EVENTS,
    RUNS,
    ReadOffset,
    SourceLocation,
    SourcePart,
    SourceRecord,
)
from graphjobs.backfill.extract.sources import Source
from graphjobs.backfill.load.comparison import RowState
from graphjobs.backfill.load.staging import StagedRow, to_row
from graphjobs.backfill.quarantine.entries import (
    QuarantineEntry,
    UntaggedDocument,
    document_id_of,
    tenant_of,
    to_entry,
    untag,
)
from graphjobs.backfill.transform.diagnostics import FieldChange
from graphjobs.backfill.transform.mapping import Rejection, map_document
from graphjobs.backfill.transform.uuids import LegacyUuids

DOCUMENTS_MAX: Final = 1_000
"""The maximum number of records in a batch."""

SIZE_MAX: Final = 8 * 1024 * 1024
"""The bytes of documents after which a batch is full."""

_JOB_REASONS: Final = {
    RowState.ID_TAKEN: ("_id", "the id, or the UUID that it becomes, belongs to another job in PostgreSQL"),
    RowState.CONFLICT: (
        "status",
        "the document and the row in PostgreSQL have different changes; neither is known to be right",
    ),
}
_EVENT_REASONS: Final = {
    RowState.ID_TAKEN: ("_id", "the number belongs to another event in PostgreSQL"),
    RowState.PARENT_MISSING: ("jobId", "the tenant has no job with this id in PostgreSQL"),
}
_REASONS: Final = {
    JOBS: _JOB_REASONS,
    RUNS: {
        **_JOB_REASONS,
        RowState.RUN_ID_TAKEN: ("runId", "another run of the tenant in PostgreSQL has this runId, under another id"),
    },
    EVENTS: _EVENT_REASONS,
    RUN_EVENTS: {
        **_EVENT_REASONS,
        RowState.PARENT_MISSING: ("jobId", "the tenant has no policy run with this id in PostgreSQL"),
    },
}


class MappedDocument(NamedTuple):
    """A document that is valid in itself.

    Attributes:
        ordinal: the number of its record in the part.
        encoding: the format of `raw`.
        raw: its bytes.
        row: the row that it becomes.
        changes: the changes that the mapping made.
        resolves: the quarantine entry that its import resolves.
    """

    ordinal: int
    encoding: Encoding
    raw: bytes
    row: StagedRow
    changes: tuple[FieldChange, ...]
    resolves: UUID | None


@dataclass(slots=True)
class Batch:
    """Consecutive records of one part.

    Attributes:
        collection: the collection of the part.
        part: the name of the part.
        legacy_uuids: the driver that defines the byte order of UUIDs of the old subtype 3.
        start: the offset of the first record.
        end: the offset after the last record.
        documents: the number of records.
        size_bytes: the size of the records.
        is_last: whether the part ends with this batch.
        mapped: the valid documents.
        rejected: the others.
        superseded: entries that were read again with edits and are still rejected, each with its new entry.
        tenants: the entries that lines of a quarantine name, each with the tenant of its line.
    """

    collection: str
    part: str
    legacy_uuids: LegacyUuids
    start: ReadOffset
    end: ReadOffset
    documents: int = 0
    size_bytes: int = 0
    is_last: bool = False
    mapped: list[MappedDocument] = field(default_factory=list)
    rejected: list[QuarantineEntry] = field(default_factory=list)
    superseded: dict[UUID, UUID] = field(default_factory=dict)
    tenants: dict[UUID, str | None] = field(default_factory=dict)

    def add(self, record: SourceRecord) -> None:
        """Map one record and append it."""
        self.documents += 1
        self.end = record.location.next
        self.size_bytes += len(record.raw)
        untagged = untag(record)
        if untagged.resolves is not None:
            self.tenants[untagged.resolves] = tenant_of(untagged.document or {})
        if untagged.document is None:
            self._reject(record, untagged, "", untagged.problem or "the record is not a document")
            return
        outcome = map_document(record.collection, untagged.document, legacy_uuids=self.legacy_uuids)
        if isinstance(outcome, Rejection):
            self._reject(record, untagged, outcome.field, outcome.reason)
            return
        ordinal, row = record.location.ordinal, to_row(outcome.value)
        self.mapped.append(
            MappedDocument(ordinal, record.encoding, record.raw, row, outcome.changes, untagged.resolves)
        )

    def _reject(self, record: SourceRecord, untagged: UntaggedDocument, field_name: str, reason: str) -> None:
        entry = to_entry(record, untagged, field_name, reason)
        self.rejected.append(entry)
        if untagged.resolves is not None and untagged.resolves != entry.id:
            self.superseded[untagged.resolves] = entry.id

    def rejection_for(self, document: MappedDocument, state: RowState) -> QuarantineEntry | None:
        """Return the entry of a document that PostgreSQL rejected in this state; None if it was not rejected."""
        reason = _REASONS[self.collection].get(state)
        if reason is None:
            return None
        record = self._record(document)
        return to_entry(record, untag(record), *reason)

    def document_id(self, document: MappedDocument) -> UUID | None:
        """Return the hash of tenant and `_id` that entries of the same document share."""
        return document_id_of(self.collection, untag(self._record(document)).document or {})

    def _record(self, document: MappedDocument) -> SourceRecord:
        location = SourceLocation(self.part, document.ordinal, None, self.end)
        is_quarantine = document.resolves is not None
        return SourceRecord(self.collection, location, document.encoding, document.raw, is_quarantine=is_quarantine)

    def changes(self) -> Counter[FieldChange]:
        """Count the changes that the mapping made."""
        return Counter(change for document in self.mapped for change in document.changes)

    def join(self, others: "Iterable[Batch]") -> None:
        """Append batches that follow this one."""
        for other in others:
            self.end = other.end
            self.documents += other.documents
            self.size_bytes += other.size_bytes
            self.mapped += other.mapped
            self.rejected += other.rejected
            self.superseded |= other.superseded
            self.tenants |= other.tenants


@runtime_checkable
class BatchSource(Protocol):
    """A source with its own implementation of `read_batches`."""

    def batches(self, part: SourcePart, legacy_uuids: LegacyUuids, start: ReadOffset) -> AsyncGenerator[Batch, None]:
        """Yield the batches of a part."""
        ...


def read_batches(
    source: Source, part: SourcePart, legacy_uuids: LegacyUuids, start: ReadOffset
) -> AsyncGenerator[Batch, None]:
    """Yield the batches of a part from an offset on. The last one, which may be empty, has `is_last`.

    Close the generator (`contextlib.aclosing`) unless it is read to its end.

    Raises:
        ConfigurationError, DatabaseUnavailable: as reading a source does.
        GraphJobsError: a mapper process ended unexpectedly.
    """
    return (
        source.batches(part, legacy_uuids, start)
        if isinstance(source, BatchSource)
        else _read_in_process(source, part, legacy_uuids, start)
    )


async def _read_in_process(
    source: Source, part: SourcePart, legacy_uuids: LegacyUuids, start: ReadOffset
) -> AsyncGenerator[Batch, None]:
    batch = Batch(part.collection, part.name, legacy_uuids, start, start)
    async with aclosing(source.read(part, start)) as records:
        async for record in records:
            batch.add(record)
            if is_full(batch.documents, batch.size_bytes):
                yield batch
                batch = Batch(part.collection, part.name, legacy_uuids, batch.end, batch.end)
    batch.is_last = True
    yield batch


def is_full(documents: int, size_bytes: int) -> bool:
    """Return whether a batch of this number and size is complete."""
    return documents >= DOCUMENTS_MAX or size_bytes >= SIZE_MAX
