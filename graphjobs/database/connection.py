"""Open one connection of the driver to the hosts of a URL, in order, each with its own time-out, as libpq does."""

import asyncio
import logging
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import asyncpg
from typing_extensions import override

from graphjobs.database.error_translation import translate_error
from graphjobs.database.libpq_files import find_password, home_file
from graphjobs.database.network import Address, Network, addresses_of
from graphjobs.database.tls import HandshakeEndedError, NoTlsError, tls_context, tls_failure
from graphjobs.database.url import Host, ServerUrl
from graphjobs.errors import ConfigurationError, DatabaseUnavailable, GraphJobsError, SchemaOutOfDate

DriverConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_READ_STATE: Final = (
    "SELECT pg_catalog.pg_is_in_recovery(),"
    " pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'on'"
)
_WANTED: Final[Mapping[str, Callable[[bool, bool], bool]]] = {
    # (in recovery, read-only) of a server that is wanted
    "read-write": lambda standby, read_only: not standby and not read_only,
    "read-only": lambda standby, read_only: standby or read_only,
    "primary": lambda standby, _read_only: not standby,
    "standby": lambda standby, _read_only: standby,
}

_log = logging.getLogger(__name__)
_warned: Final[set[tuple[str, str]]] = set()


class GracefulConnection(asyncpg.Connection):
    """A connection of the driver that knows its age, and that finishes a close in progress.

    A close first cancels the running statement at the server. SQLAlchemy, cancelled a second time while it waits for
    the close, terminates the connection; the statement would then continue at the server and hold its locks.

    Attributes:
        opened_at: when it was opened, by the monotonic clock.
    """

    _closing = False

    def __init__(
        self, protocol: Any, transport: Any, network: Network, _address: Any, config: Any, params: Any
    ) -> None:
        # From here on the real loop, by which the driver looks up its tasks. Cancel requests go to the same address;
        # the certificate names the host instead, so their TLS checks only who signed it.
        for_cancel = params._replace(ssl=tls_context(network.parameters, "verify-ca")) if _by_name(network) else params
        super().__init__(protocol, transport, network.loop, network.address.for_driver, config, for_cancel)
        self.opened_at = time.monotonic()

    @override
    async def close(self, *, timeout: float | None = None) -> None:
        self._closing = True
        try:
            await super().close(timeout=timeout)
        finally:
            self._closing = False

    @override
    def terminate(self) -> None:
        if not self._closing:
            super().terminate()


def _by_name(network: Network) -> bool:
    return network.tls is not None and network.tls.check_hostname


async def open_connection(url: ServerUrl, seconds: float, arguments: Mapping[str, Any]) -> DriverConnection:
    """Connect to the first host that answers and is wanted.

    Args:
        url: the hosts, and which servers are wanted.
        seconds: the time-out of each address, unless the URL has one.
        arguments: arguments of `asyncpg.connect`.

    Raises:
        DatabaseUnavailable: no server answers, or none is wanted.
        ConfigurationError: a retry cannot help. Further hosts are not tried, as with libpq.
    """
    limit = int(url.parameters.get("connect_timeout", 0))
    seconds = float(limit) if limit > 0 else seconds
    failure: DatabaseUnavailable | None = None
    for target in ("standby", "any") if url.target == "prefer-standby" else (url.target,):
        for host in _in_order(url, list(url.hosts)):
            try:
                async with asyncio.timeout(seconds):
                    addresses = await _resolve(host)
            except (OSError, TimeoutError, UnicodeError):
                failure = _no_answer(url)
                continue
            for address in _in_order(url, addresses):
                try:
                    async with asyncio.timeout(seconds):
                        connection = await _connect(url, host, address, arguments)
                        if await _is_wanted(connection, target):
                            return connection
                    failure = DatabaseUnavailable(
                        f"no server at {url.location} is {url.target}: its target_session_attrs asks for one; try again"
                    )
                except TimeoutError:
                    failure = _no_answer(url)
                except DatabaseUnavailable as error:
                    failure = error
    raise failure or _no_answer(url)


def _in_order(url: ServerUrl, items: list[Any]) -> list[Any]:
    if url.parameters.get("load_balance_hosts") == "random":
        random.shuffle(items)
    return items


async def _resolve(host: Host) -> list[Address]:
    path = host.socket_path
    if path is not None:
        return [Address(socket.AF_UNIX, path, host.name)]
    found = await addresses_of(host.address or host.name, host.port)
    return [Address(address.family, address.sockaddr, host.name) for address in found]


async def _is_wanted(connection: DriverConnection, target: str) -> bool:
    """Ask the server for its state, and end the connection if another state is wanted."""
    if target == "any":
        return True
    wanted = False
    try:
        # A transaction: a pooler may else use two servers for one statement.
        async with connection.transaction():
            (standby, read_only), *_ = await connection.fetch(_READ_STATE)
        wanted = _WANTED[target](standby, read_only)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        raise DatabaseUnavailable("the server ended the connection at its first statement; try again") from None
    finally:
        if not wanted:
            connection.terminate()
    return wanted


