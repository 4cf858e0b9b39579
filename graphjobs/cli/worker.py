"""`graphjobs worker`: does queued jobs until it is told to stop; a live line for people, lines of JSON for programs."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Annotated, Any, Final

import typer
from pythonjsonlogger.json import JsonFormatter
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from graphjobs.cli.exit_codes import Exit
from graphjobs.storage import open_storage
from graphjobs.worker import GraphJobWorker, WorkerOptions
from graphjobs.worker.handler_loading import load_handlers, open_handlers

_DEFAULTS: Final = WorkerOptions()
_LIVE_EVERY_SECONDS: Final = 0.25
_LOGGED_EVERY_SECONDS: Final = 10.0
_RATE_OVER_SECONDS: Final = 5.0

_log = logging.getLogger("graphjobs.worker")


def worker(
    handlers: Annotated[str, typer.Argument(help="Where the handlers are, as module:attribute.", show_default=False)],
    tenant: Annotated[str | None, typer.Option(help="Serve this tenant only; none means all, in turns.")] = None,
    concurrency: Annotated[int, typer.Option(help="The most handlers at once.")] = _DEFAULTS.concurrency,
    batch: Annotated[int, typer.Option(help="The most jobs of one statement.")] = _DEFAULTS.batch,
    poll: Annotated[float, typer.Option(help="Seconds to wait where nothing is queued.")] = 1.0,
    lease: Annotated[float, typer.Option(help="Seconds of silence after which a job is rescued.")] = 60.0,
    attempts_max: Annotated[int, typer.Option(help="The most attempts of a job whose workers stop.")] = 3,
    time_limit: Annotated[float, typer.Option(help="The most seconds a handler may take.")] = 900.0,
    grace: Annotated[float, typer.Option(help="Seconds handlers may go on after SIGTERM.")] = 20.0,
    listen: Annotated[bool, typer.Option("--listen", help="Also wait for notices of queued jobs.")] = False,
    rescue: Annotated[bool, typer.Option(help="Look for jobs of workers that stopped.")] = True,
    name: Annotated[
        str | None, typer.Option(help="Who it is, in the log of jobs; none means host and process.")
    ] = None,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End once nothing is queued.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Tell of each job that fails or is given back.")] = False,
) -> None:
    """Do queued jobs, until SIGTERM or Ctrl-C; a second one gives back at once what still runs."""
    options = WorkerOptions(
        tenant=tenant,
        concurrency=concurrency,
        batch=batch,
        poll=_seconds(poll, "poll"),
        lease=_seconds(lease, "lease"),
        attempts_max=attempts_max,
        time_limit=_seconds(time_limit, "time-limit"),
        grace=_seconds(grace, "grace"),
        listen=listen,
        rescue=rescue,
        **({"name": name} if name is not None else {}),
    )
    found = load_handlers(handlers)
    console = Console(stderr=True)
    with _logging(console, verbose=verbose):
        try:
            asyncio.run(_work(console, found, handlers, options, until_empty=until_empty))
        except asyncio.CancelledError:  # told to stop before it began
            return


def _seconds(number: float, name: str) -> timedelta:
    try:
        return timedelta(seconds=number)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{number} is no number of seconds", param_hint=f"--{name}") from None


async def _work(console: Console, found: Any, place: str, options: WorkerOptions, *, until_empty: bool) -> None:
    opening = asyncio.current_task()
    ending = _Ending(console, opening.cancel if opening else lambda: None)
    # First of all: a word to stop that comes early is not lost, and ends nothing half-way.
    loop = asyncio.get_running_loop()
    for word in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(word, ending.begin)
    async with open_storage() as storage, open_handlers(found, place) as handlers:
        doing = GraphJobWorker(storage, build=handlers.build, overlay=handlers.overlay, options=options)
        ending.stops(doing)
        shown = asyncio.ensure_future(_show(console, doing))
        try:
            await doing.run(until_empty=until_empty)
        finally:
            shown.cancel()
            await asyncio.gather(shown, return_exceptions=True)
    console.print(_line(doing, None), highlight=False) if console.is_terminal else _tell(doing, None, "in all")
    code = Exit.UNAVAILABLE if doing.in_hand else Exit.DONE
    if doing.left_behind:
        # They would keep the process for as long as they like; whatever they do, nothing of it counts.
        _log.error("%s handlers do not end; the process ends without them", doing.left_behind)
        logging.shutdown()
        os._exit(code)
    if code:
        raise typer.Exit(code)


class _Ending:
    """The first word to stop lets handlers end, the second does not wait for them."""

    def __init__(self, console: Console, forget: Callable[[], object]) -> None:
        self._console = console
        self._forget = forget
        self._words = 0
        self._stop: Callable[[int], None] | None = None

    def begin(self) -> None:
        self._words += 1
        if self._stop is None:  # it still opens what it needs, and holds nothing
            self._forget()
            return
        if self._words == 1 and self._console.is_terminal:
            self._console.print("stopping: handlers may end; once more gives back at once what still runs", style="dim")
        self._stop(self._words)

    def stops(self, doing: GraphJobWorker) -> None:
        def stop(words: int) -> None:
            doing.stop(grace=None if words == 1 else timedelta(0))

        self._stop = stop


async def _show(console: Console, doing: GraphJobWorker) -> None:
    """Shows how far it is: a line that changes where somebody looks, else one of JSON now and then."""
    rate = _Rate()
    with ExitStack() as stack:
        live = (
            stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
            if console.is_terminal
            else None
        )
        told = time.monotonic()
        while True:
            a_second = rate.after(doing.counts.completed + doing.counts.failed)
            if live is not None:
                live.update(_line(doing, a_second), refresh=True)
            elif time.monotonic() - told >= _LOGGED_EVERY_SECONDS:
                told = time.monotonic()
                _tell(doing, a_second, "working")
            await asyncio.sleep(_LIVE_EVERY_SECONDS)


class _Rate:
    """How many a second there were of late."""

    def __init__(self) -> None:
        self._seen = [(time.monotonic(), 0)]

    def after(self, number: int) -> float:
        now = time.monotonic()
        self._seen.append((now, number))
        while len(self._seen) > 2 and self._seen[0][0] < now - _RATE_OVER_SECONDS:  # two ends
            del self._seen[0]
        began, before = self._seen[0]
        return (number - before) / max(now - began, 1e-9)


def _figures(doing: GraphJobWorker) -> dict[str, int]:
    counts = doing.counts
    return {
        "claimed": counts.claimed,
        "done": counts.completed,
        "failed": counts.failed + counts.unreadable + counts.rescued_to_fail,
        "in hand": doing.in_hand,
        "given back": counts.given_back,
        "lost": counts.lost,
        "rescued": counts.rescued,
    }


def _line(doing: GraphJobWorker, a_second: float | None) -> Text:
    always = ("claimed", "done", "failed")
    shown = [f"{name} {number:,}" for name, number in _figures(doing).items() if number or name in always]
    if a_second is not None:
        shown.append(f"{a_second:,.1f} a second")
    return Text("  ".join(shown))


def _tell(doing: GraphJobWorker, a_second: float | None, what: str) -> None:
    figures: dict[str, object] = {name.replace(" ", "_"): number for name, number in _figures(doing).items()}
    if a_second is not None:
        figures["a_second"] = round(a_second, 1)
    _log.info("worker %s: %s", what, doing.options.name, extra=figures)


@contextmanager
def _logging(console: Console, *, verbose: bool) -> Iterator[None]:
    """Lets the log speak, everybody's: above the live line, or as a line of JSON each."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False)
        level = logging.INFO if verbose else logging.WARNING
    else:
        handler = logging.StreamHandler(sys.stderr)
        renamed = {"asctime": "at", "levelname": "level", "name": "logger"}
        fields = ["asctime", "levelname", "name", "message"]
        handler.setFormatter(JsonFormatter(fields, rename_fields=renamed))
        level = logging.INFO
    everybody, ours = logging.getLogger(), logging.getLogger("graphjobs")
    if everybody.handlers:  # the user's own modules have said how they log
        yield
        return
    everybody.addHandler(handler)
    logging.captureWarnings(True)
    before = ours.level
    ours.setLevel(level)
    try:
        yield
    finally:
        everybody.removeHandler(handler)
        logging.captureWarnings(False)
        ours.setLevel(before)
