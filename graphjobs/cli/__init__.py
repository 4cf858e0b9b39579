"""The `graphjobs` command: parse arguments, call the package, and print errors as one sentence with an exit code."""

import os
import signal
import sys
import threading
from typing import Annotated, Final

import typer

import graphjobs
from graphjobs.cli import database, policy, quarantine, web
from graphjobs.cli.backfill import backfill
from graphjobs.cli.demo import demo
from graphjobs.cli.exit_codes import exit_code
from graphjobs.cli.export import export
from graphjobs.cli.output import echo
from graphjobs.cli.worker import worker
from graphjobs.errors import GraphJobsError

app = typer.Typer(
    name="graphjobs",
    help="Graph jobs and policy runs on PostgreSQL. "
    "Settings are environment variables, for instance GRAPHJOBS_DATABASE_URL.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"graphjobs {graphjobs.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    database_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The database, instead of GRAPHJOBS_DATABASE_URL. Other users of the machine see it in the list of "
            "processes: keep a password in the environment, or in a file that PGPASSFILE names.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    del version  # its callback has printed it
    if database_url is not None:
        os.environ["GRAPHJOBS_DATABASE_URL"] = database_url


app.command()(demo)
app.add_typer(database.app, name="db")
app.command()(worker)
app.add_typer(policy.app, name="policy")
app.command()(backfill)
app.add_typer(quarantine.app, name="quarantine")
app.command()(export)
app.command()(web.serve)
app.add_typer(web.tokens, name="tokens")


_terminated: Final = threading.Event()


def main() -> None:
    """Run the command. An error of graphjobs is one sentence on standard error, and an exit code."""
    # `worker` and `serve` have handlers of their own.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except GraphJobsError as error:
        echo(f"graphjobs: {error}", err=True)
        sys.exit(exit_code(error))
    except SystemExit:
        if _terminated.is_set():
            sys.exit(128 + signal.SIGTERM)
        raise


def _terminate(signum: int, _frame: object) -> None:
    """End as with Ctrl-C: asyncio then cancels the main task, so that resources are closed in order."""
    _terminated.set()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
        sys.exit(128 + signum)
    signal.raise_signal(signal.SIGINT)
