"""Quarantine entries as rows, within a transaction.

An entry is pending until its document is imported, it is discarded, or another entry supersedes it: the same document,
edited and rejected again. A superseded entry is resolved together with the entry that superseded it, not earlier.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSON, insert

from graphjobs.backfill.quarantine.entries import QuarantineEntry
from graphjobs.backfill.tables import BackfillQuarantineRow
from graphjobs.database.executor import Executor, Row
from graphjobs.database.sql_expressions import unnest_params

_PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
_ENTRIES: Final = cast("sa.Table", BackfillQuarantineRow.__table__)
_COLUMNS: Final = ("id", "collection", "document_id", "location", "field", "reason", "document", "raw")

_input_rows: Final = unnest_params("input_rows", *((f"p_{name}", _ENTRIES.c[name].type, name) for name in _COLUMNS))
_COLLECTION: Final = sa.bindparam("p_collection", type_=sa.Text)
_PART_STARTED_AT: Final = sa.bindparam("p_part_started_at", type_=sa.DateTime(timezone=True))
_is_pending: Final = _ENTRIES.c.resolved_at.is_(sa.null())
# Documents that share an `_id` within one source never resolve each other: an entry that was read since the start of
# the part is not resolved by its twin, and one that its twin resolved before it was read is pending again.
_not_read_yet: Final = _ENTRIES.c.last_seen_at < _PART_STARTED_AT
_resolved_since: Final = _ENTRIES.c.resolved_at >= _PART_STARTED_AT


def _in(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    return column == sa.func.any(sa.bindparam(f"p_{name}", type_=ARRAY(sa.Uuid)))


_QUARANTINE_UPSERT: Final = (
    insert(_ENTRIES)
    .from_select(list(_COLUMNS), sa.select(*_input_rows.c))
    # An entry that was resolved before stays resolved: the document did not change, and its repaired form was imported.
    .on_conflict_do_update(
        index_elements=[_ENTRIES.c.id],
        set_={
            "last_seen_at": sa.func.now(),
            "resolved_at": sa.case((_resolved_since, sa.null()), else_=_ENTRIES.c.resolved_at),
            "superseded_by": sa.case((_resolved_since, sa.null()), else_=_ENTRIES.c.superseded_by),
        },
    )
    .returning(
        _ENTRIES.c.id,
        _ENTRIES.c.resolved_at.is_not(sa.null()) & _ENTRIES.c.superseded_by.is_(sa.null()),
        _ENTRIES.c.created_at == sa.func.now(),
    )
)
_QUARANTINE_RESOLVE: Final = (
    sa.update(_ENTRIES)
    .where(_in(_ENTRIES.c.id, "id"), _is_pending)
    .values(resolved_at=sa.func.now())
    .returning(_ENTRIES.c.id)
)
_QUARANTINE_RESOLVE_DOCUMENTS: Final = (
    sa.update(_ENTRIES)
    .where(_in(_ENTRIES.c.document_id, "document_id"), _is_pending, _not_read_yet)
    .values(resolved_at=sa.func.now())
    .returning(_ENTRIES.c.id)
)
_QUARANTINE_RESOLVE_SUPERSEDED: Final = (
    sa.update(_ENTRIES)
    .where(_in(_ENTRIES.c.superseded_by, "superseded_by"))
    .values(superseded_by=sa.null())
    .returning(_ENTRIES.c.id)
)

_pairs: Final = unnest_params("pairs", ("p_old_id", sa.Uuid, "old_id"), ("p_new_id", sa.Uuid, "new_id"))
_QUARANTINE_REOPEN: Final = (
    sa.update(_ENTRIES)
    .where(_ENTRIES.c.id == _pairs.c.new_id, _ENTRIES.c.superseded_by == _pairs.c.old_id)
    .values(resolved_at=sa.null(), superseded_by=sa.null())
    .returning(_ENTRIES.c.id)
)


def _supersede(column: sa.ColumnElement[UUID | None]) -> Any:
    """Update pending entries, found by a column, to be superseded by other pending entries."""
    new = _ENTRIES.alias("new")
    return (
        sa.update(_ENTRIES)
        .where(
            column == _pairs.c.old_id,
            _is_pending,
            _not_read_yet,
            new.c.id == _pairs.c.new_id,
            new.c.resolved_at.is_(sa.null()),
            _ENTRIES.c.id != new.c.id,
        )
        .values(resolved_at=sa.func.now(), superseded_by=_pairs.c.new_id)
        .returning(_ENTRIES.c.id, _ENTRIES.c.superseded_by)
    )


_QUARANTINE_SUPERSEDE_ENTRIES: Final = _supersede(_ENTRIES.c.id)
_QUARANTINE_SUPERSEDE_DOCUMENTS: Final = _supersede(_ENTRIES.c.document_id)
_QUARANTINE_REPOINT: Final = (
    sa.update(_ENTRIES)
    .where(_ENTRIES.c.superseded_by == _pairs.c.old_id)
    .values(superseded_by=_pairs.c.new_id)
    .returning(_ENTRIES.c.id)
)
_QUARANTINE_GET_STATES: Final = sa.select(
    _ENTRIES.c.id, _is_pending | _ENTRIES.c.superseded_by.is_not(sa.null())
).where(_in(_ENTRIES.c.id, "id"))


def _at(path: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[Any]:
    return path.op("->", return_type=JSON())(sa.literal_column(f"'{name}'"))


# PostgreSQL decodes no NUL and no lone surrogate, whichever field is asked for.
_readable: Final = sa.func.regexp_replace(
    _ENTRIES.c.document,
    sa.literal_column(r"'\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})'"),
    sa.literal_column(r"'\\u0020'"),
    sa.literal_column("'g'"),
)
_json: Final = sa.cast(_readable, JSON)
_QUARANTINE_GET_TENANTS: Final = sa.select(
    _ENTRIES.c.id,
    _ENTRIES.c.field,
    *(
        sa.cast(_at(fields, name), sa.Text)
        for fields in (_json, _at(_json, "payload"), _at(_json, "Payload"))
        for name in ("tenantId", "TenantId")
    ),
).where(_in(_ENTRIES.c.id, "id"), _ENTRIES.c.collection == _COLLECTION)
_QUARANTINE_HAS_PENDING: Final = (
    sa.select(_ENTRIES.c.id).where(_ENTRIES.c.collection == _COLLECTION, _is_pending).limit(sa.literal_column("1"))
)
_QUARANTINE_COUNT_PENDING: Final = (
    sa.select(_ENTRIES.c.collection, sa.func.count()).where(_is_pending).group_by(_ENTRIES.c.collection)
)


def _list(*content: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Select pending entries up to a byte budget, always at least one."""
    size = sa.func.coalesce(sa.func.octet_length(_ENTRIES.c.document), sa.func.octet_length(_ENTRIES.c.raw))
    page = (
        sa.select(
            *(_ENTRIES.c[name] for name in _COLUMNS[:-2]),
            *content,
            sa.func.sum(size).over(order_by=_ENTRIES.c.id).label("total"),
            sa.func.row_number().over(order_by=_ENTRIES.c.id).label("number"),
        )
        .where(
            _ENTRIES.c.collection == _COLLECTION,
            _is_pending,
            _ENTRIES.c.id > sa.bindparam("p_after_id", type_=sa.Uuid),
        )
        .order_by(_ENTRIES.c.id)
        .limit(sa.bindparam("p_limit", type_=sa.Integer))
        .subquery()
    )
    fits = (page.c.number == sa.literal_column("1")) | (page.c.total <= sa.literal_column(str(_PAGE_BYTES_MAX)))
    return sa.select(*list(page.c)[:-2]).where(fits).order_by(page.c.id)


