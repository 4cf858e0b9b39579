"""The server process of the suite of the web: the application of `graphjobs serve`, and a bare route."""

import asyncio
import os
import sys
from pathlib import Path

from fastapi import Request, Response

from graphjobs.storage import open_storage
from graphjobs.web import create_app, use_storage
from graphjobs.web.server import listen
from graphjobs.web.server import serve as run
from graphjobs.web.tokens import TokenFile


async def serve(tokens: Path, bare_response: bytes) -> None:
    """Serve on a free port of loopback, print the port, and run until a signal.

    Args:
        tokens: the token file.
        bare_response: the body of the bare routes' responses.
    """
    app = create_app(TokenFile(tokens))

    @app.get("/bare")
    async def bare() -> Response:
        return Response(bare_response, media_type="application/json")

    @app.post("/bare")
    async def bare_post(request: Request) -> Response:
        await request.body()
        return Response(bare_response, 202, media_type="application/json")

    async with open_storage() as storage:
        use_storage(app, storage)
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        await run(app, listening, ready=lambda: print(port, flush=True), access_log=False)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), os.environ["BARE_RESPONSE"].encode()))
