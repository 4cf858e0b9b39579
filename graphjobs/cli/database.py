"""`graphjobs db`: the schema's revisions, and the embedded server."""

import asyncio
from typing import Annotated

import typer

from graphjobs.cli.exits import Exit
from graphjobs.database.embedded import embedded_cluster
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
    from graphjobs.database import migrations

    typer.echo(f"the database is at revision {asyncio.run(migrations.upgrade(revision=revision))}")


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="The revision to go down to, or base.")], x: Extra = None
) -> None:
    """Bring the schema down to a revision; refuses to drop tables that hold rows."""
    from graphjobs.database import migrations

    reached = asyncio.run(migrations.downgrade(revision=revision, drop_data=_drops_data(x)))
    typer.echo(f"the database is at revision {reached}" if reached else "the database holds no tables of graphjobs now")


@app.command()
def current() -> None:
    """Tell the revision the database is at."""
    from graphjobs.database import migrations

    typer.echo(asyncio.run(migrations.current()) or "none")


@app.command()
def history() -> None:
    """List the revisions there are, oldest first."""
    from graphjobs.database import migrations

    for revision in migrations.history():
        typer.echo(f"{revision.revision}  {revision.summary}")


@app.command()
def check() -> None:
    """Compare the database with the declared tables; exits 1 where they differ."""
    from graphjobs.database import migrations

    asyncio.run(migrations.check())
    typer.echo("the database is what this code declares")


@app.command()
def sql(
    revisions: Annotated[str, typer.Argument(help="A revision to go up to from nothing, or FROM:TO.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Render the way down, which needs FROM:TO.")] = False,
    x: Extra = None,
) -> None:
    """Print a migration as SQL, for psql -v ON_ERROR_STOP=1."""
    from graphjobs.database import migrations

    typer.echo(migrations.sql(revisions, down=down, drop_data=_drops_data(x)), nl=False)


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
