"""A dry run: reads all that a source holds, and tells what would come, what would be changed, and what cannot come.

It judges each document by itself; what several have to do with one another, as one id in two, is not looked at.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from graphjobs.backfill.extended import Found, Part
from graphjobs.backfill.identities import LegacyUuids
from graphjobs.backfill.mapping import Mapped, MappedValue, Refused, map_document
from graphjobs.backfill.sources import Source
from graphjobs.jobs.models import GraphJob
from graphjobs.policy_runs.models import PolicyRunJob

GROUPS_MAX: Final = 10_000
"""The most groups of one sort that are told apart; what belongs to any further one is counted under `OTHERS`."""

OTHERS: Final = "(others)"

_OFTEN: Final = 64


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
        changed: how many would be changed on the way.
        counts: how many would come, by tenant, kind ("build", "overlay", "policy run", "event") and status, by its
            word here.
        changes: how often what would be changed, by collection, field and what is done.
        refusals: what cannot come, by collection and field; the field is empty where there is no document.
    """

    documents: int = 0
    refused: int = 0
    changed: int = 0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    changes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    refusals: dict[tuple[str, str], Refusals] = field(default_factory=dict)

    def take(self, found: Found, legacy_uuids: LegacyUuids) -> None:
        """Counts one entry."""
        self.documents += 1
        if found.problem is not None:
            self._refuse(found, "", found.problem)
            return
        match map_document(found.collection, found.document, legacy_uuids=legacy_uuids):
            case Refused(reason, at_fault):
                self._refuse(found, at_fault, f"{found.place.part}, entry {found.place.ordinal:,}: {reason}")
            case Mapped(value, changes):
                self.changed += bool(changes)
                _count(self.counts, (value.tenant_id, _kind_of(value), str(value.status)))
                for change in changes:
                    _count(self.changes, (found.collection, change.field, change.code))

    def _refuse(self, found: Found, at_fault: str, told: str) -> None:
        self.refused += 1
        group = (found.collection, at_fault)
        if group not in self.refusals and len(self.refusals) >= GROUPS_MAX:
            group = (OTHERS, OTHERS)
        self.refusals.setdefault(group, Refusals(0, told)).number += 1


async def survey(
    source: Source, *, legacy_uuids: LegacyUuids = "csharp", told: Callable[[Survey, Part], None] = lambda *_: None
) -> Survey:
    """Reads a source to its end, and writes nothing.

    Args:
        source: where documents come from.
        legacy_uuids: whose byte order UUIDs of the old subtype 3 have.
        told: called now and then with how it stands, and the part that is read; it should return at once.

    Raises:
        ConfigurationError: a part cannot be read any more.
        DatabaseUnavailable: the server does not answer.
    """
    whole = Survey()
    for part in source.parts:
        async with aclosing(source.read(part)) as entries:
            async for found in entries:
                whole.take(found, legacy_uuids)
                if whole.documents % _OFTEN == 0:
                    told(whole, part)
        told(whole, part)
    return whole


def _kind_of(value: MappedValue) -> str:
    if isinstance(value, GraphJob):
        return str(value.type)
    return "policy run" if isinstance(value, PolicyRunJob) else "event"


def _count(groups: "Counter[tuple[str, str, str]]", group: tuple[str, str, str]) -> None:
    groups[group if group in groups or len(groups) < GROUPS_MAX else (OTHERS, OTHERS, OTHERS)] += 1
