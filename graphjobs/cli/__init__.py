"""The `graphjobs` command: parse arguments, call the package, and print errors as one sentence with an exit code."""

import signal
import sys

import typer

from graphjobs.cli import database, policy, quarantine, web
from graphjobs.cli.backfill import backfill
from graphjobs.cli.demo import demo
from graphjobs.cli.exit_codes import exit_code
from graphjobs.cli.export import export
from graphjobs.cli.worker import worker
from graphjobs.errors import GraphJobsError

app = typer.Typer(
    name="graphjobs",
    help="Graph jobs and policy runs on PostgreSQL. "
    "Settings are environment variables, for instance GRAPHJOBS_DATABASE_URL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.add_typer(database.app, name="db")
app.command()(worker)
app.add_typer(policy.app, name="policy")
app.command()(backfill)
app.add_typer(quarantine.app, name="quarantine")
app.command()(export)
app.command()(web.serve)
app.add_typer(web.tokens, name="tokens")


def main() -> None:
    """Run the command. An error of graphjobs is one sentence on standard error, and an exit code."""
    # As for Ctrl-C: resources are closed, and the terminal is restored. `worker` and `serve` have their own handlers.
    signal.signal(signal.SIGTERM, lambda signum, _frame: sys.exit(128 + signum))
    try:
        app()
    except GraphJobsError as error:
        typer.echo(f"graphjobs: {error}", err=True)
        sys.exit(exit_code(error))
