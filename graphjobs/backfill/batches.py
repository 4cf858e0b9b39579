"""What is read of a source until it is written at once: values as rows, and what cannot come.

A batch is small, for it may come from another process: of a document it keeps the bytes, and opens it again where it
turns out that it cannot come.
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
from graphjobs.backfill.load.comparison import Standing
from graphjobs.backfill.load.staging import StagedRow, row_of
from graphjobs.backfill.quarantine.entries import Entry, Opened, document_id_of, entry_of, opened
from graphjobs.backfill.transform.diagnostics import FieldChange
from graphjobs.backfill.transform.legacy_ids import LegacyUuids
from graphjobs.backfill.transform.mapping import Rejection, map_document

DOCUMENTS_MAX: Final = 1_000
"""How many entries of a source are written at once."""

SIZE_MAX: Final = 8 * 1024 * 1024
"""After how many bytes of documents a batch is full, however few they are."""

_OF_JOBS: Final = {
    Standing.ID_TAKEN: ("_id", "another job here has the id that it has, or that its id becomes"),
    Standing.DIVERGED: (
        "status",
        "it and the job here have gone different ways: nobody knows which one holds",
    ),
}
_OF_EVENTS: Final = {
    Standing.ID_TAKEN: ("_id", "another event here has its number"),
    Standing.NO_JOB: ("jobId", "its tenant has no job of this id here"),
}
_OF_RUN_EVENTS: Final = {**_OF_EVENTS, Standing.NO_JOB: ("jobId", "its tenant has no policy run of this id here")}
_REASONS: Final = {
    JOBS: _OF_JOBS,
    RUNS: {
        **_OF_JOBS,
        Standing.NAME_TAKEN: ("runId", "another run of its tenant here has its runId, under another id"),
    },
    EVENTS: _OF_EVENTS,
    RUN_EVENTS: _OF_RUN_EVENTS,
}


class Coming(NamedTuple):
    """A document that can come, as far as it tells itself.

    Attributes:
        ordinal: which entry of its part it is.
        form: how its bytes are written.
        raw: its bytes.
        row: what it becomes, as it is written.
        changes: what was changed on the way.
        answers: the entry of the quarantine that it answers.
    """

    ordinal: int
    form: Encoding
    raw: bytes
    row: StagedRow
    changes: tuple[FieldChange, ...]
    answers: UUID | None


@dataclass(slots=True)
class Batch:
    """Entries of one part, in their order.

    Attributes:
        collection: what they are of.
        part: the part's name.
        legacy_uuids: whose byte order UUIDs of the old subtype 3 have.
        after: the position they follow.
        reached: the position that reading goes on from after them.
        documents: how many entries there are.
        size: of how many bytes.
        last: whether the part ends with them.
        coming: those that can come.
        refused: those that cannot.
        replaced: entries of the quarantine that were read again, otherwise than before, and still cannot come, each
            with the entry that it becomes.
    """

    collection: str
    part: str
    legacy_uuids: LegacyUuids
    after: ReadOffset
    reached: ReadOffset
    documents: int = 0
    size: int = 0
    last: bool = False
    coming: list[Coming] = field(default_factory=list)
    refused: list[Entry] = field(default_factory=list)
    replaced: dict[UUID, UUID] = field(default_factory=dict)

    def take(self, found: SourceRecord) -> None:
        """Adds one entry."""
        self.documents += 1
        self.reached = found.location.next
        self.size += len(found.raw)
        what = opened(found)
        if what.document is None:
            self._refuse(found, what, "", what.problem or "it is no document")
            return
        outcome = map_document(found.collection, what.document, legacy_uuids=self.legacy_uuids)
        if isinstance(outcome, Rejection):
            self._refuse(found, what, outcome.field, outcome.reason)
            return
        row = row_of(outcome.value)
        self.coming.append(
            Coming(found.location.ordinal, found.encoding, found.raw, row, outcome.changes, what.answers)
        )

    def _refuse(self, found: SourceRecord, what: Opened, at_fault: str, reason: str) -> None:
        entry = entry_of(found, what, at_fault, reason)
        self.refused.append(entry)
        if what.answers is not None and what.answers != entry.id:
            self.replaced[what.answers] = entry.id

    def refused_for(self, coming: Coming, standing: Standing) -> Entry | None:
        """Gives the entry a document becomes for how it stands to what is there; None where it has come."""
        reason = _REASONS[self.collection].get(standing)
        if reason is None:
            return None
        found = self._found(coming)
        return entry_of(found, opened(found), *reason)

    def document_id(self, coming: Coming) -> UUID | None:
        """Gives what entries of a document's tenant and `_id` have in common with it."""
        return document_id_of(self.collection, opened(self._found(coming)).document or {})

    def _found(self, coming: Coming) -> SourceRecord:
        return SourceRecord(
            self.collection, SourceLocation(self.part, coming.ordinal, None, self.reached), coming.form, coming.raw
        )

    def changes(self) -> Counter[FieldChange]:
        """Counts what was changed on the way."""
        return Counter(change for coming in self.coming for change in coming.changes)

    def join(self, others: "Iterable[Batch]") -> None:
        """Adds batches that follow this one."""
        for other in others:
            self.reached = other.reached
            self.documents += other.documents
            self.size += other.size
            self.coming += other.coming
            self.refused += other.refused
            self.replaced |= other.replaced


@runtime_checkable
class BatchSource(Protocol):
    """A source that gives batches itself; see `batches_of`."""

    def batches(self, part: SourcePart, legacy_uuids: LegacyUuids, after: ReadOffset) -> AsyncGenerator[Batch, None]:
        """Gives what a part holds."""
        ...


def batches_of(
    source: Source, part: SourcePart, legacy_uuids: LegacyUuids, after: ReadOffset
) -> AsyncGenerator[Batch, None]:
    """Gives what a part holds after a position; the last batch, which may be empty, says that it is.

    Close it (`contextlib.aclosing`) where it is not read to its end.

    Raises:
        ConfigurationError, DatabaseUnavailable: as reading a source does.
        GraphJobsError: a process that took part ended.
    """
    return (
        source.batches(part, legacy_uuids, after)
        if isinstance(source, BatchSource)
        else _batches_here(source, part, legacy_uuids, after)
    )


async def _batches_here(
    source: Source, part: SourcePart, legacy_uuids: LegacyUuids, after: ReadOffset
) -> AsyncGenerator[Batch, None]:
    batch = Batch(part.collection, part.name, legacy_uuids, after, after)
    async with aclosing(source.read(part, after)) as entries:
        async for found in entries:
            batch.take(found)
            if is_full(batch.documents, batch.size):
                yield batch
                batch = Batch(part.collection, part.name, legacy_uuids, batch.reached, batch.reached)
    batch.last = True
    yield batch


def is_full(documents: int, size: int) -> bool:
    """Whether so many documents, of so many bytes, should be written."""
    return documents >= DOCUMENTS_MAX or size >= SIZE_MAX
