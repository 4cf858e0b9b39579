"""The migration commands: upgrade, downgrade, check, current, history and SQL, from a running event loop.

Migrations hold an advisory lock of the database, so that concurrent ones both succeed, and have lock time-outs, so
that a migration behind a long reader does not block others. The revisions are in the folder `alembic/`, which the
wheel contains.
"""

import asyncio
import io
import random
import threading
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import alembic
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from graphjobs.database.engine import connect, resolve_url
from graphjobs.database.migrations.alembic_env import (
    DriverConnection,
    run_locked,
    translate_alembic_errors,
)
from graphjobs.database.schema import SCHEMA, VERSION_TABLE
from graphjobs.errors import DatabaseUnavailable, GraphJobsError, SchemaOutOfDate
from graphjobs.settings import Settings

T = TypeVar("T")

_RENDER_WAIT_SECONDS: Final = 10
_RETRIES_MAX: Final = 5
_ALEMBIC_IN_THIS_PROCESS: Final = threading.Lock()

_INVALID_INDEXES: Final = (
    "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    f"WHERE NOT i.indisvalid AND c.relnamespace = to_regnamespace('{SCHEMA}')"
)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of the schema.

    Attributes:
        revision: the id, such as "014_graph_jobs".
        follows: the id of the previous revision, or None.
        summary: the first line of the revision's docstring.
    """

    revision: str
    follows: str | None
    summary: str


async def upgrade(settings: Settings | None = None, *, revision: str = "head") -> str | None:
    """Upgrade the schema to a revision. Of two concurrent upgrades the later one has nothing left to do.

    Args:
        settings: the database; None means the settings of the environment.
        revision: the target; "head" is the newest revision.

    Returns:
        The revision of the database afterwards, read on a separate connection.

    Raises:
        DatabaseUnavailable: the server is unreachable, another migration takes longer than two minutes, or a lock was
            not free in five attempts; the failed revision is rolled back.
        ConfigurationError: the revision does not exist, or the role lacks a privilege.
        GraphJobsError: an interrupted build left an invalid index.
    """

    async def read(connection: DriverConnection) -> tuple[str | None, list[str]]:
        return await _revision(connection), [row[0] for row in await connection.fetch(_INVALID_INDEXES)]

    reached, invalid = await _run(
        settings, "upgrade", lambda config: command.upgrade(config, revision), read, create_schema=True
    )
    if invalid:
        names = ", ".join(invalid)
        raise GraphJobsError(f"an interrupted build left an invalid index: {names}; drop it and upgrade again")
    return reached


async def downgrade(settings: Settings | None = None, *, revision: str, drop_data: bool = False) -> str | None:
    """Downgrade the schema to a revision; "base" removes the tables, never the schema.

    Args:
        settings: the database; None means the settings of the environment.
        revision: the target revision, or "base".
        drop_data: True drops tables that hold rows; otherwise such a downgrade is refused and changes nothing.

    Returns:
        The revision of the database afterwards, or None for "base".

    Raises:
        GraphJobsError: tables hold rows; the message says how many, and how to keep them.
    """
    return await _run(
        settings, "downgrade", lambda config: command.downgrade(config, revision), _revision, drop_data=drop_data
    )


async def check(settings: Settings | None = None) -> None:
    """Compare the database with the declared tables.

    Raises:
        SchemaOutOfDate: the database is not at the newest revision.
        GraphJobsError: the database differs from the declared tables; the message names each difference.
    """
    await _run(settings, "check", command.check, _revision)


async def current(settings: Settings | None = None) -> str | None:
    """Return the revision of a database, or None without one; take no lock."""
    settings = settings or Settings.load()
    connection = await connect(await resolve_url(settings), settings)
    try:
        with translate_alembic_errors():
            return await _revision(connection)
    except SchemaOutOfDate:
        return None
    finally:
        await connection.close(timeout=settings.connect_timeout.total_seconds())


async def _revision(connection: DriverConnection) -> str | None:
    revision: str | None = await connection.fetchval(f"SELECT version_num FROM {SCHEMA}.{VERSION_TABLE}")
    return revision


def history() -> tuple[Revision, ...]:
    """List all revisions, oldest first, without a database."""
    scripts = list(ScriptDirectory.from_config(_config()).walk_revisions())
    return tuple(
        Revision(script.revision, str(script.down_revision) if script.down_revision else None, script.doc)
        for script in reversed(scripts)
    )


def sql(revisions: str = "head", *, down: bool = False, drop_data: bool = False) -> str:
    """Render migrations as SQL for psql, without a database. Blocks for some tens of milliseconds.

    Args:
        revisions: the target of an upgrade from nothing, or "from:to".
        down: True renders a downgrade, which needs "from:to".
        drop_data: True renders a downgrade that does not refuse tables with rows.

    Raises:
        ConfigurationError: the revision does not exist.
        DatabaseUnavailable: another migration runs in this process for 10 seconds.
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
    """Return the repository's own folder when run from it, where a copy in the package would be stale."""
    here = Path(__file__).resolve().parent
    repository = here.parents[2]
    return repository / "alembic" if (repository / "alembic.ini").is_file() else here / "alembic"


async def _run(
    settings: Settings | None,
    name: str,
    work: Callable[[Config], object],
    read: Callable[[DriverConnection], Awaitable[T]],
    *,
    create_schema: bool = False,
    drop_data: bool = False,
) -> T:
    """Run one alembic command; repeat it if a lock was not free in time, since each revision is a transaction."""
    # A blocking wait would stop the event loop, in which the other migration may run.
    while not _ALEMBIC_IN_THIS_PROCESS.acquire(blocking=False):  # noqa: ASYNC110  # held across threads and loops
        await asyncio.sleep(0.05)
    try:
        attempt = 1
        while True:
            config = _config(drop_data=drop_data)

            def in_environment(connection: Connection, config: Config = config) -> None:
                config.attributes |= {"connection": connection, "command": name}
                with _kept_alembic_proxies():
                    work(config)

            try:
                return await run_locked(settings, in_environment, read, create_schema=create_schema)
            except DatabaseUnavailable as error:
                if error.sqlstate not in ("55P03", "40P01") or attempt == _RETRIES_MAX:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * 2 ** (attempt - 1))  # noqa: S311
            attempt += 1
    finally:
        _ALEMBIC_IN_THIS_PROCESS.release()


@contextmanager
def _kept_alembic_proxies() -> Iterator[None]:
    """Run alembic inside the environment or a revision of a host: alembic has one global environment, not a stack."""
    kept = [proxy for module in (alembic.context, alembic.op) if (proxy := getattr(module, "_proxy", None)) is not None]
    try:
        yield
    finally:
        for proxy in kept:
            proxy._install_proxy()  # noqa: SLF001  # alembic has no public way to restore it
