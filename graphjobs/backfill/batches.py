"""What is read of a source until it is written at once: values as rows, and what cannot come; no I/O here."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from graphjobs.backfill.extended import EVENTS, JOBS, RUN_EVENTS, RUNS, Found, Place, Position
from graphjobs.backfill.identities import LegacyUuids
from graphjobs.backfill.mapping import MappedValue, Refused, map_document
from graphjobs.backfill.quarantine import Entry, Opened, document_id_of, entry_of, opened
from graphjobs.backfill.staging import StagedRow, row_of
from graphjobs.backfill.statements import Standing
from graphjobs.backfill.told import Change

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
_REASONS: Final = {
    JOBS: _OF_JOBS,
    RUNS: {
        **_OF_JOBS,
        Standing.NAME_TAKEN: ("runId", "another run of its tenant here has its runId, under another id"),
    },
    EVENTS: _OF_EVENTS,
    RUN_EVENTS: _OF_EVENTS,
}


@dataclass(slots=True)
class Coming:
    """A document that can come, as far as it tells itself.

    Attributes:
        found: where it was found.
        what: it, opened.
        value: what it becomes.
        row: that, as it is written.
        changes: what was changed on the way.
    """

    found: Found
    what: Opened
    value: MappedValue
    row: StagedRow
    changes: tuple[Change, ...]

    def document_id(self) -> UUID | None:
        """Gives what entries of its tenant and `_id` have in common with it."""
        return document_id_of(self.found.collection, self.what.document or {})

    def refused(self, standing: Standing) -> Entry | None:
        """Gives the entry it becomes for how it stands to what is there; None where it has come."""
        reason = _REASONS[self.found.collection].get(standing)
        if reason is None:
            return None
        return entry_of(self.found, self.what, *reason)


@dataclass(slots=True)
class Batch:
    """Entries of one part, in their order.

    Attributes:
        collection: what they are of.
        legacy_uuids: whose byte order UUIDs of the old subtype 3 have.
        after: the position they follow.
        reached: the position that reading goes on from after them.
        documents: how many entries there are.
        coming: those that can come.
        refused: those that cannot.
        answered: entries of the quarantine that were read again, otherwise than before, and still cannot come.
    """

    collection: str
    legacy_uuids: LegacyUuids
    after: Position
    reached: Position
    documents: int = 0
    size: int = 0
    coming: list[Coming] = field(default_factory=list)
    refused: list[Entry] = field(default_factory=list)
    answered: list[UUID] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether it should be written."""
        return self.documents >= DOCUMENTS_MAX or self.size >= SIZE_MAX

    def take(self, found: Found) -> None:
        """Adds one entry."""
        self.documents += 1
        self.reached = found.place.next
        self.size += _size_of(found.place)
        what = opened(found)
        if what.document is None:
            self._refuse(found, what, "", what.problem or "it is no document")
            return
        outcome = map_document(found.collection, what.document, legacy_uuids=self.legacy_uuids)
        if isinstance(outcome, Refused):
            self._refuse(found, what, outcome.field, outcome.reason)
            return
        self.coming.append(Coming(found, what, outcome.value, row_of(outcome.value), outcome.changes))

    def _refuse(self, found: Found, what: Opened, at_fault: str, reason: str) -> None:
        entry = entry_of(found, what, at_fault, reason)
        self.refused.append(entry)
        if what.answers is not None and what.answers != entry.id:
            self.answered.append(what.answers)

    def changes(self) -> Counter[Change]:
        """Counts what was changed on the way."""
        return Counter(change for coming in self.coming for change in coming.changes)


def _size_of(place: Place) -> int:
    return max(0, place.next.offset - place.offset) if place.next.offset < 2**62 else 0
