"""`graphjobs serve` and `graphjobs tokens`: the web service and its tokens; both need the extra `web`."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from graphjobs.errors import ConfigurationError
from graphjobs.storage import open_storage

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}

tokens = typer.Typer(help="Tokens of the web service.", no_args_is_help=True)


@tokens.callback()  # without a callback, typer would make the only command the group itself
def _tokens() -> None:
    """Manage the tokens of the web service."""


@tokens.command("add")
def add(
    tenant: Annotated[str, typer.Option(help="The tenant of the token.")],
    file: Annotated[Path, typer.Option(help="The token file; a missing file is created.")],
    scope: Annotated[
        list[str],
        typer.Option(
            help="graph:read, graph:write, graph:complete, policy:read, policy:run or policy:emergency. Repeatable."
        ),
    ],
    name: Annotated[str, typer.Option(help="The owner of the token, for the event log.")] = "token",
    expires_in: Annotated[str | None, typer.Option(help="The life of the token, such as 30d, 12h or 45m.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="When the token expires: a date, which is 00:00 UTC, or a time with an offset.")
    ] = None,
) -> None:
    """Create a token and print it once; the file contains only its hash. To revoke a token, delete its line."""
    with _web_extra():
        from graphjobs.web.tokens import add_token
    until = _parse_expiry(expires_in, expires)
    typer.echo(add_token(file, tenant_id=tenant, scopes=scope, name=name, expires=until))


def _parse_expiry(expires_in: str | None, expires: str | None) -> datetime | None:
    if expires_in is not None and expires is not None:
        raise typer.BadParameter("give --expires-in or --expires, not both")
    if expires_in is not None:
        try:
            return datetime.now(UTC) + timedelta(**{_UNITS[expires_in[-1:]]: int(expires_in[:-1])})
        except (ValueError, KeyError, OverflowError):
            hint = "must be a number and d, h or m, such as 30d"
        raise typer.BadParameter(hint, param_hint="--expires-in")
    if expires is not None:
        try:
            date_or_time = f"{expires}T00:00Z" if _DATE.fullmatch(expires) else expires
            return datetime.fromisoformat(date_or_time)
        except ValueError:
            hint = "must be a date such as 2026-12-31, or a time with an offset"
        raise typer.BadParameter(hint, param_hint="--expires")
    return None


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 selects a free port.")] = 8000,
    tokens: Annotated[Path | None, typer.Option(help="The token file; see `graphjobs tokens add`.")] = None,
) -> None:
    """Serve graph jobs and policy runs over HTTP, until SIGINT or SIGTERM. Terminate TLS in a proxy."""
    with _web_extra():
        from graphjobs.web.server import loop_factory
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(host, port, tokens))


async def _serve(host: str, port: int, tokens: Path | None) -> None:
    with _web_extra():
        from graphjobs.web.app import create_app, use_storage
        from graphjobs.web.server import listen
        from graphjobs.web.server import serve as run
        from graphjobs.web.tokens import TokenFile
    app = create_app(TokenFile(tokens) if tokens else None)
    if tokens is None:
        typer.echo(
            "graphjobs: without a token file, requests that need a token are answered 401: create one with "
            "`graphjobs tokens add`, and start with --tokens",
            err=True,
        )
    # Opened before the server listens, so that an error of the database is one sentence.
    async with open_storage() as storage:
        use_storage(app, storage)
        listening = listen(host, port)
        url_host = f"[{host}]" if ":" in host else host
        address = f"http://{url_host}:{listening.getsockname()[1]}"
        await run(app, listening, ready=lambda: typer.echo(f"serving on {address}", err=True))


@contextmanager
def _web_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name
    else:
        return
    raise ConfigurationError(f"the module {missing} is missing: run pip install 'graphjobs[web]'")
