"""Connections that end, run out or become stale, and their errors."""

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from sqlalchemy import text

from graphjobs import (
    ConfigurationError,
    DatabaseUnavailable,
    GraphBuildJob,
    GraphJobsError,
    OutcomeUnknown,
    open_storage,
)
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.faults import loop_client
from tests.faults.backend_monitor import Connection, Watch, checked_out, engines, url_of, warmed, with_settings
from tests.faults.swaps import QUEUED, RUNNING, stored, swapped, transaction

TENANT = "acme"
LOST = {"57P01", "08003"}  # the server's last message came before the end of the connection, or with it
PASSWORD = "correct-horse-battery"


async def until_all_closed(watch: Watch, drivers: list[Connection]) -> None:
    """Wait until the driver has noticed the end of these connections; an earlier call could still use them."""

    async def are_closed() -> bool:
        return all(driver.is_closed() for driver in drivers)

    await watch.until(are_closed, "the end of the connections noticed", seconds=5)


async def test_calls_succeed_after_every_backend_was_killed(graphjobs_settings: Settings, watch: Watch) -> None:
    """Every connection of both pools is closed by the server, and no call fails."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=4)) as storage:
        queued = [await storage.graph_job_repository.insert(build_job(TENANT)) for _ in range(8)]
        drivers = await warmed(storage)
        assert await watch.end() == len(drivers) == 8
        await until_all_closed(watch, drivers)

        swaps = [swapped(storage, job.start(at=AT), QUEUED, in_session=n >= 4) for n, job in enumerate(queued)]
        won = await asyncio.gather(*swaps)

        assert [True] * 8 == won
        assert len(await storage.graph_job_repository.list_build_jobs(TENANT, RUNNING, limit=100)) == 8


async def test_a_write_in_a_killed_backend_has_an_unknown_outcome(graphjobs_storage: Storage, watch: Watch) -> None:
    """The write was sent and has no answer: the caller must read the job."""
    jobs = graphjobs_storage.graph_job_repository
    queued = await jobs.insert(build_job(TENANT))

    async with watch.holding(queued.id):
        swap = asyncio.create_task(jobs.try_replace(queued.start(at=AT), QUEUED))
        await watch.end(await watch.until_waiting())
        with pytest.raises(OutcomeUnknown) as caught:
            await swap

    assert caught.value.sqlstate in LOST
    assert queued == await jobs.get_build_job(TENANT, queued.id)
    assert (0, 0) == checked_out(graphjobs_storage)


async def test_a_read_in_a_killed_backend_can_be_tried_again(graphjobs_storage: Storage, watch: Watch) -> None:
    """A read changes nothing, so its outcome is known."""
    jobs = graphjobs_storage.graph_job_repository
    queued = await jobs.insert(build_job(TENANT))
    reads: list[Callable[[], Awaitable[object]]] = [
        lambda: jobs.get_build_job(TENANT, queued.id),
        lambda: jobs.list_build_jobs(TENANT, limit=1),
        lambda: jobs.list_build_jobs(TENANT, QUEUED, limit=1),
    ]

    for read in reads:
        async with watch.holding_table():
            reading = asyncio.ensure_future(read())
            await watch.end(await watch.until_waiting())
            with pytest.raises(DatabaseUnavailable) as caught:
                await reading
        assert caught.value.sqlstate in LOST
        assert await read()


async def test_a_session_in_a_killed_backend_can_be_tried_again(graphjobs_storage: Storage, watch: Watch) -> None:
    """The transaction was not committed, so it is rolled back, and the error is that of the statement."""
    storage = graphjobs_storage
    first, second = [await storage.graph_job_repository.insert(build_job(TENANT)) for _ in range(2)]

    async def swap_both() -> None:
        async with transaction(storage) as jobs:
            assert await jobs.try_replace(first.start(at=AT), QUEUED)
            assert await jobs.try_replace(second.start(at=AT), QUEUED)

    async with watch.holding(second.id):
        swap = asyncio.create_task(swap_both())
        await watch.end(await watch.until_waiting())
        with pytest.raises(DatabaseUnavailable) as caught:
            await swap

    assert caught.value.sqlstate in LOST
    assert [first, second] == [await stored(storage, job) for job in (first, second)]
    assert (0, 0) == checked_out(storage)
    await swap_both()


async def test_every_connection_of_both_engines_has_the_settings(graphjobs_settings: Settings) -> None:
    settings = with_settings(graphjobs_settings, pool_size=2, statement_timeout=1.234, lock_timeout=0.567)
    expected = {
        "application_name": "graphjobs",
        "client_connection_check_interval": "5s",
        "default_transaction_isolation": "read committed",
        "idle_in_transaction_session_timeout": "5min",
        "jit": "off",
        "lock_timeout": "567ms",
        "statement_timeout": "1234ms",
        "TimeZone": "UTC",
        "transaction_isolation": "read committed",
    }
    async with open_storage(settings) as storage:
        drivers = await warmed(storage)
        current = [
            {name: await driver.fetchval("SELECT current_setting($1)", name) for name in expected} for driver in drivers
        ]
        assert [expected] * 4 == current

        # The settings that a caller sees, in a session and in autocommit.
        shown = text("SELECT current_setting('statement_timeout'), current_setting('TimeZone')")
        async with storage.session() as session:
            assert ("1234ms", "UTC") == tuple((await session.execute(shown)).one())
        assert ("1234ms", "UTC") == tuple((await storage.database.fetch_all(shown, {}))[0])


@pytest.mark.parametrize("in_session", [False, True], ids=["alone", "in a session"])
async def test_the_error_of_an_exhausted_pool_names_the_setting(
    graphjobs_settings: Settings, watch: Watch, in_session: bool
) -> None:
    """The only connection waits for a lock; the next caller gets an error with the setting and may try again."""
    settings = with_settings(graphjobs_settings, pool_size=1, connect_timeout=0.3)
    async with open_storage(settings) as storage:
        queued = await storage.graph_job_repository.insert(build_job(TENANT))
        swap = partial(swapped, storage, queued.start(at=AT), QUEUED, in_session=in_session)
        async with watch.holding(queued.id):
            first = asyncio.create_task(swap())
            await watch.until_waiting()
            # This write was never sent, so its outcome is known.
            with pytest.raises(DatabaseUnavailable, match="GRAPHJOBS_POOL_SIZE"):
                await swap()
        assert await first
        assert not await swap()


CHANGES = {
    "a column more": "ALTER TABLE scheduler.graph_jobs ADD COLUMN more TEXT NOT NULL DEFAULT 'x'",
    "another type": "ALTER TABLE scheduler.graph_jobs ALTER COLUMN correlation_id TYPE VARCHAR(200)",
}


async def read_list_and_edit(jobs: GraphJobRepository, queued: GraphBuildJob) -> None:
    """Read, list and edit a job, each by a statement that the driver has prepared."""
    now = await jobs.get_build_job(TENANT, queued.id)
    assert now is not None
    assert now == (await jobs.list_build_jobs(TENANT, limit=10))[0]
    assert await jobs.try_replace(now.edit(correlation_id="c"), QUEUED)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_cached_plan_is_replaced_after_a_change_of_the_table(
    graphjobs_settings: Settings, watch: Watch, change: str
) -> None:
    """In autocommit no call fails: the driver prepares the statement again."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=1)) as storage:
        jobs = storage.graph_job_repository
        queued = await jobs.insert(build_job(TENANT))

        await read_list_and_edit(jobs, queued)
        await watch.connection.execute(CHANGES[change])
        await read_list_and_edit(jobs, queued)
        await read_list_and_edit(jobs, queued)


