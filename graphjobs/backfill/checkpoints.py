"""The book of a backfill, within a transaction: where it stands, and what came of it so far."""

import json
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, Self, cast

from sqlalchemy import (
    Table,
    Text,
    bindparam,
    func,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from graphjobs.backfill.tables import BackfillCheckpointRow
from graphjobs.database.executor import Executor
from graphjobs.database.sql_expressions import null_if_unrepresentable

_LOCK_KEY: Final = int.from_bytes(b"backfill")
_CHECKPOINTS: Final = cast("Table", BackfillCheckpointRow.__table__)


def _text(name: str) -> Any:
    return bindparam(name, type_=Text)


_LOCK: Final = select(func.pg_advisory_xact_lock(literal_column(str(_LOCK_KEY))))
"""Lets one backfill of a database write at a time: events without ids of ours would else come twice."""

_READ: Final = select(
    _CHECKPOINTS.c.position,
    _CHECKPOINTS.c.counts,
    null_if_unrepresentable(_CHECKPOINTS.c.created_at),
    null_if_unrepresentable(_CHECKPOINTS.c.finished_at),
).where(_CHECKPOINTS.c.fingerprint == _text("source_part"))

_begin: Final = insert(_CHECKPOINTS).values(
    fingerprint=_text("source_part"),
    part=_text("part_name"),
    collection=_text("collection_name"),
    position=_text("reached"),
    counts=_text("figures"),
)
_BEGIN: Final = _begin.on_conflict_do_update(
    index_elements=[_CHECKPOINTS.c.fingerprint],
    set_={
        "position": _begin.excluded.position,
        "counts": _begin.excluded.counts,
        "finished_at": null(),
        "created_at": func.now(),
        "updated_at": func.now(),
    },
).returning(_CHECKPOINTS.c.position)

_ADVANCE: Final = (
    update(_CHECKPOINTS)
    .where(_CHECKPOINTS.c.fingerprint == _text("source_part"))
    .values(position=_text("reached"), counts=_text("figures"), updated_at=func.now())
)
_GO_ON: Final = _ADVANCE.returning(_CHECKPOINTS.c.position)
_FINISH: Final = _ADVANCE.values(finished_at=func.now()).returning(_CHECKPOINTS.c.position)

_CEILING: Final = select(null_if_unrepresentable(func.min(_CHECKPOINTS.c.first_begun_at)))
"""When the first backfill of this database was begun."""


@dataclass(slots=True)
class Counts:
    """What came of the documents of a part.

    Attributes:
        documents: how many entries were read, those that are no document included.
        added: how many are new here.
        renewed: how many took the place of an older copy of the same job.
        unchanged: how many were here already.
        moved_on: how many are older than what is here, which was left as it is.
        changed: how many of all these were changed on the way.
        quarantined: how many cannot come, and wait.
        settled: how many cannot come, and do not wait, for they came mended before, or were given up.
        answered: how many entries of the quarantine were settled, for their documents have come.
    """

    documents: int = 0
    added: int = 0
    renewed: int = 0
    unchanged: int = 0
    moved_on: int = 0
    changed: int = 0
    quarantined: int = 0
    settled: int = 0
    answered: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Gives the sum of both."""
        return Counts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def to_json(self) -> str:
        """Gives it as a checkpoint keeps it."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what a checkpoint keeps; what this code does not know is left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: int(number) for name, number in json.loads(text).items() if name in known})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a part stands.

    Attributes:
        position: where reading goes on, as `Position.to_json` gives it.
        counts: what came of it so far.
        begun_at: when it was begun, or begun anew.
        finished_at: when its end was reached; None where it has not been.
    """

    position: str
    counts: Counts
    begun_at: datetime
    finished_at: datetime | None


async def lock(executor: Executor) -> None:
    """Waits until no other backfill writes, and keeps others from it until the transaction ends.

    Raises:
        DatabaseUnavailable: another one held it for longer than the lock time-out.
    """
    await executor.fetch_all(_LOCK, {})


async def checkpoint(executor: Executor, fingerprint: str) -> Checkpoint | None:
    """Tells where a part stands; None where it was never begun."""
    rows = await executor.fetch_all(_READ, {"source_part": fingerprint})
    return Checkpoint(rows[0][0], Counts.from_json(rows[0][1]), rows[0][2], rows[0][3]) if rows else None


async def begin(executor: Executor, fingerprint: str, *, name: str, collection: str, position: str) -> None:
    """Notes that a part is begun, or begun anew."""
    binds = {"source_part": fingerprint, "part_name": name, "collection_name": collection, "reached": position}
    await executor.fetch_all(_BEGIN, {**binds, "figures": Counts().to_json()})


async def advance(executor: Executor, fingerprint: str, position: str, counts: Counts, *, finished: bool) -> None:
    """Notes how far a part has come, with what it tells of."""
    binds = {"source_part": fingerprint, "reached": position, "figures": counts.to_json()}
    await executor.fetch_all(_FINISH if finished else _GO_ON, binds)


async def ceiling(executor: Executor) -> datetime | None:
    """Gives the latest version that a backfill writes here; what services write is later. None before the first one."""
    rows = await executor.fetch_all(_CEILING, {})
    begun: datetime | None = rows[0][0]
    return None if begun is None else begun - timedelta(microseconds=1)
