"""`graphjobs db`: revisions of the schema, and the embedded server."""

import asyncio
from typing import Annotated

import typer

from graphjobs.cli.exit_codes import Exit
from graphjobs.database.embedded.server import embedded_cluster
from graphjobs.settings import Settings

# Commands of revisions import Alembic when they run: the import takes 0.2 seconds, and no other command needs it.

app = typer.Typer(help="Revisions of the schema, and the embedded server.", no_args_is_help=True)

Extra = Annotated[
    list[str] | None,
    typer.Option("-x", metavar="NAME=VALUE", help="drop-data=yes allows a downgrade to drop tables that contain rows."),
]


@app.command()
def upgrade(revision: Annotated[str, typer.Argument(help="The revision to upgrade to.")] = "head") -> None:
    """Upgrade the schema to a revision. Concurrent calls are safe."""
    from graphjobs.database.migrations import commands

    typer.echo(f"the database is at revision {asyncio.run(commands.upgrade(revision=revision))}")


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="The revision to downgrade to, or base.")], x: Extra = None
) -> None:
    """Downgrade the schema to a revision. Exits 1 if this would drop tables that contain rows."""
    from graphjobs.database.migrations import commands

    reached = asyncio.run(commands.downgrade(revision=revision, drop_data=_drops_data(x)))
    typer.echo(f"the database is at revision {reached}" if reached else "the database has no tables of graphjobs now")


@app.command()
def current() -> None:
    """Print the revision of the database, or none."""
    from graphjobs.database.migrations import commands

    typer.echo(asyncio.run(commands.current()) or "none")


@app.command()
def history() -> None:
    """List all revisions, oldest first."""
    from graphjobs.database.migrations import commands

    for revision in commands.history():
        typer.echo(f"{revision.revision}  {revision.summary}")


@app.command()
def check() -> None:
    """Compare the database with the declared tables. Exits 1 if they differ."""
    from graphjobs.database.migrations import commands

    asyncio.run(commands.check())
    typer.echo("the database has the declared tables")


@app.command()
def sql(
    revisions: Annotated[
        str, typer.Argument(help="The revision to upgrade an empty database to, or FROM:TO.")
    ] = "head",
    down: Annotated[bool, typer.Option("--down", help="Print the downgrade; needs FROM:TO.")] = False,
    x: Extra = None,
) -> None:
    """Print a migration as SQL. Run it with psql -v ON_ERROR_STOP=1."""
    from graphjobs.database.migrations import commands

    typer.echo(commands.sql(revisions, down=down, drop_data=_drops_data(x)), nl=False)


@app.command()
def start() -> None:
    """Start the embedded server, unless it runs."""
    cluster = embedded_cluster(Settings.load().data_dir)
    cluster.start()
    cluster.create_database_if_missing("graphjobs")
    status()


@app.command()
def stop() -> None:
    """Stop the embedded server. Its data stays."""
    embedded_cluster(Settings.load().data_dir).stop()
    typer.echo("the embedded server is stopped; its data stays")


@app.command()
def status() -> None:
    """Print whether the embedded server runs. Exits 1 if it does not run."""
    cluster = embedded_cluster(Settings.load().data_dir)
    server = cluster.status()
    if not server.running:
        typer.echo(f"the embedded server is not running; its data is in {server.data_dir}")
        raise typer.Exit(Exit.FAILED)
    typer.echo(
        f"the embedded server runs: PostgreSQL {server.version}, process {server.pid}, data in {server.data_dir}\n"
        f"psql: {cluster.url('graphjobs')}\n"
        "It accepts every process that can open its private socket: use it on one machine only."
    )


def _drops_data(extra: list[str] | None) -> bool:
    for argument in extra or ():
        if argument not in ("drop-data=yes", "drop-data=no"):
            raise typer.BadParameter(f"{argument} is unknown: use -x drop-data=yes", param_hint="-x")
    return "drop-data=yes" in (extra or ())
