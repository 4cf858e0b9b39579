"""The `graphjobs` command: parses, calls, and turns errors into a sentence and an exit code; decides nothing else."""

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
    "Settings come from the environment, as GRAPHJOBS_DATABASE_URL and so on.",
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
    """Runs the command; an error of graphjobs is one sentence on standard error, and an exit code."""
    # As Ctrl-C does: what is open is closed, and a terminal is left as it was. `worker` and `serve` do more.
    signal.signal(signal.SIGTERM, lambda word, _frame: sys.exit(128 + word))
    try:
        app()
    except GraphJobsError as error:
        typer.echo(f"graphjobs: {error}", err=True)
        sys.exit(exit_code(error))