async def _connect(url: ServerUrl, host: Host, address: Address, arguments: Mapping[str, Any]) -> DriverConnection:
    """Connect to one address: in TLS, in plain text, or in one after the other, as `sslmode` says."""
    mode = url.parameters.get("sslmode", "prefer")
    ways = {"disable": [False], "allow": [False, True], "prefer": [True, False]}.get(mode, [True])
    if address.family == socket.AF_UNIX:
        ways = [False]
    if url.parameters.get("channel_binding") == "require":
        _warn_once(url, "channel_binding=require is not checked by the driver: use sslmode=verify-full")
        ways = [in_tls for in_tls in ways if in_tls]
        if not ways:
            raise ConfigurationError("channel_binding=require needs TLS: set sslmode=verify-full")
    for in_tls in ways:
        context = tls_context(url.parameters, mode) if in_tls else None
        network = Network(
            asyncio.get_running_loop(), address, url.parameters, context, partial(_may_ask, url, address, in_tls)
        )
        try:
            connection = await _open(url, host, network, arguments)
        except asyncio.CancelledError as cancelled:
            raise cancelled.with_traceback(None)  # noqa: B904  # the frames of the driver hold the password
        except Exception as error:  # translated or raised again
            if in_tls is not ways[-1] and isinstance(error, _OTHER_WAY) and not isinstance(error, _PASSWORD):
                continue
            failure = _failure(error, url, network)
            if failure is None:
                raise
        else:
            if not in_tls and not address.is_local and "sslmode" not in url.parameters:
                _warn_once(url, "the connection is not encrypted: the server has no TLS; set sslmode in the URL")
            return connection
        raise failure
    raise AssertionError("every way returns or raises")  # pragma: no cover


_OTHER_WAY: Final = (NoTlsError, HandshakeEndedError, ssl.SSLError, asyncpg.InvalidAuthorizationSpecificationError)
"""After these errors libpq tries the other of TLS and plain text."""
_PASSWORD: Final = asyncpg.InvalidPasswordError


async def _open(url: ServerUrl, host: Host, network: Network, arguments: Mapping[str, Any]) -> DriverConnection:
    libpq = url.parameters
    password = libpq.get("password")
    if password is None:
        file = libpq.get("passfile") or home_file(".pgpass")
        password = await asyncio.to_thread(find_password, file, host.name, host.port, url.database, url.user)
    connection: DriverConnection = await asyncpg.connect(  # type: ignore[call-overload]
        # The network connects, wherever these lead.
        host="/" if network.address.family == socket.AF_UNIX else host.name,
        port=host.port,
        user=url.user,
        database=url.database,
        # A function, so that the frames above the driver's do not hold the password.
        password=None if password is None else lambda: password,
        # None exists: the driver's own look into the file takes an escape as a part of the password.
        passfile=Path(os.devnull, "none"),
        ssl=network.tls or False,
        direct_tls=network.tls is not None,
        krbsrvname=libpq.get("krbsrvname"),
        gsslib=libpq.get("gsslib"),
        target_session_attrs="any",
        loop=network,
        timeout=None,
        connection_class=GracefulConnection,
        **arguments,
    )
    return connection


def _may_ask(url: ServerUrl, address: Address, in_tls: bool, method: str) -> bool:
    """Return whether the server may authenticate by a method (`require_auth`), and a password may go in plain text."""
    methods = [name.strip() for name in url.parameters.get("require_auth", "").split(",") if name.strip()]
    if methods:
        forbidden = {name[1:] for name in methods if name.startswith("!")}
        if method in forbidden or (not forbidden and method not in methods):
            return False
    if url.parameters.get("channel_binding") == "require":
        return method == "scram-sha-256"
    if method != "password" or in_tls or address.is_local:
        return True
    # libpq sends it. A URL with sslmode=disable or require_auth=password has decided so.
    return url.parameters.get("sslmode") == "disable" or "password" in methods


def _failure(error: Exception, url: ServerUrl, network: Network) -> GraphJobsError | None:
    where = url.location
    if network.refused is not None:
        return ConfigurationError(
            f"the server at {where} asks for authentication by {network.refused}, which is not allowed: "
            "use TLS and scram-sha-256, or name the method in require_auth"
        )
    failure = tls_failure(error, where)
    if failure is not None:
        return failure
    unknown = re.search(r"unsupported startup parameter(?:[^:]*): ?(\w+)", str(error))
    if isinstance(error, asyncpg.PostgresError) and unknown:
        return ConfigurationError(
            f"a pooler at {where} refuses the setting {unknown[1]} of a connection: set GRAPHJOBS_POOLER=transaction, "
            "which also works behind a pooler in session mode, or connect to the server itself",
            sqlstate=error.sqlstate,
        )
    match error:
        case OSError() | TimeoutError() | asyncpg.PostgresConnectionError():
            return _no_answer(url)
        case asyncpg.InterfaceError() | ValueError() | OverflowError():
            return ConfigurationError("GRAPHJOBS_DATABASE_URL is invalid: it must be a URL that libpq accepts")
    failure = translate_error(error, ambiguous=False)
    if failure is None or isinstance(failure, ConfigurationError | DatabaseUnavailable | SchemaOutOfDate):
        return failure
    # No call is at fault yet, so it is neither an invalid job nor an error without advice.
    return ConfigurationError(
        f"the server at {where} refuses the connection (SQLSTATE {failure.sqlstate}): check the options of "
        "GRAPHJOBS_DATABASE_URL, and the server's log",
        sqlstate=failure.sqlstate,
    )


def _no_answer(url: ServerUrl) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"no PostgreSQL answers at {url.location}: start it, or check the URL")


def _warn_once(url: ServerUrl, text: str) -> None:
    if (url.location, text) not in _warned:
        _warned.add((url.location, text))
        _log.warning("%s: %s", url.location, text)
