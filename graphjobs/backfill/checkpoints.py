"""Checkpoints of a backfill, within a transaction: the offset and the counts of each part."""

import json
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, Self, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from graphjobs.backfill.tables import BackfillCheckpointRow
from graphjobs.database.executor import Executor
from graphjobs.database.sql_expressions import null_if_unrepresentable

_LOCK_KEY: Final = int.from_bytes(b"backfill")
_CHECKPOINTS: Final = cast("sa.Table", BackfillCheckpointRow.__table__)


def _param(column: str) -> Any:
    return sa.bindparam(f"p_{column}", type_=sa.Text)


_CHECKPOINT_LOCK: Final = sa.select(sa.func.pg_advisory_xact_lock(sa.literal_column(str(_LOCK_KEY))))
"""One backfill of a database writes at a time. Otherwise two could both insert an event that has no id of its own."""

_CHECKPOINT_GET: Final = sa.select(
    _CHECKPOINTS.c.position,
    _CHECKPOINTS.c.counts,
    null_if_unrepresentable(_CHECKPOINTS.c.created_at),
    null_if_unrepresentable(_CHECKPOINTS.c.finished_at),
).where(_CHECKPOINTS.c.fingerprint == _param("fingerprint"))

_insert: Final = insert(_CHECKPOINTS).values(
    {name: _param(name) for name in ("fingerprint", "part", "collection", "position", "counts")}
)
_CHECKPOINT_START: Final = _insert.on_conflict_do_update(
    index_elements=[_CHECKPOINTS.c.fingerprint],
    set_={
        "position": _insert.excluded.position,
        "counts": _insert.excluded.counts,
        "finished_at": sa.null(),
        "created_at": sa.func.now(),
        "updated_at": sa.func.now(),
    },
).returning(_CHECKPOINTS.c.position)

_update: Final = (
    sa.update(_CHECKPOINTS)
    .where(_CHECKPOINTS.c.fingerprint == _param("fingerprint"))
    .values(position=_param("position"), counts=_param("counts"), updated_at=sa.func.now())
)
_CHECKPOINT_ADVANCE: Final = _update.returning(_CHECKPOINTS.c.position)
_CHECKPOINT_FINISH: Final = _update.values(finished_at=sa.func.now()).returning(_CHECKPOINTS.c.position)
_CHECKPOINT_FIRST_START: Final = sa.select(null_if_unrepresentable(sa.func.min(_CHECKPOINTS.c.first_started_at)))


@dataclass(slots=True)
class BackfillStats:
    """The counts of the documents of a part.

    Attributes:
        documents: records that were read, including those that are not documents.
        added: new rows.
        overwritten: rows that were replaced by a newer copy of the same job.
        unchanged: documents that equal their row.
        target_ahead: documents that are older than their row, which stays.
        changed: how many of all these were changed by the mapping.
        quarantined: rejected documents that are pending.
        resolved_before: rejected documents with an entry that was resolved earlier: imported after a repair, or
            discarded.
        resolved: quarantine entries that were resolved by the import of their documents.
    """

    documents: int = 0
    added: int = 0
    overwritten: int = 0
    unchanged: int = 0
    target_ahead: int = 0
    changed: int = 0
    quarantined: int = 0
    resolved_before: int = 0
    resolved: int = 0

    def plus(self, other: "BackfillStats") -> "BackfillStats":
        """Return the sum of both."""
        return BackfillStats(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def to_json(self) -> str:
        """Return the text of the column `counts`."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the column `counts`, without counts that this version does not know."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: int(number) for name, number in json.loads(text).items() if name in known})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The progress of a part.

    Attributes:
        position: the offset of the next record, as `ReadOffset.to_json` returns it.
        counts: the counts so far.
        started_at: when it was started, or started again.
        finished_at: when its end was reached; None before.
    """

    position: str
    counts: BackfillStats
    started_at: datetime
    finished_at: datetime | None


async def lock(executor: Executor) -> None:
    """Lock out other backfills until the end of the transaction.

    Raises:
        DatabaseUnavailable: another backfill held the lock for longer than the lock time-out.
    """
    await executor.fetch_all(_CHECKPOINT_LOCK, {})


async def get(executor: Executor, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint of a part; None if it was never started."""
    rows = await executor.fetch_all(_CHECKPOINT_GET, {"p_fingerprint": fingerprint})
    return Checkpoint(rows[0][0], BackfillStats.from_json(rows[0][1]), rows[0][2], rows[0][3]) if rows else None


async def start(executor: Executor, fingerprint: str, *, name: str, collection: str, position: str) -> None:
    """Insert the checkpoint of a part, or reset it."""
    params = {"p_fingerprint": fingerprint, "p_part": name, "p_collection": collection, "p_position": position}
    await executor.fetch_all(_CHECKPOINT_START, {**params, "p_counts": BackfillStats().to_json()})


async def advance(
    executor: Executor, fingerprint: str, position: str, counts: BackfillStats, *, finished: bool
) -> None:
    """Update the checkpoint of a part."""
    params = {"p_fingerprint": fingerprint, "p_position": position, "p_counts": counts.to_json()}
    await executor.fetch_all(_CHECKPOINT_FINISH if finished else _CHECKPOINT_ADVANCE, params)


async def version_max(executor: Executor) -> datetime | None:
    """Return the latest version that a backfill writes: it precedes all versions of services.

    None before the first backfill of this database.
    """
    rows = await executor.fetch_all(_CHECKPOINT_FIRST_START, {})
    first_started_at: datetime | None = rows[0][0]
    return None if first_started_at is None else first_started_at - timedelta(microseconds=1)