@pytest.mark.parametrize("change", CHANGES)
async def test_in_a_session_a_stale_plan_fails_at_most_one_transaction(
    graphjobs_settings: Settings, watch: Watch, change: str
) -> None:
    """A failed transaction cannot prepare again: it fails with a retryable error, and the next one succeeds."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=2)) as storage:
        queued = await storage.graph_job_repository.insert(build_job(TENANT))

        async def work() -> None:
            async with transaction(storage) as jobs:
                await read_list_and_edit(jobs, queued)

        await work()
        await work()
        await watch.connection.execute(CHANGES[change])
        errors = []
        for _ in range(4):
            try:
                await work()
            except DatabaseUnavailable as error:
                errors.append(error)

        assert errors[1:] == []
        if change == "a column more":
            assert errors == []


def all_texts(error: BaseException | None) -> Iterator[str]:
    """Yield each text that a log or a debugger could print of an error, its causes and contexts."""
    visited: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in visited:
            continue
        visited.add(id(current))
        yield from (str(current), repr(current), repr(current.args), repr(vars(current)))
        yield "".join(traceback.format_exception(current))
        queue += [current.__cause__, current.__context__]


def with_password(settings: Settings) -> str:
    """Return the URL with a password: that of the server, or one that the server ignores."""
    parts = urlsplit(url_of(settings))
    user, _, host = parts.netloc.rpartition("@")
    if ":" not in user:
        user = f"{user}:{PASSWORD}"
    return urlunsplit(parts._replace(netloc=f"{user}@{host}"))


def password_of(url: str) -> str:
    """Return the password of a URL."""
    return urlsplit(url).netloc.rpartition("@")[0].partition(":")[2]


@pytest.mark.parametrize(
    ("url", "error_type"),
    [
        (f"postgresql://user:{PASSWORD}@127.0.0.1:1/db", DatabaseUnavailable),
        (f"postgresql://user:{PASSWORD}@/db?host=/nowhere", DatabaseUnavailable),
        (f"postgresql:///db?user=user&password={PASSWORD}&host=/nowhere", DatabaseUnavailable),
        (f"postgresql://user:{PASSWORD}@host.invalid/db", DatabaseUnavailable),
        (f"postgresql://user:{PASSWORD}@127.0.0.1:port/db", ConfigurationError),
        (f"postgresql://user:{PASSWORD}@127.0.0.1:99999/db", ConfigurationError),
        (f"postgresql://user:{PASSWORD}@[::1/db", ConfigurationError),
        (f"postgresql://user:{PASSWORD}@127.0.0.1:1/db?sslmode={PASSWORD}", ConfigurationError),
        (f"mysql://user:{PASSWORD}@127.0.0.1/db", ConfigurationError),
        (f"user:{PASSWORD}@127.0.0.1/db", ConfigurationError),
    ],
)
async def test_no_password_is_in_an_error_of_an_unreachable_address(url: str, error_type: type[GraphJobsError]) -> None:
    """Neither the error nor its causes repeat the password of the URL."""
    with pytest.raises(error_type) as caught:
        async with open_storage(Settings.load(database_url=url, connect_timeout="2")):
            pass

    assert [] == [text for text in all_texts(caught.value) if PASSWORD in text]


async def test_no_password_is_in_any_error_of_a_reachable_database(graphjobs_settings: Settings, watch: Watch) -> None:
    """A lost connection, a time-out, an exhausted pool, a missing table or database: no error has the password."""
    url = with_password(graphjobs_settings)
    password = password_of(url)
    errors: list[GraphJobsError] = []

    async def fails(call: Awaitable[object]) -> None:
        with pytest.raises(GraphJobsError) as caught:
            await call
        errors.append(caught.value)

    settings = Settings.load(database_url=url, pool_size=1, lock_timeout="0.2", connect_timeout="0.3")
    async with open_storage(settings) as storage:
        queued = await storage.graph_job_repository.insert(build_job(TENANT))
        swap = partial(swapped, storage, queued.start(at=AT), QUEUED)

        async with watch.holding(queued.id):
            await fails(swap())
            await fails(swap(in_session=True))
            for in_session in (False, True):
                waiting = asyncio.create_task(swap(in_session=in_session))
                pids = await watch.until_waiting()
                if not in_session:
                    await fails(swap())
                await watch.end(pids)
                await fails(waiting)
        await fails(storage.graph_job_repository.insert(queued))
        await watch.connection.execute("ALTER TABLE scheduler.graph_jobs RENAME TO elsewhere")
        await fails(swap())
        await fails(swap(in_session=True))
        shown = f"{storage!r} {engines(storage)!r} {[engine.url for engine in engines(storage)]!r} {settings!r}"

    nowhere = urlunsplit(urlsplit(url)._replace(path="/there_is_no_such_database"))
    with pytest.raises(ConfigurationError) as caught:
        async with open_storage(Settings.load(database_url=nowhere)):
            pass
    errors.append(caught.value)

    assert len(errors) == 9
    assert [] == [text for error in errors for text in all_texts(error) if password in text]
    assert password not in shown


@pytest.mark.parametrize("way", ["alone", "session"])
async def test_a_storage_refuses_a_second_event_loop_and_goes_on_in_its_own(
    graphjobs_settings: Settings, way: str
) -> None:
    """A call in another event loop fails before any SQL, because connections belong to the loop that opened them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(loop_client.__file__)), url_of(graphjobs_settings), way, stdout=-1, stderr=-1
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 30)

    assert ["ConfigurationError"] * 20 + ["whole"] == printed.decode().split()
    assert process.returncode == 0
