"""The environment of env.py: run migrations under the migration lock of the database. It chooses no revision.

Both `alembic` from a shell and the commands of this package use this module, so both take the lock, create the schema
if it is missing, and wait for a table lock no longer than the lock time-out.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, exc
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from graphjobs.database.engine import connect, milliseconds, resolve_url, server_settings
from graphjobs.database.error_translation import translate_error
from graphjobs.database.migrations.blockers import named_blockers
from graphjobs.database.schema import REVISION, SCHEMA, VERSION_TABLE
from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError, SchemaOutOfDate
from graphjobs.settings import Settings

LOCK_WAIT: Final = timedelta(minutes=2)
"""The longest wait for another migration of the same database."""

_LOCK_KEY: Final = int.from_bytes(b"graphjob")
_STATEMENT_TIMEOUT: Final = timedelta(hours=1)
_ROWS_WOULD_BE_LOST: Final = "GJ001"
_DEPENDENTS_EXIST: Final = "GJ002"

DriverConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
T = TypeVar("T")

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
    -- A downgrade to base leaves this table empty, and the SQL of an upgrade from base creates it.
    IF to_regclass('{SCHEMA}.{VERSION_TABLE}') IS NOT NULL THEN
        LOCK TABLE {SCHEMA}.{VERSION_TABLE} IN ACCESS EXCLUSIVE MODE;
        IF NOT EXISTS (SELECT FROM {SCHEMA}.{VERSION_TABLE}) THEN
            DROP TABLE {SCHEMA}.{VERSION_TABLE};
        END IF;
    END IF;
END
$version$
"""


_DEPENDENTS_GUARD: Final = f"""
DO $dependents$
DECLARE
    found text;
BEGIN
    SELECT string_agg(DISTINCT dependent, ', ') INTO found FROM (
        SELECT 'the foreign key ' || conname || ' of ' || conrelid::regclass AS dependent
        FROM pg_constraint
        WHERE contype = 'f' AND confrelid IN (SELECT to_regclass('{SCHEMA}.' || t) FROM unnest(ARRAY[{{tables}}]) AS t)
            AND conrelid NOT IN (SELECT oid FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace)
        UNION
        SELECT 'the view ' || ev_class::regclass
        FROM pg_rewrite JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        WHERE refclassid = 'pg_class'::regclass AND ev_class <> refobjid
            AND refobjid IN (SELECT to_regclass('{SCHEMA}.' || t) FROM unnest(ARRAY[{{tables}}]) AS t)
    ) AS dependents;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = '{_DEPENDENTS_EXIST}',
            MESSAGE = 'the downgrade would drop tables that other objects depend on: drop these first: ' || found;
    END IF;
END
$dependents$
"""


def run_environment(metadata: MetaData) -> None:
    """Run the revisions that alembic chose, on the connection of the caller or on a new one.

    Args:
        metadata: the declared tables, for `check` and `revision --autogenerate`.
    """
    if context.is_offline_mode():
        _render(metadata)
        return
    connection = context.config.attributes.get("connection")
    if connection is None:  # `alembic` from the shell
        asyncio.run(_migrate_from_shell(metadata))
    else:
        _migrate(connection, metadata)


def _command() -> str:
    """Return the name of the running alembic command: upgrade, downgrade, check, current."""
    config = context.config
    shell_command = getattr(config.cmd_opts, "cmd", None)
    return str(config.attributes.get("command") or (shell_command[0].__name__ if shell_command else ""))


