"""What the server or the configuration refuses: a worker ends, or the one result waits, and no job fails for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
import pytest_asyncio

from graphjobs import ConfigurationError, Settings, open_storage
from graphjobs.storage import Storage
from graphjobs.worker.error_texts import error_text
from tests.faults.backend_monitor import url_of
from tests.migrations.cli_tools import as_role
from tests.worker.twins import JobTwin, RunTwin, Twin, execute
from tests.worker.worker_control import return_after, return_result, wait_until, working

_DOMAINS = pytest.mark.parametrize("twin_class", [JobTwin, RunTwin], ids=["jobs", "runs"])


@pytest_asyncio.fixture
async def reader(graphjobs_settings: Settings, graphjobs_storage: Storage, tenant: str) -> AsyncIterator[Storage]:
    """A storage of a role that may only read."""
    role = f"reader_{tenant.replace('-', '_')}"
    await execute(graphjobs_storage, f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    await execute(graphjobs_storage, f"GRANT USAGE ON SCHEMA scheduler TO {role}")
    await execute(graphjobs_storage, f"GRANT SELECT ON ALL TABLES IN SCHEMA scheduler TO {role}")
    url = as_role(url_of(graphjobs_settings), role)
    async with open_storage(Settings.load(database_url=url)) as storage:
        yield storage
    await execute(graphjobs_storage, f"DROP OWNED BY {role}")
    await execute(graphjobs_storage, f"DROP ROLE {role}")


@_DOMAINS
async def test_a_role_without_the_privilege_ends_a_worker(
    reader: Storage, graphjobs_storage: Storage, tenant: str, twin_class: Callable[..., Twin]
) -> None:
    await twin_class(graphjobs_storage, tenant).add()
    worker = twin_class(reader, tenant).worker(return_result)
    with pytest.raises(ConfigurationError, match="lacks a privilege"):
        await asyncio.wait_for(worker.run(), 30)


@_DOMAINS
async def test_a_privilege_that_is_revoked_ends_a_worker_and_fails_no_item(
    graphjobs_settings: Settings, graphjobs_storage: Storage, tenant: str, twin_class: Callable[..., Twin]
) -> None:
    """Whichever loop meets it first: claims, heartbeats, results or rescues."""
    role = f"worker_{tenant.replace('-', '_')}"
    await execute(graphjobs_storage, f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    await execute(graphjobs_storage, f"GRANT USAGE ON SCHEMA scheduler TO {role}")
    grant = "SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA scheduler"
    await execute(graphjobs_storage, f"GRANT {grant} TO {role}")
    await execute(graphjobs_storage, f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA scheduler TO {role}")
    item, proceed = await twin_class(graphjobs_storage, tenant).add(), asyncio.Event()
    url = as_role(url_of(graphjobs_settings), role)
    async with open_storage(Settings.load(database_url=url)) as storage:
        revoked = twin_class(storage, tenant)
        worker = revoked.worker(return_after(proceed))
        running = asyncio.ensure_future(worker.run())
        await wait_until(lambda: revoked.claimed_by(worker) == 1)
        await execute(graphjobs_storage, f"REVOKE {grant} FROM {role}")
        proceed.set()
        with pytest.raises(ConfigurationError, match="lacks a privilege"):
            await asyncio.wait_for(running, 60)
    twin = twin_class(graphjobs_storage, tenant)
    assert [twin.queued, twin.running] == await twin.statuses(item)
    await execute(graphjobs_storage, f"DROP OWNED BY {role}")
    await execute(graphjobs_storage, f"DROP ROLE {role}")


@_DOMAINS
async def test_a_storage_of_another_event_loop_ends_a_worker(
    graphjobs_settings: Settings, tenant: str, twin_class: Callable[..., Twin]
) -> None:
    opened, is_over = asyncio.Event(), asyncio.Event()
    storages: list[Storage] = []
    loop = asyncio.get_running_loop()

    async def open_elsewhere() -> None:
        async with open_storage(graphjobs_settings) as storage:
            storages.append(storage)
            loop.call_soon_threadsafe(opened.set)
            while not is_over.is_set():
                await asyncio.sleep(0.01)

    other = asyncio.create_task(asyncio.to_thread(asyncio.run, open_elsewhere()))
    await opened.wait()
    with pytest.raises(ConfigurationError, match="belongs to another event loop"):
        await asyncio.wait_for(twin_class(storages[0], tenant).worker(return_result).run(), 30)
    is_over.set()
    await other


async def _refuse_updates(twin: Twin, condition: str, sqlstate: str) -> None:
    """Refuse updates of the table by a trigger of the host."""
    await execute(
        twin.storage,
        "CREATE FUNCTION scheduler.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'refused by the host' USING ERRCODE = '{sqlstate}'; END $$",
    )
    await execute(
        twin.storage,
        f"CREATE TRIGGER refuse BEFORE UPDATE ON scheduler.{twin.table}s FOR EACH ROW "
        f"WHEN ({condition}) EXECUTE FUNCTION scheduler.refuse()",
    )


async def _allow_updates(twin: Twin) -> None:
    await execute(twin.storage, f"DROP TRIGGER refuse ON scheduler.{twin.table}s")


@_DOMAINS
@pytest.mark.parametrize("sqlstate", ["P0001", "40001", "55P03", "57014", "53100", "XX000", "42P01", "42704", "25P02"])
async def test_a_result_that_a_trigger_refuses_waits_alone(
    graphjobs_storage: Storage, tenant: str, twin_class: Callable[..., Twin], sqlstate: str
) -> None:
    """The others of its batch are stored; it is stored, too, once the trigger is gone."""
    twin = twin_class(graphjobs_storage, tenant)
    items = [await twin.add() for _ in range(8)]
    proceed = asyncio.Event()
    await _refuse_updates(twin, f"OLD.id = '{items[3].id}' AND OLD.status = 1 AND NEW.status <> 1", sqlstate)
    worker = twin.worker(return_after(proceed))
    async with working(worker):
        await wait_until(lambda: twin.claimed_by(worker) == 8)
        proceed.set()
        await wait_until(lambda: worker.in_flight == 1)
        refused = [twin.queued, twin.running]
        assert refused == await twin.statuses(items[3])
        assert all([[*refused, twin.finished] == await twin.statuses(item) for item in items if item is not items[3]])
        await _allow_updates(twin)
        await wait_until(lambda: worker.in_flight == 0)
    assert [*refused, twin.finished] == await twin.statuses(items[3])


@_DOMAINS
@pytest.mark.parametrize("sqlstate", ["P0001", "40001"])
async def test_a_heartbeat_that_a_trigger_refuses_costs_no_other_item_its_lease(
    graphjobs_storage: Storage, tenant: str, twin_class: Callable[..., Twin], sqlstate: str
) -> None:
    """The others are renewed and finished at their first attempt."""
    twin = twin_class(graphjobs_storage, tenant)
    items = [await twin.add() for _ in range(4)]
    proceed = asyncio.Event()
    await _refuse_updates(twin, f"OLD.id = '{items[1].id}' AND OLD.status = 1", sqlstate)
    worker, others = twin.worker(return_after(proceed), lease=timedelta(seconds=1)), [items[0], *items[2:]]
    async with working(worker):
        await wait_until(lambda: twin.claimed_by(worker) == 4)
        versions = {item.id: (await twin.get(item)).updated_at for item in others}

        async def renewed() -> bool:
            return all([(await twin.get(item)).updated_at > versions[item.id] for item in others])

        await wait_until(renewed)
        await _allow_updates(twin)
        proceed.set()
        await wait_until(lambda: worker.in_flight == 0)
    assert all([[twin.queued, twin.running, twin.finished] == await twin.statuses(item) for item in others])


@_DOMAINS
async def test_a_sequence_behind_its_table_fails_no_item(
    graphjobs_storage: Storage,
    tenant: str,
    twin_class: Callable[..., Twin],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the statement that helps; the results are stored after it."""
    twin = twin_class(graphjobs_storage, tenant)
    items, proceed = [await twin.add() for _ in range(3)], asyncio.Event()
    events = f"{twin.table}_events"
    sequence = f"pg_get_serial_sequence('scheduler.{events}', 'id')"
    worker = twin.worker(return_after(proceed))
    async with working(worker):
        await wait_until(lambda: twin.claimed_by(worker) == 3)
        # The ids that the sequence gives next are taken.
        await execute(
            graphjobs_storage,
            f"INSERT INTO scheduler.{events} (id, job_id, tenant_id, status, payload) "
            f"SELECT (SELECT max(id) FROM scheduler.{events}) + n, '{items[0].id}', '{tenant}', 1, '{{}}' "
            "FROM generate_series(1, 100000) AS n",
        )
        proceed.set()
        await wait_until(lambda: "run SELECT setval(" in caplog.text)
        await execute(graphjobs_storage, f"SELECT setval({sequence}, (SELECT max(id) FROM scheduler.{events}))")
        await wait_until(lambda: worker.in_flight == 0)
    assert [twin.finished] * 3 == [str((await twin.find(tenant, item.id)).status) for item in items]


