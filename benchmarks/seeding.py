"""What the tables hold before anything is timed: jobs as a scheduler would have them, and fresh statistics."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self, TypeAlias
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphOverlayJob
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.tables import GraphJobEventRow, GraphJobRow
from graphjobs.policy_runs.tables import PolicyRunEventRow, PolicyRunRow

Record: TypeAlias = tuple[UUID, str, int, int, str, datetime, datetime, str | None]

_COLUMNS: Final = ("id", "tenant_id", "type", "status", "payload", "created_at", "updated_at", "correlation_id")
_TABLE: Final = GraphJobRow.__tablename__
_ALL: Final = tuple(
    f"{SCHEMA}.{row.__tablename__}" for row in (GraphJobRow, GraphJobEventRow, PolicyRunRow, PolicyRunEventRow)
)
_FIRST: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_BETWEEN: Final = timedelta(milliseconds=2_741)
_STATUSES: Final = (
    *[GraphJobStatus.QUEUED] * 2,
    GraphJobStatus.RUNNING,
    *[GraphJobStatus.COMPLETED] * 5,
    GraphJobStatus.FAILED,
    GraphJobStatus.CANCELED,
)
"""A tenant's jobs go through these in turn."""

SHARED_CORRELATION: Final = "backfill-of-everything"
"""Carried by many jobs of a tenant that was stored mixed."""

# Coprime with the number of statuses, so that there are overlays, and jobs of that correlation, of every status.
_OVERLAY_EACH: Final = 13
_SHARED_EACH: Final = 11


def created_at_of(number: int) -> datetime:
    """When the job of a number was created, whoever's it is."""
    return _FIRST + number * _BETWEEN


def _correlation_of(number: int) -> str:
    return f"upload-{number:012d}"


def queued_job(tenant_id: str, number: int, *, created_at: datetime | None = None) -> GraphBuildJob:
    """A queued build job as a scheduler makes it, with what such jobs carry filled in."""
    return GraphBuildJob(
        tenant_id=tenant_id,
        sbom_id=f"registry.example.org/payments/checkout-{number % 997}",
        sbom_version_id=f"registry.example.org/payments/checkout-{number % 997}@2026.1.{number}",
        sbom_digest=f"sha256:{number:064x}",
        trigger="sbom-version",
        correlation_id=_correlation_of(number),
        created_at=created_at or created_at_of(number),
        metadata={
            "branch": "main",
            "commit": f"{number:040x}",
            "requestedBy": "ci@payments.example.org",
            "scanner": "syft 1.38.0",
        },
    )


def job_of(status: GraphJobStatus, tenant_id: str, number: int) -> GraphBuildJob:
    """A build job that was moved to a status the way a worker moves it."""
    job = queued_job(tenant_id, number)
    started_at = job.created_at + timedelta(seconds=3)
    ended_at = started_at + timedelta(seconds=42)
    match status:
        case GraphJobStatus.QUEUED:
            return job
        case GraphJobStatus.CANCELED:
            return job.cancel(at=started_at)
    running = job.start(at=started_at).renew(cartographer_job_id=f"cartographer-{number:08d}")
    match status:
        case GraphJobStatus.COMPLETED:
            return running.complete(at=ended_at, graph_snapshot_id=f"snapshot-{number:012d}")
        case GraphJobStatus.FAILED:
            return running.fail(at=ended_at, error="TimeoutError: the registry did not answer within 30 seconds")
    return running


def _overlay_of(build: GraphBuildJob) -> GraphOverlayJob:
    """An overlay job that stands where a build job does."""
    return GraphOverlayJob(
        tenant_id=build.tenant_id,
        status=build.status,
        attempts=build.attempts,
        correlation_id=build.correlation_id,
        created_at=build.created_at,
        started_at=build.started_at,
        completed_at=build.completed_at,
        error=build.error,
        metadata=build.metadata,
        graph_snapshot_id=f"snapshot-of-{build.sbom_version_id}",
        overlay_kind="advisory",
        overlay_key="osv@2026.1",
        trigger="advisory",
    )


def jobs_of(tenant_id: str, count: int) -> list[GraphBuildJob]:
    """A tenant's build jobs, all statuses mixed; the same each time but for their ids."""
    return [job_of(_STATUSES[number % len(_STATUSES)], tenant_id, number) for number in range(count)]


async def store(url: str, jobs: Iterable[GraphBuildJob]) -> None:
    """Copies jobs into the table, and has it analysed."""
    await _copied(url, map(_record, jobs))


async def store_many(url: str, tenant_id: str, count: int) -> None:
    """Copies a tenant's build jobs into the table, too many to make a value of each, and has it analysed.

    One real job of each status is the pattern: only id, correlation id and creation time differ, in the columns and in
    the payload.
    """
    await _copied(url, _patterned(tenant_id, count, mixed=False))


