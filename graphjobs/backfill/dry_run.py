"""A dry run: reads all that a source holds, and tells what would come, what would be changed, and what cannot come.

It judges each document, and what it has to do with those that were read before; it knows no database.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from graphjobs.backfill.duplicate_index import Known, Met, Seen
from graphjobs.backfill.extract.records import EVENTS, JOBS, RUN_EVENTS, RUNS, SourceLocation, SourcePart, SourceRecord
from graphjobs.backfill.extract.sources import Source
from graphjobs.backfill.quarantine.entries import opened
from graphjobs.backfill.transform.diagnostics import FieldChange
from graphjobs.backfill.transform.legacy_ids import LegacyUuids
from graphjobs.backfill.transform.mapping import MappedValue, Rejection, map_document
from graphjobs.core.event_log import Event
from graphjobs.graph_jobs.models import GraphJob
from graphjobs.policy_runs.models import PolicyRunEvent, PolicyRunJob

GROUPS_MAX: Final = 10_000
"""The most groups of one sort that are told apart; what belongs to any further one is counted under `OTHERS`."""

OTHERS: Final = "(others)"

_BATCH_MAX: Final = 64
"""How many are looked up at once, as many as a source decodes at once."""

_LOGS: Final = {EVENTS: JOBS, RUN_EVENTS: RUNS}
"""Where what an event belongs to stands."""

_MEETINGS: Final = {
    Met.SAME_ID: Rejection("_id: another document has the same id", "_id"),
    Met.SAME_UUID: Rejection("_id: its id becomes that of another document", "_id"),
    Met.SAME_NAME: Rejection("runId: another run of the tenant has the same, under another id", "runId"),
}
_JOBLESS: Final = {
    EVENTS: Rejection("jobId: no job of the tenant with this id comes from the source", "jobId"),
    RUN_EVENTS: Rejection("jobId: no policy run of the tenant with this id comes from the source", "jobId"),
}


@dataclass(slots=True)
class Refusals:
    """Documents that cannot come for the same field.

    Attributes:
        number: how many.
        first: where the first of them stands, and why it cannot come, in one sentence.
    """

    number: int
    first: str


@dataclass(slots=True)
class Survey:
    """What a source holds.

    Attributes:
        documents: how many entries were read, those that are no document included.
        refused: how many of them cannot come.
        repeated: how many of them are further copies of jobs or runs that are counted, the same or as they stood at
            another time; each comes once, and the newest copy stays.
        changed: how many would be changed on the way.
        counts: how many would come, by tenant, kind ("build", "overlay", "policy run", "event", "policy run event") and
            status, by its word here; of several copies the first is counted.
        changes: how often what would be changed, by collection, field and what is done.
        refusals: what cannot come, by collection and field; the field is empty where there is no document.
        judged_alone: the collections of events of which nobody can tell here whether their jobs are there, for the
            source has no such collection.
    """

    documents: int = 0
    refused: int = 0
    repeated: int = 0
    changed: int = 0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    changes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    refusals: dict[tuple[str, str], Refusals] = field(default_factory=dict)
    judged_alone: tuple[str, ...] = ()

    def take(self, collection: str, entries: "list[_Entry]", seen: Seen) -> None:
        """Counts entries of one part, in their order."""
        for entry, outcome in zip(entries, self._among_others(collection, entries, seen), strict=True):
            self.documents += 1
            if isinstance(outcome, Rejection):
                self._refuse(collection, entry.place, outcome)
            elif outcome is Met.COPY:
                self.repeated += 1
            else:
                self.changed += bool(entry.changes)
                _count(self.counts, entry.group)
                for change in entry.changes:
                    _count(self.changes, (collection, change.field, change.code))

    def _among_others(self, collection: str, entries: "list[_Entry]", seen: Seen) -> "list[Rejection | Met]":
        """Gives what becomes of each, for what it is, or else for what it meets."""
        coming = [entry.known for entry in entries if entry.known is not None]
        told: list[Rejection | Met]
        if collection not in _LOGS:
            told = [_MEETINGS.get(met, met) for met in seen.meet(collection, coming)]
        elif collection in self.judged_alone:
            told = [Met.NOTHING] * len(coming)
        else:
            there = seen.holds(_LOGS[collection], [(known.id, known.tenant_id) for known in coming])
            told = [Met.NOTHING if each else _JOBLESS[collection] for each in there]
        of_coming = iter(told)
        return [entry.refused or next(of_coming) for entry in entries]

    def _refuse(self, collection: str, place: SourceLocation, refused: Rejection) -> None:
        self.refused += 1
        group = (collection, refused.field)
        if group not in self.refusals and len(self.refusals) >= GROUPS_MAX:
            group = (OTHERS, OTHERS)
        # What is no document tells itself where it stands.
        where = f"{place.part}, entry {place.ordinal:,}: " if refused.field else ""
        self.refusals.setdefault(group, Refusals(0, where + refused.reason)).number += 1


class _Entry(NamedTuple):
    """What is kept of an entry until its batch is full: little, for a document may be large."""

    place: SourceLocation
    refused: Rejection | None
    known: Known | None = None
    group: tuple[str, str, str] = ("", "", "")
    changes: tuple[FieldChange, ...] = ()


async def survey(
    source: Source,
    *,
    legacy_uuids: LegacyUuids = "csharp",
    told: Callable[[Survey, SourcePart], None] = lambda *_: None,
) -> Survey:
    """Reads a source to its end, and writes nothing.

    Args:
        source: where documents come from.
        legacy_uuids: whose byte order UUIDs of the old subtype 3 have.
        told: called now and then with how it stands, and the part that is read; it should return at once.

    Raises:
        ConfigurationError: a part cannot be read any more, or the temporary folder is full or cannot be written.
        DatabaseUnavailable: the server does not answer.
    """
    held = {part.collection for part in source.parts}
    whole = Survey(judged_alone=tuple(log for log, owner in _LOGS.items() if log in held and owner not in held))
    with Seen() as seen:
        for part in source.parts:
            batch: list[_Entry] = []
            async with aclosing(source.read(part)) as entries:
                async for found in entries:
                    batch.append(_entry_of(found, legacy_uuids))
                    if len(batch) == _BATCH_MAX:
                        whole.take(part.collection, batch, seen)
                        batch.clear()
                        told(whole, part)
            whole.take(part.collection, batch, seen)
            told(whole, part)
    return whole


def _entry_of(found: SourceRecord, legacy_uuids: LegacyUuids) -> _Entry:
    what = opened(found)
    document = what.document
    if document is None:
        return _Entry(found.location, Rejection(what.problem or "", ""))
    mapped = map_document(found.collection, document, legacy_uuids=legacy_uuids)
    if isinstance(mapped, Rejection):
        return _Entry(found.location, mapped)
    value = mapped.value
    group = (value.tenant_id, _kind_of(value), str(value.status))
    return _Entry(found.location, None, _known(value, document.get("_id", document.get("id"))), group, mapped.changes)


def _known(value: MappedValue, old_id: Hashable) -> Known:
    """Gives what a job or run is known by; of an event, what it belongs to."""
    if isinstance(value, Event):
        return Known(value.job_id, value.tenant_id, None, None)
    if isinstance(value, PolicyRunJob):
        return Known(value.id, value.tenant_id, (value.run_id, value.created_at), old_id, value.run_id)
    return Known(value.id, value.tenant_id, (value.type, value.created_at), old_id)


def _kind_of(value: MappedValue) -> str:
    if isinstance(value, GraphJob):
        return str(value.type)
    if isinstance(value, PolicyRunJob):
        return "policy run"
    return "policy run event" if isinstance(value, PolicyRunEvent) else "event"


def _count(groups: "Counter[tuple[str, str, str]]", group: tuple[str, str, str]) -> None:
    groups[group if group in groups or len(groups) < GROUPS_MAX else (OTHERS, OTHERS, OTHERS)] += 1