@_DOMAINS
async def test_the_text_of_an_exception_is_redacted_before_it_is_stored(
    graphjobs_storage: Storage, tenant: str, twin_class: Callable[..., Twin], caplog: pytest.LogCaptureFixture
) -> None:
    """Where the hook fails, the type of the exception alone is stored. The log has no text that controls a terminal."""
    caplog.set_level("INFO", logger="graphjobs")
    twin = twin_class(graphjobs_storage, tenant)

    async def leak(*_: object) -> None:
        raise ValueError("password hush \x1b[2J\n\u202eforged")

    def fail(text: str) -> str:
        raise KeyError(text)

    hooks: list[tuple[object, str]] = [
        (None, "ValueError: password hush"),
        (lambda text: text.replace("hush", "..."), "ValueError: password ..."),
        (fail, "ValueError"),
        (lambda _: 5, "ValueError"),
    ]
    errors = []
    for redact, _ in hooks:
        item = await twin.add()
        await twin.worker(leak, redact=redact, attempts_max=1).run(until_empty=True)
        errors.append((await twin.error(item)).partition(" \N{REPLACEMENT CHARACTER}")[0])

    assert [expected for _, expected in hooks] == errors
    own_lines = [record.getMessage() for record in caplog.records if "failed: " in record.getMessage()]
    assert len(hooks) == len(own_lines)
    assert not [line for line in own_lines if set(line) & set("\x1b\n\u202e")]


def test_an_exception_with_a_text_that_ends_the_process_has_a_text() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    assert "Hostile, which has no readable text" == error_text(Hostile())
