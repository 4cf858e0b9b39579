"""`graphjobs serve` and `graphjobs tokens`: the web service, and who may call it; both need the extra `web`."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from graphjobs.errors import ConfigurationError
from graphjobs.storage import open_storage

tokens = typer.Typer(help="Who may call the web service.", no_args_is_help=True)


@tokens.callback()
def _tokens() -> None:
    """Who may call the web service."""


@tokens.command("add")
def add(
    tenant: Annotated[str, typer.Option(help="The tenant the token speaks for.")],
    file: Annotated[Path, typer.Option(help="The token file; it is made if it is not there.")],
    scope: Annotated[
        list[str], typer.Option(help="graph:read, graph:write, policy:read or policy:run; may be repeated.")
    ],
    name: Annotated[str, typer.Option(help="Whose it is, for the log of events.")] = "token",
) -> None:
    """Make a token, and print it: this once, for the file holds its hash only. To take it away, delete its line."""
    with _extra():
        from graphjobs.web.tokens import add_token
    typer.echo(add_token(file, tenant_id=tenant, scopes=scope, name=name))


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    tokens: Annotated[Path | None, typer.Option(help="The token file; see `graphjobs tokens add`.")] = None,
) -> None:
    """Serve graph jobs and policy runs over HTTP, until it is told to stop; TLS is for the proxy before it."""
    asyncio.run(_serve(host, port, tokens))


async def _serve(host: str, port: int, tokens: Path | None) -> None:
    with _extra():
        from graphjobs.web.app import create_app, use_storage
        from graphjobs.web.server import listen
        from graphjobs.web.server import serve as run
        from graphjobs.web.tokens import TokenFile
    app = create_app(TokenFile(tokens) if tokens else None)
    if tokens is None:
        typer.echo(
            "graphjobs: no token file was given, so each call that needs a token is answered 401: make one with "
            "`graphjobs tokens add`, and start with --tokens",
            err=True,
        )
    # Opened before the server listens: what is wrong with the database is one sentence, and no traceback.
    async with open_storage() as storage:
        use_storage(app, storage)
        listening = listen(host, port)
        url_host = f"[{host}]" if ":" in host else host
        address = f"http://{url_host}:{listening.getsockname()[1]}"
        await run(app, listening, ready=lambda: typer.echo(f"serving on {address}", err=True))


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name
    else:
        return
    raise ConfigurationError(f"this needs {missing}: install the extra with pip install 'graphjobs[web]'")
