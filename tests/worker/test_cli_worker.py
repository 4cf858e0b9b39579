"""`graphjobs worker` as a process: handlers by name, signals, a live line on a terminal, JSON lines otherwise."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from graphjobs import GraphJobStatus
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import build_job, overlay_job
from tests.migrations.cli_tools import Done, run, run_on_terminal
from tests.worker.twins import get_job, statuses_of
from tests.worker.worker_control import wait_until

Status = GraphJobStatus

_COMMAND = Path(sys.executable).with_name("graphjobs")
_HANDLERS = """
import asyncio
import time
from contextlib import asynccontextmanager

from graphjobs.worker import BuildResult, Handlers


async def build(job, context):
    if "wait" in job.metadata:
        await asyncio.sleep(float(job.metadata["wait"]))
    if "thread" in job.metadata:
        await asyncio.to_thread(time.sleep, 3600)
    while "stubborn" in job.metadata:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
    if "fail" in job.metadata:
        raise ValueError(job.metadata["fail"])
    return BuildResult("graph")


async def overlay(job, context):
    return None


handlers = Handlers(build=build, overlay=overlay)


@asynccontextmanager
async def opened():
    print("opened", flush=True)
    yield handlers
    print("closed", flush=True)


def made():
    return Handlers(build=build)


async def coroutine():
    return handlers


@asynccontextmanager
async def slow():
    print("opening", flush=True)
    try:
        await asyncio.sleep(60)
        yield handlers
    finally:
        print("closed", flush=True)


@asynccontextmanager
async def away():
    raise ConnectionError("no server")
    yield handlers


