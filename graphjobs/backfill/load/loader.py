"""Writing of mapped rows within the caller's transaction: new rows are inserted, rows changed by services stay."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from graphjobs.backfill.load.comparison import BACKFILL_VERSION_MAX, RowState, param_name
from graphjobs.backfill.load.event_sql import EventStatements
from graphjobs.backfill.load.job_and_run_sql import RowStatements
from graphjobs.backfill.load.staging import (
    EVENT_STATEMENTS,
    ROW_STATEMENTS,
    StagedRow,
    conflict_free_batches,
    to_params,
)
from graphjobs.database.executor import Executor
from graphjobs.errors import DatabaseUnavailable

_TRIES_MAX: Final = 5
_SET_SHORT_LOCK_TIMEOUT: Final = sa.select(
    sa.func.set_config(sa.literal_column("'lock_timeout'"), sa.literal_column("'200ms'"), sa.literal_column("true"))
)


async def write(
    executor: Executor, collection: str, rows: Sequence[StagedRow], version_max: datetime
) -> list[RowState]:
    """Write rows and return the state of each before the write.

    Args:
        executor: runs statements in the transaction.
        collection: the collection of the rows.
        rows: in the order of writing.
        version_max: the latest version that is written. A stored row with a later one was changed by a service.

    Returns:
        A `RowState` per row. `NEW` rows were inserted and `SOURCE_AHEAD` rows replaced the stored row. All others were
        not written.

    Raises:
        DatabaseUnavailable: the database is unavailable, or stored rows kept changing.
    """
    states: dict[int, RowState] = {}
    for batch in conflict_free_batches(rows):
        batch_rows = [rows[index] for index in batch]
        if collection in ROW_STATEMENTS:
            written = await _write_rows(executor, collection, batch_rows, version_max)
        else:
            written = await _write_events(executor, collection, batch_rows)
        states.update(zip(batch, written, strict=True))
    return [states[index] for index in range(len(rows))]


async def _write_rows(
    executor: Executor, collection: str, rows: list[StagedRow], version_max: datetime
) -> list[RowState]:
    statements = ROW_STATEMENTS[collection]
    states: dict[int, RowState] = {}
    limit = {BACKFILL_VERSION_MAX.key: version_max}
    for _ in range(_TRIES_MAX):
        remaining = _without_state(rows, states)
        params = to_params(collection, [rows[index] for index in remaining])
        inserted = {row[0] for row in await executor.fetch_all(statements.insert, params | limit)}
        states.update((index, RowState.NEW) for index in remaining if rows[index][0] in inserted)
        remaining = _without_state(rows, states)
        if not remaining:
            break
        params = to_params(collection, [rows[index] for index in remaining])
        ahead = []
        for ordinal, code, version, status in await executor.fetch_all(statements.compare, params | limit):
            state = RowState(code)
            if state is RowState.SOURCE_AHEAD:
                ahead.append((remaining[ordinal], version, status))
            elif state is not RowState.NEW:
                states[remaining[ordinal]] = state
        if ahead:
            overwritten = await _overwrite(executor, statements, collection, rows, ahead, limit)
            states.update((index, RowState.SOURCE_AHEAD) for index, *_ in ahead if rows[index][0] in overwritten)
        if len(states) == len(rows):
            break
    return _in_order(states, rows)


async def _overwrite(
    executor: Executor,
    statements: RowStatements,
    collection: str,
    rows: list[StagedRow],
    ahead: list[tuple[int, datetime, int]],
    limit: dict[str, datetime],
) -> set[object]:
    params = to_params(collection, [rows[index] for index, *_ in ahead]) | limit
    params[param_name("expected_version")] = [version for _, version, _ in ahead]
    params[param_name("expected_status")] = [status for *_, status in ahead]
    return {row[0] for row in await executor.fetch_all(statements.overwrite, params)}


async def _write_events(executor: Executor, collection: str, rows: list[StagedRow]) -> list[RowState]:
    statements = EVENT_STATEMENTS[collection]
    states: dict[int, RowState] = {}
    for _ in range(_TRIES_MAX):
        remaining = _without_state(rows, states)
        params = to_params(collection, [rows[index] for index in remaining])
        compared = await executor.fetch_all(statements.compare, params)
        found = {remaining[ordinal]: RowState(code) for ordinal, code in compared}
        states.update((index, state) for index, state in found.items() if state is not RowState.NEW)
        new = [index for index in remaining if found[index] is RowState.NEW]
        without_id = [index for index in new if rows[index][0] is None]
        if without_id:
            params = to_params(collection, [rows[index] for index in without_id])
            inserted = await executor.fetch_all(statements.insert, params)
            # All or none: if one job is gone, the next comparison finds out which.
            states.update((index, RowState.NEW) for index in without_id if len(inserted) == len(without_id))
        numbered = [index for index in new if rows[index][0] is not None]
        if numbered:
            params = to_params(collection, [rows[index] for index in numbered])
            ids = await _insert_numbered(executor, statements, params)
            states.update((index, RowState.NEW) for index in numbered if rows[index][0] in ids)
        if len(states) == len(rows):
            break
    return _in_order(states, rows)


async def _insert_numbered(executor: Executor, statements: EventStatements, params: dict[str, object]) -> set[int]:
    numbers: list[int] = params[param_name("id")]  # type: ignore[assignment]
    last_number = (await executor.fetch_all(statements.last_number, {}))[0][0]
    exceeds_sequence = max(numbers) > last_number
    if exceeds_sequence:
        # Without the lock, another writer could get one of these numbers before the sequence is set. Writers of events
        # wait for this transaction, so its own waits are short: the batch is tried again.
        await executor.fetch_all(_SET_SHORT_LOCK_TIMEOUT, {})
        await executor.fetch_all(statements.lock, {})
    ids = {row[0] for row in await executor.fetch_all(statements.insert_numbered, params)}
    if exceeds_sequence:
        await executor.fetch_all(statements.set_sequence, {})
    return ids


def _without_state(rows: Sequence[StagedRow], states: dict[int, RowState]) -> list[int]:
    return [index for index in range(len(rows)) if index not in states]


def _in_order(states: dict[int, RowState], rows: Sequence[StagedRow]) -> list[RowState]:
    if len(states) < len(rows):
        raise DatabaseUnavailable("the rows to write kept changing in PostgreSQL; try again")
    return [states[index] for index in range(len(rows))]
