"""`python -m benchmarks`: parses, runs the suites one after the other, prints; a missed target is no failure."""

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
"""In the order they run; each has a database of its own."""

_FULL: Final = Pace(rounds=25, slice_seconds=0.1, warm_up_seconds=0.25)
_QUICK: Final = Pace(rounds=7, slice_seconds=0.04, warm_up_seconds=0.1)
_MANY_ROWS: Final = 1_000_000
_MANY_ROWS_QUICK: Final = 100_000
_WIDTH: Final = 110
"""Of the tables where the output is a file or a pipe."""
_SEED: Final = 20_260_102


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Two minutes, to see that it runs: fewer rounds, 100,000 rows.")
    ] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures there, too.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"Run this suite alone: {', '.join(SUITES)}. Repeatable.")
    ] = None,
) -> None:
    """Compare graphjobs with the bare driver and an ORM session, and hold the ratios against their targets."""
    if unknown := set(suite or ()) - set(SUITES):
        raise typer.BadParameter(f"there is no suite {min(unknown)}; there are {', '.join(SUITES)}")
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
        where = asyncio.run(conditions(server_url))
        print_conditions(console, where)
        for name in (name for name in SUITES if not suite or name in suite):

            def say(doing: str, name: str = name) -> None:
                progress.print(f"{time.monotonic() - started:5.0f} s  {name}: {doing}", style="dim", highlight=False)

            with new_database(server_url) as url:
                measured[name] = asyncio.run(_run(SUITES[name], _bench(url, quick=quick, say=say)))
            print_suite(console, name, measured[name], legends.get(name, LEGEND))
    print_targets(console, measured)
    if json is not None:
        write_json(json, where, measured)


def _bench(url: str, *, quick: bool, say: Callable[[str], None]) -> Bench:
    return Bench(
        url=url,
        pace=_QUICK if quick else _FULL,
        many_rows=_MANY_ROWS_QUICK if quick else _MANY_ROWS,
        say=say,
        order=random.Random(_SEED),  # noqa: S311  # the order of turns, no secret
    )


async def _run(suite: Suite, bench: Bench) -> list[Figure]:
    await upgrade(Settings.load(database_url=bench.url))
    return await suite(bench)


if __name__ == "__main__":
    typer.run(main)