nothing = 5
"""


@dataclass(frozen=True)
class _Command:
    """`graphjobs worker` in a folder with a module of handlers."""

    folder: Path
    environment: dict[str, str]

    def run(self, *arguments: str, runner: Callable[..., Done] = run) -> Done:
        """Run the command to completion."""
        return runner([_COMMAND, "worker", *arguments], cwd=self.folder, env=self.environment)

    @contextmanager
    def started(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """Start the command, and kill it at the end."""
        process = subprocess.Popen(
            [_COMMAND, "worker", *arguments], cwd=self.folder, env=self.environment, stdout=PIPE, stderr=PIPE, text=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def command(graphjobs_settings: Settings, tmp_path: Path) -> _Command:
    """Return the command with the database of the test."""
    assert graphjobs_settings.database_url is not None
    (tmp_path / "shop_handlers.py").write_text(_HANDLERS, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    url = graphjobs_settings.database_url.get_secret_value()
    return _Command(tmp_path, {**os.environ, "GRAPHJOBS_DATABASE_URL": url, "COLUMNS": "120"})


def _finish(process: "subprocess.Popen[str]", *signals: signal.Signals) -> tuple[str, str]:
    """Send signals, and return the output and the errors of the process, which must end with exit code 0."""
    for number, signum in enumerate(signals):
        time.sleep(0.2 if number else 0.0)  # two signals at once are one
        process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=20)
    assert 0 == process.returncode
    return stdout, stderr


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def _wait_until_running(storage: Storage, *jobs: AnyJob) -> None:
    async def are_running() -> bool:
        return {Status.RUNNING} == set(await statuses_of(storage, jobs))

    await wait_until(are_running)


async def test_queued_jobs_are_processed_with_json_lines_on_stderr(
    graphjobs_storage: Storage, command: _Command
) -> None:
    """It serves all tenants and both job types; each line is a JSON object."""
    failing = build_job("acme", metadata={"fail": "so"})
    jobs: list[AnyJob] = [build_job("acme"), build_job("globex"), overlay_job("acme"), failing]
    for job in jobs:
        await graphjobs_storage.graph_jobs.add(job)

    process = command.run("shop_handlers:handlers", "--until-empty")

    assert (0, "") == (process.returncode, process.stdout)
    lines = _lines(process.stderr)
    assert all({"at", "level", "logger", "message"} <= set(line) for line in lines)
    assert {"claimed": 4, "completed": 3, "failed": 1, "in_flight": 0}.items() <= lines[-1].items()
    (raised,) = [line for line in lines if "exc_info" in line]
    assert str(failing.id) == raised["job"]
    assert [*[Status.COMPLETED] * 3, Status.FAILED] == await statuses_of(graphjobs_storage, jobs)


async def test_handlers_are_opened_before_the_work_and_closed_after_it(
    graphjobs_storage: Storage, command: _Command
) -> None:
    await graphjobs_storage.graph_jobs.add(build_job())
    process = command.run("shop_handlers:opened", "--until-empty")
    assert (0, "opened\nclosed\n") == (process.returncode, process.stdout)
    process = command.run("shop_handlers:made", "--until-empty")
    assert 0 == process.returncode


async def test_sigterm_starts_the_grace_period_and_releases_the_rest(
    graphjobs_storage: Storage, command: _Command
) -> None:
    """The exit code is 0: the process ended as requested, and no job is left running."""
    quick = await graphjobs_storage.graph_jobs.add(build_job(metadata={"wait": "1"}))
    slow = await graphjobs_storage.graph_jobs.add(build_job(metadata={"wait": "60"}))

    with command.started("shop_handlers:handlers", "--grace", "2") as process:
        await _wait_until_running(graphjobs_storage, quick, slow)
        _, stderr = _finish(process, signal.SIGTERM)

    assert [Status.COMPLETED, Status.QUEUED] == await statuses_of(graphjobs_storage, (quick, slow))
    assert {"completed": 1, "released": 1, "in_flight": 0}.items() <= _lines(stderr)[-1].items()


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGINT]])
async def test_a_second_signal_ends_the_grace_period(
    graphjobs_storage: Storage, command: _Command, signals: list[signal.Signals]
) -> None:
    slow = await graphjobs_storage.graph_jobs.add(build_job(metadata={"wait": "60"}))

    with command.started("shop_handlers:handlers", "--grace", "3600") as process:
        await _wait_until_running(graphjobs_storage, slow)
        _finish(process, *signals)

    assert Status.QUEUED is (await get_job(graphjobs_storage, slow)).status


def test_an_early_signal_ends_the_process_in_order(command: _Command) -> None:
    """The signal arrives after the first log line, before the first claim."""
    for _ in range(5):
        with command.started("shop_handlers:handlers") as process:
            assert process.stderr is not None
            assert "works on build, overlay" in json.loads(process.stderr.readline())["message"]
            _finish(process, signal.SIGTERM)


def test_a_signal_while_the_handlers_open_ends_the_process(command: _Command) -> None:
    """It ends at once, and closes what it has opened."""
    with command.started("shop_handlers:slow") as process:
        assert process.stdout is not None
        assert "opening" == process.stdout.readline().strip()
        stdout, _ = _finish(process, signal.SIGTERM)
    assert "closed" == stdout.strip()


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ("stubborn", "1 abandoned handlers and 0 running threads"),
        ("thread", "0 abandoned handlers and 1 running threads"),
    ],
)
async def test_an_abandoned_handler_does_not_keep_the_process_alive(
    graphjobs_storage: Storage, command: _Command, how: str, left: str
) -> None:
    """The handler or its thread ignores the cancellation; the job is queued again, and the process exits."""
    stubborn = await graphjobs_storage.graph_jobs.add(build_job(metadata={how: "yes"}))

    with command.started("shop_handlers:handlers", "--grace", "0") as process:
        await _wait_until_running(graphjobs_storage, stubborn)
        _, stderr = _finish(process, signal.SIGTERM)

    assert f"exits with {left}" in _lines(stderr)[-1]["message"]
    assert Status.QUEUED is (await get_job(graphjobs_storage, stubborn)).status


async def test_a_terminal_shows_a_live_line(graphjobs_storage: Storage, command: _Command) -> None:
    """It has the number of claimed, completed and failed jobs, and the rate."""
    for number in range(3):
        await graphjobs_storage.graph_jobs.add(build_job(metadata={"wait": "0.6"} if number else {"fail": "so"}))
    process = command.run("shop_handlers:handlers", "--until-empty", runner=run_on_terminal)
    assert 0 == process.returncode
    text = process.stderr
    assert "per second" in text
    assert "claimed 3  completed 2  failed 1" in text
    assert "ValueError: so" in text.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["shop_handlers"], 3, "handlers must be module:attribute"),
        (["no_such_module:handlers"], 3, "No module named 'no_such_module'"),
        (["shop_handlers:missing"], 3, "has no attribute 'missing'"),
        (["broken:handlers"], 3, "No module named 'nothing_of_this_name'"),
        (["shop_handlers:build"], 3, "must return graphjobs.worker.Handlers: TypeError"),
        (["shop_handlers:coroutine"], 3, "an `async def` function is not supported"),
        (["shop_handlers:away"], 3, "could not open the handlers shop_handlers:away: ConnectionError: no server"),
        (["shop_handlers:nothing"], 3, "must be graphjobs.worker.Handlers or a function that returns them, not int"),
        (["shop_handlers:handlers", "--concurrency", "0"], 2, "concurrency must be an integer between 1 and 10,000"),
        (["shop_handlers:handlers", "--lease", "0.5"], 2, "lease must be a timedelta between 0:00:01 and"),
        (["shop_handlers:handlers", "--tenant", ""], 2, "tenant must "),
    ],
)
def test_invalid_handlers_and_options_are_reported_in_one_line(
    command: _Command, arguments: list[str], code: int, sentence: str
) -> None:
    """The exit code is 3 for handlers, and 2 for options."""
    process = command.run(*arguments)
    assert code == process.returncode
    assert sentence in process.stderr
    assert 1 == process.stderr.count("\n")
