"""TLS with certificates made here: each failure has its own sentence, and no password goes out in clear text."""

import asyncio
import logging
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from graphjobs import ConfigurationError, DatabaseUnavailable, open_storage
from graphjobs.database import connection as connection_module
from graphjobs.database.engine import connect
from graphjobs.database.network import Address
from graphjobs.settings import Settings
from tests.faults.backend_monitor import url_of
from tests.faults.faulty_proxy import FaultProxy

PASSWORD = "correct-horse-battery"
_TLS_REQUEST = struct.pack("!ii", 8, 80877103)


class TlsProxy(FaultProxy):
    """Ends TLS in front of the test server, or has none; it can also ask for a password in clear text."""

    context: ssl.SSLContext | None = None
    asks_for_password = False
    received = b""

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            first = await from_client.readexactly(8)
            if first == _TLS_REQUEST:
                to_client.write(b"S" if self.context else b"N")
                if self.context:
                    await to_client.start_tls(self.context)
                first = await from_client.readexactly(8)
            if self.asks_for_password:
                await from_client.readexactly(struct.unpack("!i", first[:4])[0] - 8)
                to_client.write(b"R" + struct.pack("!ii", 8, 3))
                self.received = await from_client.read(1000)
                to_client.close()
                return
            from_server, to_server = await self._connect_to_server()
        except (OSError, asyncio.IncompleteReadError):
            to_client.close()
            return
        to_server.write(first)
        await asyncio.wait(
            [
                asyncio.ensure_future(self._pump(from_client, to_server, to_client, is_request=True)),
                asyncio.ensure_future(self._pump(from_server, to_client, to_server, is_request=False)),
            ]
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates of it: for localhost, for another host, and one that has expired."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes")
    for name in ("authority", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    for name, host, days in (
        ("right", "localhost", "30"),
        ("other", "elsewhere.example", "30"),
        ("old", "localhost", "-1"),
    ):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={host}")
        (folder / "san").write_text(f"subjectAltName=DNS:{host}\n")
        signing = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-extfile", "san")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing, "-days", days)
    return folder


def _server(certificates: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


@asynccontextmanager
async def _proxy(
    settings: Settings, folder: Path, context: ssl.SSLContext | None
) -> AsyncIterator[tuple[TlsProxy, str]]:
    proxy = TlsProxy(url_of(settings), folder)
    proxy.context = context
    async with proxy.running_on_tcp() as port:
        parts = urlsplit(url_of(settings))
        yield proxy, f"postgresql://{parts.username}:{PASSWORD}@localhost:{port}{parts.path}?hostaddr=127.0.0.1"


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("right", ""),
        ("right", "&sslmode=require"),
        ("right", "&sslmode=verify-full&sslrootcert={}/authority.pem&ssl_min_protocol_version=TLSv1.3"),
        ("right", "&sslmode=verify-full&sslrootcert={}/authority.pem&sslcert={}/right.pem&sslkey={}/right.key"),
        ("right", "&sslmode=verify-full&sslrootcert={}/authority.pem&sslkeylogfile={}/keys"),
        ("other", "&sslmode=verify-ca&sslrootcert={}/authority.pem"),
        ("other", "&sslmode=require"),
        (None, ""),
        (None, "&sslmode=allow"),
    ],
)
async def test_a_connection_has_the_tls_that_was_asked_for(
    shared_settings: Settings, certificates: Path, tmp_path: Path, name: str | None, query: str
) -> None:
    """Encrypted wherever the server can, and the whole data layer works through it, cancels too."""
    context = _server(certificates, name) if name else None
    async with _proxy(shared_settings, tmp_path, context) as (_, address):
        url = address + query.replace("{}", str(certificates))
        driver = await connect(url, shared_settings)
        in_tls = driver._transport.get_extra_info("ssl_object") is not None  # type: ignore[attr-defined]
        assert in_tls == (name is not None)
        with pytest.raises(TimeoutError):
            await driver.execute("SELECT pg_sleep(20)", timeout=0.2)
        assert 1 == await driver.fetchval("SELECT 1")  # the cancel request went through TLS as well
        await driver.close()
        async with open_storage(Settings.load(database_url=url)) as storage:
            assert await storage.graph_jobs.get_build_job("nobody", "00000000-0000-0000-0000-000000000000") is None