def _options(metadata: MetaData) -> dict[str, Any]:
    def is_declared(_object: object, _name: str | None, kind: str, reflected: bool, declared: object) -> bool:
        # The host owns the schema: ignore tables that graphjobs does not declare.
        return not (kind == "table" and reflected and declared is None)

    def in_schema(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "schema" or name == SCHEMA

    return {
        "target_metadata": metadata,
        "version_table": VERSION_TABLE,
        "version_table_schema": SCHEMA,
        "transaction_per_migration": True,
        "include_schemas": True,
        "include_object": is_declared,
        "include_name": in_schema,
        "compare_server_default": True,
    }


def _render(metadata: MetaData) -> None:
    context.configure(
        dialect_name="postgresql",
        literal_binds=True,
        # asyncpg's own paramstyle would double each percent sign.
        dialect_opts={"paramstyle": "named"},
        **_options(metadata),
    )
    with context.begin_transaction():
        context.execute(f"SET lock_timeout = {milliseconds(Settings.load().lock_timeout)}")
        # Otherwise a function of another schema could become the default of a column.
        context.execute("SET search_path = pg_catalog")
        # Otherwise a guard that waited for its lock would count with its old snapshot, and newer rows would be lost.
        context.execute("SET default_transaction_isolation = 'read committed'")
        # DROP ... IF EXISTS would print notices.
        context.execute("SET client_min_messages = warning")
        if _command() == "upgrade":
            context.execute(CREATE_SCHEMA_IF_MISSING)
            if context.get_starting_revision_argument() is None:
                context.execute(_DROP_EMPTY_VERSION_TABLE)
        _run_guards_first()
        context.run_migrations()


def _migrate(connection: Connection, metadata: MetaData) -> None:
    # The connection must be unused: otherwise alembic applies nothing and exits with 0.
    context.configure(connection=connection, **_options(metadata))
    with context.begin_transaction():
        _run_guards_first()
        context.run_migrations()


def _run_guards_first() -> None:
    """Run the guards of all revisions of a downgrade before its first step.

    Each revision is a separate transaction: a guard that raises halfway would leave the database between revisions. A
    guard is a statement that raises. GUARD of a revision refuses to drop rows, and runs again in its own downgrade.
    Objects of the host that depend on the TABLES of a revision refuse every downgrade that drops these.
    """
    migration = context.get_context()
    plan = migration._migrations_fn  # noqa: SLF001  # alembic has no public way to the steps
    may_drop_data = context.get_x_argument(as_dictionary=True).get("drop-data") == "yes"
    if _command() != "downgrade" or plan is None:
        return

    def guarded_steps(*heads: Any) -> list[Any]:
        steps = list(plan(*heads))
        for step in steps:
            module = step.revision.module
            if hasattr(module, "TABLES"):
                migration.execute(_DEPENDENTS_GUARD.format(tables=", ".join(f"'{table}'" for table in module.TABLES)))
            if hasattr(module, "GUARD") and not may_drop_data:
                migration.execute(module.GUARD)
        return steps

    migration._migrations_fn = guarded_steps  # noqa: SLF001


async def _migrate_from_shell(metadata: MetaData) -> None:
    create_schema = _command() in ("upgrade", "stamp")
    await run_locked(
        None, lambda connection: _migrate(connection, metadata), _read_nothing, create_schema=create_schema
    )


async def _read_nothing(_connection: DriverConnection) -> None:
    """Read nothing after the work: alembic prints by itself."""


async def run_locked(
    settings: Settings | None,
    work: Callable[[Connection], None],
    read: Callable[[DriverConnection], Awaitable[T]],
    *,
    create_schema: bool = False,
) -> T:
    """Run work on a connection that holds the migration lock of the database, so that the lock lasts as long as it.

    Args:
        settings: the database; None means the settings of the environment.
        work: runs alembic on the connection.
        read: reads on the same connection after the work.
        create_schema: whether to create the schema first, if it is missing.

    Returns:
        What `read` returned.

    Raises:
        ConfigurationError: `pooler` is not "direct".
        DatabaseUnavailable: another migration holds the lock for two minutes.
    """
    settings = settings or Settings.load()
    if settings.pooler != "direct":
        raise ConfigurationError(
            "migrations need a direct connection: set GRAPHJOBS_POOLER=direct and a URL that reaches the server itself"
        )
    limits = {"statement_timeout": str(milliseconds(_STATEMENT_TIMEOUT)), "idle_session_timeout": "0"}
    url = await resolve_url(settings)
    driver = await connect(
        url,
        settings,
        server_settings=server_settings(settings) | limits,
        command_timeout=_STATEMENT_TIMEOUT.total_seconds(),
        statement_cache_size=0,
    )

    async def creator(*_args: Any, **_kwargs: Any) -> DriverConnection:
        return driver

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        async with named_blockers(url, settings, driver.get_server_pid()):
            with translate_alembic_errors():
                await _acquire(driver)
                if create_schema:
                    await driver.execute(CREATE_SCHEMA_IF_MISSING)
                async with engine.connect() as connection:
                    await connection.run_sync(work)
                    return await read(driver)
    finally:
        # The advisory lock ends with its session.
        await driver.close(timeout=settings.connect_timeout.total_seconds())


async def _acquire(connection: DriverConnection) -> None:
    # Poll: a session that waits in the server would deadlock with CREATE INDEX CONCURRENTLY.
    deadline = asyncio.get_running_loop().time() + LOCK_WAIT.total_seconds()
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
        if asyncio.get_running_loop().time() > deadline:
            raise DatabaseUnavailable("another migration of this database has run for two minutes: wait for it to end")
        await asyncio.sleep(random.uniform(0.1, 0.3))  # noqa: S311  # jitter


@contextmanager
def translate_alembic_errors() -> Iterator[None]:
    """Translate errors of alembic, SQLAlchemy and the driver into errors of graphjobs."""
    failure: GraphJobsError | None = None
    try:
        yield
    except CommandError as error:
        failure = _translate_command_error(str(error))
    except AssertionError:  # alembic raises it for an empty revision, "@" and "head-1"
        failure = ConfigurationError("revision does not exist: `graphjobs db history` lists all revisions")
    except Exception as raised:
        # After a lost connection the end of an autocommit block raises this one, and hides the first.
        cause = raised.__context__ if isinstance(raised, exc.PendingRollbackError) and raised.__context__ else raised
        driver_error = cause.orig.__cause__ if isinstance(cause, exc.DBAPIError) and cause.orig else cause
        sqlstate = getattr(driver_error, "sqlstate", None)
        if sqlstate in (_ROWS_WOULD_BE_LOST, _DEPENDENTS_EXIST):
            failure = GraphJobsError(str(driver_error), sqlstate=sqlstate)
        else:
            failure = _name_finished_revisions(translate_error(cause, ambiguous=False))
        if failure is None:
            raise
    if failure is not None:
        raise failure


def _name_finished_revisions(failure: GraphJobsError | None) -> GraphJobsError | None:
    """Return the error of a migration that ended early, which may have changed something."""
    if not isinstance(failure, DatabaseUnavailable):
        return failure
    problem = str(failure).partition(";")[0]
    return DatabaseUnavailable(
        f"{problem}; revisions that finished stay, the one that was running is repeated: run the migration again",
        sqlstate=failure.sqlstate,
    )


def _translate_command_error(message: str) -> GraphJobsError:
    if message.startswith("Target database is not up to date"):
        return SchemaOutOfDate(found=None, expected=REVISION)
    if message.startswith("New upgrade operations detected"):
        return GraphJobsError(f"the database differs from the declared tables: {message.partition(': ')[2]}")
    return ConfigurationError(message.rstrip("."))
