"""Transactions of the backfill, with errors translated to those of graphjobs, including that of a lost COMMIT."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from graphjobs.database.error_translation import translate_error
from graphjobs.database.executor import SessionExecutor
from graphjobs.storage import Storage


@asynccontextmanager
async def transaction(storage: Storage) -> AsyncIterator[SessionExecutor]:
    """Open a transaction: commit it at the end, or roll it back on an exception.

    Raises:
        OutcomeUnknown: the connection ended during COMMIT.
        DatabaseUnavailable: BEGIN failed.
    """
    begun = False
    async with _translated_errors(lambda: begun), storage.session() as session, session.begin():
        begun = True
        yield storage.database.using(session)


@asynccontextmanager
async def snapshot(storage: Storage, *, readonly: bool) -> AsyncIterator[SessionExecutor]:
    """Open a transaction that sees the database as of its beginning, and roll it back at the end.

    Raises:
        DatabaseUnavailable: BEGIN failed, or the connection ended.
    """
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": readonly}
    async with _translated_errors(lambda: False), storage.session() as session:
        # As part of BEGIN: a pooler runs a statement of its own first, and PostgreSQL then refuses SET TRANSACTION.
        await session.connection(execution_options=options)
        yield storage.database.using(session)


@asynccontextmanager
async def _translated_errors(is_ambiguous: Callable[[], bool]) -> AsyncIterator[None]:
    """Translate an error of the driver; ask only then whether its outcome is ambiguous."""
    try:
        yield
    except Exception as error:
        failure = translate_error(error, ambiguous=is_ambiguous())
        if failure is None or failure is error:
            raise
    else:
        return
    raise failure
