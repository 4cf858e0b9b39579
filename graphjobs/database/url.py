"""Parse the URL of the database as libpq does: hosts, parameters, environment and service file; no I/O but that file.

`docs/configuration.md` has the table of all parameters of PostgreSQL 18; a test compares it with this module.
"""

import difflib
import getpass
import os
import pwd
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from pydantic import SecretStr
from typing_extensions import override

from graphjobs.database.libpq_files import read_service
from graphjobs.errors import ConfigurationError

_FIELD: Final = "GRAPHJOBS_DATABASE_URL is invalid"
_PORT: Final = 5432
_DEFAULT_HOSTS: Final = ("/run/postgresql", "/var/run/postgresql", "/tmp", "/private/tmp", "localhost")  # noqa: S108
_OFF: Final = ("", "0", "false", "off", "no")
_TLS_VERSIONS: Final = ("", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")


@dataclass(frozen=True, slots=True)
class _Parameter:
    """One parameter: its environment variable, and the only values that are taken.

    Attributes:
        env: the environment variable of libpq that stands in for it.
        values: the values; None means any.
        number: whether it is a whole number.
        reason: why other values are refused.
    """

    env: str | None = None
    values: tuple[str, ...] | None = None
    number: bool = False
    reason: str = ""


_NO_DRIVER: Final = "the driver does not support it"

PARAMETERS: Final[Mapping[str, _Parameter]] = {
    "host": _Parameter("PGHOST"),
    "hostaddr": _Parameter("PGHOSTADDR"),
    "port": _Parameter("PGPORT"),
    "dbname": _Parameter("PGDATABASE"),
    "user": _Parameter("PGUSER"),
    "password": _Parameter("PGPASSWORD"),
    "passfile": _Parameter("PGPASSFILE"),
    "require_auth": _Parameter("PGREQUIREAUTH"),
    "channel_binding": _Parameter("PGCHANNELBINDING", ("disable", "prefer", "require")),
    "connect_timeout": _Parameter("PGCONNECT_TIMEOUT", number=True),
    "client_encoding": _Parameter("PGCLIENTENCODING"),
    "options": _Parameter("PGOPTIONS"),
    "application_name": _Parameter("PGAPPNAME"),
    "fallback_application_name": _Parameter(),
    "keepalives": _Parameter(number=True),
    "keepalives_idle": _Parameter(number=True),
    "keepalives_interval": _Parameter(number=True),
    "keepalives_count": _Parameter(number=True),
    "tcp_user_timeout": _Parameter(number=True),
    "replication": _Parameter(None, _OFF, reason="graphjobs reads no replication stream"),
    "gssencmode": _Parameter("PGGSSENCMODE", ("disable", "prefer"), reason=_NO_DRIVER),
    "sslmode": _Parameter("PGSSLMODE", ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")),
    "requiressl": _Parameter("PGREQUIRESSL", ("0", "1")),
    "sslnegotiation": _Parameter("PGSSLNEGOTIATION", ("postgres", "direct")),
    "sslcompression": _Parameter("PGSSLCOMPRESSION", ("0", "1")),
    "sslcert": _Parameter("PGSSLCERT"),
    "sslkey": _Parameter("PGSSLKEY"),
    "sslkeylogfile": _Parameter(),
    "sslpassword": _Parameter(),
    "sslcertmode": _Parameter("PGSSLCERTMODE", ("disable", "allow"), reason=_NO_DRIVER),
    "sslrootcert": _Parameter("PGSSLROOTCERT"),
    "sslcrl": _Parameter("PGSSLCRL"),
    "sslcrldir": _Parameter("PGSSLCRLDIR"),
    "sslsni": _Parameter("PGSSLSNI", ("1",), reason=_NO_DRIVER),
    "requirepeer": _Parameter("PGREQUIREPEER"),
    "ssl_min_protocol_version": _Parameter("PGSSLMINPROTOCOLVERSION", _TLS_VERSIONS),
    "ssl_max_protocol_version": _Parameter("PGSSLMAXPROTOCOLVERSION", _TLS_VERSIONS),
    "min_protocol_version": _Parameter("PGMINPROTOCOLVERSION", ("", "3.0"), reason="the driver speaks protocol 3.0"),
    "max_protocol_version": _Parameter("PGMAXPROTOCOLVERSION", ("", "3.0", "3.2", "latest")),
    "krbsrvname": _Parameter("PGKRBSRVNAME"),
    "gsslib": _Parameter("PGGSSLIB", ("gssapi", "sspi")),
    "gssdelegation": _Parameter("PGGSSDELEGATION", ("0",), reason=_NO_DRIVER),
    "scram_client_key": _Parameter(None, ("",), reason="the driver needs the password"),
    "scram_server_key": _Parameter(None, ("",), reason="the driver needs the password"),
    "service": _Parameter("PGSERVICE"),
    "target_session_attrs": _Parameter(
        "PGTARGETSESSIONATTRS", ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
    ),
    "load_balance_hosts": _Parameter("PGLOADBALANCEHOSTS", ("disable", "random")),
    "oauth_issuer": _Parameter(None, ("",), reason=_NO_DRIVER),
    "oauth_client_id": _Parameter(None, ("",), reason=_NO_DRIVER),
    "oauth_client_secret": _Parameter(None, ("",), reason=_NO_DRIVER),
    "oauth_scope": _Parameter(None, ("",), reason=_NO_DRIVER),
}
"""All parameters of libpq 18, in the order of its manual."""


class Parameters(dict[str, str]):
    """Parameters by name. The repr shows no value: pytest and error trackers print the local variables of frames."""

    @override
    def __repr__(self) -> str:
        return f"Parameters({', '.join(self)})"


@dataclass(frozen=True, slots=True)
class Host:
    """One host of a URL.

    Attributes:
        name: a name, an address, or the folder of a Unix socket; a certificate is compared with it.
        address: the address to connect to instead of the one of the name (`hostaddr`), or None.
        port: the port, also part of the name of a socket.
    """

    name: str
    address: str | None
    port: int

    @property
    def socket_path(self) -> str | None:
        """The path of the Unix socket; None for TCP."""
        if self.address or not self.name.startswith(("/", "@")):
            return None
        path = f"{self.name}/.s.PGSQL.{self.port}"
        return f"\0{path[1:]}" if path.startswith("@") else path


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """A parsed URL. Its repr shows hosts and database, never the user, the password or a parameter.

    Attributes:
        hosts: the hosts in their order; at least one.
        user: the role.
        database: the database.
        parameters: the parameters of libpq by name, without the five above.
        target: which servers are wanted, `target_session_attrs`.
    """

    hosts: tuple[Host, ...]
    user: str = field(repr=False)
    database: str
    parameters: Parameters
    target: str

    @property
    def location(self) -> str:
        """Hosts, ports and database for an error text."""
        if "@" in f"{self.database}{''.join(host.name.lstrip('@') for host in self.hosts)}":
            # A password with an unescaped character: the rest of it would be shown as a host or a database.
            return "the configured address"
        if all(host.socket_path for host in self.hosts):
            return f"a local socket/{self.database}"
        hosts = ",".join(
            f"[{host.name}]:{host.port}" if ":" in host.name else f"{host.name}:{host.port}" for host in self.hosts
        )
        return f"{hosts}/{self.database}"

    @override
    def __repr__(self) -> str:
        return f"ServerUrl({self.location!r})"


def parse_url(url: str | SecretStr) -> ServerUrl:
    """Parse a URL; what it leaves out comes from the service file, then from the environment variables of libpq.

    Raises:
        ConfigurationError: the URL is invalid; the message names the parameter and never repeats a value.
    """
    try:
        return _parse(url.get_secret_value() if isinstance(url, SecretStr) else url)
    except ConfigurationError as error:
        failure = error
    raise failure.with_traceback(None)  # its frames hold the password


def with_database(url: str, name: str) -> str:
    """Return a URL with another database; all else stays as it is written.

    Raises:
        ConfigurationError: the URL is invalid; the message names the parameter and never repeats a value.
    """
    parse_url(url)
    scheme, _, rest = url.partition("://")
    credentials = _CREDENTIALS.match(rest)
    start = credentials.end() if credentials else 0
    authority, _, query = _split(rest[start:])
    pairs = [pair for pair in query.split("&") if pair and _decode(pair.partition("=")[0]) != "dbname"]
    return f"{scheme}://{rest[:start]}{authority}/{quote(name, safe='')}{'?' if pairs else ''}{'&'.join(pairs)}"


def _parse(text: str) -> ServerUrl:
    known = Parameters(_parse_text(text))
    for name, value in _service_values(known).items():
        known.setdefault(name, value)
    for name, parameter in PARAMETERS.items():
        if parameter.env and os.environ.get(parameter.env):
            known.setdefault(name, os.environ[parameter.env])
    for name, value in known.items():
        _check_value(name, value)
    if known.get("sslnegotiation") == "direct" and known.get("sslmode", "prefer") in ("disable", "allow", "prefer"):
        raise ConfigurationError(f"{_FIELD}: sslnegotiation=direct needs sslmode=require or a stricter one")
    if known.get("sslrootcert") == "system" and known.setdefault("sslmode", "verify-full") != "verify-full":
        raise ConfigurationError(f"{_FIELD}: sslrootcert=system needs sslmode=verify-full")
    if known.get("requiressl") == "1":
        known.setdefault("sslmode", "require")
    has_hosts = bool(known.get("host") or known.get("hostaddr"))
    hosts = _hosts(known.pop("host", ""), known.pop("hostaddr", ""), known.pop("port", ""))
    user = known.pop("user", "") or _os_user()
    target = known.pop("target_session_attrs", "read-write" if has_hosts and len(hosts) > 1 else "any")
    return ServerUrl(hosts, user, known.pop("dbname", "") or user, known, target)


def _parse_text(text: str) -> dict[str, str]:
    """Return the parameters of a URL by libpq's grammar: the first of "@" and "/" ends the user and the password."""
    rest = text.partition("://")[2]
    values: dict[str, str] = {}
    credentials = _CREDENTIALS.match(rest)
    if credentials:
        rest = rest[credentials.end() :]
        values["user"], _, values["password"] = map(_decode, credentials[1].partition(":"))
    authority, path, query = _split(rest)
    hosts, ports = [], []
    for part in authority.split(","):
        match = re.fullmatch(r"(\[[^\]/?,]+\]|[^:\[\]]*)(?::([^:]*))?", part)
        if match is None:
            raise ConfigurationError(f"{_FIELD}: a host is not a name, an address or an IPv6 address in brackets")
        hosts.append(_decode(match[1].strip("[]")))
        ports.append(_decode(match[2] or ""))
    values |= {"host": ",".join(hosts) if any(hosts) else "", "port": ",".join(ports) if any(ports) else ""}
    values["dbname"] = _decode(path)
    # libpq takes one "&" at the end.
    for pair in query.removesuffix("&").split("&") if query else ():
        name, separator, value = pair.partition("=")
        if not separator:
            raise ConfigurationError(f'{_FIELD}: a parameter has no "="')
        name = _decode(name)
        if (name, value.strip(_BLANKS)) == ("ssl", "true"):  # as JDBC writes it; libpq takes it too
            name, value = "sslmode", "require"
        values[_known(name)] = _decode(value)
    return {name: value for name, value in values.items() if value}


_METHODS: Final = ("password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none")
_BLANKS: Final = " \t\n\v\f\r"
_CREDENTIALS: Final = re.compile(r"([^@/]*)@")


def _split(rest: str) -> tuple[str, str, str]:
    """Split what follows the credentials into hosts, database and parameters."""
    authority, _, query = rest.partition("?")
    hosts, _, database = authority.partition("/")
    return hosts, database, query


def _decode(text: str) -> str:
    """Decode a part of a URL, without blanks around it, such as the newline at the end of a file with a secret."""
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00|\0", text):
        raise ConfigurationError(f'{_FIELD}: a "%" must be followed by two hexadecimal digits, and not by 00')
    return unquote(text.strip(_BLANKS), errors="surrogateescape")


def _known(name: str) -> str:
    if name in PARAMETERS:
        return name
    if not re.fullmatch(r"[A-Za-z_.]{1,63}", name):
        raise ConfigurationError(f"{_FIELD}: it has a parameter that libpq does not know")
    near = difflib.get_close_matches(name.lower(), PARAMETERS, n=1)
    advice = f"did you mean {near[0]}?" if near else "a setting of the server goes into options, as -c name=value"
    raise ConfigurationError(f"{_FIELD}: libpq knows no parameter {name}; {advice}")


def _check_value(name: str, value: str) -> None:
    parameter = PARAMETERS[name]
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{_FIELD}: {name} must be UTF-8") from None
    if name == "require_auth":
        _check_methods(value)
    if parameter.number and not re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", value):
        raise ConfigurationError(f"{_FIELD}: {name} must be a whole number")
    if parameter.values is not None and value not in parameter.values:
        allowed = " or ".join(value for value in parameter.values if value) or "empty"
        because = f": {parameter.reason}" if parameter.reason else ""
        raise ConfigurationError(f"{_FIELD}: {name} must be {allowed}{because}")


def _check_methods(value: str) -> None:
    """Check the methods of `require_auth`. One that is misspelt, or mixed with "!", would allow what it should not."""
    methods = [method.strip() for method in value.split(",")]
    names = [method.removeprefix("!") for method in methods]
    if not set(names) <= set(_METHODS) or len({len(m) - len(n) for m, n in zip(methods, names, strict=True)}) > 1:
        raise ConfigurationError(
            f'{_FIELD}: require_auth must be methods separated by commas, all or none with a "!": {", ".join(_METHODS)}'
        )


def _service_values(known: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of the service; the first of equal names counts."""
    service = known.get("service") or os.environ.get("PGSERVICE")
    return {_known(name): value for name, value in reversed(read_service(service))} if service else {}


def _hosts(names: str, addresses: str, ports: str) -> tuple[Host, ...]:
    split_names = names.split(",") if names else []
    split_addresses = addresses.split(",") if addresses else []
    if split_names and split_addresses and len(split_names) != len(split_addresses):
        raise ConfigurationError(f"{_FIELD}: host and hostaddr must name as many hosts")
    count = max(len(split_names), len(split_addresses))
    if count == 0:
        split_names, count = list(_DEFAULT_HOSTS), len(_DEFAULT_HOSTS)
    split_names = split_names or [""] * count
    split_addresses = split_addresses or [""] * count
    split_ports = ports.split(",") if ports else [""]
    if len(split_ports) == 1:
        split_ports *= count
    if len(split_ports) != count:
        raise ConfigurationError(f"{_FIELD}: port must be one number, or one for each host")
    return tuple(
        Host(name or address or _DEFAULT_HOSTS[-1], address or None, _port(port))
        for name, address, port in zip(split_names, split_addresses, split_ports, strict=True)
    )


def _port(text: str) -> int:
    if not text:
        return _PORT
    if not re.fullmatch(r"\s*[0-9]{1,5}\s*", text) or not 1 <= int(text) <= 65535:
        raise ConfigurationError(f"{_FIELD}: a port must be a number from 1 to 65535")
    return int(text)


def _os_user() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name  # as libpq does, whatever USER says
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        raise ConfigurationError(f"{_FIELD}: it must name a user, since this process has no user name") from None
