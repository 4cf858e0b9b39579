"""The event loop as the driver gets it: it opens the sockets of one address, as libpq would.

The driver opens connections through `loop.create_connection`. This module answers that call: it sets keepalive before
the first byte, asks for TLS itself, so that a refusal is known as one, and watches how the server authenticates.
"""

import asyncio
import ipaddress
import pwd
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from typing_extensions import override

from graphjobs.database.tls import HandshakeEndedError, NoTlsError
from graphjobs.database.url import Parameters
from graphjobs.errors import ConfigurationError

_TLS_REQUEST: Final = struct.pack("!ii", 8, 80877103)
_AUTHENTICATION: Final = {0: "none", 3: "password", 5: "md5", 7: "gss", 9: "sspi", 10: "scram-sha-256"}
"""The requests of the server that name a method; 0 is that it needs none, or no more."""
_HEADER: Final = struct.Struct("!ci")
_LOGIN_BYTES_MAX: Final = 1 << 16

KEEPALIVE_SECONDS: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""A silent network is noticed after a minute; the defaults of most systems are two hours."""
_KEEPALIVE_OPTIONS: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
}


@dataclass(frozen=True, slots=True)
class Address:
    """The target of one connection.

    Attributes:
        family: the family of the socket.
        sockaddr: the path of a Unix socket, or what `getaddrinfo` returned.
        name: the host as the URL names it, for the comparison with a certificate.
    """

    family: int
    sockaddr: Any
    name: str

    @property
    def for_driver(self) -> Any:
        """The address as the driver writes it: a path, or a host and a port."""
        return self.sockaddr if self.family == socket.AF_UNIX else (self.sockaddr[0], self.sockaddr[1])

    @property
    def is_local(self) -> bool:
        """True if no network carries the connection."""
        if self.family == socket.AF_UNIX:
            return True
        return ipaddress.ip_address(str(self.sockaddr[0]).partition("%")[0]).is_loopback


@dataclass
class Network:
    """An event loop for the driver, and the address to which it connects; everything else is the real loop's.

    Attributes:
        loop: the real loop.
        address: where to connect.
        parameters: the parameters of libpq.
        tls: the context, or None for plain text.
        allowed: whether the server may authenticate by a method.
        refused: the method that it asked for and that is not allowed.
    """

    loop: asyncio.AbstractEventLoop
    address: Address
    parameters: Parameters
    tls: ssl.SSLContext | None
    allowed: Callable[[str], bool]
    refused: str | None = field(default=None, init=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    async def create_unix_connection(self, factory: Callable[[], Any], *_: Any, **__: Any) -> tuple[Any, Any]:
        """Open a connection, whatever the path that the driver names."""
        return await self.create_connection(factory)

    async def create_connection(
        self, factory: Callable[[], Any], *_: Any, ssl: ssl.SSLContext | None = None, **__: Any
    ) -> tuple[Any, Any]:
        """Open a connection to the address; login and TLS are this module's."""
        sock = await self._dial()
        try:
            if ssl is not None:
                await self._ask_for_tls(sock)
            watch = _LoginWatch(factory(), self)
            transport, _ = await self._create(lambda: watch, sock, ssl)
        except BaseException:
            sock.close()
            raise
        return transport, watch.inner

    async def _create(
        self, factory: Callable[[], Any], sock: socket.socket, context: ssl.SSLContext | None
    ) -> tuple[Any, Any]:
        if self.address.family == socket.AF_UNIX:
            return await self.loop.create_unix_connection(factory, sock=sock)
        if context is None:
            return await self.loop.create_connection(factory, sock=sock)
        try:
            return await self.loop.create_connection(factory, sock=sock, ssl=context, server_hostname=self.address.name)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise HandshakeEndedError from None

    async def _dial(self) -> socket.socket:
        sock = socket.socket(self.address.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if self.address.family != socket.AF_UNIX:
                _keep_alive(sock, self.parameters)
            await self.loop.sock_connect(sock, self.address.sockaddr)
            self._check_peer(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def _check_peer(self, sock: socket.socket) -> None:
        wanted = self.parameters.get("requirepeer")
        if not wanted or self.address.family != socket.AF_UNIX:
            return
        if not hasattr(socket, "SO_PEERCRED"):
            raise ConfigurationError("requirepeer is not supported on this system: remove it from the URL")
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        if name != wanted:
            raise ConfigurationError("the server on the Unix socket runs as another user than requirepeer names")

    async def _ask_for_tls(self, sock: socket.socket) -> None:
        if self.parameters.get("sslnegotiation") == "direct":
            return
        await self.loop.sock_sendall(sock, _TLS_REQUEST)
        # One byte: what follows it in plain text came from a man in the middle, and fails the handshake.
        answer = await self.loop.sock_recv(sock, 1)
        if answer == b"N":
            raise NoTlsError
        if answer != b"S":
            raise ConnectionError("the server gave no answer to the request for TLS")


def _keep_alive(sock: socket.socket, parameters: Mapping[str, str]) -> None:
    if parameters.get("keepalives", "1").strip() != "0":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, option in _KEEPALIVE_OPTIONS.items():
            value = int(parameters.get(name, KEEPALIVE_SECONDS[name]))
            if value > 0 and hasattr(socket, option):
                _set_option(sock, name, getattr(socket, option), value)
    milliseconds = int(parameters.get("tcp_user_timeout", 0))
    if milliseconds > 0 and hasattr(socket, "TCP_USER_TIMEOUT"):
        _set_option(sock, "tcp_user_timeout", socket.TCP_USER_TIMEOUT, milliseconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _set_option(sock: socket.socket, name: str, option: int, value: int) -> None:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        raise ConfigurationError(f"GRAPHJOBS_DATABASE_URL is invalid: {name} is too large for this system") from None


class _LoginWatch(asyncio.Protocol):
    """Reads the server's messages until the login is over, and ends it at a method that is not allowed."""

    def __init__(self, inner: asyncio.Protocol, network: Network) -> None:
        self.inner = inner
        self._network = network
        self._transport: Any = None
        self._held = b""
        self._asked = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.inner.connection_made(transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._held)
            if length <= _LOGIN_BYTES_MAX and len(self._held) < length + 1:
                return
            if kind == b"R" and length >= 8:
                (code,) = struct.unpack_from("!i", self._held, _HEADER.size)
                method = _AUTHENTICATION.get(code)
                # "No more" after another method is not "none".
                if method and not (code == 0 and self._asked) and not self._network.allowed(method):
                    self._network.refused = method
                    self._transport.abort()
                    return
                self._asked = True
            if length > _LOGIN_BYTES_MAX or kind == b"E" or (kind == b"R" and code == 0):
                held, self._held = self._held, b""
                self._transport.set_protocol(self.inner)
                self.inner.data_received(held)
                return
            message, self._held = self._held[: length + 1], self._held[length + 1 :]
            self.inner.data_received(message)

    @override
    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self.inner.pause_writing()

    @override
    def resume_writing(self) -> None:
        self.inner.resume_writing()


async def addresses_of(name: str, port: int) -> list[Address]:
    """Resolve a host name; the system's order, without repetitions."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(Address(family, sockaddr, name) for family, _, _, _, sockaddr in found))
