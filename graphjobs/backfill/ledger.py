"""The book of a backfill, within a transaction: where it stands, and what waits because it cannot come."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self, cast
from uuid import UUID

from sqlalchemy import (
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from graphjobs.backfill.quarantine import Entry
from graphjobs.backfill.tables import BackfillCheckpointRow, BackfillQuarantineRow
from graphjobs.database.executor import Executor
from graphjobs.database.sql import readable, unnested

_LOCK_KEY: Final = int.from_bytes(b"backfill")
_CHECKPOINTS: Final = cast("Table", BackfillCheckpointRow.__table__)
_ENTRIES: Final = cast("Table", BackfillQuarantineRow.__table__)

_IDS: Final = bindparam("ids", type_=ARRAY(Uuid))


def _text(name: str) -> Any:
    return bindparam(name, type_=Text)


_LOCK: Final = select(func.pg_advisory_xact_lock(literal_column(str(_LOCK_KEY))))
"""Lets one backfill of a database write at a time: events without ids of ours would else come twice."""

_READ: Final = select(_CHECKPOINTS.c.position, _CHECKPOINTS.c.counts, readable(_CHECKPOINTS.c.finished_at)).where(
    _CHECKPOINTS.c.fingerprint == _text("source_part")
)

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
        "finished_at": None,
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

_given: Final = unnested(
    "given",
    ("ids", Uuid, "given_id"),
    ("collections", Text, "collection"),
    ("places", Text, "place"),
    ("fields", Text, "field"),
    ("reasons", Text, "reason"),
    ("documents", Text, "document"),
    ("raws", LargeBinary, "raw"),
)
_kept: Final = insert(_ENTRIES).from_select(
    ["id", "collection", "place", "field", "reason", "document", "raw"], select(*_given.c)
)
_KEEP: Final = _kept.on_conflict_do_update(
    index_elements=[_ENTRIES.c.id],
    set_={
        **{name: _kept.excluded[name] for name in ("place", "field", "reason", "document", "raw")},
        "updated_at": func.now(),
    },
    # A second run changes nothing.
    where=(_ENTRIES.c.reason != _kept.excluded.reason) | _ENTRIES.c.document.is_distinct_from(_kept.excluded.document),
).returning(_ENTRIES.c.id)

_REMOVE: Final = delete(_ENTRIES).where(_ENTRIES.c.id == func.any(_IDS)).returning(_ENTRIES.c.id)
_ANSWER: Final = (
    delete(_ENTRIES)
    .where(
        _ENTRIES.c.id == func.any(_IDS),
        # Two of one `_id` in the same source are two documents, and one is no answer to the other.
        _ENTRIES.c.updated_at
        < select(_CHECKPOINTS.c.created_at).where(_CHECKPOINTS.c.fingerprint == _text("source_part")).scalar_subquery(),
    )
    .returning(_ENTRIES.c.id)
)
_ANY: Final = select(_ENTRIES.c.id).where(_ENTRIES.c.collection == _text("collection_name")).limit(literal_column("1"))
_HELD: Final = select(_ENTRIES.c.id).where(_ENTRIES.c.id == func.any(_IDS))
_COUNT: Final = select(_ENTRIES.c.collection, func.count()).group_by(_ENTRIES.c.collection)
_head: Final = (_ENTRIES.c.id, _ENTRIES.c.collection, _ENTRIES.c.place, _ENTRIES.c.field, _ENTRIES.c.reason)
_HEADS: Final = (
    select(*_head, null(), null())
    .where(_ENTRIES.c.collection == _text("collection_name"), _ENTRIES.c.id > bindparam("after_entry", type_=Uuid))
    .order_by(_ENTRIES.c.id)
    .limit(bindparam("limit_rows", type_=Integer))
)
_PAGE: Final = (
    select(*_head, _ENTRIES.c.document, _ENTRIES.c.raw)
    .where(_ENTRIES.c.collection == _text("collection_name"), _ENTRIES.c.id > bindparam("after_entry", type_=Uuid))
    .order_by(_ENTRIES.c.id)
    .limit(bindparam("limit_rows", type_=Integer))
)


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
        quarantined: how many cannot come.
        answered: how many entries of the quarantine are gone, for their documents have come.
    """

    documents: int = 0
    added: int = 0
    renewed: int = 0
    unchanged: int = 0
    moved_on: int = 0
    changed: int = 0
    quarantined: int = 0
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
        finished_at: when its end was reached; None where it has not been.
    """

    position: str
    counts: Counts
    finished_at: datetime | None


async def lock(executor: Executor) -> None:
    """Waits until no other backfill writes, and keeps others from it until the transaction ends.

    Raises:
        DatabaseUnavailable: another one held it for longer than the lock time-out.
    """
    await executor.rows(_LOCK, {})


async def checkpoint(executor: Executor, fingerprint: str) -> Checkpoint | None:
    """Tells where a part stands; None where it was never begun."""
    rows = await executor.rows(_READ, {"source_part": fingerprint})
    return Checkpoint(rows[0][0], Counts.from_json(rows[0][1]), rows[0][2]) if rows else None


async def begin(executor: Executor, fingerprint: str, *, name: str, collection: str, position: str) -> None:
    """Notes that a part is begun, or begun anew."""
    binds = {"source_part": fingerprint, "part_name": name, "collection_name": collection, "reached": position}
    await executor.rows(_BEGIN, {**binds, "figures": Counts().to_json()})


async def advance(executor: Executor, fingerprint: str, position: str, counts: Counts, *, finished: bool) -> None:
    """Notes how far a part has come, with what it tells of."""
    binds = {"source_part": fingerprint, "reached": position, "figures": counts.to_json()}
    await executor.rows(_FINISH if finished else _GO_ON, binds)


async def keep(executor: Executor, entries: Iterable[Entry]) -> None:
    """Puts documents into the quarantine; one that is there already stays, with what is new of it."""
    each_once = {entry.id: entry for entry in entries}
    if not each_once:
        return
    columns = zip(*(each_once[each] for each in sorted(each_once)), strict=True)
    names = ("ids", "collections", "places", "fields", "reasons", "documents", "raws")
    await executor.rows(_KEEP, dict(zip(names, (list(column) for column in columns), strict=True)))


async def remove(executor: Executor, ids: Sequence[UUID]) -> int:
    """Takes entries out of the quarantine; gives how many were there."""
    return len(await executor.rows(_REMOVE, {"ids": sorted(set(ids))})) if ids else 0


async def answer(executor: Executor, fingerprint: str, ids: Sequence[UUID]) -> int:
    """As `remove`, but for those that have been there since before a part was begun."""
    binds = {"ids": sorted(set(ids)), "source_part": fingerprint}
    return len(await executor.rows(_ANSWER, binds)) if ids else 0


async def any_waits(executor: Executor, collection: str) -> bool:
    """Tells whether anything of a collection waits in the quarantine."""
    return bool(await executor.rows(_ANY, {"collection_name": collection}))


async def held(executor: Executor, ids: Sequence[UUID]) -> set[UUID]:
    """Tells which of some entries wait in the quarantine."""
    return {UUID(int=row[0].int) for row in await executor.rows(_HELD, {"ids": sorted(set(ids))})} if ids else set()


async def waiting(executor: Executor) -> dict[str, int]:
    """Counts what waits in the quarantine, by collection."""
    return {row[0]: row[1] for row in await executor.rows(_COUNT, {})}


async def entries(executor: Executor, collection: str, after: UUID, *, limit: int) -> list[Entry]:
    """Reads what waits, in the order of ids, from after one on."""
    return await _entries(executor, _PAGE, collection, after, limit)


async def heads(executor: Executor, collection: str, after: UUID, *, limit: int) -> list[Entry]:
    """As `entries`, without the documents themselves, which may be large."""
    return await _entries(executor, _HEADS, collection, after, limit)


async def _entries(executor: Executor, statement: Select[Any], collection: str, after: UUID, limit: int) -> list[Entry]:
    rows = await executor.rows(statement, {"collection_name": collection, "after_entry": after, "limit_rows": limit})
    return [Entry(UUID(int=row[0].int), *list(row)[1:]) for row in rows]
