"""A write that stops waiting for a synchronous standby: unknown until a standby has confirmed it.

A server of its own waits for a standby that does not exist; without that name in its settings, all is confirmed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from graphjobs import OutcomeUnknown, open_storage
from graphjobs.core import recovery
from graphjobs.database import engine as engine_module
from graphjobs.database.embedded.server import throwaway_cluster
from graphjobs.database.migrations.commands import upgrade
from graphjobs.settings import Settings
from pytest_graphjobs import run
from tests.contract.calls import INSERTIONS, RESULTS, UPDATES, Call, make_call
from tests.contract.domains import Domain
from tests.faults.backend_monitor import DEADLINE_SECONDS, url_of, with_settings

CALLS = [pytest.param(domain, name, id=f"{domain.table}-{name}") for domain, name in (*INSERTIONS, *UPDATES, *RESULTS)]
each_call = pytest.mark.parametrize(("kind", "name"), CALLS)


@pytest.fixture(scope="module")
def server_settings() -> Iterator[Settings]:
    """Settings of a migrated database on a server of its own."""
    with throwaway_cluster(options={"max_wal_senders": "1", "wal_level": "replica"}) as cluster:
        settings = Settings.load(database_url=cluster.url())
        run(upgrade(settings))
        yield settings


class Server:
    """The server, which waits for a standby or not."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def expect_standby(self, name: str) -> None:
        """Wait for a standby of this name at each commit; without a name, wait for none."""
        await self._connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        await self._connection.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await self._connection.fetchval("SHOW synchronous_standby_names") != name:
                await asyncio.sleep(0.01)
            # Other sessions read the setting, too: a commit waits, or does not, by the flag of the checkpointer.
            while await self._is_waiting() != bool(name):
                await asyncio.sleep(0.01)

    async def _is_waiting(self) -> bool:
        await self._connection.execute("SET synchronous_commit = on")
        try:
            await self._connection.execute("SELECT pg_logical_emit_message(true, 'test', '')", timeout=0.1)
        except TimeoutError:
            return True
        finally:
            await self._connection.execute("SET synchronous_commit = local")
        return False

    async def cancel_waiting(self, *, may_have_ended: bool = False) -> None:
        """Cancel the waiting commits at the server, which says that they are done and warns."""
        if not may_have_ended:
            await self.until_waiting()
        await self._connection.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        )

    async def until_waiting(self) -> None:
        """Wait until a commit of graphjobs waits for the standby."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await self._connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid <> pg_backend_pid()"
            ):
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def server(server_settings: Settings) -> AsyncIterator[Server]:
    """The server, which waits for no standby yet."""
    connection = await asyncpg.connect(url_of(server_settings))
    await connection.execute("SET synchronous_commit = local")
    server = Server(connection)
    try:
        yield server
    finally:
        await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()


async def _assert_unknown_until_confirmed(server: Server, domain: Domain, call: Call) -> None:
    """A repeated call finds the write, and does not take it for safe."""
    again = asyncio.create_task(call.run(domain))
    await server.cancel_waiting()
    with pytest.raises(OutcomeUnknown, match="synchronous standby"):
        await again
    await server.expect_standby("")
    await call.assert_applied_once(domain, await call.run(domain))


@each_call
@pytest.mark.parametrize("by", ["an administrator", "the caller", "the time-out of the client"])
async def test_a_write_that_stopped_waiting_for_the_standby_is_unknown_until_confirmed(
    server: Server,
    server_settings: Settings,
    tenant: str,
    kind: type[Domain],
    name: str,
    by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write is visible on the primary, and a failover could lose it."""
    monkeypatch.setattr(recovery, "_RESOLVE_SECONDS", 0.5)
    seconds = 0.3 if by == "the time-out of the client" else 20
    monkeypatch.setattr(engine_module, "COMMAND_TIMEOUT_MARGIN", timedelta(seconds=seconds - 0.2))
    async with open_storage(with_settings(server_settings, statement_timeout=0.2)) as storage:
        domain = kind(storage, tenant)
        call = await make_call(domain, name)
        await server.expect_standby("nobody")
        first = asyncio.create_task(call.run(domain))
        if by == "the caller":
            await server.until_waiting()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        elif by == "an administrator":
            await server.cancel_waiting()
            with pytest.raises(OutcomeUnknown, match="synchronous standby"):
                await first
        else:
            with pytest.raises(OutcomeUnknown):
                await first
            # The driver has requested this, too.
            await server.cancel_waiting(may_have_ended=True)
        await _assert_unknown_until_confirmed(server, domain, call)


async def test_a_write_is_applied_if_the_standby_confirms_it_in_time(
    server: Server, server_settings: Settings, tenant: str
) -> None:
    """Within the bound of the look-up, without another call."""
    async with open_storage(server_settings) as storage:
        domain = INSERTIONS[0][0](storage, tenant)
        call = await make_call(domain, "insert")
        await server.expect_standby("nobody")
        waiting = asyncio.create_task(call.run(domain))
        await server.cancel_waiting()
        await server.until_waiting()
        assert not waiting.done()
        await server.expect_standby("")
        await call.assert_applied_once(domain, await waiting)
