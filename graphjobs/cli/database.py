"""`graphjobs db`: the schema's revisions, and the embedded server."""

import asyncio
from typing import Annotated

import typer

from graphjobs.cli.exit_codes import Exit
from graphjobs.database.embedded.server import embedded_cluster
from graphjobs.errors import ConfigurationError
from graphjobs.settings import Settings

# The commands of the revisions import Alembic when they run: it takes a fifth of a second, and no other needs it.

app = typer.Typer(help="The schema's revisions, and the embedded server.", no_args_is_help=True)

Extra = Annotated[
    list[str] | None,
    typer.Option("-x", metavar="NAME=VALUE", help="drop-data=yes lets a downgrade drop tables that hold rows."),
]


@app.command()
def upgrade(revision: Annotated[str, typer.Argument(help="The revision to go up to.")] = "head") -> None:
    """Bring the schema up to a revision; two at once both end well."""
    from graphjobs.database.migrations import commands

    typer.echo(f"the database is at revision {asyncio.run(commands.upgrade(revision=revision))}")


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="The revision to go down to, or base.")], x: Extra = None
) -> None:
    """Bring the schema down to a revision; refuses to drop tables that hold rows."""
    from graphjobs.database.migrations import commands

    reached = asyncio.run(commands.downgrade(revision=revision, drop_data=_drops_data(x)))
    typer.echo(f"the database is at revision {reached}" if reached else "the database holds no tables of graphjobs now")


@app.command()
def current() -> None:
    """Tell the revision the database is at."""
    from graphjobs.database.migrations import commands

    typer.echo(asyncio.run(commands.current()) or "none")


@app.command()
def history() -> None:
    """List the revisions there are, oldest first."""
    from graphjobs.database.migrations import commands

    for revision in commands.history():
        typer.echo(f"{revision.revision}  {revision.summary}")


@app.command()
def check() -> None:
    """Compare the database with the declared tables; exits 1 where they differ."""
    from graphjobs.database.migrations import commands

    asyncio.run(commands.check())
    typer.echo("the database is what this code declares")


@app.command()
def sql(
    revisions: Annotated[str, typer.Argument(help="A revision to go up to from nothing, or FROM:TO.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Render the way down, which needs FROM:TO.")] = False,
    x: Extra = None,
) -> None:
    """Print a migration as SQL, for psql -v ON_ERROR_STOP=1."""
    from graphjobs.database.migrations import commands

    typer.echo(commands.sql(revisions, down=down, drop_data=_drops_data(x)), nl=False)


@app.command()
def start() -> None:
    """Start the embedded server, if it does not run."""
    cluster = embedded_cluster(Settings.load().data_dir)
    cluster.start()
    cluster.create_database_if_missing("graphjobs")
    status()


@app.command()
def stop() -> None:
    """Stop the embedded server; its data stays."""
    embedded_cluster(Settings.load().data_dir).stop()
    typer.echo("the embedded server is stopped; its data stays")


@app.command()
def status() -> None:
    """Tell whether the embedded server runs; exits 1 where it does not."""
    cluster = embedded_cluster(Settings.load().data_dir)
    found = cluster.status()
    if not found.running:
        typer.echo(f"the embedded server is not running; its data is in {found.data_dir}")
        raise typer.Exit(Exit.FAILED)
    typer.echo(
        f"the embedded server runs: PostgreSQL {found.version}, process {found.pid}, data in {found.data_dir}\n"
        f"psql: {cluster.url('graphjobs')}\n"
        "It trusts whoever reaches its private socket: for one machine's own use."
    )


def _drops_data(extra: list[str] | None) -> bool:
    for word in extra or ():
        if word not in ("drop-data=yes", "drop-data=no"):
            raise ConfigurationError(f"-x {word} means nothing here: there is -x drop-data=yes")
    return "drop-data=yes" in (extra or ())
