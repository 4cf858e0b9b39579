"""The book of a backfill, within a transaction: where it stands, and what waits because it cannot come."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, Self, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    Uuid,
    bindparam,
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

_PAGE_BYTES: Final = 4 * 1024 * 1024
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

_CEILING: Final = select(readable(func.min(_CHECKPOINTS.c.first_begun_at)))
"""When the first backfill of this database was begun."""

_COLUMNS: Final = ("id", "collection", "document_id", "place", "field", "reason", "document", "raw")
_given: Final = unnested(
    "given",
    ("ids", Uuid, "given_id"),
    ("collections", Text, "collection"),
    ("document_ids", Uuid, "document_id"),
    ("places", Text, "place"),
    ("fields", Text, "field"),
    ("reasons", Text, "reason"),
    ("documents", Text, "document"),
    ("raws", LargeBinary, "raw"),
)
_KEEP: Final = (
    insert(_ENTRIES)
    .from_select(list(_COLUMNS), select(*_given.c))
    # What was settled once stays so: the same document is as wrong as it was, and its answer has come.
    .on_conflict_do_update(index_elements=[_ENTRIES.c.id], set_={"seen_at": func.now()})
    .returning(_ENTRIES.c.id, _ENTRIES.c.settled_at.is_not(null()))
)

_waits: Final = _ENTRIES.c.settled_at.is_(null())
_SETTLE: Final = (
    update(_ENTRIES)
    .where(_ENTRIES.c.id == func.any(_IDS), _waits)
    .values(settled_at=func.now())
    .returning(_ENTRIES.c.id)
)
_ANSWER: Final = (
    update(_ENTRIES)
    .where(
        _ENTRIES.c.document_id == func.any(_IDS),
        _waits,
        # Two of one `_id` in the same source are two documents, and one is no answer to the other.
        _ENTRIES.c.seen_at
        < select(_CHECKPOINTS.c.created_at).where(_CHECKPOINTS.c.fingerprint == _text("source_part")).scalar_subquery(),
    )
    .values(settled_at=func.now())
    .returning(_ENTRIES.c.id)
)
_HELD: Final = select(_ENTRIES.c.id).where(_ENTRIES.c.id == func.any(_IDS))
_ANY: Final = (
    select(_ENTRIES.c.id).where(_ENTRIES.c.collection == _text("collection_name"), _waits).limit(literal_column("1"))
)
_COUNT: Final = select(_ENTRIES.c.collection, func.count()).where(_waits).group_by(_ENTRIES.c.collection)


def _page(*content: ColumnElement[Any]) -> Select[Any]:
    """A page of entries, as far as their documents have room; of one that has none alone, it."""
    size = func.coalesce(func.octet_length(_ENTRIES.c.document), func.octet_length(_ENTRIES.c.raw))
    page = (
        select(
            *(_ENTRIES.c[name] for name in _COLUMNS[:-2]),
            *content,
            func.sum(size).over(order_by=_ENTRIES.c.id).label("total"),
            func.row_number().over(order_by=_ENTRIES.c.id).label("number"),
        )
        .where(
            _ENTRIES.c.collection == _text("collection_name"),
            _waits,
            _ENTRIES.c.id > bindparam("after_entry", type_=Uuid),
        )
        .order_by(_ENTRIES.c.id)
        .limit(bindparam("limit_rows", type_=Integer))
        .subquery()
    )
    fits = (page.c.number == literal_column("1")) | (page.c.total <= literal_column(str(_PAGE_BYTES)))
    return select(*list(page.c)[:-2]).where(fits).order_by(page.c.id)


_PAGE: Final = _page(_ENTRIES.c.document, _ENTRIES.c.raw)
_HEADS: Final = _page(null().label("document"), null().label("raw"))


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


async def ceiling(executor: Executor) -> datetime | None:
    """Gives the latest version that a backfill writes here; what services write is later. None before the first one."""
    rows = await executor.rows(_CEILING, {})
    begun: datetime | None = rows[0][0]
    return None if begun is None else begun - timedelta(microseconds=1)


async def keep(executor: Executor, entries: Iterable[Entry]) -> set[UUID]:
    """Puts documents into the quarantine; one that is there already stays as it is.

    Returns:
        Those that do not wait, for they were settled before.
    """
    each_once = {entry.id: entry for entry in entries}
    if not each_once:
        return set()
    columns = zip(*(each_once[each] for each in sorted(each_once)), strict=True)
    names = (f"{name}s" for name in _COLUMNS)
    rows = await executor.rows(_KEEP, dict(zip(names, (list(column) for column in columns), strict=True)))
    return {UUID(int=row[0].int) for row in rows if row[1]}


async def settle(executor: Executor, ids: Iterable[UUID]) -> int:
    """Settles entries that wait: they came mended, or are given up. Gives how many waited."""
    every = sorted(set(ids))
    return len(await executor.rows(_SETTLE, {"ids": every})) if every else 0


async def answer(executor: Executor, fingerprint: str, document_ids: Iterable[UUID]) -> int:
    """Settles entries of these documents that have not been found again since a part was begun."""
    every = sorted(set(document_ids))
    return len(await executor.rows(_ANSWER, {"ids": every, "source_part": fingerprint})) if every else 0


async def any_waits(executor: Executor, collection: str) -> bool:
    """Tells whether anything of a collection waits in the quarantine."""
    return bool(await executor.rows(_ANY, {"collection_name": collection}))


async def held(executor: Executor, ids: Sequence[UUID]) -> set[UUID]:
    """Tells which of some entries are in the quarantine, waiting or settled."""
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
