"""`python -m benchmarks`: parse options, run the suites, print the figures; a missed target is not a failure."""

import asyncio
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks.backfill import LEGEND as LEGEND_OF_BACKFILL
from benchmarks.backfill import backfill
from benchmarks.claims import claims
from benchmarks.competitors import LEGEND
from benchmarks.job_lifecycle import LEGEND as LEGEND_OF_LIFE
from benchmarks.job_lifecycle import life
from benchmarks.leases import LEGEND as LEGEND_OF_LEASES
from benchmarks.leases import leases
from benchmarks.lists import lists
from benchmarks.measure import Figure, Pace
from benchmarks.pages import pages
from benchmarks.processes import interrupt_on_sigterm
from benchmarks.report import print_conditions, print_suite, print_targets, write_json
from benchmarks.repository import repository
from benchmarks.server import conditions, new_database, server
from benchmarks.suite import Bench, Suite
from benchmarks.updates import LEGEND as LEGEND_OF_UPDATES
from benchmarks.updates import updates
from benchmarks.web import LEGEND as LEGEND_OF_WEB
from benchmarks.web import web
from graphjobs.database.migrations.commands import upgrade
from graphjobs.settings import Settings

SUITES: Final[dict[str, Suite]] = {
    "repository": repository,
    "updates": updates,
    "lists": lists,
    "pages": pages,
    "web": web,
    "claims": claims,
    "leases": leases,
    "life": life,
    "backfill": backfill,
}
"""The suites in their order; each runs on a new database."""

_FULL: Final = Pace(rounds=25, slice_seconds=0.1, warm_up_seconds=0.25)
_QUICK: Final = Pace(rounds=7, slice_seconds=0.04, warm_up_seconds=0.1)
_MANY_ROWS: Final = 1_000_000
_MANY_ROWS_QUICK: Final = 100_000
_WIDTH: Final = 110
"""The width of the tables for a file or a pipe."""
_SEED: Final = 20_260_102


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="A run of two minutes to check that it works: fewer rounds, 100,000 rows.")
    ] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the figures to this file.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"Run only this suite: {', '.join(SUITES)}. Repeatable.")
    ] = None,
) -> None:
    """Compare graphjobs with the bare driver and an ORM session, and the ratios with their targets."""
    if unknown := set(suite or ()) - set(SUITES):
        raise typer.BadParameter(f"suite {min(unknown)} does not exist; the suites are {', '.join(SUITES)}")
    console, progress = Console(width=None if sys.stdout.isatty() else _WIDTH), Console(stderr=True)
    legends = {
        "updates": LEGEND_OF_UPDATES,
        "web": LEGEND_OF_WEB,
        "leases": LEGEND_OF_LEASES,
        "life": LEGEND_OF_LIFE,
        "backfill": LEGEND_OF_BACKFILL,
    }
    started = time.monotonic()
    measured: dict[str, list[Figure]] = {}
    with server() as server_url:
        environment = asyncio.run(conditions(server_url))
        print_conditions(console, environment)
        for name in (name for name in SUITES if not suite or name in suite):

            def say(step: str, name: str = name) -> None:
                progress.print(f"{time.monotonic() - started:5.0f} s  {name}: {step}", style="dim", highlight=False)

            with new_database(server_url) as url:
                measured[name] = asyncio.run(_run(SUITES[name], _bench(url, quick=quick, say=say)))
            print_suite(console, name, measured[name], legends.get(name, LEGEND))
    print_targets(console, measured)
    if json is not None:
        write_json(json, environment, measured)


def _bench(url: str, *, quick: bool, say: Callable[[str], None]) -> Bench:
    return Bench(
        url=url,
        pace=_QUICK if quick else _FULL,
        many_rows=_MANY_ROWS_QUICK if quick else _MANY_ROWS,
        say=say,
        order=random.Random(_SEED),  # noqa: S311  # the order of turns
    )


async def _run(suite: Suite, bench: Bench) -> list[Figure]:
    await upgrade(Settings.load(database_url=bench.url))
    return await suite(bench)


if __name__ == "__main__":
    interrupt_on_sigterm()
    typer.run(main)