@pytest.mark.parametrize(
    ("name", "query", "text"),
    [
        (None, "sslmode=require", "has no TLS, and sslmode asks for it"),
        (None, "sslmode=verify-full&sslrootcert={}/authority.pem", "has no TLS, and sslmode asks for it"),
        (None, "channel_binding=require", "has no TLS, and sslmode asks for it"),
        ("right", "sslmode=verify-full&sslrootcert={}/stranger.pem", "is not trusted: sslrootcert must hold"),
        ("right", "sslmode=verify-full&sslrootcert=system", "is not trusted: sslrootcert must hold"),
        ("other", "sslmode=verify-full&sslrootcert={}/authority.pem", "is for another host name"),
        ("old", "sslmode=verify-ca&sslrootcert={}/authority.pem", "has expired"),
        ("right", "sslmode=verify-full&sslrootcert={}/none.pem", "sslrootcert names an unusable file"),
        ("right", "sslmode=require&sslrootcert={}/right.key", "sslrootcert names an unusable file"),
        ("right", "sslmode=verify-full", "needs the certificate of an authority: set sslrootcert"),
        ("right", "sslmode=require&sslcert={}/none.pem", "sslcert names an unusable file"),
        ("right", "sslmode=require&sslcert={}/right.pem&sslkey={}/none", "sslkey names an unusable file"),
        ("right", "sslmode=require&sslcert={}/right.pem&sslkey={}/old.key", "sslcert and sslkey are unusable"),
        ("right", "sslmode=verify-ca&sslrootcert={}/authority.pem&sslcrl={}/none", "sslcrl names an unusable file"),
        ("right", "sslmode=verify-ca&sslrootcert={}/authority.pem&sslcrldir={}/none", "sslcrldir names a folder"),
        ("right", "sslmode=require&sslkeylogfile={}/none/keys", "sslkeylogfile names an unusable file"),
        ("right", "sslmode=require&ssl_max_protocol_version=TLSv1.2", "closed the connection during the TLS handshake"),
        ("right", "sslmode=require&require_auth=scram-sha-256", "asks for authentication by none"),
    ],
)
async def test_each_failure_of_tls_has_its_own_sentence(
    shared_settings: Settings, certificates: Path, tmp_path: Path, name: str | None, query: str, text: str
) -> None:
    """Where a retry cannot help it is a `ConfigurationError`; it shows no password."""
    context = _server(certificates, name) if name else None
    if context:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    async with _proxy(shared_settings, tmp_path, context) as (_, url):
        error_type = DatabaseUnavailable if "handshake" in text else ConfigurationError
        with pytest.raises(error_type, match=text) as caught:
            await connect(f"{url}&{query.replace('{}', str(certificates))}", shared_settings)
    assert PASSWORD not in repr(caught.value)
    assert caught.value.__cause__ is None


async def test_a_plain_connection_to_another_machine_is_warned_of_once(
    shared_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only where the URL does not say that it may be plain."""
    monkeypatch.setattr(Address, "is_local", property(lambda _self: False))
    monkeypatch.setattr(connection_module, "_warned", set())
    async with _proxy(shared_settings, tmp_path, None) as (_, url):
        for query, warnings in (("&sslmode=prefer", 0), ("", 1), ("", 1)):
            with caplog.at_level(logging.WARNING, "graphjobs"):
                await (await connect(url + query, shared_settings)).close()
            assert warnings == sum("the connection is not encrypted" in text for text in caplog.messages)
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize(
    ("query", "sent"),
    [("", False), ("&sslmode=disable", True), ("&require_auth=password", True), ("&require_auth=md5", False)],
)
async def test_a_password_is_not_sent_in_clear_text_to_another_machine(
    shared_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool, query: str, sent: bool
) -> None:
    """A man in the middle that has no TLS and asks for the password does not get it."""
    monkeypatch.setattr(Address, "is_local", property(lambda _self: not remote))
    async with _proxy(shared_settings, tmp_path, None) as (proxy, url):
        proxy.asks_for_password = True
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the fake server ends the login
            await connect(url + query, shared_settings)
    sent = sent or (not remote and "md5" not in query)
    assert sent == (PASSWORD.encode() in proxy.received)
    assert sent != ("asks for authentication by password" in str(caught.value))
