"""A dry run: reads a whole source and reports what would be imported, changed and rejected.

It checks each document alone and against the documents before it. It uses no database.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from graphjobs.backfill.duplicate_index import DocumentKey, DuplicateIndex, DuplicateKind
from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS, SourceLocation, SourcePart, SourceRecord
from graphjobs.backfill.extract.sources import Source
from graphjobs.backfill.quarantine.entries import untag
from graphjobs.backfill.transform.diagnostics import FieldChange
from graphjobs.backfill.transform.mapping import MappedValue, Rejection, map_document
from graphjobs.backfill.transform.uuids import LegacyUuids
from graphjobs.core.event_log import Event
from graphjobs.graph_jobs.models import GraphJob
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunJob

GROUPS_MAX: Final = 10_000
"""The maximum number of groups of one kind. Further ones are counted together, under `OTHERS`."""

OTHERS: Final = "(others)"

_BATCH_MAX: Final = 64
"""Documents per lookup, as many as a source decodes at once."""

_PARENTS: Final = {EVENTS: JOBS, RUN_EVENTS: RUNS}
"""The collection that the events of each event log refer to."""

_DUPLICATES: Final = {
    DuplicateKind.SAME_ID: Rejection("_id: another document has the same id", "_id"),
    DuplicateKind.SAME_UUID: Rejection("_id: the id becomes the UUID of another document", "_id"),
    DuplicateKind.SAME_RUN_ID: Rejection("runId: another run of the tenant has the same, under another id", "runId"),
}
_WITHOUT_PARENT: Final = {
    EVENTS: Rejection("jobId: the source has no valid job of the tenant with this id", "jobId"),
    RUN_EVENTS: Rejection("jobId: the source has no valid policy run of the tenant with this id", "jobId"),
}


@dataclass(slots=True)
class RejectionGroup:
    """Documents that are rejected for the same field.

    Attributes:
        number: how many.
        first: the location of the first of them, and its reason, in one sentence.
    """

    number: int
    first: str


@dataclass(slots=True)
class DryRunReport:
    """The result of a dry run.

    Attributes:
        documents: how many records were read, including those that are not documents.
        rejected: how many of them would be rejected.
        repeated: how many of them are further copies of counted jobs or runs, equal or from another time. They are
            imported once, and the newest copy stays.
        changed: how many would be changed.
        counts: how many would be imported, by tenant, kind ("build", "overlay", "policy run", "event", "policy run
            event") and status (its word in PostgreSQL). Of several copies the first is counted.
        changes: how often each change would be made, by collection, field and kind of change.
        rejections: the rejected documents by collection and field. The field is empty if there is no document.
        unverified_events: the event collections that were not checked against their jobs or runs, because the source
            has no collection of these.
    """

    documents: int = 0
    rejected: int = 0
    repeated: int = 0
    changed: int = 0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    changes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rejections: dict[tuple[str, str], RejectionGroup] = field(default_factory=dict)
    unverified_events: tuple[str, ...] = ()

    def add(self, collection: str, records: "list[_CheckedRecord]", index: DuplicateIndex) -> None:
        """Count records of one part, in their order."""
        for record, outcome in zip(records, self._check_duplicates(collection, records, index), strict=True):
            self.documents += 1
            if isinstance(outcome, Rejection):
                self._reject(collection, record.location, outcome)
            elif outcome is DuplicateKind.COPY:
                self.repeated += 1
            else:
                self.changed += bool(record.changes)
                _count(self.counts, record.group)
                for change in record.changes:
                    _count(self.changes, (collection, change.field, change.code))

    def _check_duplicates(
        self, collection: str, records: "list[_CheckedRecord]", index: DuplicateIndex
    ) -> "list[Rejection | DuplicateKind]":
        """Return each record's own rejection, or else the result of its comparison with the records before it."""
        keys = [record.key for record in records if record.key is not None]
        outcomes: list[Rejection | DuplicateKind]
        if collection not in _PARENTS:
            outcomes = [_DUPLICATES.get(kind, kind) for kind in index.check_and_add(collection, keys)]
        elif collection in self.unverified_events:
            outcomes = [DuplicateKind.UNIQUE] * len(keys)
        else:
            has_parent = index.contains(_PARENTS[collection], [(key.id, key.tenant_id) for key in keys])
            outcomes = [DuplicateKind.UNIQUE if found else _WITHOUT_PARENT[collection] for found in has_parent]
        remaining = iter(outcomes)
        return [record.rejection or next(remaining) for record in records]

    def _reject(self, collection: str, location: SourceLocation, rejection: Rejection) -> None:
        self.rejected += 1
        group = (collection, rejection.field)
        if group not in self.rejections and len(self.rejections) >= GROUPS_MAX:
            group = (OTHERS, OTHERS)
        # The reason of a record that is not a document has its location already.
        prefix = f"{location.part}, entry {location.ordinal:,}: " if rejection.field else ""
        self.rejections.setdefault(group, RejectionGroup(0, prefix + rejection.reason)).number += 1


class _CheckedRecord(NamedTuple):
    """The part of a record that is kept until its batch is full. It is small: a document may be large."""

    location: SourceLocation
    rejection: Rejection | None
    key: DocumentKey | None = None
    group: tuple[str, str, str] = ("", "", "")
    changes: tuple[FieldChange, ...] = ()


async def dry_run(
    source: Source,
    *,
    legacy_uuids: LegacyUuids = "csharp",
    on_progress: Callable[[DryRunReport, SourcePart], None] = lambda *_: None,
) -> DryRunReport:
    """Read a source to its end, and write nothing.

    Args:
        source: the source of the documents.
        legacy_uuids: the driver that defines the byte order of UUIDs of the old subtype 3.
        on_progress: called now and then with the report so far and the current part. It should return at once.

    Raises:
        ConfigurationError: a part is no longer readable, or the temporary folder is full or not writable.
        DatabaseUnavailable: the server does not answer.
    """
    collections = {part.collection for part in source.parts}
    unverified = (log for log, parent in _PARENTS.items() if log in collections and parent not in collections)
    report = DryRunReport(unverified_events=tuple(unverified))
    with DuplicateIndex() as index:
        for part in source.parts:
            batch: list[_CheckedRecord] = []
            async with aclosing(source.read(part)) as records:
                async for record in records:
                    batch.append(_check(record, legacy_uuids))
                    if len(batch) == _BATCH_MAX:
                        report.add(part.collection, batch, index)
                        batch.clear()
                        on_progress(report, part)
            report.add(part.collection, batch, index)
            on_progress(report, part)
    return report


def _check(record: SourceRecord, legacy_uuids: LegacyUuids) -> _CheckedRecord:
    untagged = untag(record)
    document = untagged.document
    if document is None:
        return _CheckedRecord(record.location, Rejection(untagged.problem or "", ""))
    mapped = map_document(record.collection, document, legacy_uuids=legacy_uuids)
    if isinstance(mapped, Rejection):
        return _CheckedRecord(record.location, mapped)
    value = mapped.value
    group = (value.tenant_id, _kind_name(value), str(value.status))
    key = _document_key(value, document.get("_id", document.get("id")))
    return _CheckedRecord(record.location, None, key, group, mapped.changes)


def _document_key(value: MappedValue, legacy_id: Hashable) -> DocumentKey:
    """Return the key of a job or run; for an event, that of its job or run."""
    if isinstance(value, Event):
        return DocumentKey(value.job_id, value.tenant_id, None, None)
    if isinstance(value, PolicyRunJob):
        return DocumentKey(value.id, value.tenant_id, (value.run_id, value.created_at), legacy_id, value.run_id)
    return DocumentKey(value.id, value.tenant_id, (value.type, value.created_at), legacy_id)


def _kind_name(value: MappedValue) -> str:
    if isinstance(value, GraphJob):
        return str(value.type)
    if isinstance(value, PolicyRunJob):
        return "policy run"
    return "policy run event" if isinstance(value, PolicyRunEvent) else "event"


def _count(groups: "Counter[tuple[str, str, str]]", group: tuple[str, str, str]) -> None:
    groups[group if group in groups or len(groups) < GROUPS_MAX else (OTHERS, OTHERS, OTHERS)] += 1
