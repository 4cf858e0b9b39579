"""A MongoDB in memory, for a Python that mongoeco supports: prints its address, and ends when its input is closed."""

import asyncio
import sys

from mongoeco.wire import (  # type: ignore[import-not-found, unused-ignore]  # in another Python
    AsyncMongoEcoProxyServer,
    WireAuthUser,
)

USER = "tester"
PASSWORD = "secret"  # of a server on this machine, as long as a test


async def main() -> None:
    """Serve until the end of the input."""
    users = (WireAuthUser(USER, PASSWORD),)
    async with AsyncMongoEcoProxyServer(auth_users=users) as server:
        print(f"mongodb://{USER}:{PASSWORD}@{server.address.host}:{server.address.port}", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
