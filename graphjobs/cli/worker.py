"""`graphjobs worker`: run queued jobs until a signal; a live line on a terminal, otherwise JSON lines."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Final

import typer
from pythonjsonlogger.json import JsonFormatter
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text
from typing_extensions import override

from graphjobs.cli.exit_codes import Exit
from graphjobs.cli.output import echo
from graphjobs.errors import ConfigurationError
from graphjobs.storage import open_storage
from graphjobs.worker import GraphJobWorker, WorkerOptions
from graphjobs.worker.handler_loading import load_handlers, open_handlers

_DEFAULTS: Final = WorkerOptions()
_LIVE_INTERVAL_SECONDS: Final = 0.25
_LOG_INTERVAL_SECONDS: Final = 10.0
_RATE_WINDOW_SECONDS: Final = 5.0
_SPARE_THREADS: Final = 32
"""Threads beyond two for each handler, for calls that outlive their handlers."""

_log = logging.getLogger("graphjobs.worker")


def worker(
    handlers: Annotated[str, typer.Argument(help="The handlers, as module:attribute.", show_default=False)],
    tenant: Annotated[str | None, typer.Option(help="The only tenant to serve; all in rotation by default.")] = None,
    concurrency: Annotated[int, typer.Option(help="The maximum number of handlers at once.")] = _DEFAULTS.concurrency,
    batch: Annotated[int, typer.Option(help="The maximum number of jobs per statement.")] = _DEFAULTS.batch,
    poll: Annotated[float, typer.Option(help="Seconds between queries if nothing is queued.")] = 1.0,
    lease: Annotated[float, typer.Option(help="Seconds without a heartbeat until a job is rescued.")] = 60.0,
    attempts_max: Annotated[int, typer.Option(help="The maximum number of attempts of a job that stalls.")] = 3,
    time_limit: Annotated[float, typer.Option(help="The maximum duration of a handler, in seconds.")] = 900.0,
    grace: Annotated[float, typer.Option(help="Seconds that handlers may continue after SIGTERM.")] = 20.0,
    listen: Annotated[bool, typer.Option("--listen", help="Wake up at notifications of queued jobs.")] = False,
    rescue: Annotated[bool, typer.Option(help="Rescue stalled jobs.")] = True,
    name: Annotated[
        str | None, typer.Option(help="The name of the worker in event logs; host/process by default.")
    ] = None,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing is queued.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Report each job that fails or is released.")] = False,
) -> None:
    """Run queued jobs until SIGTERM or Ctrl-C; a second signal ends the grace period of the handlers."""
    try:
        options = WorkerOptions(
            tenant=tenant,
            concurrency=concurrency,
            batch=batch,
            poll=_parse_seconds(poll, "poll"),
            lease=_parse_seconds(lease, "lease"),
            attempts_max=attempts_max,
            time_limit=_parse_seconds(time_limit, "time-limit"),
            grace=_parse_seconds(grace, "grace"),
            listen=listen,
            rescue=rescue,
        )
        if name is not None:
            options = replace(options, name=name)
    except ConfigurationError as error:
        echo(f"graphjobs: {error}", err=True)
        raise typer.Exit(Exit.USAGE) from None
    loaded = load_handlers(handlers)
    console = Console(stderr=True)
    with _logging(console, verbose=verbose):
        try:
            asyncio.run(_run(console, loaded, handlers, options, until_empty=until_empty))
        except asyncio.CancelledError:  # a signal arrived before the worker started
            return


def _parse_seconds(number: float, name: str) -> timedelta:
    try:
        return timedelta(seconds=number)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{number} is not a valid number of seconds", param_hint=f"--{name}") from None


async def _run(console: Console, loaded: Any, location: str, options: WorkerOptions, *, until_empty: bool) -> None:
    task = asyncio.current_task()
    signals = _ShutdownSignals(console, task.cancel if task else lambda: None)
    # Before anything is opened: an early signal is not lost, and what is opened by then is closed.
    loop = asyncio.get_running_loop()
    threads = _HandlerThreads(2 * options.concurrency + _SPARE_THREADS)
    loop.set_default_executor(threads)
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, signals.on_signal)
    async with open_storage() as storage, open_handlers(loaded, location) as handlers:
        worker = GraphJobWorker(storage, build=handlers.build, overlay=handlers.overlay, options=options)
        signals.worker = worker
        progress = asyncio.ensure_future(_show_progress(console, worker))
        try:
            await worker.run(until_empty=until_empty)
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)
    if console.is_terminal:
        console.print(_line(worker, None), highlight=False)
    else:
        _log_progress(worker, None, "total")
    code = Exit.UNAVAILABLE if worker.in_flight else Exit.DONE
    if worker.abandoned or threads.running:
        # They would keep the process alive, and their results are ignored.
        _log.error(
            "the process exits with %s abandoned handlers and %s running threads", worker.abandoned, threads.running
        )
        logging.shutdown()
        os._exit(code)
    if code:
        raise typer.Exit(code)


class _HandlerThreads(ThreadPoolExecutor):
    """The threads of `asyncio.to_thread`: a call that outlives its handler keeps its thread, and is known."""

    def __init__(self, size: int) -> None:
        super().__init__(size, thread_name_prefix="handler")
        self._calls: set[Future[Any]] = set()

    @override
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        call = super().submit(function, *args, **kwargs)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    @property
    def running(self) -> int:
        """The number of calls that run now."""
        return sum(call.running() for call in tuple(self._calls))


class _ShutdownSignals:
    """Handles SIGINT and SIGTERM: the first signal starts the grace period, the second ends it."""

    def __init__(self, console: Console, cancel: Callable[[], object]) -> None:
        self.worker: GraphJobWorker | None = None
        self._console = console
        self._cancel = cancel
        self._count = 0

    def on_signal(self) -> None:
        """Stop the worker. Without a worker, cancel the task that still opens the storage and the handlers."""
        self._count += 1
        if self.worker is None:
            self._cancel()
            return
        is_first = self._count == 1
        if is_first and self._console.is_terminal:
            self._console.print("stopping: handlers may end; a second signal releases the running jobs", style="dim")
        self.worker.stop(grace=None if is_first else timedelta(0))


async def _show_progress(console: Console, worker: GraphJobWorker) -> None:
    """Show the figures: on a terminal in a live line, otherwise in a log line at intervals."""
    rate = _Rate()
    with ExitStack() as stack:
        live = (
            stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
            if console.is_terminal
            else None
        )
        logged_at = time.monotonic()
        while True:
            per_second = rate.update(worker.stats.completed + worker.stats.failed)
            if live is not None:
                live.update(_line(worker, per_second), refresh=True)
            elif time.monotonic() - logged_at >= _LOG_INTERVAL_SECONDS:
                logged_at = time.monotonic()
                _log_progress(worker, per_second, "progress")
            await asyncio.sleep(_LIVE_INTERVAL_SECONDS)


class _Rate:
    """The rate per second of a counter, over the last seconds."""

    def __init__(self) -> None:
        self._samples = [(time.monotonic(), 0)]

    def update(self, number: int) -> float:
        now = time.monotonic()
        self._samples.append((now, number))
        while len(self._samples) > 2 and self._samples[0][0] < now - _RATE_WINDOW_SECONDS:  # a rate needs two
            del self._samples[0]
        first_at, first = self._samples[0]
        return (number - first) / max(now - first_at, 1e-9)


def _figures(worker: GraphJobWorker) -> dict[str, int]:
    stats = worker.stats
    return {
        "claimed": stats.claimed,
        "completed": stats.completed,
        "failed": stats.failed + stats.unreadable + stats.rescue_failed,
        "in flight": worker.in_flight,
        "released": stats.released,
        "lost": stats.lost,
        "rescued": stats.rescued,
    }


def _line(worker: GraphJobWorker, per_second: float | None) -> Text:
    always = ("claimed", "completed", "failed")
    parts = [f"{name} {number:,}" for name, number in _figures(worker).items() if number or name in always]
    if per_second is not None:
        parts.append(f"{per_second:,.1f} per second")
    return Text("  ".join(parts))


def _log_progress(worker: GraphJobWorker, per_second: float | None, kind: str) -> None:
    figures: dict[str, object] = {name.replace(" ", "_"): number for name, number in _figures(worker).items()}
    if per_second is not None:
        figures["per_second"] = round(per_second, 1)
    _log.info("%s of worker %s", kind, worker.options.name, extra=figures)


@contextmanager
def _logging(console: Console, *, verbose: bool) -> Iterator[None]:
    """Log all messages of the process: above the live line, or as JSON lines."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False)
        level = logging.INFO if verbose else logging.WARNING
    else:
        handler = logging.StreamHandler(sys.stderr)
        renamed = {"asctime": "at", "levelname": "level", "name": "logger"}
        fields = ["asctime", "levelname", "name", "message"]
        formatter = JsonFormatter(fields, rename_fields=renamed)
        formatter.converter, formatter.default_time_format = time.gmtime, "%Y-%m-%dT%H:%M:%S"
        formatter.default_msec_format = "%s.%03dZ"
        handler.setFormatter(formatter)
        level = logging.INFO
    root_logger, package_logger = logging.getLogger(), logging.getLogger("graphjobs")
    if root_logger.handlers:  # the user's modules have configured logging
        yield
        return
    root_logger.addHandler(handler)
    logging.captureWarnings(True)
    level_before = package_logger.level
    package_logger.setLevel(level)
    try:
        yield
    finally:
        root_logger.removeHandler(handler)
        logging.captureWarnings(False)
        package_logger.setLevel(level_before)
