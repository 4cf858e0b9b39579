"""The environment migrations run in: what env.py does, under the database's migration lock; chooses no revision.

`alembic` from a shell and the commands of this package both come through here, so both take the lock, create the
schema where it is missing, and wait for no lock of a table longer than the lock time-out.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final, TypeAlias

import asyncpg
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, exc
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from graphjobs.database.engine import connect, milliseconds, resolve_url, server_settings
from graphjobs.database.error_translation import translate_error
from graphjobs.database.schema import REVISION, SCHEMA, VERSION_TABLE
from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError, SchemaOutOfDate
from graphjobs.settings import Settings

LOCK_WAIT: Final = timedelta(minutes=2)
"""How long to wait for another migration of the same database to end."""

_LOCK_KEY: Final = int.from_bytes(b"graphjob")
_STATEMENT_TIMEOUT: Final = timedelta(hours=1)
_ROWS_REFUSED: Final = "GJ001"

DriverConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
OnConnection: TypeAlias = Callable[[Callable[[Connection], None]], Any]

CREATE_SCHEMA_IF_MISSING: Final = f"""
DO $schema$
BEGIN
    -- CREATE SCHEMA IF NOT EXISTS fails on an existing one for a role that may create none, which is the host's case.
    IF to_regnamespace('{SCHEMA}') IS NULL THEN
        CREATE SCHEMA {SCHEMA};
    END IF;
EXCEPTION WHEN duplicate_schema OR unique_violation THEN
    NULL;  -- Another session, which does not take our lock, has just created it.
END
$schema$
"""

_DROP_EMPTY_VERSION_TABLE: Final = f"""
DO $version$
BEGIN
    -- A downgrade to base leaves this table, empty, and what is rendered for the way up from base creates it.
    IF to_regclass('{SCHEMA}.{VERSION_TABLE}') IS NOT NULL THEN
        LOCK TABLE {SCHEMA}.{VERSION_TABLE} IN ACCESS EXCLUSIVE MODE;
        IF NOT EXISTS (SELECT FROM {SCHEMA}.{VERSION_TABLE}) THEN
            DROP TABLE {SCHEMA}.{VERSION_TABLE};
        END IF;
    END IF;
