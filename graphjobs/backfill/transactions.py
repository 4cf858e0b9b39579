"""Transactions of the backfill: their errors are ours, that of a lost COMMIT too."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from graphjobs.database.error_translation import translate_error
from graphjobs.database.executor import SessionExecutor
from graphjobs.storage import Storage


@asynccontextmanager
async def transaction(storage: Storage) -> AsyncIterator[SessionExecutor]:
    """Begins a transaction that is committed at the end, and vanishes with what is raised within.

    Raises:
        OutcomeUnknown: the connection ended while it was committed.
        DatabaseUnavailable: it could not begin.
    """
    begun = False
    try:
        async with storage.session() as session, session.begin():
            begun = True
            yield storage.database.using(session)
    except Exception as error:
        failure = translate_error(error, ambiguous=begun)
        if failure is None or failure is error:
            raise
    else:
        return
    raise failure


@asynccontextmanager
async def snapshot(storage: Storage, *, readonly: bool) -> AsyncIterator[SessionExecutor]:
    """Begins a transaction that always sees what was there when it began, and is rolled back at the end.

    Raises:
        DatabaseUnavailable: it could not begin, or what runs in it ended.
    """
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": readonly}
    try:
        async with storage.session() as session:
            # With BEGIN itself: a pooler has a statement run first, after which SET TRANSACTION is refused.
            await session.connection(execution_options=options)
            yield storage.database.using(session)
    except Exception as error:
        failure = translate_error(error, ambiguous=False)
        if failure is None or failure is error:
            raise
    else:
        return
    raise failure
