"""Identify the server process behind a connection, and watch whether it stopped waiting for a standby."""

from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import Select, column, func, select, table

from graphjobs.errors import UNREPLICATED, Backend, OutcomeUnknown

_GET_BACKEND: Final[Select[Any]] = (
    select(
        column("pid"),
        column("backend_start"),
        func.pg_postmaster_start_time(),
        func.pg_is_in_recovery(),
    )
    .select_from(table("pg_stat_activity", schema="pg_catalog"))
    .where(column("pid") == func.pg_backend_pid())
)
_GET_BACKEND_SQL: Final = str(_GET_BACKEND)

_WAIT_FOR_STANDBY: Final = "SyncRepWaitForLSN"
"""The function of the server that warns where a commit stopped waiting for a standby; its texts are translated."""

DriverConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class BackendState:
    """The state of the backend of one connection.

    Attributes:
        backend: the backend that answers on this connection, or None where that is not certain.
    """

    def __init__(self) -> None:
        self.backend: Backend | None = None
        self._is_identified = False
        self._is_unreplicated = False

    async def identify(self, driver: DriverConnection) -> None:
        """Ask the server once who answers. A pooler reports a process id of its own, and may change the backend."""
        if self._is_identified:
            return
        row = await driver.fetchrow(_GET_BACKEND_SQL)
        self._is_identified = True
        if row is None:
            return
        pid, started_at, server_started_at, in_recovery = row
        if pid == driver.get_server_pid() and started_at is not None and not in_recovery:
            self.backend = Backend(pid, started_at, server_started_at)

    def require_replicated(self) -> None:
        """Check that the commits since the last call were confirmed by a synchronous standby, where there is one.

        Raises:
            OutcomeUnknown: the server stopped waiting for the standby.
        """
        is_unreplicated, self._is_unreplicated = self._is_unreplicated, False
        if is_unreplicated:
            raise OutcomeUnknown(UNREPLICATED)

    def on_log(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        """Note a warning of the server. The driver calls this before it returns the answer."""
        if getattr(message, "server_source_function", None) == _WAIT_FOR_STANDBY:
            self._is_unreplicated = True


_STATES: WeakKeyDictionary[DriverConnection, BackendState] = WeakKeyDictionary()


def backend_state(driver: DriverConnection) -> BackendState:
    """Return the state of the backend of a connection, and watch its warnings from the first call on."""
    state = _STATES.get(driver)
    if state is None:
        state = _STATES[driver] = BackendState()
        driver.add_log_listener(state.on_log)
    return state
