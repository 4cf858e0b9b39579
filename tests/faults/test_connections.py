"""Connections that end, run out or go stale, and what their errors tell."""

import asyncio
import contextlib
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from sqlalchemy import text

from graphjobs import (
    ConfigurationError,
    DatabaseUnavailable,
    GraphJobsError,
    GraphJobStatus,
    OutcomeUnknown,
    open_storage,
)
from graphjobs.graph_jobs.repository import GraphJobRepository
from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.builders import AT, build_job
from tests.faults import loop_client
from tests.faults.backend_monitor import Connection, Watch, checked_out, engines, url_of, warmed, with_settings

QUEUED, RUNNING = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING
TENANT = "acme"
LOST = {"57P01", "08003"}  # as the server's farewell came before the end of the connection, or with it
PASSWORD = "correct-horse-battery"


@contextlib.asynccontextmanager
async def transaction(storage: Storage) -> AsyncIterator[GraphJobRepository]:
    """A repository inside a transaction, which commits at the end."""
    async with storage.session() as session, session.begin():
        yield GraphJobRepository(storage.database.using(session))


async def until_all_closed(watch: Watch, drivers: list[Connection]) -> None:
    """Waits until the end of these connections has reached us; a call before that cannot know of it."""

    async def are_closed() -> bool:
        return all(driver.is_closed() for driver in drivers)

    await watch.until(are_closed, "the end of the connections noticed", seconds=5)


async def test_after_every_backend_was_killed_the_next_calls_simply_work(
    graphjobs_settings: Settings, watch: Watch
) -> None:
    """Every pooled connection of both pools is dead, and no call fails for it."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=4)) as storage:
        queued = [await storage.graph_job_repository.insert(build_job(TENANT)) for _ in range(8)]
        drivers = await warmed(storage)
        assert await watch.end() == len(drivers) == 8
        await until_all_closed(watch, drivers)

        async def in_session(job: Any) -> bool:
            async with transaction(storage) as jobs:
                return await jobs.try_replace(job.start(at=AT), QUEUED)

        alone = [storage.graph_job_repository.try_replace(job.start(at=AT), QUEUED) for job in queued[:4]]
        won = await asyncio.gather(*alone, *(in_session(job) for job in queued[4:]))

        assert [True] * 8 == won
        assert len(await storage.graph_job_repository.list_build_jobs(TENANT, RUNNING, limit=100)) == 8


async def test_a_write_whose_backend_was_killed_has_an_unknown_outcome(
    graphjobs_storage: Storage, watch: Watch
) -> None:
    """It was sent, and no answer came: whoever asks must look."""
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


async def test_a_read_whose_backend_was_killed_can_be_tried_again(graphjobs_storage: Storage, watch: Watch) -> None:
    """A read changes nothing, so nothing about it is unknown."""
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


async def test_a_write_in_a_session_whose_backend_was_killed_can_be_tried_again(
    graphjobs_storage: Storage, watch: Watch
) -> None:
    """Nothing had committed the transaction, so it is gone as a whole, and the error is the statement's own."""
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
    assert [first, second] == [
        await storage.graph_job_repository.get_build_job(TENANT, job.id) for job in (first, second)
    ]
    assert (0, 0) == checked_out(storage)
    await swap_both()


async def test_every_connection_of_both_engines_carries_the_settings(graphjobs_settings: Settings) -> None:
    """The server itself says so, on each connection that the pools can hold."""
    given = with_settings(graphjobs_settings, pool_size=2, statement_timeout=1.234, lock_timeout=0.567)
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
    async with open_storage(given) as storage:
        drivers = await warmed(storage)
        found = [
            {name: await driver.fetchval("SELECT current_setting($1)", name) for name in expected} for driver in drivers
        ]
        assert [expected] * 4 == found

        # As a caller meets them, once by each way.
        shown = text("SELECT current_setting('statement_timeout'), current_setting('TimeZone')")
        async with storage.session() as session:
            assert ("1234ms", "UTC") == tuple((await session.execute(shown)).one())
        assert ("1234ms", "UTC") == tuple((await storage.database.fetch_all(shown, {}))[0])


@pytest.mark.parametrize("in_session", [False, True], ids=["alone", "in a session"])
async def test_a_pool_with_nothing_free_says_how_to_get_more(
    graphjobs_settings: Settings, watch: Watch, in_session: bool
) -> None:
    """The one connection waits for a lock; the next caller is told of the pool's size, and may try again."""
    given = with_settings(graphjobs_settings, pool_size=1, connect_timeout=0.3)
    async with open_storage(given) as storage:
        queued = await storage.graph_job_repository.insert(build_job(TENANT))

        async def swap() -> bool:
            if not in_session:
                return await storage.graph_job_repository.try_replace(queued.start(at=AT), QUEUED)
            async with transaction(storage) as jobs:
                return await jobs.try_replace(queued.start(at=AT), QUEUED)

        async with watch.holding(queued.id):
            first = asyncio.create_task(swap())
            await watch.until_waiting()
            # A write, but one that was never sent: its outcome is known.
            with pytest.raises(DatabaseUnavailable, match="GRAPHJOBS_POOL_SIZE"):
                await swap()
        assert await first
        assert not await swap()