END
$version$
"""


def run_environment(metadata: MetaData) -> None:
    """What env.py does: runs the revisions alembic chose, on the connection given or on one of its own.

    Args:
        metadata: the declared tables, which `check` and `revision --autogenerate` compare with.
    """
    if context.is_offline_mode():
        _render(metadata)
        return
    given = context.config.attributes.get("connection")
    if given is None:  # `alembic` from the shell
        asyncio.run(_from_the_shell(metadata))
    else:
        _migrate(given, metadata)


def _command() -> str:
    """The name of the alembic command that runs: upgrade, downgrade, check, current."""
    config = context.config
    chosen = getattr(config.cmd_opts, "cmd", None)
    return str(config.attributes.get("command") or (chosen[0].__name__ if chosen else ""))


def _options(metadata: MetaData) -> dict[str, Any]:
    def ours(_object: object, _name: str | None, kind: str, reflected: bool, declared: object) -> bool:
        # The schema is the host's: tables that we do not declare are none of our business.
        return not (kind == "table" and reflected and declared is None)

    def in_our_schema(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "schema" or name == SCHEMA

    return {
        "target_metadata": metadata,
        "version_table": VERSION_TABLE,
        "version_table_schema": SCHEMA,
        "transaction_per_migration": True,
        "include_schemas": True,
        "include_object": ours,
        "include_name": in_our_schema,
        "compare_server_default": True,
    }


def _render(metadata: MetaData) -> None:
    context.configure(
        dialect_name="postgresql",
        literal_binds=True,
        # asyncpg's own style would double each percent sign in the text.
        dialect_opts={"paramstyle": "named"},
        **_options(metadata),
    )
    with context.begin_transaction():
        context.execute(f"SET lock_timeout = {milliseconds(Settings.load().lock_timeout)}")
        # Else a guard that waited for its lock would count by the snapshot it had before, and drop what came since.
        context.execute("SET default_transaction_isolation = 'read committed'")
        # What is dropped only if it is there is no news to whoever pipes this.
        context.execute("SET client_min_messages = warning")
        if _command() == "upgrade":
            context.execute(CREATE_SCHEMA_IF_MISSING)
            if context.get_starting_revision_argument() is None:
                context.execute(_DROP_EMPTY_VERSION_TABLE)
        _ask_guards_first()
        context.run_migrations()


def _migrate(connection: Connection, metadata: MetaData) -> None:
    # Nothing may run on this connection before: alembic would then apply nothing and exit 0.
    context.configure(connection=connection, **_options(metadata))
    with context.begin_transaction():
        _ask_guards_first()
        context.run_migrations()


def _ask_guards_first() -> None:
    """Lets the guards of all revisions on a way down speak before its first step.

    Each revision is a transaction of its own: a refusal halfway would leave the database at neither end. A guard is a
    statement that raises, which a revision names GUARD, and which its own downgrade runs once more.
    """
    running = context.get_context()
    chosen = running._migrations_fn  # noqa: SLF001  # alembic tells the steps to nobody else
    if _command() != "downgrade" or chosen is None or _drops_data():
        return

    def steps(*heads: Any) -> list[Any]:
        planned = list(chosen(*heads))
        for step in planned:
            guard = getattr(step.revision.module, "GUARD", None)
            if guard is not None:
                running.execute(guard)
        return planned

    running._migrations_fn = steps  # noqa: SLF001


def _drops_data() -> bool:
    """True where whoever called has said that rows may go."""
    return context.get_x_argument(as_dictionary=True).get("drop-data") == "yes"


async def _from_the_shell(metadata: MetaData) -> None:
    async with migration_lock(None) as (connection, lock):
        if _command() in ("upgrade", "stamp"):
            await lock.execute(CREATE_SCHEMA_IF_MISSING)
        await connection(lambda sync_connection: _migrate(sync_connection, metadata))


@asynccontextmanager
async def migration_lock(
    settings: Settings | None,
) -> AsyncIterator[tuple[OnConnection, DriverConnection]]:
    """Holds the database's migration lock; gives a way to run on a fresh connection, and the lock's own connection."""
    given = settings or Settings.load()
    if given.pooler != "direct":
        raise ConfigurationError(
            "migrations need a direct connection: set GRAPHJOBS_POOLER=direct and a URL that reaches the server itself"
        )
    url = await resolve_url(given)
    slow = {**server_settings(given), "statement_timeout": str(milliseconds(_STATEMENT_TIMEOUT))}

    async def creator(*_args: Any, **_kwargs: Any) -> DriverConnection:
        return await connect(
            url, given, server_settings=slow, command_timeout=_STATEMENT_TIMEOUT.total_seconds(), statement_cache_size=0
        )

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)

    async def on_connection(work: Callable[[Connection], None]) -> None:
        async with engine.connect() as connection:
            await connection.run_sync(work)

    lock = await connect(url, given)
    try:
        with translate_alembic_errors():
            await _acquire(lock)
            yield on_connection, lock
    finally:
        # Closing ends the session, and with it the lock.
        await lock.close(timeout=given.connect_timeout.total_seconds())


async def _acquire(lock: DriverConnection) -> None:
    # Polled: a session that waits inside the server would deadlock with CREATE INDEX CONCURRENTLY.
    deadline = asyncio.get_running_loop().time() + LOCK_WAIT.total_seconds()
    while not await lock.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
        if asyncio.get_running_loop().time() > deadline:
            raise DatabaseUnavailable("another migration of this database has run for two minutes: wait for it to end")
        await asyncio.sleep(random.uniform(0.1, 0.3))  # noqa: S311  # jitter, no secret


@contextmanager
def translate_alembic_errors() -> Iterator[None]:
    """Lets what alembic, SQLAlchemy and the driver raise out as errors of graphjobs."""
    failure: GraphJobsError | None = None
    try:
        yield
    except CommandError as error:
        failure = _of_alembic(str(error))
    except AssertionError:  # what alembic says to an empty revision, to "@" and to "head-1"
        failure = ConfigurationError("this names no revision: `graphjobs db history` lists those there are")
    except Exception as error:
        driver_error = error.orig.__cause__ if isinstance(error, exc.DBAPIError) and error.orig else error
        if getattr(driver_error, "sqlstate", None) == _ROWS_REFUSED:
            failure = GraphJobsError(str(driver_error), sqlstate=_ROWS_REFUSED)
        else:
            failure = translate_error(error, ambiguous=False)
        if failure is None:
            raise
    if failure is not None:
        raise failure


def _of_alembic(message: str) -> GraphJobsError:
    if message.startswith("Target database is not up to date"):
        return SchemaOutOfDate(found=None, expected=REVISION)
    if message.startswith("New upgrade operations detected"):
        return GraphJobsError(f"the database differs from the declared tables: {message.partition(': ')[2]}")
    return ConfigurationError(message.rstrip("."))
