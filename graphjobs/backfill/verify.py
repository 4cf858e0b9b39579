"""Comparison of a source with the tables: number and digest by tenant, kind and status, and the ids that differ.

A digest is the sum modulo 2^64 of PostgreSQL's own 64-bit hash of each row (`hash_record_extended`), without versions
and event numbers. It does not depend on the order of rows, and the same server hashes both sides.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from graphjobs.backfill import checkpoints
from graphjobs.backfill.batches import Batch, read_batches
from graphjobs.backfill.extract.records import COLLECTIONS, EVENTS, JOBS, ReadOffset, SourcePart
from graphjobs.backfill.extract.sources import Source
from graphjobs.backfill.load.comparison import BACKFILL_VERSION_MAX, RowState
from graphjobs.backfill.load.event_sql import EventStatements
from graphjobs.backfill.load.job_and_run_sql import RowStatements
from graphjobs.backfill.load.staging import (
    EVENT_STATEMENTS,
    KINDS,
    ROW_STATEMENTS,
    Group,
    column_value,
    conflict_free_batches,
    to_params,
)
from graphjobs.backfill.quarantine import store
from graphjobs.backfill.quarantine.entries import QuarantineEntry
from graphjobs.backfill.transactions import snapshot
from graphjobs.backfill.transform.uuids import LegacyUuids
from graphjobs.database.executor import Executor
from graphjobs.graph_jobs.status import GraphJobStatus, GraphJobType
from graphjobs.policy_runs.status import PolicyRunStatus
from graphjobs.storage import Storage

SAMPLES_MAX: Final = 1_000
"""The maximum number of ids that are reported per difference. All are counted."""

_MODULUS: Final = 2**64


class Difference(StrEnum):
    """A difference between a document of the source and its row."""

    MISSING = "missing"
    SOURCE_AHEAD = "source ahead"
    TARGET_AHEAD = "target ahead"
    CONFLICT = "conflict"
    DIFFERENT_ROW = "different row"
    ONLY_IN_TARGET = "only in target"

    @property
    def is_expected(self) -> bool:
        """True if services cause it by later changes: it is no error of the backfill."""
        return self in (Difference.TARGET_AHEAD, Difference.ONLY_IN_TARGET)


_DIFFERENCES: Final = {
    RowState.NEW: Difference.MISSING,
    RowState.PARENT_MISSING: Difference.MISSING,
    RowState.SOURCE_AHEAD: Difference.SOURCE_AHEAD,
    RowState.TARGET_AHEAD: Difference.TARGET_AHEAD,
    RowState.CONFLICT: Difference.CONFLICT,
    RowState.ID_TAKEN: Difference.DIFFERENT_ROW,
    RowState.RUN_ID_TAKEN: Difference.DIFFERENT_ROW,
}


@dataclass(slots=True)
class GroupTotals:
    """The rows of a group on one side.

    Attributes:
        number: how many rows.
        digest: the digest of all of them.
    """

    number: int = 0
    digest: int = 0

    def add(self, digest: int, number: int = 1) -> None:
        """Add rows."""
        self.number += number
        self.digest = (self.digest + digest) % _MODULUS


@dataclass(frozen=True, slots=True)
class DifferenceSample:
    """One difference.

    Attributes:
        difference: its kind.
        group: tenant, kind and status, of the source if the document is there.
        id: the id of a job or run. Of an event the id of its job, or its own if it is only in the target. Of a
            document without a valid id its location.
    """

    difference: Difference
    group: Group
    id: str


@dataclass(slots=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        documents: how many records of the source were read.
        pending: how many of them are pending in the quarantine.
        resolved_before: how many of them were rejected, and imported after a repair or discarded.
        source: the rows of the source by group, each row once.
        target: the rows of the tables by group, of the collections of the source.
        differences: how many differences of each kind.
        samples: the ids, at most `SAMPLES_MAX` per kind.
    """

    documents: int = 0
    pending: int = 0
    resolved_before: int = 0
    source: dict[Group, GroupTotals] = field(default_factory=dict)
    target: dict[Group, GroupTotals] = field(default_factory=dict)
    differences: Counter[Difference] = field(default_factory=Counter)
    samples: list[DifferenceSample] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if all differences are expected."""
        return all(difference.is_expected for difference in +self.differences)

    @property
    def groups(self) -> list[tuple[Group, GroupTotals, GroupTotals]]:
        """The totals of both sides by group, in order."""
        groups = sorted({*self.source, *self.target})
        return [
            (group, self.source.get(group, GroupTotals()), self.target.get(group, GroupTotals())) for group in groups
        ]

    def add_difference(self, difference: Difference, group: Group, key: object) -> None:
        """Count a difference, and keep it as a sample."""
        self.differences[difference] += 1
        if self.differences[difference] <= SAMPLES_MAX:
            self.samples.append(DifferenceSample(difference, group, str(key)))


async def verify(
    storage: Storage,
    source: Source,
    *,
    legacy_uuids: LegacyUuids = "csharp",
    on_progress: Callable[[Comparison, SourcePart], None] = lambda *_: None,
) -> Comparison:
    """Read a source to its end, and compare it with the tables as of now; change nothing.

    One transaction stays open meanwhile. It records the ids that it has read in temporary tables, some 60 bytes each.

    Args:
        storage: the storage to read. Single statements read whole tables, so its statement time-out should be long.
        source: the source of the documents.
        legacy_uuids: the driver that defines the byte order of UUIDs of the old subtype 3.
        on_progress: called now and then with the result so far and the current part. It should return at once.

    Raises:
        ConfigurationError: a part is not readable, or the role has no privilege to create temporary tables.
        DatabaseUnavailable: PostgreSQL or MongoDB did not answer.
        GraphJobsError: a mapper process ended.
    """
    comparison = Comparison()
    async with snapshot(storage, readonly=False) as executor:
        version_max = await checkpoints.version_max(executor) or datetime.now(UTC)
        for part in source.parts:
            await executor.fetch_all(_statements(part.collection).create_seen_table, {})
        for part in source.parts:
            async with aclosing(read_batches(source, part, legacy_uuids, ReadOffset())) as batches:
                async for batch in batches:
                    await _compare(executor, batch, comparison, version_max)
                    on_progress(comparison, part)
        for collection in COLLECTIONS:
            if any(part.collection == collection for part in source.parts):
                await _add_target(executor, collection, comparison)
    return comparison


def _statements(collection: str) -> RowStatements | EventStatements:
    return ROW_STATEMENTS.get(collection) or EVENT_STATEMENTS[collection]


async def _compare(executor: Executor, batch: Batch, comparison: Comparison, version_max: datetime) -> None:
    comparison.documents += batch.documents
    collection = batch.collection
    rejected: list[tuple[QuarantineEntry, Difference, Group, str]] = [
        (entry, Difference.MISSING, Group("", collection, ""), entry.location) for entry in batch.rejected
    ]
    key_column = "job_id" if collection in EVENT_STATEMENTS else "id"
    verify_rows = _statements(collection).verify
    for indexes in conflict_free_batches([document.row for document in batch.mapped]):
        documents = [batch.mapped[index] for index in indexes]
        params = to_params(collection, [document.row for document in documents])
        params[BACKFILL_VERSION_MAX.key] = version_max
        for ordinal, code, digest, is_first in await executor.fetch_all(verify_rows, params):
            row, state = documents[ordinal].row, RowState(code)
            kind = column_value(collection, row, "type") if collection == JOBS else 0
            tenant, status = column_value(collection, row, "tenant_id"), column_value(collection, row, "status")
            group, key = _group(collection, tenant, kind, status), str(column_value(collection, row, key_column))
            entry = batch.rejection_for(documents[ordinal], state)
            if entry is not None:
                rejected.append((entry, _DIFFERENCES[state], group, key))
                continue
            if is_first:  # further copies are the same row
                comparison.source.setdefault(group, GroupTotals()).add(digest)
            if state is not RowState.UNCHANGED:
                comparison.add_difference(_DIFFERENCES[state], group, key)
    is_pending = await store.get_states(executor, [entry.id for entry, *_ in rejected])
    for entry, difference, group, key in rejected:
        if entry.id not in is_pending:
            comparison.add_difference(difference, group, key)
        elif is_pending[entry.id]:
            comparison.pending += 1
        else:
            comparison.resolved_before += 1


async def _add_target(executor: Executor, collection: str, comparison: Comparison) -> None:
    """Add the totals of the tables, and samples of rows that are only there, if the totals differ."""
    is_equal = True
    for tenant, kind, status, number, digest in await executor.fetch_all(_statements(collection).groups, {}):
        group = _group(collection, tenant, kind, status)
        totals = comparison.target.setdefault(group, GroupTotals())
        totals.add(int(digest), number)
        is_equal = is_equal and comparison.source.get(group) == totals
    if is_equal:
        return
    extra_rows = await executor.fetch_all(_statements(collection).extra_rows, {"p_limit": SAMPLES_MAX})
    for key, tenant, kind, status in extra_rows:
        comparison.add_difference(Difference.ONLY_IN_TARGET, _group(collection, tenant, kind, status), key)


@lru_cache(maxsize=4_096)
def _group(collection: str, tenant: str, kind: int, status: int) -> Group:
    statuses = GraphJobStatus if collection in (JOBS, EVENTS) else PolicyRunStatus
    kinds: dict[int, str] = (
        {job_type.code: str(job_type) for job_type in GraphJobType} if collection == JOBS else {0: KINDS[collection]}
    )
    words = {word.code: str(word) for word in statuses}
    # A row that was written by hand may have any code.
    return Group(tenant, kinds.get(kind, f"type {kind}"), words.get(status, f"status {status}"))
