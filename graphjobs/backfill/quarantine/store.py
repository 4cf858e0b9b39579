"""The quarantine as rows, within a transaction: what waits because it cannot come, and what became of it.

An entry waits until its document has come, it was given up, or another entry took its place: the same document, mended
and still wrong. What was replaced is settled with what replaced it, and not before.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from graphjobs.backfill.quarantine.entries import Entry
from graphjobs.backfill.tables import BackfillQuarantineRow
from graphjobs.database.executor import Executor, Row
from graphjobs.database.sql_expressions import unnest_params

_PAGE_BYTES: Final = 4 * 1024 * 1024
_ENTRIES: Final = cast("Table", BackfillQuarantineRow.__table__)

_IDS: Final = bindparam("ids", type_=ARRAY(Uuid))
_COLLECTION: Final = bindparam("collection_name", type_=Text)

_COLUMNS: Final = ("id", "collection", "document_id", "place", "field", "reason", "document", "raw")
_given: Final = unnest_params(
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
_BEGUN: Final = bindparam("begun", type_=DateTime(timezone=True))
_waits: Final = _ENTRIES.c.settled_at.is_(null())
# Two of one `_id` in the same source are two documents, and one is no answer to the other: what has been found since
# the part was begun is not settled for it, and what was settled for it and is found further on waits again.
_not_found_yet: Final = _ENTRIES.c.seen_at < _BEGUN
_since: Final = _ENTRIES.c.settled_at >= _BEGUN
_KEEP: Final = (
    insert(_ENTRIES)
    .from_select(list(_COLUMNS), select(*_given.c))
    # What was settled before stays so: the same document is as wrong as it was, and its answer has come.
    .on_conflict_do_update(
        index_elements=[_ENTRIES.c.id],
        set_={
            "seen_at": func.now(),
            "settled_at": case((_since, null()), else_=_ENTRIES.c.settled_at),
            "replaced_by": case((_since, null()), else_=_ENTRIES.c.replaced_by),
        },
    )
    .returning(
        _ENTRIES.c.id,
        _ENTRIES.c.settled_at.is_not(null()) & _ENTRIES.c.replaced_by.is_(null()),
        _ENTRIES.c.created_at == func.now(),
    )
)

_SETTLE: Final = (
    update(_ENTRIES)
    .where(_ENTRIES.c.id == func.any(_IDS), _waits)
    .values(settled_at=func.now())
    .returning(_ENTRIES.c.id)
)
_ANSWER: Final = (
    update(_ENTRIES)
    .where(_ENTRIES.c.document_id == func.any(_IDS), _waits, _not_found_yet)
    .values(settled_at=func.now())
    .returning(_ENTRIES.c.id)
)
_RELEASE: Final = (
    update(_ENTRIES).where(_ENTRIES.c.replaced_by == func.any(_IDS)).values(replaced_by=null()).returning(_ENTRIES.c.id)
)
_places: Final = unnest_params("places", ("olds", Uuid, "old"), ("news", Uuid, "new"))
_BRING_BACK: Final = (
    update(_ENTRIES)
    .where(_ENTRIES.c.id == _places.c.new, _ENTRIES.c.replaced_by == _places.c.old)
    .values(settled_at=null(), replaced_by=null())
    .returning(_ENTRIES.c.id)
)


def _replace(key: ColumnElement[UUID | None]) -> Any:
    """Puts an entry that waits in the place of others that do, which are found by a key."""
    new = _ENTRIES.alias("new")
    return (
        update(_ENTRIES)
        .where(
            key == _places.c.old,
            _waits,
            _not_found_yet,
            new.c.id == _places.c.new,
            new.c.settled_at.is_(null()),
            _ENTRIES.c.id != new.c.id,
        )
        .values(settled_at=func.now(), replaced_by=_places.c.new)
        .returning(_ENTRIES.c.id, _ENTRIES.c.replaced_by)
    )


_REPLACE_ENTRY: Final = _replace(_ENTRIES.c.id)
_REPLACE_DOCUMENT: Final = _replace(_ENTRIES.c.document_id)
_FOLLOW: Final = (
    update(_ENTRIES)
    .where(_ENTRIES.c.replaced_by == _places.c.old)
    .values(replaced_by=_places.c.new)
    .returning(_ENTRIES.c.id)
)
_HELD: Final = select(_ENTRIES.c.id, _waits | _ENTRIES.c.replaced_by.is_not(null())).where(
    _ENTRIES.c.id == func.any(_IDS)
)
_ANY: Final = select(_ENTRIES.c.id).where(_ENTRIES.c.collection == _COLLECTION, _waits).limit(literal_column("1"))
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
            _ENTRIES.c.collection == _COLLECTION,
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


class Kept(NamedTuple):
    """What became of documents that cannot come.

    Attributes:
        settled: those that do not wait, for they were settled before: they came mended, or were given up.
        new: those that were not in the quarantine.
    """

    settled: frozenset[UUID]
    new: frozenset[UUID]


async def keep(executor: Executor, begun: datetime, entries: Iterable[Entry]) -> Kept:
    """Puts documents into the quarantine, which were found in a part that was begun then.

    One that is there already stays as it is. One that was settled since, for another document of its `_id`, waits
    again: it is a document of its own.
    """
    each_once = {entry.id: entry for entry in entries}
    if not each_once:
        return Kept(frozenset(), frozenset())
    columns = zip(*(each_once[each] for each in sorted(each_once)), strict=True)
    names = (f"{name}s" for name in _COLUMNS)
    binds = dict(zip(names, (list(column) for column in columns), strict=True))
    rows = await executor.fetch_all(_KEEP, {**binds, _BEGUN.key: begun})
    found = [(UUID(int=key.int), settled, new) for key, settled, new in rows]
    return Kept(frozenset(key for key, settled, _ in found if settled), frozenset(key for key, _, new in found if new))


async def settle(executor: Executor, ids: Iterable[UUID]) -> int:
    """Settles entries that wait: they came mended, or are given up. Gives how many waited."""
    every = sorted(set(ids))
    return await _settled(executor, await executor.fetch_all(_SETTLE, {"ids": every})) if every else 0


async def answer(executor: Executor, begun: datetime, document_ids: Iterable[UUID]) -> int:
    """Settles entries of documents that have come, unless they were found again since their part was begun."""
    every = sorted(set(document_ids))
    return (
        await _settled(executor, await executor.fetch_all(_ANSWER, {"ids": every, _BEGUN.key: begun})) if every else 0
    )


async def _settled(executor: Executor, rows: Sequence[Row]) -> int:
    """Settles, with entries, what they took the place of."""
    if rows:
        await executor.fetch_all(_RELEASE, {"ids": [row[0] for row in rows]})
    return len(rows)


async def replace_entries(executor: Executor, begun: datetime, places: Mapping[UUID, UUID]) -> None:
    """Lets entries take the place of others, which were mended and are still wrong: by the id of the old one."""
    if places:
        await executor.fetch_all(_BRING_BACK, _pairs(places))
        await _replaced(executor, await executor.fetch_all(_REPLACE_ENTRY, {**_pairs(places), _BEGUN.key: begun}))


async def replace_documents(executor: Executor, begun: datetime, places: Mapping[UUID, UUID]) -> None:
    """Lets entries take the place of others of the same tenant and `_id`: by what these have in common."""
    if places:
        await _replaced(executor, await executor.fetch_all(_REPLACE_DOCUMENT, {**_pairs(places), _BEGUN.key: begun}))


async def _replaced(executor: Executor, rows: Sequence[Row]) -> None:
    """What an entry had taken the place of follows it: what is replaced names one that waits."""
    if rows:
        await executor.fetch_all(_FOLLOW, _pairs({row[0]: row[1] for row in rows}))


def _pairs(places: Mapping[UUID, UUID]) -> dict[str, object]:
    return {"olds": list(places), "news": list(places.values())}


async def any_waits(executor: Executor, collection: str) -> bool:
    """Tells whether anything of a collection waits in the quarantine."""
    return bool(await executor.fetch_all(_ANY, {"collection_name": collection}))


async def held(executor: Executor, ids: Sequence[UUID]) -> dict[UUID, bool]:
    """Tells which of some entries are in the quarantine, and whether they wait, or what took their place does."""
    rows = await executor.fetch_all(_HELD, {"ids": sorted(set(ids))}) if ids else []
    return {UUID(int=key.int): waits for key, waits in rows}


async def waiting(executor: Executor) -> dict[str, int]:
    """Counts what waits in the quarantine, by collection."""
    return {row[0]: row[1] for row in await executor.fetch_all(_COUNT, {})}


async def entries(executor: Executor, collection: str, after: UUID, *, limit: int) -> list[Entry]:
    """Reads what waits, in the order of ids, from after one on."""
    return await _entries(executor, _PAGE, collection, after, limit)


async def heads(executor: Executor, collection: str, after: UUID, *, limit: int) -> list[Entry]:
    """As `entries`, without the documents themselves, which may be large."""
    return await _entries(executor, _HEADS, collection, after, limit)


async def _entries(executor: Executor, statement: Select[Any], collection: str, after: UUID, limit: int) -> list[Entry]:
    rows = await executor.fetch_all(
        statement, {"collection_name": collection, "after_entry": after, "limit_rows": limit}
    )
    return [Entry(UUID(int=row[0].int), *list(row)[1:]) for row in rows]