_QUARANTINE_LIST: Final = _list(_ENTRIES.c.document, _ENTRIES.c.raw)
_QUARANTINE_LIST_SUMMARIES: Final = _list(sa.null().label("document"), sa.null().label("raw"))


class QuarantineOutcome(NamedTuple):
    """The result of `upsert`.

    Attributes:
        resolved_before: entries that were resolved earlier: imported after a repair, or discarded.
        new: entries that were not in the quarantine.
    """

    resolved_before: frozenset[UUID]
    new: frozenset[UUID]


async def upsert(
    executor: Executor, part_started_at: datetime, entries: Iterable[QuarantineEntry]
) -> QuarantineOutcome:
    """Insert the rejected documents of a part.

    An existing entry stays as it is. An entry that was resolved since the start of the part, by another document with
    the same `_id`, is pending again: it is a separate document.
    """
    unique = {entry.id: entry for entry in entries}
    if not unique:
        return QuarantineOutcome(frozenset(), frozenset())
    columns = zip(*(unique[key] for key in sorted(unique)), strict=True)
    params = {f"p_{name}": list(column) for name, column in zip(_COLUMNS, columns, strict=True)}
    rows = await executor.fetch_all(_QUARANTINE_UPSERT, {**params, _PART_STARTED_AT.key: part_started_at})
    return QuarantineOutcome(
        frozenset(UUID(int=key.int) for key, is_resolved, _ in rows if is_resolved),
        frozenset(UUID(int=key.int) for key, _, is_new in rows if is_new),
    )


async def resolve(executor: Executor, ids: Iterable[UUID]) -> int:
    """Resolve pending entries that were imported or are discarded, and return their number."""
    unique = sorted(set(ids))
    if not unique:
        return 0
    return await _resolve_superseded(executor, await executor.fetch_all(_QUARANTINE_RESOLVE, {"p_id": unique}))


