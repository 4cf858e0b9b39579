"""A program that uses a storage in a second event loop, in another thread; it prints the error's name, and "whole".

Run as a program: `python loop_client.py URL ALONE|SESSION`, in a separate process, because a connection of the driver
that two threads use may crash the interpreter.
"""

import asyncio
import sys

from sqlalchemy import text

from graphjobs import open_storage
from graphjobs.settings import Settings


async def main(url: str, way: str) -> None:
    """Read in the first event loop, in a second one, and in the first again."""
    async with open_storage(Settings.load(database_url=url, pool_size=1)) as storage:

        async def read() -> None:
            if way == "alone":
                await storage.graph_job_repository.list_build_jobs("acme", limit=1)
            else:
                async with storage.session() as session:
                    await session.execute(text("SELECT 1"))

        for _ in range(20):
            await read()
            try:
                await asyncio.to_thread(asyncio.run, read())
            except Exception as error:  # noqa: BLE001  # the test checks its name
                sys.stdout.write(f"{type(error).__name__}\n")
                sys.stdout.flush()
        await read()
        sys.stdout.write("whole\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