CHANGES = {
    "a column more": "ALTER TABLE scheduler.graph_jobs ADD COLUMN more TEXT NOT NULL DEFAULT 'x'",
    "another type": "ALTER TABLE scheduler.graph_jobs ALTER COLUMN correlation_id TYPE VARCHAR(200)",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_plan_made_before_a_change_of_the_table_heals_itself(
    graphjobs_settings: Settings, watch: Watch, change: str
) -> None:
    """Alone, no call fails: the driver prepares again."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=1)) as storage:
        jobs = storage.graph_job_repository
        queued = await jobs.insert(build_job(TENANT))

        async def work() -> None:
            now = await jobs.get_build_job(TENANT, queued.id)
            assert now is not None
            assert now == (await jobs.list_build_jobs(TENANT, limit=10))[0]
            assert await jobs.try_replace(now.edit(correlation_id="c"), QUEUED)

        await work()
        await watch.connection.execute(CHANGES[change])
        await work()
        await work()


@pytest.mark.parametrize("change", CHANGES)
async def test_in_a_session_a_plan_made_before_a_change_costs_at_most_one_transaction(
    graphjobs_settings: Settings, watch: Watch, change: str
) -> None:
    """Within a transaction nothing can be prepared again: it fails as one to try again, and the next one works."""
    async with open_storage(with_settings(graphjobs_settings, pool_size=2)) as storage:
        queued = await storage.graph_job_repository.insert(build_job(TENANT))

        async def work() -> None:
            async with transaction(storage) as jobs:
                now = await jobs.get_build_job(TENANT, queued.id)
                assert now is not None
                assert now == (await jobs.list_build_jobs(TENANT, limit=10))[0]
                assert await jobs.try_replace(now.edit(correlation_id="c"), QUEUED)

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


def everything_it_says(error: BaseException | None) -> Iterator[str]:
    """Gives what a log, a debugger or a report could print of an error and of all that led to it."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)))
        yield "".join(traceback.format_exception(one))
        queue += [one.__cause__, one.__context__]


def with_password(settings: Settings) -> str:
    """Gives the URL with a password in it: the server's own, or one it does not ask for."""
    parts = urlsplit(url_of(settings))
    user, _, host = parts.netloc.rpartition("@")
    if ":" not in user:
        user = f"{user}:{PASSWORD}"
    return urlunsplit(parts._replace(netloc=f"{user}@{host}"))


def password_of(url: str) -> str:
    """Gives the password within a URL."""
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
async def test_no_password_is_in_an_error_of_an_address_where_nobody_answers(
    url: str, error_type: type[GraphJobsError]
) -> None:
    """Neither the error nor what it came from repeats the URL's secret."""
    with pytest.raises(error_type) as caught:
        async with open_storage(Settings.load(database_url=url, connect_timeout="2")):
            pass

    assert [] == [said for said in everything_it_says(caught.value) if PASSWORD in said]


async def test_no_password_is_in_any_error_of_a_database_that_is_there(
    graphjobs_settings: Settings, watch: Watch
) -> None:
    """A lost connection, a time-out, a full pool, a missing table and database: none of them tells."""
    url = with_password(graphjobs_settings)
    password = password_of(url)
    errors: list[GraphJobsError] = []

    async def fails(call: Awaitable[object]) -> None:
        with pytest.raises(GraphJobsError) as caught:
            await call
        errors.append(caught.value)

    given = Settings.load(database_url=url, pool_size=1, lock_timeout="0.2", connect_timeout="0.3")
    async with open_storage(given) as storage:
        queued = await storage.graph_job_repository.insert(build_job(TENANT))
        start = queued.start(at=AT)

        async def in_session() -> None:
            async with transaction(storage) as jobs:
                await jobs.try_replace(start, QUEUED)

        async with watch.holding(queued.id):
            await fails(storage.graph_job_repository.try_replace(start, QUEUED))
            await fails(in_session())
            for call in (storage.graph_job_repository.try_replace(start, QUEUED), in_session()):
                waiting = asyncio.ensure_future(call)
                pids = await watch.until_waiting()
                if len(errors) == 2:
                    await fails(storage.graph_job_repository.try_replace(start, QUEUED))
                await watch.end(pids)
                await fails(waiting)
        await fails(storage.graph_job_repository.insert(queued))
        await watch.connection.execute("ALTER TABLE scheduler.graph_jobs RENAME TO elsewhere")
        await fails(storage.graph_job_repository.try_replace(start, QUEUED))
        await fails(in_session())
        shown = f"{storage!r} {engines(storage)!r} {[engine.url for engine in engines(storage)]!r} {given!r}"

    nowhere = urlunsplit(urlsplit(url)._replace(path="/there_is_no_such_database"))
    with pytest.raises(ConfigurationError) as caught:
        async with open_storage(Settings.load(database_url=nowhere)):
            pass
    errors.append(caught.value)

    assert len(errors) == 9
    assert [] == [said for error in errors for said in everything_it_says(error) if password in said]
    assert password not in shown


@pytest.mark.parametrize("way", ["alone", "session"])
async def test_a_storage_refuses_a_second_event_loop_and_goes_on_in_its_own(
    graphjobs_settings: Settings, way: str
) -> None:
    """Its connections belong to the loop they were made in; whoever uses them in another is told so, before any SQL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(loop_client.__file__)), url_of(graphjobs_settings), way, stdout=-1, stderr=-1
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 30)

    assert ["ConfigurationError"] * 20 + ["whole"] == printed.decode().split()
    assert process.returncode == 0