async def resolve_documents(executor: Executor, part_started_at: datetime, document_ids: Iterable[UUID]) -> int:
    """Resolve entries of imported documents that were not read since the start of the part; return their number."""
    unique = sorted(set(document_ids))
    if not unique:
        return 0
    params = {"p_document_id": unique, _PART_STARTED_AT.key: part_started_at}
    return await _resolve_superseded(executor, await executor.fetch_all(_QUARANTINE_RESOLVE_DOCUMENTS, params))


async def _resolve_superseded(executor: Executor, rows: Sequence[Row]) -> int:
    """Resolve, with entries, the entries that they superseded."""
    if rows:
        await executor.fetch_all(_QUARANTINE_RESOLVE_SUPERSEDED, {"p_superseded_by": [row[0] for row in rows]})
    return len(rows)


async def supersede_entries(executor: Executor, part_started_at: datetime, new_ids: Mapping[UUID, UUID]) -> None:
    """Supersede entries that were edited and rejected again, by the id of the old entry."""
    if new_ids:
        params = _pair_params(new_ids)
        await executor.fetch_all(_QUARANTINE_REOPEN, params)
        params[_PART_STARTED_AT.key] = part_started_at
        await _repoint(executor, await executor.fetch_all(_QUARANTINE_SUPERSEDE_ENTRIES, params))


async def supersede_documents(executor: Executor, part_started_at: datetime, new_ids: Mapping[UUID, UUID]) -> None:
    """Supersede entries of the same tenant and `_id`, by their common document id."""
    if new_ids:
        params = {**_pair_params(new_ids), _PART_STARTED_AT.key: part_started_at}
        await _repoint(executor, await executor.fetch_all(_QUARANTINE_SUPERSEDE_DOCUMENTS, params))


async def _repoint(executor: Executor, rows: Sequence[Row]) -> None:
    """Update older entries too, so that `superseded_by` always names a pending entry."""
    if rows:
        await executor.fetch_all(_QUARANTINE_REPOINT, _pair_params({row[0]: row[1] for row in rows}))


def _pair_params(new_ids: Mapping[UUID, UUID]) -> dict[str, object]:
    return {"p_old_id": list(new_ids), "p_new_id": list(new_ids.values())}


async def has_pending(executor: Executor, collection: str) -> bool:
    """Return whether a collection has a pending entry."""
    return bool(await executor.fetch_all(_QUARANTINE_HAS_PENDING, {_COLLECTION.key: collection}))


async def get_states(executor: Executor, ids: Sequence[UUID]) -> dict[UUID, bool]:
    """Return for each existing entry whether it, or the entry that superseded it, is pending."""
    rows = await executor.fetch_all(_QUARANTINE_GET_STATES, {"p_id": sorted(set(ids))}) if ids else []
    return {UUID(int=key.int): is_pending for key, is_pending in rows}


async def list_resolvable(executor: Executor, collection: str, tenants: Mapping[UUID, str | None]) -> frozenset[UUID]:
    """Return the entries that lines may resolve: those of the same collection and tenant.

    If the tenant of the entry was missing or invalid, the line may have any tenant.

    Args:
        executor: runs the statement in the transaction.
        collection: the collection of the lines.
        tenants: the entries that the lines name, each with the tenant of its line.
    """
    if not tenants:
        return frozenset()
    params = {"p_id": sorted(tenants), _COLLECTION.key: collection}
    rows = await executor.fetch_all(_QUARANTINE_GET_TENANTS, params)
    resolvable: set[UUID] = set()
    for key, field, *texts in rows:
        entry_id = UUID(int=key.int)
        tenant = next((value for text in texts if text is not None and (value := json.loads(text)) is not None), None)
        if field == "tenantId" or type(tenant) is not str or tenants[entry_id] in (None, tenant):
            resolvable.add(entry_id)
    return frozenset(resolvable)


async def count_pending(executor: Executor) -> dict[str, int]:
    """Return the number of pending entries by collection."""
    return {row[0]: row[1] for row in await executor.fetch_all(_QUARANTINE_COUNT_PENDING, {})}


async def list_pending(
    executor: Executor, collection: str, after: UUID, *, limit: int, summaries: bool = False
) -> list[QuarantineEntry]:
    """Return pending entries of a collection in the order of ids, up to a limit and a byte budget.

    Args:
        executor: runs the statement in the transaction.
        collection: the collection.
        after: the last id of the page before.
        limit: the maximum number of entries.
        summaries: leave out the documents, which may be large.
    """
    statement = _QUARANTINE_LIST_SUMMARIES if summaries else _QUARANTINE_LIST
    params = {_COLLECTION.key: collection, "p_after_id": after, "p_limit": limit}
    rows = await executor.fetch_all(statement, params)
    return [QuarantineEntry(UUID(int=row[0].int), *list(row)[1:]) for row in rows]
