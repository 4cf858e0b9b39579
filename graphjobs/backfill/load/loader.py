"""Writes what comes, within the caller's transaction: what is new is added, what has moved on here is left alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import func, literal_column, select

from graphjobs.backfill.load.comparison import CEILING, Standing, bind_of
from graphjobs.backfill.load.event_sql import Logged
from graphjobs.backfill.load.job_and_run_sql import Keyed
from graphjobs.backfill.load.staging import KEYED, LOGGED, StagedRow, binds_of, waves
from graphjobs.database.executor import Executor
from graphjobs.errors import DatabaseUnavailable

_TRIES_MAX: Final = 5
_SHORTLY: Final = select(
    func.set_config(literal_column("'lock_timeout'"), literal_column("'200ms'"), literal_column("true"))
)


async def write(executor: Executor, collection: str, rows: Sequence[StagedRow], ceiling: datetime) -> list[Standing]:
    """Writes rows, and tells of each how it stood to what was there.

    Args:
        executor: runs statements in the transaction.
        collection: what the rows are of.
        rows: in the order they are to be written.
        ceiling: the latest version that is written, and the latest one of rows that have not moved here.

    Returns:
        A `Standing` for each: those that were `NEW` have been added, and those that were `NEWER` have taken the place
        of what was there; of all others nothing has been written.

    Raises:
        DatabaseUnavailable: the database cannot now, or rows moved again and again meanwhile.
    """
    standings: dict[int, Standing] = {}
    for wave in waves(rows):
        chosen = [rows[each] for each in wave]
        if collection in KEYED:
            told = await _write_keyed(executor, KEYED[collection], collection, chosen, ceiling)
        else:
            told = await _write_logged(executor, LOGGED[collection], collection, chosen)
        standings.update(zip(wave, told, strict=True))
    return [standings[each] for each in range(len(rows))]


async def _write_keyed(
    executor: Executor, on: Keyed, collection: str, rows: list[StagedRow], ceiling: datetime
) -> list[Standing]:
    standings: dict[int, Standing] = {}
    limit = {CEILING.key: ceiling}
    for _ in range(_TRIES_MAX):
        left = [each for each in range(len(rows)) if each not in standings]
        chosen = [rows[each] for each in left]
        added = {row[0] for row in await executor.fetch_all(on.add, binds_of(collection, chosen) | limit)}
        standings.update((each, Standing.NEW) for each in left if rows[each][0] in added)
        left = [each for each in left if each not in standings]
        if not left:
            break
        compared = await executor.fetch_all(on.compare, binds_of(collection, [rows[each] for each in left]) | limit)
        newer = []
        for ordinal, code, version, status in compared:
            standing = Standing(code)
            if standing is Standing.NEWER:
                newer.append((left[ordinal], version, status))
            elif standing is not Standing.NEW:
                standings[left[ordinal]] = standing
        if newer:
            binds = binds_of(collection, [rows[each] for each, _, _ in newer]) | limit
            binds |= {bind_of("seen"): [seen for _, seen, _ in newer], bind_of("expected"): [was for *_, was in newer]}
            renewed = {row[0] for row in await executor.fetch_all(on.renew, binds)}
            standings.update((each, Standing.NEWER) for each, _, _ in newer if rows[each][0] in renewed)
        if len(standings) == len(rows):
            break
    return _settled(standings, rows)


async def _write_logged(executor: Executor, on: Logged, collection: str, rows: list[StagedRow]) -> list[Standing]:
    standings: dict[int, Standing] = {}
    for _ in range(_TRIES_MAX):
        left = [each for each in range(len(rows)) if each not in standings]
        compared = await executor.fetch_all(on.compare, binds_of(collection, [rows[each] for each in left]))
        told = {left[ordinal]: Standing(code) for ordinal, code in compared}
        standings.update((each, standing) for each, standing in told.items() if standing is not Standing.NEW)
        new = [each for each in left if told[each] is Standing.NEW]
        plain = [each for each in new if rows[each][0] is None]
        if plain:
            added = await executor.fetch_all(on.add, binds_of(collection, [rows[each] for each in plain]))
            # All or none: who is left has lost his job since, which the next look tells.
            standings.update((each, Standing.NEW) for each in plain if len(added) == len(plain))
        numbered = [each for each in new if rows[each][0] is not None]
        if numbered:
            ids = await _add_numbered(executor, on, binds_of(collection, [rows[each] for each in numbered]))
            standings.update((each, Standing.NEW) for each in numbered if rows[each][0] in ids)
        if len(standings) == len(rows):
            break
    return _settled(standings, rows)


async def _add_numbered(executor: Executor, on: Logged, binds: dict[str, object]) -> set[int]:
    numbers: list[int] = binds[bind_of("id")]  # type: ignore[assignment]
    last = (await executor.fetch_all(on.last_number, {}))[0][0]
    beyond = max(numbers) > last
    if beyond:
        # Else somebody might be given one of these numbers between this insert and the next statement. Whoever writes
        # an event waits behind this one, so it does not wait for long: the batch is tried again.
        await executor.fetch_all(_SHORTLY, {})
        await executor.fetch_all(on.lock, {})
    ids = {row[0] for row in await executor.fetch_all(on.add_numbered, binds)}
    if beyond:
        await executor.fetch_all(on.number, {})
    return ids


def _settled(standings: dict[int, Standing], rows: Sequence[StagedRow]) -> list[Standing]:
    if len(standings) < len(rows):
        raise DatabaseUnavailable("rows that were to be written moved again and again meanwhile; try again")
    return [standings[each] for each in range(len(rows))]
