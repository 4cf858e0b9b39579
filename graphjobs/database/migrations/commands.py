"""Migrations as a product: upgrade, downgrade, check and SQL, from a running loop or from `alembic`; knows no job.

Each runs under an advisory lock of the database, so that two at once both end well, and with lock time-outs, so that a
migration behind a long reader lets others go on. The revisions live in the folder
`alembic/`, which travels in the wheel.
"""

import asyncio
import io
import random
import threading
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from graphjobs.database.engine import connect, resolve_url
from graphjobs.database.migrations.alembic_env import (
    CREATE_SCHEMA_IF_MISSING,
    DriverConnection,
    OnConnection,
    migration_lock,
    translate_alembic_errors,
)
from graphjobs.database.schema import SCHEMA, VERSION_TABLE
from graphjobs.errors import DatabaseUnavailable, GraphJobsError, SchemaOutOfDate
from graphjobs.settings import Settings

_RENDER_WAIT_SECONDS: Final = 10
_RETRIES_MAX: Final = 5
_ALEMBIC_IN_THIS_PROCESS: Final = threading.Lock()

_INVALID_INDEXES: Final = (
    "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    f"WHERE NOT i.indisvalid AND c.relnamespace = to_regnamespace('{SCHEMA}')"
)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, as its script says it.

    Attributes:
        revision: its id, "014_graph_jobs".
        follows: the id of the one before it, or None.
        summary: the first line of its docstring.
    """

    revision: str
    follows: str | None
    summary: str


async def upgrade(settings: Settings | None = None, *, revision: str = "head") -> str | None:
    """Brings the schema up to a revision. Two at once both end well: the later one finds nothing left to do.

    Args:
        settings: which database; None means those of the environment.
        revision: the revision to reach; "head" is the newest.

    Returns:
        The revision the database is at afterwards, read on a connection of its own.

    Raises:
        DatabaseUnavailable: it cannot be reached, another migration takes longer than two minutes, or a lock was not
            free in five tries; what was begun is rolled back.
        ConfigurationError: there is no such revision, or the role may not.
    """
    async with migration_lock(settings) as (connection, lock):
        await lock.execute(CREATE_SCHEMA_IF_MISSING)
        await _run(connection, "upgrade", lambda config: command.upgrade(config, revision))
        reached = await _revision(lock)
        invalid = await lock.fetch(_INVALID_INDEXES)
    if invalid:
        names = ", ".join(row[0] for row in invalid)
        raise GraphJobsError(f"an index was left invalid by a build that was ended: {names}; drop it and upgrade again")
    return reached


async def downgrade(settings: Settings | None = None, *, revision: str, drop_data: bool = False) -> str | None:
    """Brings the schema down to a revision; "base" removes the tables, never the schema.

    Args:
        settings: which database; None means those of the environment.
        revision: the revision to go down to, or "base".
        drop_data: True drops tables that hold rows; else such a downgrade is refused and changes nothing.

    Returns:
        The revision the database is at afterwards, or None for base.

    Raises:
        GraphJobsError: tables hold rows; the sentence says how many, and how to keep them.
    """
    async with migration_lock(settings) as (connection, lock):
        await _run(connection, "downgrade", lambda config: command.downgrade(config, revision), drop_data=drop_data)
        return await _revision(lock)


async def check(settings: Settings | None = None) -> None:
    """Compares the database with the declared tables.

    Raises:
        SchemaOutOfDate: it is not at the newest revision.
        GraphJobsError: it differs from what is declared; the sentence names each difference.
    """
    async with migration_lock(settings) as (connection, _lock):
        await _run(connection, "check", command.check)


async def current(settings: Settings | None = None) -> str | None:
    """Tells the revision a database is at, or None where it has none; takes no lock."""
    given = settings or Settings.load()
    connection = await connect(await resolve_url(given), given)
    try:
        with translate_alembic_errors():
            return await _revision(connection)
    except SchemaOutOfDate:
        return None
    finally:
        await connection.close(timeout=given.connect_timeout.total_seconds())


async def _revision(connection: DriverConnection) -> str | None:
    found: str | None = await connection.fetchval(f"SELECT version_num FROM {SCHEMA}.{VERSION_TABLE}")
    return found


def history() -> tuple[Revision, ...]:
    """Lists the revisions there are, oldest first; asks no database."""
    scripts = list(ScriptDirectory.from_config(_config()).walk_revisions())
    return tuple(
        Revision(script.revision, str(script.down_revision) if script.down_revision else None, script.doc)
        for script in reversed(scripts)
    )


def sql(revisions: str = "head", *, down: bool = False, drop_data: bool = False) -> str:
    """Renders migrations as SQL for psql; asks no database. It blocks for some tens of milliseconds.

    Args:
        revisions: a revision to go up to from nothing, or "from:to".
        down: True renders the way down, which needs "from:to".
        drop_data: True renders a way down that does not refuse tables with rows.

    Raises:
        ConfigurationError: there is no such revision.
    """
    rendered = io.StringIO()
    config = _config(drop_data=drop_data, output=rendered)
    config.attributes["command"] = "downgrade" if down else "upgrade"
    if not _ALEMBIC_IN_THIS_PROCESS.acquire(timeout=_RENDER_WAIT_SECONDS):
        raise DatabaseUnavailable("another migration runs in this process: wait for it to end")
    try:
        with translate_alembic_errors():
            (command.downgrade if down else command.upgrade)(config, revisions, sql=True)
    finally:
        _ALEMBIC_IN_THIS_PROCESS.release()
    return rendered.getvalue()


def _config(*, drop_data: bool = False, output: io.StringIO | None = None) -> Config:
    config = Config(
        output_buffer=output, stdout=io.StringIO(), cmd_opts=Namespace(x=["drop-data=yes"] if drop_data else [])
    )
    config.set_main_option("script_location", str(_revisions_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _revisions_folder() -> Path:
    """The repository's own folder when run from it: a copy in the package would be stale there."""
    here = Path(__file__).resolve().parent
    repository = here.parents[2]
    return repository / "alembic" if (repository / "alembic.ini").is_file() else here / "alembic"


async def _run(
    on_connection: OnConnection, name: str, work: Callable[[Config], object], *, drop_data: bool = False
) -> None:
    """Runs one alembic command, again where a lock was not free in time: each revision is a transaction of its own."""
    # A blocking wait would stop the loop that the other migration may run in.
    while not _ALEMBIC_IN_THIS_PROCESS.acquire(blocking=False):  # noqa: ASYNC110  # held across threads and loops
        await asyncio.sleep(0.05)
    try:
        for attempt in range(1, _RETRIES_MAX + 1):
            config = _config(drop_data=drop_data)

            def in_environment(connection: Connection, config: Config = config) -> None:
                config.attributes |= {"connection": connection, "command": name}
                work(config)

            try:
                with translate_alembic_errors():
                    await on_connection(in_environment)
            except DatabaseUnavailable as error:
                if error.sqlstate not in ("55P03", "40P01") or attempt == _RETRIES_MAX:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1.0) * 2 ** (attempt - 1))  # noqa: S311
            else:
                return
    finally:
        _ALEMBIC_IN_THIS_PROCESS.release()
