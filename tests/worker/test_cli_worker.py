"""`graphjobs worker` as it is run: handlers by name, signals, a live line for people, JSON for programs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from graphjobs import GraphJobStatus
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import build_job, overlay_job
from tests.migrations.cli_tools import run_on_terminal

Status = GraphJobStatus

_COMMAND = Path(sys.executable).with_name("graphjobs")
_HANDLERS = """
import asyncio
from contextlib import asynccontextmanager

from graphjobs.worker import BuildResult, Handlers


async def build(job, context):
    if "wait" in job.metadata:
        await asyncio.sleep(float(job.metadata["wait"]))
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
    raise ConnectionError("nobody there")
    yield handlers


nothing = 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module of handlers, as a user has it."""
    (tmp_path / "shop_handlers.py").write_text(_HANDLERS, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    return tmp_path


def _environment(settings: Settings) -> dict[str, str]:
    assert settings.database_url is not None
    return {**os.environ, "GRAPHJOBS_DATABASE_URL": settings.database_url.get_secret_value(), "COLUMNS": "120"}


@contextmanager
def _started(settings: Settings, folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [_COMMAND, "worker", *arguments],
        cwd=folder,
        env=_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _run(settings: Settings, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [_COMMAND, "worker", *arguments],
        cwd=folder,
        env=_environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def _until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    import asyncio

    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


async def test_it_does_what_is_queued_and_tells_in_lines_of_json(
    graphjobs_storage: Storage, graphjobs_settings: Settings, folder: Path
) -> None:
    """Of every tenant and both kinds; each line is an object that a program can read."""
    jobs = [build_job("acme"), build_job("globex"), overlay_job("acme"), build_job("acme", metadata={"fail": "so"})]
    for job in jobs:
        await graphjobs_storage.graph_jobs.add(job)

    ran = _run(graphjobs_settings, folder, "shop_handlers:handlers", "--until-empty")

    assert (0, "") == (ran.returncode, ran.stdout)
    lines = _lines(ran.stderr)
    assert all({"at", "level", "logger", "message"} <= set(line) for line in lines)
    assert {"claimed": 4, "done": 3, "failed": 1, "in_hand": 0}.items() <= lines[-1].items()
    (raised,) = [line for line in lines if "exc_info" in line]
    assert str(jobs[3].id) == raised["job"]
    statuses = []
    for job in jobs:
        ended = await graphjobs_storage.graph_jobs.get_job(job.tenant_id, job.id)
        assert ended is not None
        statuses.append(ended.status)
    assert [
        Status.COMPLETED,
        Status.COMPLETED,
        Status.COMPLETED,
        Status.FAILED,
    ] == statuses


async def test_what_handlers_need_is_opened_and_closed_around_the_work(
    graphjobs_storage: Storage, graphjobs_settings: Settings, folder: Path
) -> None:
    """By a context manager, or made by a function."""
    await graphjobs_storage.graph_jobs.add(build_job())
    ran = _run(graphjobs_settings, folder, "shop_handlers:opened", "--until-empty")
    assert (0, "opened\nclosed\n") == (ran.returncode, ran.stdout)
    ran = _run(graphjobs_settings, folder, "shop_handlers:made", "--until-empty")
    assert 0 == ran.returncode


async def test_sigterm_lets_handlers_end_and_gives_back_the_rest(
    graphjobs_storage: Storage, graphjobs_settings: Settings, folder: Path
) -> None:
    """Exit code 0: it was asked to end, and did, with nothing left running."""
    quick = await graphjobs_storage.graph_jobs.add(build_job(metadata={"wait": "1"}))
    slow = await graphjobs_storage.graph_jobs.add(build_job(metadata={"wait": "60"}))

    async def both_run() -> bool:
        found = [await graphjobs_storage.graph_jobs.get_job("acme", job.id) for job in (quick, slow)]
        return all(job is not None and job.status is Status.RUNNING for job in found)

    with _started(graphjobs_settings, folder, "shop_handlers:handlers", "--grace", "2") as process:
        await _until(both_run)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)

    assert 0 == process.returncode
    ended = [await graphjobs_storage.graph_jobs.get_job("acme", job.id) for job in (quick, slow)]
    assert [Status.COMPLETED, Status.QUEUED] == [job.status for job in ended if job is not None]
    assert {"done": 1, "given_back": 1, "in_hand": 0}.items() <= _lines(told)[-1].items()


@pytest.mark.parametrize("words", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGINT]])
async def test_a_second_word_does_not_wait(
    graphjobs_storage: Storage, graphjobs_settings: Settings, folder: Path, words: list[signal.Signals]
) -> None:
    """However long the grace."""
    slow = await graphjobs_storage.graph_jobs.add(build_job(metadata={"wait": "60"}))

    async def runs() -> bool:
        found = await graphjobs_storage.graph_jobs.get_job("acme", slow.id)
        return found is not None and found.status is Status.RUNNING

    with _started(graphjobs_settings, folder, "shop_handlers:handlers", "--grace", "3600") as process:
        await _until(runs)
        for word in words:
            process.send_signal(word)
            time.sleep(0.2)  # noqa: ASYNC251  # two signals at once are one
        process.communicate(timeout=20)

    assert 0 == process.returncode
    assert not await runs()


def test_it_ends_in_order_whenever_it_is_told_to(graphjobs_settings: Settings, folder: Path) -> None:
    """As soon as it says that it works, and before it has looked for anything."""
    for _ in range(5):
        with _started(graphjobs_settings, folder, "shop_handlers:handlers") as process:
            assert process.stderr is not None
            assert "works on build, overlay" in json.loads(process.stderr.readline())["message"]
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        assert 0 == process.returncode


def test_told_to_stop_while_its_handlers_open_it_ends(graphjobs_settings: Settings, folder: Path) -> None:
    """At once, and what was opened is closed."""
    with _started(graphjobs_settings, folder, "shop_handlers:slow") as process:
        assert process.stdout is not None
        assert "opening" == process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        shown, _ = process.communicate(timeout=10)
    assert (0, "closed") == (process.returncode, shown.strip())


async def test_a_handler_that_never_ends_does_not_keep_the_process(
    graphjobs_storage: Storage, graphjobs_settings: Settings, folder: Path
) -> None:
    """It swallows its cancel; the job is queued again, and the process ends without it."""
    stubborn = await graphjobs_storage.graph_jobs.add(build_job(metadata={"stubborn": "yes"}))

    async def runs() -> bool:
        found = await graphjobs_storage.graph_jobs.get_job("acme", stubborn.id)
        return found is not None and found.status is Status.RUNNING

    with _started(graphjobs_settings, folder, "shop_handlers:handlers", "--grace", "0") as process:
        await _until(runs)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)

    assert 0 == process.returncode
    assert "1 handlers do not end" in _lines(told)[-1]["message"]
    assert not await runs()


async def test_people_see_a_live_line(graphjobs_storage: Storage, graphjobs_settings: Settings, folder: Path) -> None:
    """Claimed, done, failed, a second; where standard error is a terminal."""
    for number in range(3):
        await graphjobs_storage.graph_jobs.add(build_job(metadata={"wait": "0.6"} if number else {"fail": "so"}))
    done = run_on_terminal(
        [_COMMAND, "worker", "shop_handlers:handlers", "--until-empty"],
        cwd=folder,
        env=_environment(graphjobs_settings),
    )
    assert 0 == done.returncode
    text = done.stderr
    assert "a second" in text
    assert "claimed 3  done 2  failed 1" in text
    assert "ValueError: so" in text.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["shop_handlers"], "names no handlers: give them as module:attribute"),
        (["no_such_module:handlers"], "No module named 'no_such_module'"),
        (["shop_handlers:missing"], "has no attribute 'missing'"),
        (["broken:handlers"], "No module named 'nothing_of_this_name'"),
        (["shop_handlers:build"], "should give graphjobs.worker.Handlers when it is called: TypeError"),
        (["shop_handlers:coroutine"], "it should be no `async def`, but a function"),
        (["shop_handlers:away"], "cannot be opened: ConnectionError: nobody there"),
        (["shop_handlers:nothing"], "should be graphjobs.worker.Handlers, or a function that gives them, not int"),
        (["shop_handlers:handlers", "--concurrency", "0"], "concurrency: it should be 1 to 10,000"),
        (["shop_handlers:handlers", "--lease", "0.5"], "lease: it should be a timedelta of 0:00:01 to"),
        (["shop_handlers:handlers", "--tenant", ""], "tenant: "),
    ],
)
def test_what_cannot_be_is_one_sentence(
    graphjobs_settings: Settings, folder: Path, arguments: list[str], sentence: str
) -> None:
    """And exit code 3."""
    ran = _run(graphjobs_settings, folder, *arguments)
    assert 3 == ran.returncode
    assert sentence in ran.stderr
    assert 1 == ran.stderr.count("\n")