async def store_mixed(url: str, tenant_id: str, count: int) -> None:
    """As `store_many`, but every 13th is an overlay job, and every 11th carries one and the same correlation id."""
    await _copied(url, _patterned(tenant_id, count, mixed=True))


async def store_queued(url: str, tenants: Sequence[str], count: int) -> None:
    """Copies queued build jobs into the table, of these tenants in turns, and has it analysed."""
    await _copied(url, _queued(tenants, count))


class _Pattern(NamedTuple):
    """A real job, and what stands in its payload around its id, correlation id and creation time."""

    job: AnyJob
    texts: tuple[str, str, str, str]

    @classmethod
    def of(cls, job: AnyJob) -> Self:
        first, second, third, last = texts_around(
            job.to_json(), str(job.id), str(job.correlation_id), _as_text(job.created_at)
        )
        return cls(job, (first, second, third, last))

    def record(self, job_id: UUID, correlation_id: str, created_at: datetime) -> Record:
        first, second, third, last = self.texts
        document = f"{first}{job_id}{second}{correlation_id}{third}{_as_text(created_at)}{last}"
        job = self.job
        times = (created_at, created_at)
        return job_id, job.tenant_id, job.type.code, job.status.code, document, *times, correlation_id


def texts_around(document: str, *marks: str) -> list[str]:
    """Gives what stands in a document before, between and after what differs from one row to the next.

    Raises:
        ValueError: these are not in it, in this order.
    """
    texts, rest = [], document
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found:
            raise ValueError(f"{mark} should be in the document, after the marks before it")
        texts.append(before)
    return [*texts, rest]


def _patterned(tenant_id: str, count: int, *, mixed: bool) -> Iterator[Record]:
    builds = {status: job_of(status, tenant_id, number) for number, status in enumerate(GraphJobStatus)}
    of_builds = {status: _Pattern.of(job) for status, job in builds.items()}
    of_overlays = {status: _Pattern.of(_overlay_of(job)) for status, job in builds.items()}
    for number in range(count):
        patterns = of_overlays if mixed and number % _OVERLAY_EACH == 0 else of_builds
        shared = mixed and number % _SHARED_EACH == 0
        correlation_id = SHARED_CORRELATION if shared else _correlation_of(number)
        pattern = patterns[_STATUSES[number % len(_STATUSES)]]
        yield pattern.record(uuid7(), correlation_id, created_at_of(number))


def _queued(tenants: Sequence[str], count: int) -> Iterator[Record]:
    patterns = [_Pattern.of(queued_job(tenant, 0)) for tenant in tenants]
    for number in range(count):
        pattern = patterns[number % len(patterns)]
        yield pattern.record(uuid7(), _correlation_of(number), created_at_of(number))


def _as_text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _record(job: GraphBuildJob) -> Record:
    code = job.status.code
    times = (job.created_at, job.created_at)
    return job.id, job.tenant_id, job.type.code, code, job.to_json(), *times, job.correlation_id


async def _copied(url: str, records: Iterator[Record]) -> None:
    await copied(url, _TABLE, _COLUMNS, records)


async def copied(
    url: str, table: str, columns: Sequence[str], records: Iterable[tuple[object, ...]], *, at_once: int = 1
) -> None:
    """Copies records into a table of ours, and brings all of them to rest.

    Args:
        url: of the database.
        table: its name.
        columns: what a record holds, in this order.
        records: what to copy; each is met once.
        at_once: how many connections copy, each what comes next; where rows are large the server is the slower side.
    """
    connection = await asyncpg.connect(url)
    try:
        # Autovacuum would come in the middle of somebody's slice; what it does is done here and between operations.
        for each in _ALL:
            await connection.execute(f"ALTER TABLE {each} SET (autovacuum_enabled = false)")
        rest = iter(records)

        async def copy(by: "asyncpg.Connection[asyncpg.Record]") -> None:
            await by.copy_records_to_table(table, records=rest, columns=columns, schema_name=SCHEMA)

        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            group.create_task(copy(connection))
            for _ in range(at_once - 1):
                other = await asyncpg.connect(url)
                stack.push_async_callback(other.close)
                group.create_task(copy(other))
        await _settle(connection)
    finally:
        await connection.close()


async def settled(url: str) -> None:
    """Brings the tables to rest: dead rows swept, statistics fresh, and no checkpoint due."""
    connection = await asyncpg.connect(url)
    try:
        await _settle(connection)
    finally:
        await connection.close()


async def emptied(url: str) -> None:
    """Takes everything out of the tables."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"TRUNCATE {', '.join(_ALL)}")
    finally:
        await connection.close()


async def _settle(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.execute(f"VACUUM (ANALYZE) {', '.join(_ALL)}")
    try:
        await connection.execute("CHECKPOINT")
    except asyncpg.InsufficientPrivilegeError:
        return  # a named server may keep that to itself
